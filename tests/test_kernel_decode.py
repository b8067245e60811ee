"""The decoding kernels against the float64 reference: one call, and steps over device memory."""

from dataclasses import replace

import pytest
import torch
from kernel_cases import Case, assert_within_budget
from torch import Tensor

from cca_kernels import raw_start, reference
from cca_kernels.decode_step import append_step, decode_step
from cca_kernels.decoding import DecodeTile, decode_fwd, decode_workspace

HALF = torch.float16
CASES = [
    Case(L=1, H=4, KV=4, position=300, spare=2),
    Case(L=1, H=2, KV=2, D=80, G=13, W=37, position=700, dtype=HALF),
    Case(L=1, H=3, KV=1, D=64, position=300),
    Case(L=1, H=8, KV=2, position=300, spare=3, dtype=HALF),
    Case(L=1, H=1, KV=1, position=0),
    Case(L=1, H=3, KV=1, position=0, dtype=HALF),
    Case(L=1, H=2, KV=2, position=30),
    Case(L=1, H=2, KV=2, position=47),
    Case(L=1, H=2, KV=2, position=46),
    Case(L=2, H=2, KV=2, position=46, spare=1),
    Case(B=2, L=2, H=6, KV=2, D=80, position=62, dtype=HALF),
    Case(L=16, H=2, KV=2, position=40, spare=2),
    Case(B=2, L=16, H=6, KV=2, position=300, G=13, W=13),
    Case(L=16, H=8, KV=2, position=5, dtype=HALF),
    Case(L=5, H=4, KV=1, G=1, W=1, position=90),
    Case(L=16, H=40, KV=1, D=16, position=100),
]
# Two splits of two blocks each for a KV head: what a workspace is for.
SPLIT = Case(B=2, L=3, H=4, KV=2, D=16, G=8, W=13, position=200, spare=3)
LARGE = [
    Case(L=L, H=H, KV=KV, D=D, W=1024, position=40_000, spare=3)
    for L in (1, 16)
    for H, KV, D in [(32, 32, 128), (32, 8, 128), (9, 3, 64), (8, 2, 256), (8, 8, 96)]
]
ON_GPU = [
    pytest.param("cuda", replace(case, dtype=dtype), marks=pytest.mark.gpu)
    for case in [*CASES, SPLIT, *LARGE]
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
]


@pytest.mark.parametrize(("device", "case"), [("cpu", case) for case in CASES] + ON_GPU, ids=str)
def test_decode(device: str, case: Case) -> None:
    tensors = tuple(t.to(device) for t in case.tensors())
    options = {**case.options, "scale": case.D**-0.5}
    exact = reference.attend(*(t.double() for t in tensors), **options)
    low = reference.attend(*tensors, **options)
    o, lse = decode_fwd(*tensors, **options)
    assert o.dtype == case.dtype
    assert lse.dtype == torch.float32
    assert_within_budget(o, low=low[0], exact=exact[0])
    assert_within_budget(lse, low=low[1], exact=exact[1])


@pytest.mark.parametrize("case", [CASES[0], SPLIT], ids=str)
def test_strides_and_spare_memory(case: Case) -> None:
    """Tokens before heads in memory, and NaN in every key and core token that is not visible."""
    tensors = case.tensors()
    want = decode_fwd(*tensors, scale=0.1, **case.options)
    q, *memory = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors)
    for t in memory[:2]:
        t[:, :, : case.spare] = float("nan")
    for t in memory[2:]:
        t[:, :, t.shape[2] - case.spare :] = float("nan")
    got = decode_fwd(q, *memory, scale=0.1, **case.options)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("case", [CASES[0], SPLIT], ids=str)
def test_a_workspace_serves_again(case: Case) -> None:
    """The counters are as found, whatever the workspace held, and any split gives the result."""
    tensors = case.tensors()
    want = decode_fwd(*tensors, scale=0.1, **case.options)
    for programs in (1, 40):
        workspace = decode_workspace(
            batch=case.B, heads=case.H, kv_heads=case.KV, head_dim=case.D, dtype=case.dtype,
            device=torch.device("cpu"), queries=case.L,
            tile=DecodeTile(key_bytes=1024, num_warps=4, num_stages=1, programs=programs),
        )  # fmt: skip
        workspace.part_o.fill_(float("nan"))
        workspace.part_stats.fill_(float("nan"))
        for _ in range(2):
            got = decode_fwd(*tensors, scale=0.1, workspace=workspace, **case.options)
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
            assert not workspace.counters.any()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return x * cos + torch.roll(x, x.shape[-1] // 2, dims=-1) * sin


# B, H, KV, D, G, W, tokens, device, dtype
STEPS = [
    (2, 3, 1, 16, 4, 9, 27, "cpu", torch.float32),
    (1, 2, 2, 48, 5, 5, 25, "cpu", torch.float16),
    (1, 4, 1, 80, 7, 1, 22, "cpu", torch.float32),
] + [
    pytest.param(B, H, KV, D, G, W, tokens, "cuda", dtype, marks=pytest.mark.gpu)
    for dtype in (torch.bfloat16, torch.float16, torch.float32)
    for B, H, KV, D, G, W, tokens in [
        (2, 3, 1, 16, 4, 9, 60),
        (1, 2, 2, 48, 5, 5, 60),
        (1, 4, 1, 80, 13, 1, 60),
        (2, 32, 8, 128, 16, 64, 400),
        (1, 8, 8, 128, 16, 64, 400),
        (1, 9, 3, 64, 16, 128, 400),
    ]
]


@pytest.mark.parametrize(("B", "H", "KV", "D", "G", "W", "tokens", "device", "dtype"), STEPS)
def test_steps(
    B: int, H: int, KV: int, D: int, G: int, W: int, tokens: int, device: str, dtype: torch.dtype
) -> None:
    """Token by token equals the whole sequence at once; raw memory is thrown away underway."""
    torch.manual_seed(tokens)
    scale = D**-0.5
    qkv = torch.randn(B, tokens, (H + 2 * KV) * D, dtype=torch.float64).to(dtype).to(device)
    angle = torch.arange(tokens)[:, None] * torch.rand(D // 2)
    cos = torch.cat([angle.cos(), angle.cos()], -1).to(dtype).to(device)
    sin = torch.cat([-angle.sin(), angle.sin()], -1).to(dtype).to(device)

    def whole(kind: torch.dtype) -> tuple[Tensor, ...]:
        # The pooled tokens are rounded where a memory keeps them.
        x = qkv.view(B, tokens, H + 2 * KV, D).transpose(1, 2).to(kind)
        q = _rotate(x[:, :H], cos.to(kind), sin.to(kind))
        k = _rotate(x[:, H : H + KV], cos.to(kind), sin.to(kind))
        v = x[:, H + KV :]
        anchor = reference.group_anchors(q[:, :, G - 1 :: G], kv_heads=KV)
        core_k, core_v = reference.pool_groups(k, v, anchor, group_size=G, scale=scale)
        o, _ = reference.attend(
            q, k, v, core_k, core_v, position=0, group_size=G, window=W, scale=scale
        )
        return q, o, core_k, core_v

    exact, low = whole(torch.float64), whole(dtype)
    room = W + 2 * G
    raw_k, raw_v = torch.full((2, B, KV, room, D), float("nan"), dtype=dtype, device=device)
    M = tokens // G
    core_k, core_v = torch.full((2, B, KV, M + 2, D), float("nan"), dtype=dtype, device=device)
    addresses = [t.data_ptr() for t in (core_k, core_v, raw_k, raw_v)]
    table = [*addresses, core_k.stride(1), raw_k.stride(1), 0, 0]
    row = torch.tensor(table, dtype=torch.int64, device=device)
    cursor = torch.zeros(2, dtype=torch.int64, device=device)
    workspace = decode_workspace(
        batch=B, heads=H, kv_heads=KV, head_dim=D, dtype=dtype, device=torch.device(device)
    )
    qs, outs, raw_position = [], [], 0
    for p in range(tokens):
        if p - raw_position == room:
            start = raw_start(p, group_size=G, window=W)
            for t in (raw_k, raw_v):
                kept = t[:, :, start - raw_position :].clone()
                t.fill_(float("nan"))
                t[:, :, : kept.shape[2]] = kept
            raw_position = start
        cursor.copy_(torch.tensor([p, raw_position]))
        q = append_step(
            qkv[:, p].contiguous(), cos[p], sin[p], row, cursor,
            heads=H, kv_heads=KV, head_dim=D, group_size=G, scale=scale,
        )  # fmt: skip
        out = torch.full((B, H, 1, D), float("nan"), dtype=dtype, device=device)
        decode_step(
            q, row, cursor, out, kv_heads=KV, head_dim=D, group_size=G, window=W, scale=scale,
            workspace=workspace,
        )  # fmt: skip
        qs.append(q)
        outs.append(out)
    assert raw_position > 0
    assert core_k[:, :, M:].isnan().all()
    got = (torch.cat(qs, 2), torch.cat(outs, 2), core_k[:, :, :M], core_v[:, :, :M])
    for a, b, c in zip(got, low, exact, strict=True):
        assert_within_budget(a, low=b, exact=c)
