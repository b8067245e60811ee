"""Tiles of [rows, D]: how the prefill backward kernels reach them, and their descriptors.

From Hopper on a tensor descriptor reads a tile at (batch, head, row, 0), through the tensor memory
accelerator; before, and in float32, pointers do. What lies outside the tensor reads as zero either
way, so that neither odd lengths nor odd head dims need a mask.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from cca_kernels.devices import architecture

_ALIGNMENT = 16  # bytes, of the address and of every stride


def is_describable(t: Tensor) -> bool:
    """Say whether a descriptor can address [B, H, L, D]: in units of 16 bytes, heads contiguous."""
    size, D = t.element_size(), t.shape[3]
    strides = [s for s, n in zip(t.stride(), t.shape, strict=True) if n > 1]
    whole = all(s > 0 for s in strides) and (D == 1 or t.stride(3) == 1)
    aligned = t.data_ptr() % _ALIGNMENT == 0
    return whole and aligned and all(s * size % _ALIGNMENT == 0 for s in strides if s > 1)


def describable(t: Tensor) -> Tensor:
    """Give [B, H, L, D] back, or its copy where a descriptor could not address it."""
    if is_describable(t):
        return t
    B, H, L, D = t.shape
    size = t.element_size()
    padded = -(-D * size // _ALIGNMENT) * _ALIGNMENT // size
    copy = torch.empty(B, H, L, padded, dtype=t.dtype, device=t.device)[..., :D]
    return copy.copy_(t)


def tile_strides(t: Tensor) -> list[int]:
    """Give the strides of a describable tensor, aligned also where an axis has length 1."""
    aligned = -(-t.shape[-1] // _ALIGNMENT) * _ALIGNMENT
    return [s if n > 1 else aligned for s, n in zip(t.stride()[:3], t.shape[:3], strict=True)] + [1]


def tile_descriptor(t: Tensor, rows: int, columns: int) -> TensorDescriptor:
    """Describe tiles of [rows, columns] of one head of a describable [B, H, L, D]."""
    return TensorDescriptor(t, list(t.shape), tile_strides(t), [1, 1, rows, columns])


def through_descriptors(t: Tensor) -> bool:
    """Say whether tiles are read through descriptors: on older devices those are slow pointers.

    Float32 has no use for them, for its products do not read shared memory as the tensor cores do,
    and spill when they must.
    """
    return t.element_size() == 2 and architecture(t.device) not in ("ampere", "ada", "older")


@triton.jit
def load_tile(
    x,
    strides,
    length,
    i_b,
    i_h,
    start,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DESCRIBED: tl.constexpr,
):
    """Read the rows from `start` on of one head, through a descriptor or a pointer."""
    if DESCRIBED:
        b_x = x.load([i_b, i_h, start, 0]).reshape(ROWS, BLOCK_D)
    else:
        o_l = (start + tl.arange(0, ROWS)).to(tl.int64)
        o_d = tl.arange(0, BLOCK_D)
        p_x = x + i_b.to(tl.int64) * strides[0] + i_h.to(tl.int64) * strides[1]
        p_tile = p_x + o_l[:, None] * strides[2] + o_d[None, :]
        m_tile = (o_l < length)[:, None]
        if D != BLOCK_D:
            m_tile = m_tile & (o_d < D)[None, :]
        b_x = tl.load(p_tile, mask=m_tile, other=0.0)
    return b_x
