"""Prefill attention on Hopper: the online softmax of one tile of scores, in registers."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from cca_kernels.primitives import MASKED


@gluon.jit
def softmax(s, m, scale, FOLD: gl.constexpr):
    """Take a tile of scores into the running maximum: weights, new maximum, correction.

    A row lies in four threads, eight neighbouring columns at a time. Folding these eights first
    keeps many short chains of operations going where one reduction would make two long ones.
    """
    if FOLD % 2 == 1:
        eights = gl.max(s.reshape([s.shape[0], s.shape[1] // 8, 8]), 1)
        m_new = gl.maximum(m, gl.convert_layout(gl.max(eights, 1), m.type.layout))
    else:
        m_new = gl.maximum(m, gl.max(s, 1))
    alpha = gl.exp2((m - m_new) * scale)
    w = gl.exp2(s * scale - (m_new * scale)[:, None])
    return w, m_new, alpha


@gluon.jit
def sums(w, FOLD: gl.constexpr):
    """Sum the weights of a tile by eights, [64, 8]: the rest is summed once, at the end."""
    if FOLD >= 2:
        return gl.sum(w.reshape([w.shape[0], w.shape[1] // 8, 8]), 1)
    else:
        return gl.sum(w, 1)


@gluon.jit
def correct(den, alpha, FOLD: gl.constexpr):
    if FOLD < 2:
        return den * alpha
    else:
        return den * gl.convert_layout(alpha, gl.SliceLayout(1, den.type.layout))[:, None]


@gluon.jit
def mask(s, low, high, base, cols):
    key = base + cols
    seen = (key[None, :] >= low[:, None]) & (key[None, :] < high[:, None])
    return gl.where(seen, s, MASKED)
