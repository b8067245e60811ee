"""The two ends of a decode step on the device: a token's state and angles, and the next token.

Neither needs the host: the token comes from where the last step left it, the position from a
cursor, so that the next step can be launched before anybody has seen the token.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_STATES = 1024
_LOGITS = 1024


@triton.jit
def embed_step_fwd_kernel(
    token,
    cursor,
    embedding,
    frequencies,
    single,
    x,
    cos,
    sin,
    E,
    HALF: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_HALF: tl.constexpr,
):
    i_e, i_b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    o_e = i_e * BLOCK_E + tl.arange(0, BLOCK_E)
    i_token = tl.load(token + i_b)
    b_x = tl.load(embedding + i_token * E + o_e, mask=o_e < E, other=0.0)
    tl.store(x + i_b * E + o_e, b_x, mask=o_e < E)
    if (i_e == 0) & (i_b == 0):
        o_d = tl.arange(0, BLOCK_HALF)
        m_d = o_d < HALF
        b_f = tl.load(frequencies + o_d, mask=m_d, other=0.0)  # float64
        position = tl.load(cursor)
        # Within the trained length angles are rounded to float32, as the checkpoint saw them.
        b_rounded = (position.to(tl.float32) * b_f.to(tl.float32)).to(tl.float64)
        b_angle = tl.where(tl.load(single) != 0, b_rounded, position.to(tl.float64) * b_f)
        b_cos, b_sin = tl.cos(b_angle), tl.sin(b_angle)
        tl.store(cos + o_d, b_cos.to(cos.dtype.element_ty), mask=m_d)
        tl.store(cos + HALF + o_d, b_cos.to(cos.dtype.element_ty), mask=m_d)
        tl.store(sin + o_d, (-b_sin).to(sin.dtype.element_ty), mask=m_d)
        tl.store(sin + HALF + o_d, b_sin.to(sin.dtype.element_ty), mask=m_d)


def embed_step_fwd(
    token: Tensor,
    cursor: Tensor,
    embedding: Tensor,
    frequencies: Tensor,
    single: Tensor,
    *,
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
) -> None:
    """Look up the tokens' states, and the rotary tables of the position that the cursor names.

    Args:
        token: Ids, int64 [B].
        cursor: The position in its first element, int64.
        embedding: States, [V, E], contiguous.
        frequencies: Inverse frequencies, float64 [D / 2].
        single: Not zero where angles are to be rounded to float32, int64 [1].
        x: Where the states go, [B, E], contiguous.
        cos: Where the cosines go, [D], as in cca_kernels.rotary.
        sin: Where the sines go, [D].
    """
    B, E = x.shape
    half = frequencies.shape[0]
    embed_step_fwd_kernel[(triton.cdiv(E, _STATES), B)](
        token, cursor, embedding, frequencies, single, x, cos, sin, E=E,
        HALF=half, BLOCK_E=_STATES, BLOCK_HALF=triton.next_power_of_2(half), num_warps=4,
    )  # fmt: skip


@triton.jit
def choose_part_fwd_kernel(logits, best, index, total, logits_stride, V, BLOCK_V: tl.constexpr):
    i_v, i_b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    parts = tl.num_programs(0)
    o_v = i_v * BLOCK_V + tl.arange(0, BLOCK_V)
    b_x = tl.load(logits + i_b * logits_stride + o_v, mask=o_v < V, other=float("-inf"))
    b_max, b_at = tl.max(b_x, axis=0, return_indices=True)
    tl.store(best + i_b * parts + i_v, b_max)
    tl.store(index + i_b * parts + i_v, i_v * BLOCK_V + b_at)
    tl.store(total + i_b * parts + i_v, tl.sum(tl.exp(b_x - b_max), axis=0))


@triton.jit
def choose_fwd_kernel(
    best, index, total, token, result, cursor, parts, ADVANCE: tl.constexpr, BLOCK_P: tl.constexpr
):
    i_b = tl.program_id(0).to(tl.int64)
    o_p = tl.arange(0, BLOCK_P)
    m_p = o_p < parts
    b_best = tl.load(best + i_b * parts + o_p, mask=m_p, other=float("-inf"))
    b_total = tl.load(total + i_b * parts + o_p, mask=m_p, other=0.0)
    b_max, b_at = tl.max(b_best, axis=0, return_indices=True)
    b_sum = tl.sum(tl.where(m_p, b_total * tl.exp(b_best - b_max), 0.0), axis=0)
    i_token = tl.load(index + i_b * parts + b_at).to(tl.int64)
    tl.store(token + i_b, i_token)
    tl.store(result + 2 * i_b, i_token.to(tl.float64))
    tl.store(result + 2 * i_b + 1, -tl.log(b_sum).to(tl.float64))
    if ADVANCE:
        tl.store(cursor, tl.load(cursor) + 1, mask=i_b == 0)


def choose_workspace(B: int, V: int, *, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Make what choose_fwd needs for partial results."""
    shape = (B, triton.cdiv(V, _LOGITS))
    return (
        torch.empty(shape, dtype=torch.float32, device=device),
        torch.empty(shape, dtype=torch.int32, device=device),
        torch.empty(shape, dtype=torch.float32, device=device),
    )


def choose_fwd(
    logits: Tensor,
    *,
    token: Tensor,
    result: Tensor,
    workspace: tuple[Tensor, Tensor, Tensor],
    cursor: Tensor | None = None,
) -> None:
    """Take the likeliest token (the first of equals) and its log-probability.

    Args:
        logits: float32 [B, V].
        token: Where the ids go, int64 [B].
        result: Where id and log-probability go together, float64 [B, 2].
        workspace: From choose_workspace.
        cursor: Moved on by one position, if given.
    """
    B, V = logits.shape
    best, index, total = workspace
    parts = best.shape[1]
    choose_part_fwd_kernel[(parts, B)](
        logits, best, index, total, logits_stride=logits.stride(0), V=V,
        BLOCK_V=_LOGITS, num_warps=4,
    )  # fmt: skip
    choose_fwd_kernel[(B,)](
        best, index, total, token, result, cursor if cursor is not None else token, parts=parts,
        ADVANCE=cursor is not None, BLOCK_P=triton.next_power_of_2(parts), num_warps=4,
    )  # fmt: skip
