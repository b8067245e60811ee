"""Prefill attention on Hopper: which keys a block of rows sees, cut into tiles.

Keys come in three kinds, each cut into tiles of BLOCK_K: core tokens that every row of the block
sees, the raw tokens that every row sees, and the tiles at the edges, which need a mask. The masked
tiles go first: right edge of the raw tokens, left edge, edge of the core tokens.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from cca_kernels.hopper_primitives import cdiv, visible


@gluon.jit
def plan(first, rows, raw_base, G: gl.constexpr, W: gl.constexpr, BLOCK_K: gl.constexpr):
    """Cut the keys of the rows at `first` .. `first + rows - 1` into tiles.

    Returns the first raw slot, and the numbers of tiles: masked raw at the right and at the left,
    masked core; all raw; unmasked raw; unmasked core.
    """
    last = first + rows - 1
    m_first = visible(first, G, W)
    m_last = visible(last, G, W)
    start = m_first * G
    n_raw = cdiv(last + 1 - start, BLOCK_K)
    full_a = cdiv(m_last * G - start, BLOCK_K)
    full_b = gl.maximum((first + 1 - start) // BLOCK_K, full_a)
    full_a = gl.minimum(full_a, n_raw)
    full_b = gl.minimum(full_b, n_raw)
    n_core = cdiv(m_last, BLOCK_K)
    core_full = m_first // BLOCK_K
    n_right, n_edge = n_raw - full_b, n_core - core_full
    return start - raw_base, n_right, full_a, n_edge, n_raw, full_b - full_a, core_full


@gluon.jit
def masked_tile(j, n_right, n_left, n_raw, core_full):
    """Say which tile the j-th masked one is: (is it core, its number among its kind)."""
    is_core = j >= n_right + n_left
    raw = gl.where(j < n_right, n_raw - 1 - j, j - n_right)
    return is_core, gl.where(is_core, core_full + j - n_right - n_left, raw)


@gluon.jit
def place(i, n_blocks, H, KV, BLOCK_Q: gl.constexpr):
    """Turn a work item into batch, query head, KV head and first row: long rows first."""
    i_bh = i // n_blocks
    i_q = n_blocks - 1 - i % n_blocks
    i_b = i_bh // H
    i_h = i_bh % H
    return i_b, i_h, i_h // (H // KV), i_q * BLOCK_Q


@gluon.jit
def bounds(j, n_right, n_left, n_raw, core_full, m_row, p_row, start,
            G: gl.constexpr, BLOCK_K: gl.constexpr):  # fmt: skip
    """Give the first key of the j-th masked tile, and what each row sees: low <= key < high."""
    is_core, t = masked_tile(j, n_right, n_left, n_raw, core_full)
    base = gl.where(is_core, t * BLOCK_K, start + t * BLOCK_K)
    low = gl.where(is_core, 0, m_row * G)
    high = gl.where(is_core, m_row, p_row + 1)
    return low, high, base
