"""Attention of one to sixteen new tokens over core tokens and raw tokens, split over the keys.

Shapes: q [B, H, L, D]; core_k, core_v [B, KV, M, D]; k, v [B, KV, S, D]; partials [.., splits, R,
D] with R the rows of a program, the H / KV * L queries that share a KV head.
What it computes: cca_kernels/reference.py. Why it is right: docs/method.md.

Each program takes every splits-th block of the visible keys, core tokens first, and leaves its
partial softmax in a workspace; the program that arrives last at a KV head's counter merges the
partials in the order of the splits, so the result does not depend on who was last.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from cca_kernels.decode_primitives import arrive_and_merge, scan_row, scan_rows
from cca_kernels.devices import architecture
from cca_kernels.partition import raw_start, visible_cores
from cca_kernels.primitives import LOG2_E, visible_groups


# What changes from step to step must not compile the kernel anew.
@triton.jit(do_not_specialize=["L", "position", "cores", "raws"])
def decode_fwd_kernel(
    q,
    k,
    v,
    core_k,
    core_v,
    o,
    lse,
    part_o,
    part_stats,
    counters,
    q_strides,
    k_strides,
    v_strides,
    core_k_strides,
    core_v_strides,
    L,
    position,
    cores,
    raws,
    scale,
    KV: tl.constexpr,
    REP: tl.constexpr,
    G: tl.constexpr,
    W: tl.constexpr,
    D: tl.constexpr,
    ONE_ROW: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    STAGES: tl.constexpr,
    MERGE_R: tl.constexpr,
    MERGE_S: tl.constexpr,
):
    i_split, i_r, i_bh = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    i_b, i_h = i_bh // KV, i_bh % KV
    used = tl.minimum(tl.cdiv(cores, BLOCK_K) + tl.cdiv(raws, BLOCK_K), SPLITS)
    # More splits than blocks: nobody waits for the rest.
    if i_split < used:
        o_d = tl.arange(0, BLOCK_D)
        core_k += i_b * core_k_strides[0] + i_h * core_k_strides[1]
        core_v += i_b * core_v_strides[0] + i_h * core_v_strides[1]
        k += i_b * k_strides[0] + i_h * k_strides[1]
        v += i_b * v_strides[0] + i_h * v_strides[1]
        if ONE_ROW:
            p_q = q + i_b * q_strides[0] + i_h * q_strides[1]
            b_row = tl.load(p_q + o_d, mask=o_d < D, other=0.0).to(tl.float32) * (scale * LOG2_E)
            b_max, b_sum, b_o = scan_row(
                b_row, core_k, core_v, k, v,
                core_k_strides[2], core_v_strides[2], k_strides[2], v_strides[2],
                cores, raws, i_split, SPLITS, D, BLOCK_K, BLOCK_D, STAGES,
            )  # fmt: skip
        else:
            o_r = i_r * BLOCK_R + tl.arange(0, BLOCK_R)
            o_h, o_l = i_h * REP + o_r // L, o_r % L
            p_q = q + i_b * q_strides[0] + o_h[:, None] * q_strides[1] + o_l[:, None] * q_strides[2]
            m_q = (o_r < REP * L)[:, None] & (o_d < D)[None, :]
            b_q = tl.load(p_q + o_d[None, :], mask=m_q, other=0.0)
            o_p = position + o_l
            row_cores = visible_groups(o_p, G, W)
            start = visible_groups(position, G, W) * G
            b_max, b_sum, b_o = scan_rows(
                b_q, row_cores, row_cores * G - start, o_p + 1 - start, core_k, core_v, k, v,
                core_k_strides[2], core_v_strides[2], k_strides[2], v_strides[2],
                cores, raws, scale * LOG2_E, i_split, SPLITS, D, BLOCK_R, BLOCK_K, BLOCK_D, STAGES,
            )  # fmt: skip
        i_tile = i_bh * tl.num_programs(1) + i_r
        arrive_and_merge(
            b_max, b_sum, b_o, part_o, part_stats, counters, o, lse, L, i_bh, i_r, i_tile,
            i_split, used, True, REP, SPLITS, D, BLOCK_R, BLOCK_D, MERGE_R, MERGE_S,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTile:
    """How decoding cuts its work.

    Attributes:
        key_bytes: Bytes of one tile of keys, and of values.
        num_warps: Warps a program runs on.
        num_stages: Loads in flight in the loop over the keys.
        programs: Programs for each multiprocessor; they all run at once.
    """

    key_bytes: int
    num_warps: int
    num_stages: int
    programs: int


# (one row a program, architecture); others take the entry named "other".
TILES: dict[tuple[bool, str], DecodeTile] = {
    (True, "hopper"): DecodeTile(key_bytes=32768, num_warps=8, num_stages=3, programs=1),
    (False, "hopper"): DecodeTile(key_bytes=16384, num_warps=4, num_stages=4, programs=1),
    # Small, so that short cases split too.
    (True, "interpreter"): DecodeTile(key_bytes=1024, num_warps=4, num_stages=1, programs=1),
    (False, "interpreter"): DecodeTile(key_bytes=1024, num_warps=4, num_stages=1, programs=1),
    (True, "other"): DecodeTile(key_bytes=8192, num_warps=4, num_stages=2, programs=3),
    (False, "other"): DecodeTile(key_bytes=8192, num_warps=4, num_stages=2, programs=2),
}
_MAX_SPLITS = 128
# Scores of a float32 block, rows by keys: those products take no tensor core and read the scores
# from shared memory, 32 KiB of them; narrower scores stay in registers.
_FLOAT32_SCORES = 8192


@lru_cache(maxsize=8)
def _multiprocessors(device: torch.device) -> int:
    """Count the multiprocessors; the interpreter gets a few, so that small cases split too."""
    if device.type != "cuda":
        return 8
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@lru_cache(maxsize=64)
def decode_plan(
    tiles: int,
    rows: int,
    head_dim: int,
    element_size: int,
    device: torch.device,
    tile: DecodeTile | None = None,
) -> dict[str, int]:
    """Choose blocks and splits for `tiles` KV heads of the batch with `rows` queries each."""
    one = rows == 1
    if tile is None:
        arch = architecture(device)
        tile = TILES.get((one, arch)) or TILES[one, "other"]
    block_d = max(16, triton.next_power_of_2(head_dim))
    most_rows = 16384 // (block_d * element_size)  # what the registers hold
    block_r = 1 if one else max(16, min(most_rows, triton.next_power_of_2(rows)))
    block_k = max(16, tile.key_bytes // (block_d * element_size))
    if element_size == 4:
        block_k = max(16, min(block_k, _FLOAT32_SCORES // block_r))
    merge_r = min(block_r, triton.next_power_of_2(rows))
    tiles *= triton.cdiv(rows, block_r)
    splits = max(1, min(_MAX_SPLITS, _multiprocessors(device) * tile.programs // tiles))
    merge_s = max(1, 64 * 32 * tile.num_warps // (merge_r * block_d))
    return {
        "SPLITS": splits,
        "BLOCK_R": block_r,
        "BLOCK_K": block_k,
        "BLOCK_D": block_d,
        "STAGES": tile.num_stages,
        "MERGE_R": merge_r,
        "MERGE_S": min(merge_s, triton.next_power_of_2(splits)),
        "num_warps": tile.num_warps,
        # So few that all programs fit their multiprocessor at once.
        "maxnreg": min(255, 65536 // (32 * tile.num_warps * tile.programs) // 8 * 8),
    }


@dataclass(frozen=True, slots=True)
class DecodeWorkspace:
    """Scratch memory of one decoding call at a time; the counters are zero between calls."""

    part_o: Tensor
    part_stats: Tensor
    counters: Tensor
    plan: dict[str, int]


def decode_workspace(
    *,
    batch: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    queries: int = 1,
    tile: DecodeTile | None = None,
) -> DecodeWorkspace:
    """Allocate what decoding needs, so that a step allocates nothing.

    Calls that may run at the same time, on two streams, need a workspace each.
    """
    rows = heads // kv_heads * queries
    plan = decode_plan(batch * kv_heads, rows, head_dim, dtype.itemsize, device, tile)
    tiles = batch * kv_heads * triton.cdiv(rows, plan["BLOCK_R"])
    parts = tiles * plan["SPLITS"] * plan["MERGE_R"]
    return DecodeWorkspace(
        torch.empty(parts, plan["BLOCK_D"], dtype=torch.float32, device=device),
        torch.empty(parts, 2, dtype=torch.float32, device=device),
        torch.zeros(tiles, dtype=torch.int32, device=device),
        plan,
    )


def decode_fwd(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    core_k: Tensor,
    core_v: Tensor,
    *,
    position: int,
    group_size: int,
    window: int,
    scale: float,
    workspace: DecodeWorkspace | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend from a few new tokens; arguments as in cca_kernels.api, already checked.

    Returns:
        The output [B, H, L, D] and the log-sum-exp [B, H, L] in float32, both contiguous.
    """
    B, H, L, D = q.shape
    KV, S = k.shape[1:3]
    if workspace is None:
        workspace = decode_workspace(
            batch=B, heads=H, kv_heads=KV, head_dim=D, dtype=q.dtype, device=q.device, queries=L
        )
    plan = workspace.plan
    start = raw_start(position, group_size=group_size, window=window)
    skipped = start - (position + L - S)
    k, v = k[:, :, skipped:], v[:, :, skipped:]
    cores = visible_cores(position + L - 1, group_size=group_size, window=window)
    raws = position + L - start
    blocks = triton.cdiv(cores, plan["BLOCK_K"]) + triton.cdiv(raws, plan["BLOCK_K"])
    rows = H // KV * L
    o = q.new_empty(B, H, L, D)
    lse = q.new_empty(B, H, L, dtype=torch.float32)
    decode_fwd_kernel[(min(blocks, plan["SPLITS"]), triton.cdiv(rows, plan["BLOCK_R"]), B * KV)](
        q,
        k,
        v,
        core_k,
        core_v,
        o,
        lse,
        workspace.part_o,
        workspace.part_stats,
        workspace.counters,
        q_strides=q.stride()[:3],
        k_strides=k.stride()[:3],
        v_strides=v.stride()[:3],
        core_k_strides=core_k.stride()[:3],
        core_v_strides=core_v.stride()[:3],
        L=L,
        position=position,
        cores=cores,
        raws=raws,
        scale=scale,
        KV=KV,
        REP=H // KV,
        G=group_size,
        W=window,
        D=D,
        ONE_ROW=rows == 1,
        **plan,
    )
    return o, lse
