"""`cca bench --ops`: every cell, tiny, on the CPU; the arithmetic; marks, ratios and order."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

import cca_kernels
from cca_kernels import reference
from cca_models import benchmarks_contenders, benchmarks_tuning
from cca_models.benchmarks_contenders import (
    copy_cell,
    decode_cell,
    matmul_cell,
    prefill_cell,
    training_cell,
)
from cca_models.benchmarks_exactness import draw, relative_error
from cca_models.benchmarks_operations import (
    Bench,
    Cell,
    Contender,
    OperationRow,
    Sizes,
    run_cells,
    visible_pairs,
    wrong,
)
from cca_models.benchmarks_timing import Call, ClockTimer, CudaTimer, take_turns
from cca_models.benchmarks_tuning import best_first, decode_tiles, gemv_tiles, prefill_tiles

CPU = torch.device("cpu")
TINY = Sizes(heads=4, kv_heads=2, head_dim=16, length=135, group_size=8, window=24)


def tiny_bench(**options: Any) -> Bench:
    """A clock on the CPU, with the dense baseline that runs there."""
    return Bench(
        device=CPU, dtype=torch.float32, timer=ClockTimer(), repeat=2, dense="math", flex=False,
        calls=4, **options,
    )  # fmt: skip


def run(*cells: Cell, bench: Bench | None = None) -> list[OperationRow]:
    """Measure cells; each row must have been told of when it was there."""
    told: list[OperationRow] = []
    rows = run_cells(cells, bench or tiny_bench(), finished=told.append)
    assert [(r.cell, r.method, r.mark) for r in told] == [(r.cell, r.method, r.mark) for r in rows]
    return rows


def cell_of(*contenders: Contender, operation: str = "prefill", fail: str = "") -> Cell:
    """A cell of contenders that are there already."""

    def make(bench: Bench) -> Iterator[Contender]:
        yield from contenders
        if fail:
            raise RuntimeError(fail)

    methods = (*(c.method for c in contenders), *(("late",) if fail else ()))
    return Cell(operation=operation, contenders=make, methods=methods, sizes=TINY)


class Script:
    """A timer that gives the milliseconds which the calls return."""

    def once(self, call: Call) -> float:
        return float(call())

    def join(self, calls: Sequence[Call]) -> Call:
        return lambda: sum(call() for call in calls)


@pytest.mark.parametrize("G", [1, 5, 16])
@pytest.mark.parametrize("W", [1, 16, 40])
@pytest.mark.parametrize("L", [1, 15, 16, 39, 130])
def test_pairs_are_those_of_the_reference(L: int, G: int, W: int) -> None:
    seen = reference.visibility(
        position=0, L=L, S=L, M=L // G, group_size=G, window=W, device=CPU
    )  # fmt: skip
    assert visible_pairs(L, group_size=G, window=W) == int(seen.sum())


def test_the_decoding_token_at_128k_sees_9152_keys() -> None:
    sizes = Sizes(heads=32, kv_heads=8, head_dim=128, length=131072)
    assert sizes.cores + sizes.raws == 9152


def test_every_cell_tiny() -> None:
    rows = run(
        copy_cell(1 << 12), matmul_cell(16), prefill_cell(TINY), training_cell(TINY),
        decode_cell(TINY),
    )  # fmt: skip
    names = [(row.operation, row.method) for row in rows]
    assert names == [
        ("copy", "3.81e-06 GiB"), ("matmul", "16 cubed"), ("prefill", "cca"), ("prefill", "math"),
        ("forward + backward", "cca"), ("forward + backward", "math"), ("decode", "cca"),
        ("decode", "math"),
    ]  # fmt: skip
    for row in rows:
        assert row.mark == "measured" and row.n == len(row.samples_ms) == 2, row
        assert row.ms and row.ms > 0
    by = {(row.operation, row.method): row for row in rows}
    for row in rows[2:]:
        if row.method == "cca" or row.operation != "decode":
            assert row.error is not None and row.error < 1e-5
    read, full = by["prefill", "cca"], by["prefill", "math"]
    pairs = visible_pairs(135, group_size=8, window=24)
    assert read.pairs == 4 * pairs and full.pairs == 4 * 135 * 136 // 2
    assert read.ms and full.ms and read.tflops
    assert read.tflops == pytest.approx(4 * 16 * 4 * pairs / read.ms / 1e9)
    assert read.over_dense == pytest.approx(full.ms / read.ms)
    assert full.over_dense is None and read.over_flex is None
    both = by["forward + backward", "cca"]
    assert both.ms and both.tflops == pytest.approx(3.5 * 4 * 16 * 4 * pairs / both.ms / 1e9)
    step, copy = by["decode", "cca"], by["copy", "3.81e-06 GiB"]
    assert step.keys == TINY.cores + TINY.raws and step.ms
    moved = 2 * 2 * (TINY.cores + TINY.raws) * 16 * 4
    assert step.gb_per_s == pytest.approx(moved / step.ms / 1e6)
    assert step.share == pytest.approx((step.gb_per_s or 0) / (copy.gb_per_s or 1))
    assert json.loads(json.dumps([dataclasses.asdict(row) for row in rows]))


def test_a_share_is_of_the_widest_mha_prefill() -> None:
    mha = dataclasses.replace(TINY, heads=2)
    narrow = dataclasses.replace(mha, head_dim=8)
    rows = run(*(prefill_cell(s, dense=False) for s in (narrow, TINY, mha)))
    assert [row.share for row in rows][2] == 1
    assert rows[1].share == pytest.approx((rows[1].tflops or 0) / (rows[2].tflops or 1))


@pytest.mark.parametrize("which", ["prefill", "forward + backward", "decode"])
def test_a_wrong_result_shows(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(f: Any) -> Any:
        def run(*tensors: Any, **options: Any) -> Any:
            o, lse = f(*tensors, **options)
            return o * 1.01, lse

        return run

    for name in ("attend", "decode"):
        monkeypatch.setattr(cca_kernels, name, off(getattr(cca_kernels, name)), raising=False)
    make = {"prefill": prefill_cell, "forward + backward": training_cell, "decode": decode_cell}
    assert [row.mark for row in run(make[which](TINY))] == ["wrong", "measured"]


def test_what_was_never_written_shows() -> None:
    ours = Contender(method="cca", calls=[lambda: 1.0], error=lambda: math.inf)
    (row,) = run(cell_of(ours), bench=dataclasses.replace(tiny_bench(), timer=Script()))
    assert row.mark == "wrong: not finite" and row.error is None and row.ms == 1.0


def test_a_wrong_pooling_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = cca_kernels.pool_queries
    monkeypatch.setattr(
        cca_kernels, "pool_queries", lambda *t, first, **o: pool(*t, first=first - 1, **o),
        raising=False,
    )  # fmt: skip
    assert [row.mark for row in run(prefill_cell(TINY))] == ["wrong", "measured"]
    assert [row.mark for row in run(training_cell(TINY))] == ["wrong", "measured"]


@pytest.mark.parametrize("error", [math.nan, math.inf, 1.0])
def test_an_error_that_is_no_number_is_wrong(error: float) -> None:
    assert wrong(error, torch.bfloat16)
    assert not wrong(0.01, torch.bfloat16)


def test_what_fails_is_a_row_and_the_others_go_on() -> None:
    def no_memory() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def unsupported() -> float:
        raise RuntimeError("No available kernel.\nAborting execution.")

    good = Contender(method="cca", calls=[lambda: 2.0], flop=1e9)
    bench = dataclasses.replace(tiny_bench(), timer=Script())
    rows = run(
        cell_of(good, Contender(method="cudnn", calls=[lambda: 1.0], error=unsupported)),
        cell_of(good, Contender(method="cudnn", calls=[no_memory])),
        cell_of(good, fail="inputs do not fit"),
        cell_of(good),
        bench=bench,
    )
    assert [(row.method, row.mark) for row in rows] == [
        ("cca", "measured"),
        ("cudnn", "failed: RuntimeError: No available kernel. Aborting execution."),
        ("cca", "measured"),
        ("cudnn", "oom"),
        ("cca", "measured"),
        ("late", "failed: RuntimeError: inputs do not fit"),
        ("cca", "measured"),
    ]
    assert {row.tflops for row in rows if row.method == "cca"} == {0.5}
    assert not [row for row in rows if row.over_dense]


def test_rounds_take_turns_and_the_first_is_discarded() -> None:
    order: list[str] = []
    times = {"a": [9.0, 1.0, 2.0], "b": [8.0, 3.0, 4.0]}

    def call(name: str) -> float:
        order.append(name)
        return times[name].pop(0)

    samples = take_turns([lambda: call("a"), lambda: call("b")], repeat=2, timer=Script())
    assert order == ["a", "b"] * 3 and samples == [[1.0, 2.0], [3.0, 4.0]]


def test_many_calls_are_timed_as_one() -> None:
    ours = Contender(method="cca", calls=[lambda: 2.0, lambda: 4.0], bytes_moved=3e6)
    (row,) = run(
        cell_of(ours, operation="decode"), bench=dataclasses.replace(tiny_bench(), timer=Script())
    )
    assert row.ms == 3.0 and row.gb_per_s == 1.0 and row.samples_ms == (3.0, 3.0)


def test_the_full_list_makes_no_input_before_it_is_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmarks_contenders, "draw", None)
    monkeypatch.setattr(benchmarks_tuning, "draw", None)
    bench = dataclasses.replace(tiny_bench(), flex=True)
    cells = benchmarks_contenders.all_cells(bench)
    found = [(c.operation, c.methods, c.sizes.length if c.sizes else 0) for c in cells]
    assert ("prefill", ("cca", "cudnn"), 131072) in found
    assert found[-1] == ("prefill", ("cca", "flex"), 131072)
    assert len(benchmarks_contenders.all_cells(tiny_bench())) == len(cells) - 1
    assert {c.operation for c in benchmarks_tuning.all_tunings()} == {
        "copy", "prefill", "decode", "gemv",
    }  # fmt: skip


def test_flex_tiles_are_those_of_the_reference() -> None:
    flex = pytest.importorskip("cca_models.benchmarks_flex")
    sizes = Sizes(heads=1, kv_heads=1, head_dim=16, length=128, group_size=8, window=24)
    some, full = flex.visible_blocks(sizes, block=16, device=CPU)
    seen = reference.visibility(
        position=0, L=128, S=128, M=16, group_size=8, window=24, device=CPU
    )  # fmt: skip
    tiles = seen.unflatten(0, (8, 16)).unflatten(2, (9, 16))
    assert torch.equal(some, tiles.any(3).any(1))
    assert torch.equal(full, tiles.all(3).all(1))
    with pytest.raises(ValueError, match="in tiles of 128"):
        flex.visible_blocks(TINY, device=CPU)


def test_the_flex_mask_sees_what_the_reference_sees() -> None:
    flex = pytest.importorskip("cca_models.benchmarks_flex")
    sizes = Sizes(heads=1, kv_heads=1, head_dim=16, length=1024, group_size=8, window=100)
    mask = flex.block_mask(sizes, device=CPU)
    q, kv = torch.arange(1024)[:, None], torch.arange(1024 + 128)[None]
    seen = reference.visibility(
        position=0, L=1024, S=1024, M=128, group_size=8, window=100, device=CPU
    )  # fmt: skip
    assert torch.equal(mask.mask_mod(q, q, q, kv), seen)
    some = seen.unflatten(0, (8, 128)).unflatten(2, (9, 128)).any(3).any(1)
    assert torch.equal(mask.to_dense()[0, 0].bool(), some)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_with_the_mask_of_cca_computes_what_cca_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "compile", lambda f, **options: f)
    sizes = Sizes(heads=2, kv_heads=1, head_dim=16, length=512, group_size=4, window=100)
    ours, flex = run(prefill_cell(sizes, dense=False, flex=True))
    assert (ours.mark, flex.mark) == ("measured", "measured")
    assert flex.error is not None and flex.error < 1e-5 and flex.pairs == ours.pairs
    assert ours.over_flex and ours.over_dense is None


# With a GPU the kernels are compiled, and do not take tensors of the CPU.
interpreted = pytest.mark.skipif(
    torch.cuda.is_available(), reason="runs the kernels in Triton's interpreter"
)


def few_calls() -> Bench:
    """The interpreter is slow, and its times mean nothing."""
    return dataclasses.replace(tiny_bench(), repeat=1, calls=1)


@interpreted
def test_tiles_of_a_matrix_best_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks_tuning, "_GEMV", ((8, 16, 4), (16, 32, 4)))
    cells = gemv_tiles(24, 32, False), gemv_tiles(8, 32, True)
    rows = best_first(run(*cells, bench=few_calls()))
    assert [row.in_use for row in rows].count(True) == 2
    assert all(row.mark == "measured" for row in rows), rows
    assert len(rows) == 6 and "24 x 32: 8 x 16 4 warps" in {row.method for row in rows}
    times = [row.ms or 0 for row in rows if row.cell == 0]
    assert times == sorted(times)


@interpreted
def test_tiles_of_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = Sizes(heads=2, kv_heads=1, head_dim=16, length=43, group_size=8, window=17)
    monkeypatch.setattr(benchmarks_tuning, "_PREFILL", ((32, 32, 4, 1), (16, 32, 4, 1)))
    monkeypatch.setattr(benchmarks_tuning, "_DECODE", ((1, 4, 1, 1), (2, 4, 1, 1)))
    rows = run(prefill_tiles(sizes), decode_tiles(sizes), bench=few_calls())
    assert all(row.mark == "measured" for row in rows), rows
    assert all(row.error is not None and row.error < 1e-5 for row in rows)
    assert [row.method for row in rows if row.in_use] == ["by itself", "by itself"]
    assert rows[1].method == "portable 32x32 4 warps 1 stages" and rows[1].tflops
    assert rows[4].method == "1 KiB 4 warps 1 stages 1 programs" and rows[4].gb_per_s


@interpreted
@pytest.mark.parametrize("heads", [2, 4])
def test_what_inference_runs_is_what_is_timed(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels with a workspace, which only a GPU takes by itself."""
    sizes = dataclasses.replace(TINY, heads=heads)
    bench = tiny_bench()
    H, KV, raws, cores = sizes.heads, sizes.kv_heads, sizes.raws, sizes.cores
    shapes = ((H, 1), (KV, raws), (KV, raws), (KV, cores), (KV, cores))
    inputs = [draw(shapes, sizes, CPU, torch.float32, seed) for seed in (0, 1)]
    options: dict[str, Any] = {
        "position": 134, "group_size": 8, "window": 24, "scale": sizes.scale,
    }  # fmt: skip
    kept = benchmarks_contenders._decodes_kept(inputs, sizes, bench, options)
    steps = benchmarks_contenders._steps(inputs, sizes, bench)
    for t, *calls in zip(inputs, kept, steps, strict=True):
        exact, _ = reference.attend(*(x.double() for x in t), **options)
        for call in calls:
            assert relative_error(call(), exact) < 1e-5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_every_cell_on_a_gpu() -> None:
    device = torch.device("cuda")
    sizes = Sizes(heads=4, kv_heads=2, head_dim=64, length=2048, window=256)
    bench = Bench(
        device=device, dtype=torch.bfloat16, timer=CudaTimer(device, flush_bytes=1 << 24),
        repeat=2, rotate_bytes=1 << 20, calls=8,
    )  # fmt: skip
    rows = run(
        copy_cell(1 << 20), matmul_cell(256), prefill_cell(sizes), training_cell(sizes),
        decode_cell(sizes), bench=bench,
    )  # fmt: skip
    ours = [row for row in rows if row.method.startswith("cca")]
    assert len(rows) == 9 and len(ours) == 4
    assert all(row.mark == "measured" and row.n == 2 for row in ours), ours
