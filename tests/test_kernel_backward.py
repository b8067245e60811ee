"""The backward kernels of the prefill attention against autograd through the float64 reference."""

import importlib.util

import pytest
import torch
from kernel_cases import Case, assert_within_budget
from torch import Tensor

import cca_kernels
from cca_kernels import (
    prefill_backward,
    prefill_backward_keys,
    prefill_backward_queries,
    reference,
)

HALF, LONG = torch.float16, torch.bfloat16

CASES = [
    Case(L=63, H=2, KV=2, D=16, W=32),
    Case(L=63, H=2, KV=2, D=64, W=32, dtype=HALF),
    Case(B=2, H=3, KV=1, L=47, D=48, G=13, W=23),
    Case(H=3, KV=1, L=50, D=16, G=4, W=20, position=60, spare=5),
    Case(H=3, KV=1, L=40, D=80, G=13, W=29, position=33, spare=3, dtype=HALF),
    Case(B=2, H=1, KV=1, L=9, D=16, G=16, W=32, position=3),
    Case(H=1, KV=1, L=1, D=16, G=16, W=32, position=200, spare=40),
    Case(H=1, KV=1, L=70, D=16, G=1, W=1, position=20),
    Case(H=2, KV=1, L=63, D=16, G=2, W=3, position=1, dtype=HALF),
    Case(H=1, KV=1, L=63, D=16, W=512, position=10),
    Case(H=1, KV=1, L=33, D=13, G=5, W=7),
]
GPU_CASES = [
    Case(L=300, H=8, KV=2, D=128, G=16, W=64, position=500, spare=3, dtype=LONG),
    Case(B=2, L=513, H=3, KV=1, D=64, G=13, W=129, dtype=LONG),
    Case(L=257, H=2, KV=2, D=80, G=16, W=128, dtype=HALF),
    Case(L=200, H=2, KV=1, D=256, G=16, W=64, dtype=LONG),
    Case(L=200, H=2, KV=1, D=256, G=16, W=64),
    Case(L=4096, H=8, KV=2, D=128, G=16, W=1024, dtype=LONG),
    Case(L=4096, H=9, KV=3, D=64, G=16, W=1024, dtype=LONG),
    Case(L=1000, H=2, KV=2, D=96, G=16, W=256, position=3000),
]
gpu = pytest.mark.gpu
needs_forward = pytest.mark.skipif(
    importlib.util.find_spec("cca_kernels.prefill_forward") is None,
    reason="the forward kernels are not in this tree",
)


def weights(case: Case) -> tuple[Tensor, Tensor]:
    """Draw the gradients that arrive: do [B, H, L, D] and dlse [B, H, L]."""
    random = torch.Generator().manual_seed(1)
    shape = (case.B, case.H, case.L, case.D)
    do = torch.randn(*shape, generator=random, dtype=torch.float64)
    dlse = torch.randn(*shape[:3], generator=random, dtype=torch.float64)
    return do.to(case.dtype), dlse.float()


def expected(case: Case, dtype: torch.dtype, device: str, dlse: bool) -> list[Tensor]:
    """Differentiate the reference in a dtype, on the values that the kernels get."""
    leaves = [t.to(device, dtype).requires_grad_() for t in case.tensors()]
    o, lse = reference.attend(*leaves, scale=case.D**-0.5, **case.options)
    arriving = [t.to(device) for t in weights(case)]
    loss = (o * arriving[0].to(o.dtype)).sum(dtype=dtype)
    if dlse:
        loss = loss + (lse * arriving[1].to(lse.dtype)).sum()
    return list(torch.autograd.grad(loss, leaves))


def actual(
    case: Case, device: str, dlse: bool, *, strided: bool = False
) -> tuple[Tensor | None, ...]:
    """Run the backward kernels on the reference's results."""
    tensors = [t.to(device) for t in case.tensors()]
    o, lse = reference.attend(*(t.double() for t in tensors), scale=case.D**-0.5, **case.options)
    do, d_lse = (t.to(device) for t in weights(case))
    arguments = [*tensors, o.to(case.dtype), lse.float(), do]
    if strided:
        arguments = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in arguments]
    return prefill_backward.attend_bwd(
        *arguments, d_lse if dlse else None, scale=case.D**-0.5, **case.options
    )


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill every empty tensor with NaN: an element that nobody writes shows."""
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(float("nan")))
    monkeypatch.setattr(
        torch, "empty_like", lambda *a, **k: empty_like(*a, **k).fill_(float("nan"))
    )


def check(case: Case, device: str, dlse: bool, *, strided: bool = False) -> None:
    """Hold all five gradients against the error budget."""
    exact = expected(case, torch.float64, device, dlse)
    low = expected(case, case.dtype, device, dlse)
    gradients = actual(case, device, dlse, strided=strided)
    for gradient, a, b in zip(gradients, low, exact, strict=True):
        assert gradient is not None
        assert gradient.dtype == case.dtype
        assert gradient.shape == b.shape
        if b.numel():
            assert_within_budget(gradient, low=a, exact=b)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attend_backward(case: Case) -> None:
    check(case, "cpu", dlse=False)


@pytest.mark.parametrize("case", [CASES[2], CASES[4]], ids=str)
def test_attend_backward_of_lse(case: Case) -> None:
    check(case, "cpu", dlse=True)


def test_attend_backward_of_strided_tensors() -> None:
    case = Case(B=2, H=4, KV=2, L=34, D=16, G=4, W=10, position=20, spare=3)
    check(case, "cpu", dlse=True, strided=True)


@pytest.mark.parametrize("case", [CASES[4]], ids=str)
def test_attend_backward_through_pointers(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to the tiles where there is no tensor memory accelerator."""
    for module in (prefill_backward_queries, prefill_backward_keys):
        monkeypatch.setattr(module, "through_descriptors", lambda q: False)
    check(case, "cpu", dlse=True)


def test_attend_backward_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Core tokens whose queries are shared out among programs get the same gradients."""
    monkeypatch.setattr(prefill_backward_keys, "_SHORTEST_PIECE", 16)
    check(Case(H=2, KV=1, L=70, D=16, G=4, W=10, position=30, spare=9), "cpu", dlse=False)


def test_only_what_is_needed() -> None:
    case = Case(H=1, KV=1, L=9, D=16, W=4, G=2)
    q, k, v, core_k, core_v = case.tensors()
    o, lse = reference.attend(q, k, v, core_k, core_v, scale=0.25, **case.options)
    dq, dk, dv, dcore_k, dcore_v = prefill_backward.attend_bwd(
        q, k, v, core_k, core_v, o, lse, o, None,
        scale=0.25, need=(False, False, True), **case.options,
    )  # fmt: skip
    assert dq is None and dk is None and dv is None
    assert dcore_k is not None and dcore_v is not None


@needs_forward
@pytest.mark.parametrize("arriving", ["ones", "lse", "both"])
def test_attend_function(arriving: str) -> None:
    """The whole way through autograd, with gradients that autograd expands or leaves out."""
    from cca_kernels.functions import Attend

    case = Case(H=2, KV=1, L=20, D=16, G=4, W=10, position=7)

    def gradients(dtype: torch.dtype, triton: bool) -> list[Tensor | None]:
        leaves = [t.requires_grad_() for t in case.tensors(dtype=dtype)]
        if triton:
            o, lse = Attend.apply(*leaves, case.position, case.G, case.W, 0.25)
        else:
            o, lse = reference.attend(*leaves, scale=0.25, **case.options)
        loss = {"ones": o.sum(), "lse": lse.sum(), "both": o.sum() + lse.mean()}[arriving]
        return list(torch.autograd.grad(loss, leaves, allow_unused=True))

    exact, low = gradients(torch.float64, False), gradients(torch.float32, False)
    for a, b, c in zip(gradients(torch.float32, True), low, exact, strict=True):
        if b is None or c is None:  # no path in the reference: nothing may arrive
            assert a is not None and not a.any()
        else:
            assert_within_budget(a, low=b, exact=c)


@needs_forward
def test_pool_and_attend_end_to_end() -> None:
    """Gradients flow on from the core tokens through the pooling, into k, v and the anchors."""
    from cca_kernels.functions import Attend, PoolGroups

    case = Case(H=4, KV=2, L=43, D=16, G=4, W=9)

    def gradients(dtype: torch.dtype, triton: bool) -> list[Tensor]:
        q, k, v = (t.requires_grad_() for t in case.tensors(dtype=dtype)[:3])
        last = q[:, :, case.G - 1 :: case.G]
        anchor = cca_kernels.group_anchors(last, kv_heads=case.KV)
        if triton:
            cores = PoolGroups.apply(k, v, anchor, case.G, 0.25)
            o, _ = Attend.apply(q, k, v, *cores, 0, case.G, case.W, 0.25)
        else:
            cores = reference.pool_groups(k, v, anchor, group_size=case.G, scale=0.25)
            o, _ = reference.attend(q, k, v, *cores, scale=0.25, **case.options)
        return list(torch.autograd.grad((o * o).sum(), (q, k, v)))

    exact, low = gradients(torch.float64, False), gradients(torch.float32, False)
    for a, b, c in zip(gradients(torch.float32, True), low, exact, strict=True):
        assert_within_budget(a, low=b, exact=c)


@gpu
@pytest.mark.parametrize("case", GPU_CASES, ids=str)
def test_attend_backward_on_gpu(case: Case) -> None:
    check(case, "cuda", dlse=True)


@gpu
def test_attend_backward_is_deterministic() -> None:
    case = GPU_CASES[0]
    for a, b in zip(actual(case, "cuda", True), actual(case, "cuda", True), strict=True):
        assert torch.equal(a, b)
