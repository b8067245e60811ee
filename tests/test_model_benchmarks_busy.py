"""Benchmarks: how long a GPU computes in a step, and that the steps for it come last and fit."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_contenders import make_contender, settle_small
from test_model_benchmarks import CPU, TINY, nothing, weights_of
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from cca_cli.bench_run import _SPARE_TOKENS
from cca_models import benchmarks_busy
from cca_models.benchmarks import METHODS
from cca_models.benchmarks_busy import busy_seconds, covered
from cca_models.benchmarks_cells import BUSY_STEPS, WARM_STEPS, measure_cell
from cca_models.benchmarks_engine import CCAContender
from cca_models.benchmarks_memory import PeakMemory
from cca_models.benchmarks_peers import PeerContender
from cca_models.benchmarks_results import Measurement, make_row
from cca_models.benchmarks_sizes import SHAPES
from cca_models.benchmarks_weights import random_weights
from cca_models.checkpoints import Checkpoint
from cca_models.config import CCAConfig
from cca_models.decoder import make_decoder
from cca_models.dense_baseline import DenseContender

CUDA = torch.device("cuda")
LENGTH, NEW = 150, 3
RECORDED = BUSY_STEPS - 1


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0.0),
        ([(1.0, 3.0)], 2.0),
        ([(2.0, 2.0)], 0.0),
        ([(0.0, 1.0), (4.0, 6.0)], 3.0),
        ([(0.0, 1.0), (1.0, 2.0)], 2.0),
        ([(0.0, 3.0), (2.0, 5.0)], 5.0),
        ([(0.0, 9.0), (2.0, 5.0), (8.0, 10.0)], 10.0),
        ([(0.0, 9.0), (2.0, 5.0), (6.0, 7.0)], 9.0),
        ([(1.0, 2.0), (1.0, 4.0), (1.0, 4.0)], 3.0),
        ([(8.0, 10.0), (2.0, 5.0), (0.0, 3.0)], 7.0),
        ([(-5.0, -3.0), (-4.0, 1.0)], 6.0),
    ],
    ids=[
        "none", "one", "empty", "apart", "touching", "overlapping", "contained and beyond",
        "contained", "equal", "unsorted", "below zero",
    ],
)  # fmt: skip
def test_what_lies_under_several_intervals_counts_once(
    spans: list[tuple[float, float]], seconds: float
) -> None:
    assert covered(spans) == pytest.approx(seconds)
    assert covered(iter(reversed(spans))) == pytest.approx(seconds)


# The recorder.


def event(start: float, end: float, *, device: Any = DeviceType.CUDA, region: bool = False) -> Any:
    """What torch's profiler gives for one; in µs."""
    return SimpleNamespace(
        time_range=SimpleNamespace(start=start, end=end), device_type=device,
        is_user_annotation=region,
    )  # fmt: skip


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand in for torch's profiler, and for a torch that knows CUDA."""
    state = SimpleNamespace(events=[], error=None, raises_at="start", opened=0)

    class Profile:
        def __init__(self, activities: Any) -> None:
            assert activities == [ProfilerActivity.CUDA]

        def __enter__(self) -> Profile:
            state.opened += 1
            if state.error is not None and state.raises_at == "start":
                raise state.error
            return self

        def __exit__(self, *raised: object) -> None:
            if state.error is not None and state.raises_at == "end":
                raise state.error

        def events(self) -> Any:
            if state.error is not None and state.raises_at == "events":
                raise state.error
            return state.events

    known = {ProfilerActivity.CPU, ProfilerActivity.CUDA}
    monkeypatch.setattr(benchmarks_busy, "profile", Profile)
    monkeypatch.setattr(benchmarks_busy, "supported_activities", lambda: known)
    return state


def test_kernels_count_and_the_host_and_named_regions_do_not(recorder: Any) -> None:
    recorder.events = [
        event(100, 160), event(150, 190), event(400, 430),
        event(0, 9000, device=DeviceType.CPU), event(100, 9000, region=True),
    ]  # fmt: skip
    steps: list[int] = []
    seconds = busy_seconds(lambda: steps.append(recorder.opened), CUDA)
    assert seconds == pytest.approx(120e-6 / RECORDED)
    # A step that starts the recorder, and those that are recorded.
    assert steps == [1] + [2] * RECORDED


@pytest.mark.parametrize("raises_at", ["start", "end", "events"])
@pytest.mark.parametrize("error", [RuntimeError("CUPTI"), torch.OutOfMemoryError("no memory")])
def test_where_nobody_may_record_there_is_no_figure(
    recorder: Any, error: Exception, raises_at: str
) -> None:
    recorder.events = [event(0, 1)]
    recorder.error, recorder.raises_at = error, raises_at
    assert busy_seconds(lambda: None, CUDA) is None
    assert recorder.opened


def test_no_kernel_recorded_is_no_figure_rather_than_zero(recorder: Any) -> None:
    recorder.events = [event(0, 50, device=DeviceType.CPU)]
    assert busy_seconds(lambda: None, CUDA) is None
    recorder.events = None
    assert busy_seconds(lambda: None, CUDA) is None


def test_what_is_wrong_with_a_step_itself_is_told(recorder: Any) -> None:
    def step() -> None:
        raise StopIteration("out of room")

    with pytest.raises(StopIteration):
        busy_seconds(step, CUDA)


def test_a_cpu_takes_no_step_for_it() -> None:
    def step() -> None:
        raise AssertionError("stepped")

    assert busy_seconds(step, CPU) is None


def test_a_torch_that_cannot_record_cuda_takes_no_step(
    recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks_busy, "supported_activities", lambda: {ProfilerActivity.CPU})
    assert busy_seconds(lambda: None, CUDA) is None
    assert recorder.opened == 0


# Cells.


class Told:
    """Peak of memory and counter of joules that tell when they are asked."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def reset(self) -> None:
        self.calls.clear()

    def read(self) -> Any:
        self.calls.append("read")
        return 1

    def read_reserved(self) -> int | None:
        return self.read()


contender = partial(make_contender, length=LENGTH, new_tokens=NEW)


def measured(made: Any, budget: float) -> tuple[Measurement, list[str]]:
    """Measure a cell; give the steps, readings of meters and the recording, as they came."""
    calls: list[str] = []
    told: Any = Told(calls)
    step = made.step

    def one() -> None:
        calls.append("step")
        step()

    def busy(given: Callable[[], None]) -> float:
        calls.append("busy")
        for _ in range(BUSY_STEPS):
            given()
        return 0.25

    made.step = one
    found = measure_cell(
        made, length=LENGTH, new_tokens=NEW, budget=budget, peak=told, report=nothing,
        energy=told, busy=busy,
    )  # fmt: skip
    return found, calls


@pytest.mark.parametrize("budget", [1000.0, 0.0], ids=["measured", "sampled"])
@pytest.mark.parametrize("method", METHODS)
def test_the_recorded_steps_come_last_and_there_is_room_for_them(
    method: str, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_small(monkeypatch)
    # So that a sample is made of chunks, and leaves a memory that it has filled itself.
    monkeypatch.setattr("cca_models.decoder.CHUNK", 32)
    found, calls = measured(contender(method), budget)
    assert found.mark == ("measured" if budget else "sampled")
    assert found.sampled != "all of it"
    # All tokens asked for were timed: no room was left over by others.
    assert len(found.decode_s) == NEW
    assert found.decode_busy_s == 0.25
    assert calls[-1 - BUSY_STEPS :] == ["busy"] + ["step"] * BUSY_STEPS
    assert calls.count("step") == WARM_STEPS + NEW + BUSY_STEPS


@pytest.mark.parametrize("method", ["full", "cca", "streaming-llm"])
def test_there_is_room_for_several_rows(method: str) -> None:
    found, calls = measured(contender(method, batch=2), 1000.0)
    assert found.decode_busy_s == 0.25 and calls[-1] == "step"


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs the kernels in Triton's interpreter")
def test_there_is_room_for_steps_that_are_launched_ahead() -> None:
    """A step that is captured on a GPU; here its kernels run one by one."""
    from cca_models.fused_decoder import FusedDecoder

    config = {**TINY, "num_hidden_layers": 1}
    made = contender("cca", decoder=FusedDecoder(config, weights_of(config)))
    assert made.model.decoder.stepper(made.model.cca) is not None
    found, _ = measured(made, 0.0)
    assert len(found.decode_s) == NEW and found.decode_busy_s == 0.25


def test_the_length_that_is_checked_has_room_for_all_untimed_steps() -> None:
    assert contender("cca")._capacity - LENGTH - NEW <= _SPARE_TOKENS


def test_without_a_recorder_a_cell_takes_no_more_steps() -> None:
    made = contender("cca")
    found = measure_cell(
        made, length=LENGTH, new_tokens=NEW, budget=1000.0, peak=PeakMemory(CPU), report=nothing
    )
    assert found.decode_busy_s is None
    assert made._memory.seen == LENGTH + WARM_STEPS + NEW


def test_a_row_has_the_median_of_processes_that_know_it() -> None:
    def one(busy: float | None) -> Measurement:
        return Measurement(mark="measured", prefill_s=(1.0,), decode_s=(0.1,), decode_busy_s=busy)

    row = make_row("cca", 100, [one(None), one(0.004), one(0.002), one(0.009)])
    assert row.decode_busy_ms == pytest.approx(4.0)
    assert make_row("cca", 100, [one(None)]).decode_busy_ms is None
    assert make_row("cca", 100, [Measurement(mark="oom")]).decode_busy_ms is None


# On a GPU.


@pytest.mark.gpu
@pytest.mark.parametrize("captured", [False, True], ids=["launched", "captured"])
def test_a_gpu_is_busy_with_products_and_not_in_pauses(captured: bool) -> None:
    x = torch.randn(4096, 4096, device=CUDA)

    def product() -> None:
        x @ x

    def two() -> None:
        product()
        product()

    run = two
    if captured:
        two()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            two()
        run = graph.replay
    times: list[float] = []

    def timed() -> float:
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    def step() -> None:
        with torch.profiler.record_function("a region with a pause"):
            before = timed()
            time.sleep(0.05)
            times.append(before + timed())

    timed()
    seconds = busy_seconds(step, CUDA)
    assert len(times) == BUSY_STEPS
    wall = sum(times[1:]) / RECORDED
    assert seconds is not None
    # Products of milliseconds: launching and waiting are the smaller part.
    assert 0.5 * wall < seconds <= wall


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["cca", "streaming-llm", "full"])
def test_a_cell_on_a_gpu_says_how_long_it_computed(method: str) -> None:
    config = {**SHAPES["smollm2-135m"], "num_hidden_layers": 2, "vocab_size": 512}
    weights = random_weights(config, device=CUDA, dtype=torch.bfloat16, seed=0)
    options: dict[str, Any] = {"length": 2048, "seed": 0}
    checkpoint = Checkpoint(name="tiny", path=Path("nowhere"), config=config)
    made: Any
    if method == "full":
        made = DenseContender(config, weights, one_shot=True, **options)
    elif method == "cca":
        made = CCAContender(
            checkpoint, make_decoder(config, weights), cca=CCAConfig(), new_tokens=8, **options
        )
    else:
        made = PeerContender(
            checkpoint, make_decoder(config, weights), peer=method, new_tokens=8, **options
        )
    found = measure_cell(
        made, length=2048, new_tokens=8, budget=1000.0, peak=PeakMemory(CUDA), report=nothing,
        busy=partial(busy_seconds, device=CUDA),
    )  # fmt: skip
    assert found.decode_busy_s is not None
    # Recorded steps are other ones than those timed, and slower: this is about units.
    assert 0 < found.decode_busy_s < 5 * max(found.decode_s)
