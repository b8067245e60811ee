"""silu(gate) * up from the output of one merged projection, one read and one write.

Shapes: gate_up [N, 2 * I], the gate in the first half; out [N, I].
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Tile of one program: rows that lie far apart, columns that lie together.
_ROWS, _COLUMNS = 4, 1024


@triton.jit
def swiglu_fwd_kernel(
    gate_up, out, gate_up_stride, out_stride, N, width, BLOCK_N: tl.constexpr, BLOCK_I: tl.constexpr
):
    # One axis, for the second one of a grid ends at 65,535.
    columns = tl.cdiv(width, BLOCK_I)
    o_i = tl.program_id(0) % columns * BLOCK_I + tl.arange(0, BLOCK_I)
    o_n = (tl.program_id(0) // columns).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = (o_n < N)[:, None] & (o_i < width)[None, :]
    p_gate = gate_up + o_n[:, None] * gate_up_stride + o_i[None, :]
    b_gate = tl.load(p_gate, mask=m, other=0.0).to(tl.float32)  # [N, I]
    b_up = tl.load(p_gate + width, mask=m, other=0.0).to(tl.float32)
    b_y = b_gate * tl.sigmoid(b_gate) * b_up
    p_out = out + o_n[:, None] * out_stride + o_i[None, :]
    tl.store(p_out, b_y.to(out.dtype.element_ty), mask=m)


def swiglu_fwd(gate_up: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Multiply silu of the first half of every row with its second half, [N, 2 * I] -> [N, I]."""
    N, double = gate_up.shape
    inner = double // 2
    if out is None:
        out = torch.empty((N, inner), dtype=gate_up.dtype, device=gate_up.device)
    if N:
        swiglu_fwd_kernel[(triton.cdiv(inner, _COLUMNS) * triton.cdiv(N, _ROWS),)](
            gate_up, out, gate_up_stride=gate_up.stride(0), out_stride=out.stride(0),
            N=N, width=inner, BLOCK_N=_ROWS, BLOCK_I=_COLUMNS, num_warps=4,
        )  # fmt: skip
    return out
