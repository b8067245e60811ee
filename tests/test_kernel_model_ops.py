"""The kernels around the attention: norm, rotary, SwiGLU, matrix times vector, ends of a step."""

from collections.abc import Callable

import pytest
import torch
from kernel_cases import assert_within_budget
from torch import Tensor

from cca_models.rope import Rotary, rotate

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [
    torch.float32,
    torch.float16,
    pytest.param(torch.bfloat16, marks=pytest.mark.gpu),
]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw normal numbers on the device that the kernels run on."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.full(shape, float("nan"), dtype=dtype, device=DEVICE)


def check(actual: Tensor, reference: Callable[..., Tensor], *tensors: Tensor | None) -> None:
    """Hold a result against the same formula in float64, with the budget of its own dtype."""
    exact = reference(*(t.double() if t is not None else None for t in tensors))
    assert_within_budget(actual, low=reference(*tensors), exact=exact)


def norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width"), [(1, 32), (5, 48), (3, 577)], ids=str)
def test_rms_norm(rows: int, width: int, dtype: torch.dtype) -> None:
    from cca_kernels.rms_norm import rms_norm_fwd

    x = draw(rows, 2 * width, dtype=dtype)[:, :width]
    weight = draw(width, seed=1, dtype=dtype)
    out = poisoned(rows, width, dtype=dtype)
    assert rms_norm_fwd(x, weight, eps=1e-5, out=out) is out
    check(out, norm, x, weight)
    assert torch.equal(out, rms_norm_fwd(x, weight, eps=1e-5))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "inner"), [(1, 64), (7, 1030)], ids=str)
def test_swiglu(rows: int, inner: int, dtype: torch.dtype) -> None:
    from cca_kernels.swiglu import swiglu_fwd

    def reference(x: Tensor) -> Tensor:
        return torch.nn.functional.silu(x[:, :inner]) * x[:, inner:]

    gate_up = draw(rows, 2 * inner, dtype=dtype)
    out = swiglu_fwd(gate_up, out=poisoned(rows, inner, dtype=dtype))
    check(out, reference, gate_up)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("D", [8, 80])
@pytest.mark.parametrize(("B", "L"), [(1, 1), (2, 35)], ids=str)
def test_rotary(B: int, L: int, D: int, dtype: torch.dtype) -> None:
    from cca_kernels.rotary import rotary_fwd

    H, KV = 3, 2
    qkv = draw(B * L, (H + 2 * KV) * D, dtype=dtype)
    freq = 10000.0 ** -(torch.arange(0, D, 2) / D)
    cos, sin = Rotary(freq).tables(1000, L, dtype=dtype, device=torch.device(DEVICE))
    q = poisoned(B, H, L, D, dtype=dtype)
    # Keys and values go to the middle of larger buffers: their neighbours must stay.
    k, v = (poisoned(B, KV, L + 9, D, dtype=dtype) for _ in range(2))
    rotary_fwd(qkv, cos, sin, q=q, k=k[:, :, 4 : L + 4], v=v[:, :, 4 : L + 4])
    heads = qkv.view(B, L, -1, D).transpose(1, 2)
    check(q, rotate, heads[:, :H], cos, sin)
    check(k[:, :, 4 : L + 4], rotate, heads[:, H : H + KV], cos, sin)
    assert torch.equal(v[:, :, 4 : L + 4], heads[:, H + KV :])
    for buffer in (k, v):
        assert buffer[:, :, :4].isnan().all() and buffer[:, :, L + 4 :].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("biased", [False, True], ids=["plain", "biased"])
@pytest.mark.parametrize("kind", ["plain", "norm", "gated", "residual"])
@pytest.mark.parametrize(("B", "N", "K"), [(1, 7, 40), (3, 10, 300)], ids=str)
def test_gemv(B: int, N: int, K: int, kind: str, biased: bool, dtype: torch.dtype) -> None:
    from cca_kernels.gemv import GemvTile, gemv_fwd

    rows = 2 * N if kind == "gated" else N
    x, weight = draw(B, K, dtype=dtype), draw(rows, K, seed=1, dtype=dtype) / K**0.5
    factors = draw(K, seed=2, dtype=dtype) if kind in ("norm", "gated") else None
    bias = draw(rows, seed=3, dtype=dtype) if biased else None
    out = draw(B, N, seed=4, dtype=dtype) if kind == "residual" else poisoned(B, N, dtype=dtype)
    before = out.clone() if kind == "residual" else None

    def reference(
        x: Tensor, weight: Tensor, factors: Tensor | None, bias: Tensor | None, add: Tensor | None
    ) -> Tensor:
        y = torch.nn.functional.linear(norm(x, factors) if factors is not None else x, weight, bias)
        if kind == "gated":
            y = torch.nn.functional.silu(y[:, :N]) * y[:, N:]
        return y + add if add is not None else y

    gemv_fwd(
        x, weight, out=out, norm=factors, eps=1e-5, bias=bias,
        residual=out if kind == "residual" else None, gated=kind == "gated",
        tile=GemvTile(block_n=4, block_k=256, num_warps=4),
    )  # fmt: skip
    check(out, reference, x, weight, factors, bias, before)


def test_gemv_keeps_float32_sums() -> None:
    from cca_kernels.gemv import gemv_fwd

    x, weight = draw(1, 96, dtype=torch.float16), draw(50, 96, seed=1, dtype=torch.float16)
    out = gemv_fwd(x, weight, out=poisoned(1, 50, dtype=torch.float32))
    exact = x.double() @ weight.double().T
    assert (out - exact).abs().max() < 1e-4


@pytest.mark.parametrize("stretched", [False, True], ids=["trained", "stretched"])
def test_the_beginning_of_a_step(stretched: bool) -> None:
    from cca_kernels.step_tokens import embed_step_fwd

    E, D, position = 40, 12, 100_003
    freq = 10000.0 ** -(torch.arange(0, D, 2, dtype=torch.float32) / D)
    freq = freq.double() / 3 if stretched else freq
    embedding = draw(50, E, dtype=torch.float32)
    token = torch.tensor([49, 3], device=DEVICE)
    x, cos, sin = (poisoned(*s, dtype=torch.float32) for s in ((2, E), (D,), (D,)))
    embed_step_fwd(
        token, torch.tensor([position, 7], device=DEVICE), embedding, freq.double().to(DEVICE),
        torch.tensor([int(not stretched)], device=DEVICE), x=x, cos=cos, sin=sin,
    )  # fmt: skip
    assert torch.equal(x, embedding[token])
    tables = Rotary(freq).tables(position, 1, dtype=torch.float32, device=torch.device(DEVICE))
    for actual, exact in zip((cos, sin), tables, strict=True):
        torch.testing.assert_close(actual, exact[0], rtol=0, atol=3e-7)


@pytest.mark.parametrize("V", [5, 1024, 3001])
def test_the_end_of_a_step(V: int) -> None:
    from cca_kernels.step_tokens import choose_fwd, choose_workspace

    logits = 5 * draw(2, V, dtype=torch.float32)
    logits[1, [V // 2, V - 1]] = 100.0  # of equals the first
    token = torch.full((2,), -1, device=DEVICE)
    result = poisoned(2, 2, dtype=torch.float64)
    cursor = torch.tensor([41, 5], device=DEVICE)
    workspace = choose_workspace(2, V, device=torch.device(DEVICE))
    choose_fwd(logits, token=token, result=result, workspace=workspace)
    choose_fwd(logits, token=token, result=result, workspace=workspace, cursor=cursor)
    assert token.tolist() == [int(logits[0].argmax()), V // 2]
    assert result[:, 0].tolist() == token.tolist() and cursor.tolist() == [42, 5]
    exact = logits.double().log_softmax(-1)[torch.arange(2), token.cpu()]
    torch.testing.assert_close(result[:, 1], exact, rtol=0, atol=1e-5)
