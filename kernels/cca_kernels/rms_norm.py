"""Root-mean-square norm of every row, one read and one write.

Shapes: x, out [N, E]; weight [E]. The residual stream itself is added to by the matrix products
before (beta = 1), so that no pass over it is needed for the addition.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements of a program: short rows are taken several at a time.
_ELEMENTS = 4096


@triton.jit
def rms_norm_fwd_kernel(
    x, weight, out, x_stride, out_stride, eps, N, E, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr
):
    o_n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_e = tl.arange(0, BLOCK_E)
    m_e = o_e < E
    m = (o_n < N)[:, None] & m_e[None, :]
    b_x = tl.load(x + o_n[:, None] * x_stride + o_e[None, :], mask=m, other=0.0).to(tl.float32)
    b_w = tl.load(weight + o_e, mask=m_e, other=0.0).to(tl.float32)  # [E]
    b_factor = tl.rsqrt(tl.sum(b_x * b_x, axis=1) / E + eps)  # [N]
    b_y = b_x * b_factor[:, None] * b_w[None, :]
    tl.store(out + o_n[:, None] * out_stride + o_e[None, :], b_y.to(out.dtype.element_ty), mask=m)


def rms_norm_fwd(x: Tensor, weight: Tensor, *, eps: float, out: Tensor | None = None) -> Tensor:
    """Normalise rows.

    Args:
        x: Rows, [N, E], the last axis contiguous.
        weight: Factors, [E].
        eps: Added to the mean square.
        out: Where to; a new tensor by default.

    Returns:
        The normalised rows, [N, E].
    """
    N, E = x.shape
    if out is None:
        out = torch.empty((N, E), dtype=x.dtype, device=x.device)
    if N:
        block_e = triton.next_power_of_2(E)
        block_n = max(1, _ELEMENTS // block_e)
        rms_norm_fwd_kernel[(triton.cdiv(N, block_n),)](
            x, weight, out, x_stride=x.stride(0), out_stride=out.stride(0), eps=eps, N=N, E=E,
            BLOCK_N=block_n, BLOCK_E=block_e, num_warps=8,
        )  # fmt: skip
    return out
