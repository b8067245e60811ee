"""What `cca bench --ops` measures: single operations of CCA beside those of dense attention.

A cell is one operation at one size; its contenders run on the same inputs, in turns. Whatever
goes wrong becomes the mark of a row, and the other cells go on. What is timed is in
cca_models.benchmarks_contenders.
"""

import gc
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from cca_kernels.partition import visible_cores
from cca_models.benchmarks_timing import Call, Timer, take_turns

# Largest error against the float64 reference, in units of the dtype's eps and of the row's largest
# entry; a right kernel stays below one.
_ALLOWED_EPS = 3
_ALLOWED_LEAST = 1e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Sizes of an attention operation; the batch is 1.

    Attributes:
        heads: Query heads, H.
        kv_heads: KV heads.
        head_dim: D.
        length: Tokens read, L; the one that decodes stands at L - 1.
        group_size: G.
        window: W.
    """

    heads: int
    kv_heads: int
    head_dim: int
    length: int
    group_size: int = 16
    window: int = 1024

    @property
    def scale(self) -> float:
        """The factor on the scores."""
        return float(self.head_dim**-0.5)

    @property
    def groups(self) -> int:
        """Core tokens of the whole length, M."""
        return self.length // self.group_size

    @property
    def pairs(self) -> int:
        """Pairs of query and key that CCA sees, of one head."""
        return visible_pairs(self.length, group_size=self.group_size, window=self.window)

    @property
    def dense_pairs(self) -> int:
        """Pairs of query and key that causal attention sees, of one head."""
        return self.length * (self.length + 1) // 2

    @property
    def cores(self) -> int:
        """Core tokens that the last token sees."""
        return visible_cores(self.length - 1, group_size=self.group_size, window=self.window)

    @property
    def raws(self) -> int:
        """Raw tokens that the last token sees."""
        return self.length - self.cores * self.group_size


def visible_pairs(length: int, *, group_size: int, window: int) -> int:
    """Count the pairs of query and key that CCA sees among the first `length` tokens, of one head.

    The token at p sees m core tokens and p + 1 - m * G raw ones, with m = max(0, (p + 1 - W) // G).
    """
    # The tokens with m > 0 come in runs of G, one for each m from 0 on.
    past = max(0, length - window + 1)  # tokens with p + 1 >= W
    runs, rest = divmod(past, group_size)
    cores = group_size * runs * (runs - 1) // 2 + rest * runs  # sum of m
    return length * (length + 1) // 2 - (group_size - 1) * cores


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Where and how the operations are timed.

    Attributes:
        device: The device; dtype the inputs' type.
        timer: Its clock.
        repeat: Timed rounds of each cell.
        dense: The backend of torch's SDPA that stands for dense attention.
        flex: Whether FlexAttention is compiled and timed too.
        impl: The implementation of CCA.
        rotate_bytes: Decoding goes round among inputs that take as much.
        calls: Decoding calls that are timed as one.
        seed: Of the random inputs.
    """

    device: torch.device
    dtype: torch.dtype
    timer: Timer
    repeat: int = 5
    dense: Literal["cudnn", "math"] = "cudnn"
    flex: bool = True
    impl: Literal["auto", "torch", "triton"] = "auto"
    rotate_bytes: int = 0
    calls: int = 96
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """One way to do a cell's operation.

    Attributes:
        method: Its name.
        calls: What is timed, on inputs of their own each; more than one are timed together.
        error: The relative error against the float64 reference; runs the operation once at least.
        flop: Floating-point operations of one call.
        bytes_moved: Bytes that one call must read and write at least.
        in_use: Whether it is the tile that the package takes by itself.
    """

    method: str
    calls: Sequence[Call]
    error: Callable[[], float] | None = None
    flop: float | None = None
    bytes_moved: float | None = None
    in_use: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One operation at one size.

    Attributes:
        operation: "copy", "matmul", "prefill", "forward + backward", "decode" or "gemv".
        contenders: Makes the inputs, and yields who runs on them.
        methods: Names of the contenders, for a cell whose inputs cannot be made.
        sizes: Sizes of an attention operation.
    """

    operation: str
    contenders: Callable[[Bench], Iterable[Contender]]
    methods: tuple[str, ...]
    sizes: Sizes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class OperationRow:
    """One contender in one cell; the time is a median, ratios are to the rows of its own cell.

    Attributes:
        mark: "measured", "wrong", "wrong: not finite", "oom" or "failed: <why>".
        keys: Keys that the decoding token sees.
        pairs: Pairs of query and key that are seen, of all heads.
        error: Relative error against the float64 reference.
        over_dense: Times as fast as dense attention.
        over_flex: Times as fast as FlexAttention.
        share: Of the TFLOP/s of the widest MHA prefill at this length, or of the copy bandwidth.
        in_use: For a tile: whether the package takes it by itself.
    """

    cell: int
    operation: str
    method: str
    mark: str
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    length: int | None = None
    keys: int | None = None
    pairs: int | None = None
    n: int = 0
    ms: float | None = None
    tflops: float | None = None
    gb_per_s: float | None = None
    error: float | None = None
    over_dense: float | None = None
    over_flex: float | None = None
    share: float | None = None
    in_use: bool = False
    samples_ms: tuple[float, ...] = field(default=())


def run_cells(
    cells: Sequence[Cell], bench: Bench, *, finished: Callable[[OperationRow], None]
) -> list[OperationRow]:
    """Measure cell by cell.

    Args:
        cells: What to measure.
        bench: Where.
        finished: Told of every row as soon as it is there, without the ratios to other cells.

    Returns:
        All rows, with ratios.
    """
    rows: list[OperationRow] = []
    for i, cell in enumerate(cells):
        for row in add_ratios([*_run_cell(i, cell, bench)]):
            rows.append(row)
            finished(row)
        release_memory(bench.device)
    return add_ratios(rows)


def release_memory(device: torch.device) -> None:
    """Give back what a cell held."""
    gc.collect()
    if device.type == "cuda":
        # After a kernel's fault every call raises, this one too; the rows say so.
        with suppress(RuntimeError):
            torch.cuda.empty_cache()


def failure_mark(error: Exception) -> str:
    """Turn an exception into a mark."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "oom"
    text = " ".join(str(error).split())[:300]
    return f"failed: {type(error).__name__}: {text}"


def wrong(error: float, dtype: torch.dtype) -> bool:
    """Say whether an error is larger than rounding explains; NaN is."""
    return not error <= max(_ALLOWED_LEAST, _ALLOWED_EPS * torch.finfo(dtype).eps)


def _run_cell(i: int, cell: Cell, bench: Bench) -> Iterator[OperationRow]:
    rows: list[OperationRow] = []
    ready: list[tuple[int, Contender, Call]] = []
    met: set[str] = set()
    try:
        for contender in cell.contenders(bench):
            met.add(contender.method)
            row = replace(_row(i, cell, contender.method), in_use=contender.in_use)
            try:
                error = contender.error() if contender.error else None
                row = replace(row, error=error)
                call = contender.calls[0]
                if len(contender.calls) > 1:
                    for warm in contender.calls:
                        warm()
                    call = bench.timer.join(contender.calls)
                ready.append((len(rows), contender, call))
            except Exception as failure:
                row = replace(row, mark=failure_mark(failure))
            rows.append(row)
    except Exception as failure:
        mark = failure_mark(failure)
        missing = [name for name in cell.methods if name not in met] or ["inputs"]
        rows += [_row(i, cell, name, mark) for name in missing]
    for at, contender, samples in _timed(ready, rows, bench):
        rows[at] = _measured(rows[at], contender, samples, bench)
    yield from rows


def _timed(
    ready: list[tuple[int, Contender, Call]], rows: list[OperationRow], bench: Bench
) -> list[tuple[int, Contender, list[float]]]:
    """Time those that are ready; one that fails is marked, and the others start again."""
    while ready:
        try:
            taken = take_turns([r[2] for r in ready], repeat=bench.repeat, timer=bench.timer)
            return [(at, who, own) for (at, who, _), own in zip(ready, taken, strict=True)]
        except Exception as failure:
            mark = failure_mark(failure)
        still = []
        for at, who, call in ready:
            try:
                bench.timer.once(call)
                still.append((at, who, call))
            except Exception as failure:
                rows[at] = replace(rows[at], mark=failure_mark(failure))
        if len(still) == len(ready):
            # Each runs alone but not in turns: there is no figure that compares.
            for at, _, _ in ready:
                rows[at] = replace(rows[at], mark=mark)
            return []
        ready = still
    return []


def _row(i: int, cell: Cell, method: str, mark: str = "failed: not timed") -> OperationRow:
    row = OperationRow(cell=i, operation=cell.operation, method=method, mark=mark)
    if cell.sizes is None:
        return row
    s = cell.sizes
    row = replace(
        row, heads=s.heads, kv_heads=s.kv_heads, head_dim=s.head_dim, length=s.length
    )  # fmt: skip
    if cell.operation == "decode":
        return replace(row, keys=s.cores + s.raws)
    dense = method in ("cudnn", "math")
    return replace(row, pairs=s.heads * (s.dense_pairs if dense else s.pairs))


def _measured(
    row: OperationRow, contender: Contender, samples: Sequence[float], bench: Bench
) -> OperationRow:
    calls = len(contender.calls)
    each = tuple(ms / calls for ms in samples)
    ms = statistics.median(each)
    mark, error = "measured", row.error
    if error is not None and wrong(error, bench.dtype):
        # JSON knows no infinity.
        mark, error = ("wrong", error) if math.isfinite(error) else ("wrong: not finite", None)
    return replace(
        row,
        mark=mark,
        error=error,
        n=len(each),
        ms=ms,
        tflops=None if contender.flop is None else contender.flop / ms / 1e9,
        gb_per_s=None if contender.bytes_moved is None else contender.bytes_moved / ms / 1e6,
        samples_ms=each,
    )


def add_ratios(rows: Sequence[OperationRow]) -> list[OperationRow]:
    """Set every row of CCA beside those of its cell, and beside the card's ceilings."""
    copy = next((row.gb_per_s for row in rows if row.operation == "copy"), None)
    widest = _widest(rows)
    done = []
    for row in rows:
        if row.method.startswith("cca") and row.ms:
            mates = {r.method: r.ms for r in rows if r.cell == row.cell}
            dense = mates.get("cudnn") or mates.get("math")
            flex = mates.get("flex")
            row = replace(
                row,
                over_dense=dense / row.ms if dense else None,
                over_flex=flex / row.ms if flex else None,
            )
        if row.operation == "prefill" and row.method == "cca" and row.tflops:
            best = widest.get(row.length)
            row = replace(row, share=row.tflops / best if best else None)
        if row.operation in ("decode", "gemv") and row.gb_per_s:
            row = replace(row, share=row.gb_per_s / copy if copy else None)
        done.append(row)
    return done


def _widest(rows: Sequence[OperationRow]) -> dict[int | None, float]:
    """Find by length the TFLOP/s of the MHA prefill with the largest head dim."""
    found: dict[int | None, tuple[int, float]] = {}
    for row in rows:
        mha = row.operation == "prefill" and row.method == "cca" and row.heads == row.kv_heads
        # The first cell of a size: the one beside dense attention.
        if mha and row.tflops and (row.head_dim or 0) > found.get(row.length, (0, 0.0))[0]:
            found[row.length] = (row.head_dim or 0, row.tflops)
    return {length: tflops for length, (_, tflops) in found.items()}
