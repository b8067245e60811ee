"""The forward kernels of the prefill attention against the float64 reference."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import Case, assert_within_budget
from torch import Tensor

import cca_kernels
from cca_kernels import prefill_forward, reference
from cca_kernels.devices import architecture
from cca_kernels.tiles import Tile, tile_for

HALF, LONG = torch.float16, torch.bfloat16

CASES = [
    Case(L=63, D=48, W=32),
    Case(L=63, D=64, W=32, dtype=HALF),
    Case(B=2, H=4, KV=2, L=63, D=48, G=13, W=37),
    Case(H=2, KV=1, L=70, D=64, W=32, position=500, dtype=HALF),
    Case(H=3, KV=1, L=70, D=64, G=8, W=50, position=377),
    Case(L=9, G=16, W=32, position=3),
    Case(L=1, G=16, W=32, position=200, spare=3),
    Case(H=4, KV=4, L=70, D=80, G=13, W=13, position=60, spare=5, dtype=HALF),
    Case(H=2, KV=1, L=70, D=96, G=2, W=3, position=1),
    Case(H=2, KV=1, L=70, D=32, G=1, W=1, position=40),
    Case(L=63, W=512, position=100),
    Case(H=2, KV=1, L=40, D=256, G=16, W=20, position=31),
    Case(H=2, KV=1, L=33, D=13, G=40, W=7, position=90),
]
GPU_CASES = [
    Case(L=2048, H=4, KV=4, D=128, G=16, W=1024, dtype=LONG),
    Case(B=2, L=1000, H=4, KV=2, D=128, G=16, W=256, position=777, spare=9, dtype=LONG),
    Case(L=2500, H=9, KV=3, D=64, G=16, W=512, position=3000, dtype=LONG),
    Case(L=700, H=2, KV=1, D=80, G=13, W=100, position=5, dtype=HALF),
    Case(L=300, H=2, KV=1, D=96, G=1, W=1, position=40, dtype=LONG),
    Case(L=9, H=2, KV=1, D=128, G=16, W=1024, position=3, dtype=LONG),
    Case(L=513, H=2, KV=1, D=256, G=16, W=64, position=90, dtype=LONG),
    Case(L=600, H=2, KV=1, D=128, G=40, W=7, position=90, dtype=HALF),
    Case(L=300, H=4, KV=2, D=128, G=16, W=128, position=500),
    Case(L=200, H=2, KV=1, D=256, G=16, W=64, position=90),
]
gpu = pytest.mark.gpu

Forward = Callable[..., tuple[Tensor, Tensor]]


def check(case: Case, run: Forward, *, device: str = "cpu") -> None:
    """Compare a forward launcher's output and log-sum-exp with the reference."""
    tensors = [t.to(device) for t in case.tensors()]
    scale = case.D**-0.5
    exact = reference.attend(*(t.double() for t in tensors), scale=scale, **case.options)
    low = reference.attend(*tensors, scale=scale, **case.options)
    o, lse = run(*tensors, scale=scale, **case.options)
    assert o.dtype == case.dtype
    assert lse.dtype == torch.float32
    assert_within_budget(o, low=low[0], exact=exact[0])
    # In 16 bits the kernel's log-sum-exp, kept in float32, is far better than the reference's.
    assert_within_budget(lse, low=low[1].float(), exact=exact[1])


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every new tensor begin as NaN, so that an element never written shows."""
    empty = torch.empty

    def poisoned(*size: Any, **options: Any) -> Tensor:
        fresh = empty(*size, **options)
        return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch)
    check(case, lambda *t, **options: cca_kernels.attend(*t, impl="triton", **options))


@pytest.mark.parametrize(
    "tile",
    [
        Tile(block_q=16, block_k=64, num_warps=4, num_stages=1),
        Tile(block_q=64, block_k=16, num_warps=4, num_stages=1),
    ],
    ids=lambda t: f"q{t.block_q}-k{t.block_k}",
)
@pytest.mark.parametrize("case", [CASES[2], CASES[4], CASES[8]], ids=str)
def test_any_tile_gives_the_same(case: Case, tile: Tile) -> None:
    check(case, lambda *t, **options: prefill_forward.attend_fwd(*t, tile=tile, **options))


def test_strides_do_not_matter() -> None:
    case = Case(B=2, H=2, L=40, position=60, spare=2)
    tensors = case.tensors()
    strided = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors]
    one = cca_kernels.attend(*tensors, impl="triton", **case.options)
    other = cca_kernels.attend(*strided, impl="triton", **case.options)
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_memory_that_nobody_sees_is_not_read() -> None:
    """Raw keys before the first window and core tokens behind the last visible one hold NaN."""
    case = Case(H=2, KV=1, L=40, G=16, W=32, position=200, spare=20)
    tensors = case.tensors()
    clean = cca_kernels.attend(*tensors, impl="triton", **case.options)
    for t in tensors[1:3]:
        t[:, :, : case.spare] = float("nan")
    for t in tensors[3:]:
        t[:, :, -case.spare :] = float("nan")
    dirty = cca_kernels.attend(*tensors, impl="triton", **case.options)
    assert torch.equal(clean[0], dirty[0])


def test_chunks_give_what_one_shot_gives() -> None:
    case = Case(H=2, KV=1, L=70, D=32, G=8, W=24)
    q, k, v, core_k, core_v = case.tensors()
    whole, lse = cca_kernels.attend(q, k, v, core_k, core_v, impl="triton", **case.options)
    done = 0
    for length in (1, 9, 35, 25):
        options = {**case.options, "position": done}
        end = done + length
        o, part = cca_kernels.attend(
            q[:, :, done:end], k[:, :, :end], v[:, :, :end], core_k, core_v,
            impl="triton", **options,
        )  # fmt: skip
        torch.testing.assert_close(o, whole[:, :, done:end], rtol=0, atol=2e-6)
        torch.testing.assert_close(part, lse[:, :, done:end], rtol=0, atol=2e-6)
        done = end


def test_a_later_token_changes_nothing() -> None:
    case = Case(H=2, KV=1, L=80, D=32, G=8, W=24)
    q, k, v, core_k, core_v = case.tensors()
    before, _ = cca_kernels.attend(q, k, v, core_k, core_v, impl="triton", **case.options)
    for t in (q, k, v):
        t[:, :, 50:] += 3
    after, _ = cca_kernels.attend(q, k, v, core_k, core_v, impl="triton", **case.options)
    assert torch.equal(before[:, :, :50], after[:, :, :50])
    assert not torch.equal(before[:, :, 50:], after[:, :, 50:])


def test_pooling_from_queries_is_anchors_then_pooling() -> None:
    q, k = torch.randn(2, 6, 50, 16), torch.randn(2, 2, 48, 16)
    v = torch.randn(2, 2, 48, 16)
    anchor = cca_kernels.group_anchors(q[:, :, 9::16][:, :, :3], kv_heads=2)
    expected = cca_kernels.pool_groups(k, v, anchor, group_size=16)
    for impl in ("torch", "triton"):
        actual = cca_kernels.pool_queries(q, k, v, first=9, group_size=16, impl=impl)  # type: ignore[arg-type]
        torch.testing.assert_close(actual, expected)
    with pytest.raises(ValueError, match="expected anchor"):
        cca_kernels.pool_queries(q[:, :, :40], k, v, first=9, group_size=16)


def test_tiles_are_looked_up_by_what_fits() -> None:
    small, large = (Tile(block_q=n, block_k=n, num_warps=4, num_stages=1) for n in (32, 64))
    table = {"hopper": [(64, 2, small), (128, 4, large)], "ada": [(256, 4, large)]}
    assert tile_for(table, "hopper", 64, 2) is small
    assert tile_for(table, "hopper", 64, 4) is large
    assert tile_for(table, "blackwell", 128, 2) is large
    assert tile_for(table, "older", 128, 2) is large
    with pytest.raises(ValueError, match="expected a head dim of at most 128, got 256"):
        tile_for(table, "hopper", 256, 2)


@gpu
@pytest.mark.parametrize("case", GPU_CASES, ids=str)
def test_forward_on_the_accelerator(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch)
    check(case, cca_kernels.attend, device="cuda")


@gpu
@pytest.mark.parametrize("case", GPU_CASES[:3] + GPU_CASES[6:], ids=str)
def test_the_portable_kernel_on_the_accelerator(case: Case) -> None:
    block_q = 32 if case.D > 128 else 64
    tile = Tile(block_q=block_q, block_k=32, num_warps=4, num_stages=1)
    check(
        case,
        lambda *t, **options: prefill_forward.attend_fwd(*t, tile=tile, **options),
        device="cuda",
    )


@gpu
def test_hopper_kernel_runs_in_any_order_of_turns() -> None:
    if architecture(torch.device("cuda", torch.cuda.current_device())) != "hopper":
        pytest.skip("needs a Hopper GPU")
    from cca_kernels.prefill_hopper import HopperTile, attend_fwd_hopper

    case = GPU_CASES[1]
    for turns in (0, 1, 2):
        for tile in (
            HopperTile(turns=turns),
            HopperTile(turns=turns, overlap=True, fold=0, early=True),
            HopperTile(turns=turns, block_k=64, stages=3, consumers=3, fold=1, share=True),
        ):
            check(
                case,
                lambda *t, tile=tile, **options: attend_fwd_hopper(*t, tile=tile, **options),
                device="cuda",
            )


@gpu
def test_two_runs_give_the_same_bits() -> None:
    case = Case(L=3000, H=8, KV=2, D=128, G=16, W=1024, position=5000, dtype=LONG)
    tensors = [t.cuda() for t in case.tensors()]
    one, other = (cca_kernels.attend(*tensors, **case.options) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


def test_kernels_compile_for_every_architecture() -> None:
    """With the compiler that is installed, and within the shared memory that a program may have."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(__file__).parent.parent
    environment["PYTHONPATH"] = os.pathsep.join([str(root / "kernels"), str(root / "models")])
    script = Path(__file__).parent / "compile_kernels.py"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = json.loads(result.stdout)
    assert {row[1] for row in rows} == {"ampere", "ada", "hopper"}
    limit = {"ampere": 163 << 10, "ada": 99 << 10, "hopper": 227 << 10}
    for kernel, arch, head_dim, shared in rows:
        assert 0 < shared <= limit[arch], f"{kernel} on {arch}, head dim {head_dim}: {shared}"
