"""The pooling kernels against the float64 reference, forward and backward."""

import pytest
import torch
from kernel_cases import assert_within_budget
from torch import Tensor

from cca_kernels import reference
from cca_kernels.pooling import pool_bwd, pool_fwd, pool_queries_fwd

# B, KV, L, D, G
SHAPES = [
    (2, 2, 63, 48, 16),
    (1, 2, 63, 80, 13),
    (2, 1, 66, 64, 7),
    (1, 3, 9, 16, 1),
    (1, 1, 90, 32, 41),
    (1, 2, 16, 128, 16),
]
DTYPES = [torch.float32, torch.float16]
ON_GPU = [
    pytest.param("cuda", shape, dtype, marks=pytest.mark.gpu)
    for shape in [*SHAPES, (1, 4, 70_003, 128, 16), (1, 3, 40_001, 64, 16), (1, 2, 9000, 256, 64)]
    for dtype in [torch.bfloat16, *DTYPES]
]
# The interpreter is slow: there every shape in one of the dtypes.
CASES = [("cpu", shape, DTYPES[i % 2]) for i, shape in enumerate(SHAPES)] + ON_GPU


def _name(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _draw(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, device=device).to(dtype)


def _low(run: object, *tensors: Tensor) -> list[Tensor]:
    """Run the reference in the inputs' dtype, in float32 on a CPU for half precision's sake."""
    return [t.to(tensors[0].dtype) for t in run(*(t.float() for t in tensors))]  # type: ignore


@pytest.mark.parametrize(("device", "shape", "dtype"), CASES, ids=_name)
def test_pool(device: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Outputs and all gradients; keys strided, values contiguous."""
    B, KV, L, D, G = shape
    torch.manual_seed(L)
    M = L // G
    k = _draw(B, L, KV, D, dtype=dtype, device=device).transpose(1, 2)
    v, anchor = (_draw(B, KV, n, D, dtype=dtype, device=device) for n in (L, M))
    dcore = [_draw(B, KV, M, D, dtype=dtype, device=device) for _ in range(2)]
    options = {"group_size": G, "scale": D**-0.5}

    def spec(*tensors: Tensor) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in tensors[:3]]
        cores = reference.pool_groups(*leaves, **options)
        return [*cores, *torch.autograd.grad(cores, leaves, list(tensors[3:]))]

    exact = spec(*(t.double() for t in (k, v, anchor, *dcore)))
    low = _low(spec, k, v, anchor, *dcore)
    cores = pool_fwd(k, v, anchor, **options)
    gradients = pool_bwd(k, v, anchor, *cores, *dcore, **options)
    for a, b, c in zip([*cores, *gradients], low, exact, strict=True):
        assert a.dtype == dtype
        assert a.shape == c.shape
        assert_within_budget(a.detach(), low=b.detach(), exact=c.detach())
    assert not gradients[0][:, :, M * G :].any()
    assert not gradients[1][:, :, M * G :].any()


@pytest.mark.parametrize(("device", "shape", "dtype"), CASES, ids=_name)
@pytest.mark.parametrize("rep", [1, 3])
def test_pool_queries(device: str, shape: tuple[int, ...], dtype: torch.dtype, rep: int) -> None:
    """Equal to averaging the queries first; written into slices of a longer buffer."""
    B, KV, L, D, G = shape
    torch.manual_seed(L)
    M, first = L // G, G + 1
    q = _draw(B, first + L, KV * rep, D, dtype=dtype, device=device).transpose(1, 2)
    k, v = (_draw(B, KV, L, D, dtype=dtype, device=device) for _ in range(2))
    last = q[:, :, first : first + M * G : G]
    anchor = reference.group_anchors(last.float(), kv_heads=KV).to(dtype)
    options = {"group_size": G, "scale": D**-0.5}
    want = pool_fwd(k, v, anchor, **options)
    buffers = [torch.full((B, KV, M + 5, D), float("nan"), dtype=dtype, device=device)] * 1
    buffers.append(buffers[0].clone())
    out = tuple(b[:, :, 2 : 2 + M] for b in buffers)
    got = pool_queries_fwd(q, k, v, first=first, out=out, **options)
    for a, b, c in zip(got, want, buffers, strict=True):
        torch.testing.assert_close(a, b, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)
        assert c[:, :, :2].isnan().all()
        assert c[:, :, 2 + M :].isnan().all()


def test_a_tail_alone_makes_no_core_token() -> None:
    k = torch.randn(1, 1, 5, 16)
    core_k, core_v = pool_fwd(k, k, k[:, :, :0], group_size=8, scale=0.25)
    assert core_k.shape == core_v.shape == (1, 1, 0, 16)
