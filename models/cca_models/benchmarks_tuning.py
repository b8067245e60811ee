"""What `cca bench --tune` tries: tiles of each operation on the card at hand.

Nothing is written: the tables are in the kernel files, and what is found here is put there by
hand. A tile that does not compile or does not fit is a row that says so.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cca_kernels import reference
from cca_models.benchmarks_contenders import copy_cell
from cca_models.benchmarks_exactness import draw, prefill_error, relative_error
from cca_models.benchmarks_operations import Bench, Cell, Contender, Sizes

_K = 1024
_SHAPES = ((32, 32, 128), (32, 8, 128), (9, 3, 64))
# Queries, keys, warps, stages of the portable prefill kernel.
_PREFILL = (
    (128, 64, 8, 3), (128, 64, 4, 3), (128, 128, 8, 2), (64, 64, 4, 3), (128, 32, 8, 4),
    (128, 32, 4, 2), (64, 32, 4, 3),
)  # fmt: skip
_HOPPER: dict[int, tuple[dict[str, Any], ...]] = {
    64: (
        {"stages": 4, "turns": 1, "overlap": True, "fold": 1, "early": True},
        {"stages": 4, "turns": 1, "overlap": True, "fold": 1},
        {"stages": 4, "turns": 1, "overlap": True, "fold": 0},
        {"stages": 4, "turns": 1, "overlap": True, "fold": 0, "early": True},
        {"stages": 4, "turns": 2, "overlap": True, "fold": 1},
    ),
    128: (
        {}, {"overlap": True, "fold": 0}, {"fold": 1}, {"early": True}, {"turns": 1},
        {"turns": 0}, {"overlap": True, "fold": 1},
    ),
}  # fmt: skip
# KiB of a tile of keys, warps, stages, programs for each multiprocessor.
_DECODE = (
    (8, 4, 3, 4), (8, 4, 3, 2), (8, 4, 3, 1), (8, 4, 2, 4), (8, 4, 4, 4), (8, 4, 4, 2),
    (4, 2, 3, 8), (8, 4, 6, 1), (16, 4, 3, 2), (16, 4, 4, 1), (16, 8, 4, 1), (32, 8, 3, 1),
)  # fmt: skip
# Rows of weights, columns at a time, warps.
_GEMV = (
    (4, 2048, 4), (2, 2048, 4), (8, 2048, 8), (4, 1024, 4), (8, 1024, 4), (2, 1024, 2),
    (16, 512, 4), (8, 512, 2),
)  # fmt: skip
# Outputs, inputs, gated: the projections of LLaMA2-7B and of the default model, and its logits.
_MATRICES = (
    (12288, 4096, False), (4096, 4096, False), (11008, 4096, True), (4096, 11008, False),
    (32000, 4096, False), (960, 576, False), (1536, 576, True), (576, 1536, False),
    (49152, 576, False),
)  # fmt: skip


def all_tunings(*, group_size: int = 16, window: int = 1024) -> list[Cell]:
    """List the cells: one for each operation and shape, its tiles the contenders."""

    def sizes(shape: tuple[int, int, int], length: int) -> Sizes:
        heads, kv_heads, head_dim = shape
        return Sizes(
            heads=heads, kv_heads=kv_heads, head_dim=head_dim, length=length,
            group_size=group_size, window=window,
        )  # fmt: skip

    cells = [copy_cell(2 << 30)]
    cells += [prefill_tiles(sizes(shape, 32 * _K)) for shape in (_SHAPES[0], _SHAPES[2])]
    cells += [decode_tiles(sizes(shape, 128 * _K)) for shape in _SHAPES]
    cells += [gemv_tiles(*matrix) for matrix in _MATRICES]
    return cells


def prefill_tiles(sizes: Sizes) -> Cell:
    """Try the prefill kernels on core tokens that are there already."""

    def contenders(bench: Bench) -> Iterator[Contender]:
        from cca_kernels.devices import architecture
        from cca_kernels.prefill_forward import attend_fwd
        from cca_kernels.tiles import Tile

        H, KV, L, M = sizes.heads, sizes.kv_heads, sizes.length, sizes.groups
        shapes = ((H, L), (KV, L), (KV, L), (KV, M), (KV, M))
        t = draw(shapes, sizes, bench.device, bench.dtype, bench.seed)
        options: dict[str, Any] = {
            "position": 0, "group_size": sizes.group_size, "window": sizes.window,
            "scale": sizes.scale,
        }  # fmt: skip

        def contender(method: str, run: Any, **keywords: Any) -> Contender:
            def call() -> Tensor:
                o: Tensor = run(*t, **options, **keywords)[0]
                return o

            return Contender(
                method=method, calls=[call], in_use=method == "by itself",
                error=lambda: prefill_error(call(), t[0], t[1], t[2], sizes, cores=(t[3], t[4])),
                flop=4 * sizes.head_dim * H * sizes.pairs,
            )  # fmt: skip

        yield contender("by itself", attend_fwd)
        for block_q, block_k, warps, stages in _PREFILL:
            tile = Tile(block_q=block_q, block_k=block_k, num_warps=warps, num_stages=stages)
            yield contender(
                f"portable {block_q}x{block_k} {warps} warps {stages} stages", attend_fwd, tile=tile
            )
        if architecture(bench.device) == "hopper":
            from cca_kernels.prefill_hopper import HopperTile, attend_fwd_hopper

            for keywords in _HOPPER.get(sizes.head_dim, ()):
                name = " ".join(f"{key} {int(value)}" for key, value in keywords.items())
                hopper = HopperTile(**keywords)
                yield contender(f"hopper {name}".rstrip(), attend_fwd_hopper, tile=hopper)

    return Cell(operation="prefill", contenders=contenders, methods=(), sizes=sizes)


def decode_tiles(sizes: Sizes) -> Cell:
    """Try the decoding kernel, with a workspace for each tile."""

    def contenders(bench: Bench) -> Iterator[Contender]:
        from cca_kernels.decoding import DecodeTile, decode_fwd, decode_workspace

        H, KV, raws, cores = sizes.heads, sizes.kv_heads, sizes.raws, sizes.cores
        shapes = ((H, 1), (KV, raws), (KV, raws), (KV, cores), (KV, cores))
        moved = 2 * KV * (cores + raws) * sizes.head_dim * bench.dtype.itemsize
        count = max(2, min(64, -(-bench.rotate_bytes // moved)))
        inputs = [
            draw(shapes, sizes, bench.device, bench.dtype, bench.seed + i) for i in range(count)
        ]
        options: dict[str, Any] = {
            "position": sizes.length - 1, "group_size": sizes.group_size,
            "window": sizes.window, "scale": sizes.scale,
        }  # fmt: skip
        exact, _ = reference.attend(*(t.double() for t in inputs[0]), **options)

        def contender(method: str, tile: DecodeTile | None) -> Contender:
            workspace = decode_workspace(
                batch=1, heads=H, kv_heads=KV, head_dim=sizes.head_dim, dtype=bench.dtype,
                device=bench.device, tile=tile,
            )  # fmt: skip
            calls = [lambda t=t: decode_fwd(*t, **options, workspace=workspace)[0] for t in inputs]
            return Contender(
                method=method, calls=calls * max(1, bench.calls // count), in_use=tile is None,
                error=lambda: relative_error(calls[0](), exact), bytes_moved=moved,
            )  # fmt: skip

        yield contender("by itself", None)
        for kib, warps, stages, programs in _DECODE:
            tile = DecodeTile(
                key_bytes=kib << 10, num_warps=warps, num_stages=stages, programs=programs
            )
            yield contender(
                f"{kib} KiB {warps} warps {stages} stages {programs} programs", tile
            )  # fmt: skip

    return Cell(operation="decode", contenders=contenders, methods=(), sizes=sizes)


def gemv_tiles(rows: int, columns: int, gated: bool) -> Cell:
    """Try the product of a matrix with one vector, going round among matrices."""

    def contenders(bench: Bench) -> Iterator[Contender]:
        from cca_kernels.gemv import GemvTile, gemv_fwd, gemv_tile

        random = torch.Generator(bench.device).manual_seed(bench.seed)
        make: Callable[..., Tensor] = partial(
            torch.randn, generator=random, device=bench.device, dtype=bench.dtype
        )
        total = 2 * rows if gated else rows
        moved = total * columns * bench.dtype.itemsize
        count = max(2, min(64, -(-bench.rotate_bytes // moved)))
        # Not wider than one, or silu(gate) * up is a few large products and nothing else.
        weights = [make(total, columns) * columns**-0.5 for _ in range(count)]
        x, out = make(1, columns), torch.empty(1, rows, dtype=bench.dtype, device=bench.device)
        exact = x.double() @ weights[0].double().T
        if gated:
            exact = torch.nn.functional.silu(exact[:, :rows]) * exact[:, rows:]

        def contender(tile: GemvTile | None) -> Contender:
            t = tile or gemv_tile(
                rows, columns, gated=gated, itemsize=bench.dtype.itemsize, device=bench.device
            )
            calls = [lambda w=w: gemv_fwd(x, w, out=out, gated=gated, tile=tile) for w in weights]
            return Contender(
                method=f"{rows:,} x {columns:,}{' gated' if gated else ''}: "
                f"{t.block_n} x {t.block_k} {t.num_warps} warps",
                calls=calls * max(1, bench.calls // count), in_use=tile is None,
                error=lambda: relative_error(calls[0](), exact), bytes_moved=moved,
            )  # fmt: skip

        used = contender(None)
        yield used
        for block_n, block_k, warps in _GEMV:
            other = contender(GemvTile(block_n=block_n, block_k=block_k, num_warps=warps))
            if other.method != used.method:
                yield other

    return Cell(operation="gemv", contenders=contenders, methods=())


def best_first(rows: Sequence[Any]) -> list[Any]:
    """Sort the rows of each cell by time; those without figures stand at its end."""
    return sorted(rows, key=lambda row: (row.cell, row.ms is None, row.ms or 0.0))
