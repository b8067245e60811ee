"""What the Hopper kernels share, in Gluon: copies and their descriptors, and who sees what."""

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from cca_kernels.descriptors import tile_strides

# The copies' names changed between Triton 3.6 and 3.9; what they do did not.
load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global


def gluon_descriptor(
    t: Tensor, rows: int, columns: int, length: int | None = None
) -> TensorDescriptor:
    """Describe tiles of [rows, columns] of one head, of the first `length` rows if given."""
    shape = list(t.shape)
    if length is not None:
        shape[2] = length
    dtype = gl.bfloat16 if t.dtype == torch.bfloat16 else gl.float16
    block = [1, 1, rows, columns]
    layout = gl.NVMMASharedLayout.get_default_for(block, dtype)
    return TensorDescriptor(t, shape, tile_strides(t), block, layout)


@gluon.jit
def cdiv(a, b):
    return (a + b - 1) // b


@gluon.jit
def visible(p, G, W):
    """Count the core tokens that position p sees."""
    return gl.maximum(p + 1 - W, 0) // G
