"""Benchmarks: sampling, weights, sizes, processes, and both contenders on a tiny model."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import make_tiny_checkpoint

from cca_models import benchmarks, benchmarks_process, layer_memory
from cca_models.benchmarks import Workload, plan_case, rounds, run_case
from cca_models.benchmarks_cells import WARM_STEPS, measure_cell, warm_up
from cca_models.benchmarks_engine import CCAContender
from cca_models.benchmarks_memory import PeakMemory, free_host_bytes, held_bytes
from cca_models.benchmarks_process import TaskFailed, run_task
from cca_models.benchmarks_results import Measurement, add_ratios, make_row, percentile
from cca_models.benchmarks_sampling import (
    extrapolate,
    integrate,
    sample_chunks,
    sample_order,
    steady_seconds,
)
from cca_models.benchmarks_sizes import CCA_CHUNK, SHAPES, shape_config, tensor_shapes
from cca_models.benchmarks_weights import random_weights
from cca_models.checkpoints import Checkpoint
from cca_models.config import CCAConfig
from cca_models.decoder import Decoder
from cca_models.dense_baseline import DenseContender
from cca_models.dense_model import dense_model
from cca_models.engine import CHUNK
from cca_models.weights import load_weights

CPU = torch.device("cpu")
MACHINE = benchmarks.Machine(
    device="cuda:0", device_name="a GPU", dtype="bfloat16", itemsize=2, threads=1,
    free_bytes=78 << 30, torch="2", transformers="5", max_tokens=1 << 30,
)  # fmt: skip
TINY = {
    **SHAPES["smollm2-135m"],
    "num_hidden_layers": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
}


def nothing(stage: str, done: int, total: int) -> None:
    """Swallow progress."""


def weights_of(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    return random_weights(config, device=CPU, dtype=torch.float32, seed=0)


def cca_contender(config: dict[str, Any], length: int, **cca: int) -> CCAContender:
    return CCAContender(
        Checkpoint(name="tiny", path=Path("nowhere"), config=config),
        Decoder(config, weights_of(config)),
        cca=CCAConfig(**cca), length=length, new_tokens=4, seed=0,
    )  # fmt: skip


class WorkClock:
    """A clock that runs with the work done, so that times can be compared exactly."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> WorkClock:
    """Let time pass by attention scores and by tokens through a layer, nothing else."""
    clock = WorkClock()

    def attend(q: torch.Tensor, k: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        config = {name: kwargs[name] for name in ("group_size", "window")}
        for p in range(kwargs["position"], kwargs["position"] + q.shape[2]):
            cores = max(0, (p + 1 - config["window"]) // config["group_size"])
            clock.now += 1 + 0.01 * (cores + p + 1 - cores * config["group_size"])
        return real(q, k, *args, **kwargs)

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        L, S = q.shape[2], k.shape[2]
        # A call costs something, too: one shot is the fastest way.
        clock.now += 5 + L + 0.01 * L * (S - (L - 1) / 2)
        return softmax(q, k, v, **kwargs)

    real, softmax = layer_memory.attend, torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(layer_memory, "attend", attend)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", dense)
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


# Sampling.


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 129])
def test_samples_cover_every_chunk_once_ends_first(count: int) -> None:
    order = sample_order(count)
    assert sorted(order) == list(range(count))
    assert set(order[:2]) == {0, count - 1}


def test_integrating_lines_is_exact() -> None:
    times = {i: 2.0 + 0.5 * i for i in (0, 3, 9, 20)}
    assert integrate(times, 21) == pytest.approx(sum(2.0 + 0.5 * i for i in range(21)))
    assert integrate({0: 3.0}, 4) == 12.0


def test_sampling_stops_when_the_budget_is_spent_but_has_three(clock: WorkClock) -> None:
    def chunk(i: int) -> float:
        clock.now += 10
        return 10.0

    assert len(sample_chunks(chunk, 50, most=9, budget=1)) == 3
    assert len(sample_chunks(chunk, 50, most=9, budget=1000)) == 9
    assert len(sample_chunks(chunk, 2, most=9, budget=1000)) == 2


def test_what_a_first_call_compiles_does_not_count() -> None:
    def takes(*seconds: float) -> Callable[[], float]:
        return iter(seconds).__next__

    assert steady_seconds(takes(9.0, 0.1, 0.3, 0.2, 0.1), compiles=True) == 0.2
    assert steady_seconds(takes(9.0, 8.0), compiles=True) == 8.0
    assert steady_seconds(takes(9.0)) == 9.0
    assert steady_seconds(takes(0.5, 0.1, 0.3, 0.2), compiles=True) == 0.2


def test_a_first_step_that_compiles_is_followed_by_others(clock: WorkClock) -> None:
    steps: list[float] = []

    def step() -> None:
        clock.now += 1 if steps else 30
        steps.append(clock.now)

    warm_up(step)
    assert len(steps) == 1
    steps.clear()
    warm_up(step, compiles=True)
    assert len(steps) == WARM_STEPS


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_first_chunk_that_compiles_is_timed_again(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    contender = cca_contender(TINY, 4 * CHUNK)
    times = iter([20.0] + 9 * [0.5])
    monkeypatch.setattr(contender, "_read", lambda *where: next(times))
    monkeypatch.setattr(contender, "_filled", lambda tokens: None)
    monkeypatch.setattr(CCAContender, "_chunk", CHUNK)
    monkeypatch.setattr(type(contender.model), "device", torch.device(device))
    estimate = contender.estimate(4 * CHUNK, math.inf)
    assert estimate == pytest.approx(2.0) if device == "cuda" else estimate > 20


@pytest.mark.parametrize("length", [1000, 640, 64])
def test_sampled_cca_agrees_with_measured(
    clock: WorkClock, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    # Chunks of 32 and a window of 32 make 31 chunks of 1,000 tokens, the last one ragged.
    monkeypatch.setattr("cca_models.decoder.CHUNK", 32)
    contender = cca_contender(TINY, length, group_size=4, window=32)
    prefill = contender.model.prefill
    monkeypatch.setattr(
        contender.model, "prefill", lambda *args, **kwargs: prefill(*args, chunk=32, **kwargs)
    )
    measured = contender.prefill(length, nothing)
    held = held_bytes(contender.tensors())
    assert contender.estimate(length, math.inf) == pytest.approx(measured, rel=0.1)
    sampled, note = contender.sample(length, math.inf)
    assert sampled == pytest.approx(measured, rel=0.02)
    assert note == f"{min(9, length // 32)} of {-(-length // 32)} chunks"
    assert contender.model is not None and contender._memory is not None
    assert contender._memory.seen == length
    # A restored memory may make itself half as much room again.
    assert held <= held_bytes(contender.tensors()) <= 1.5 * held


@pytest.mark.parametrize("one_shot", [True, False])
def test_sampled_dense_agrees_with_measured(
    clock: WorkClock, monkeypatch: pytest.MonkeyPatch, one_shot: bool
) -> None:
    from cca_models import dense_baseline

    monkeypatch.setattr(dense_baseline, "DENSE_CHUNK", 64)
    length = 64 * 20
    contender = DenseContender(TINY, weights_of(TINY), length=length, seed=0, one_shot=one_shot)
    assert contender.estimate(length, math.inf) > 0
    assert contender.plan == ("one-shot" if one_shot else "chunks of 64")
    measured = contender.prefill(length, nothing)
    held = held_bytes(contender.tensors())
    sampled, note = contender.sample(length, math.inf)
    assert sampled == pytest.approx(measured, rel=0.02)
    assert note == ("1 of 4 layers" if one_shot else "9 of 20 chunks, 1 of 4 layers")
    assert held_bytes(contender.tensors()) == held


def test_one_shot_is_tried_late_where_chunks_would_take_long(
    clock: WorkClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cca_models import dense_baseline

    monkeypatch.setattr(dense_baseline, "DENSE_CHUNK", 64)
    contender = DenseContender(TINY, weights_of(TINY), length=640, seed=0, one_shot=True)
    whole = contender.estimate(640, math.inf)
    assert contender.plan == "one-shot"
    assert contender.estimate(640, whole / 4) >= whole and contender.plan == "chunks of 64"
    assert contender.sample(640, whole)[0] == pytest.approx(whole)
    assert contender.plan == "one-shot"
    seconds, note = contender.sample(640, whole / 1000)
    assert contender.plan == "one-shot" and note == "40 and 160 tokens, 1 of 4 layers"
    assert seconds == pytest.approx(whole, rel=0.1)


def test_what_a_length_takes_is_read_off_two_shorter_ones() -> None:
    def takes(n: int) -> float:
        return 3e-3 * n + 2e-6 * n**2

    found = extrapolate([1000, 2000], [takes(1000), takes(2000)], 8000)
    assert found == pytest.approx(takes(8000))
    assert extrapolate([8000], [7.0], 8000) == 7.0
    # Noise makes neither part negative: all line, or all square.
    assert extrapolate([1000, 2000], [3.0, 5.0], 8000) == pytest.approx(20.0)
    assert extrapolate([1000, 2000], [1.0, 6.0], 8000) == pytest.approx(96.0)


# Contenders and cells.


def test_dense_model_is_transformers_own_and_copies_nothing(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    path = make_tiny_checkpoint(tmp_path / "tiny")
    theirs = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    weights = load_weights(path, device=CPU, dtype=torch.float32)
    config = theirs.config.to_dict()
    ours = dense_model(config, weights)
    assert type(ours) is LlamaForCausalLM
    assert ours.config._attn_implementation == "sdpa"
    embedding = weights["model.embed_tokens.weight"]
    assert ours.model.embed_tokens.weight.data_ptr() == embedding.data_ptr()
    ids = torch.arange(40)[None]
    with torch.inference_mode():
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_dense_model_wants_all_weights() -> None:
    weights = weights_of(TINY)
    del weights["model.norm.weight"]
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        dense_model(TINY, weights)


@pytest.mark.parametrize("budget", [1000.0, 0.0])
@pytest.mark.parametrize("method", ["full", "cca"])
def test_a_cell_has_all_figures(method: str, budget: float) -> None:
    length = 2 * CHUNK + 100
    contender: Any
    if method == "cca":
        contender = cca_contender(TINY, length)
    else:
        contender = DenseContender(TINY, weights_of(TINY), length=length, seed=0, one_shot=True)
    found = measure_cell(
        contender, length=length, new_tokens=4, budget=budget, peak=PeakMemory(CPU), report=nothing
    )
    assert found.mark == ("sampled" if budget == 0 else "measured")
    assert bool(found.sampled) == (budget == 0)
    assert len(found.prefill_s) >= 1 and all(s > 0 for s in found.prefill_s)
    assert len(found.decode_s) == (3 if budget == 0 else 4)
    slot = 2 * 4 * 2 * 8 * 4  # keys and values, layers, KV heads, head dim, bytes
    if method == "full":
        assert found.kv_bytes == slot * length
    else:
        fewest = length // 16 + 1024
        assert found.kv_bytes is not None
        assert slot * fewest <= found.kv_bytes <= slot * (fewest + 600)
    assert found.peak_bytes is not None and found.peak_bytes > 50 << 20


def test_both_contenders_read_the_same_and_agree_within_the_window() -> None:
    cca = cca_contender(TINY, 300)
    full = DenseContender(TINY, weights_of(TINY), length=300, seed=0, one_shot=True)
    cca.prefill(300, nothing)
    full.prefill(300, nothing)
    assert cca._ids == full._ids[0].tolist()
    for _ in range(5):
        assert cca._tokens == full._token.flatten().tolist()
        cca.step()
        full.step()


# Weights, sizes, memory.


def test_random_weights_have_the_shapes_of_transformers_and_memory_of_their_own() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {**TINY, "tie_word_embeddings": False}
    weights = weights_of(config)
    model = LlamaForCausalLM(LlamaConfig.from_dict(config))
    assert {n: tuple(t.shape) for n, t in weights.items()} == tensor_shapes(config)
    assert {n: tuple(t.shape) for n, t in model.state_dict().items()} == tensor_shapes(config)
    assert len({t.data_ptr() for t in weights.values()}) == len(weights)
    q = weights["model.layers.0.self_attn.q_proj.weight"]
    assert q.std() == pytest.approx(32**-0.5, rel=0.1)
    again = weights_of(config)
    assert all(torch.equal(again[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [("smollm2-135m", 134_515_008), ("llama2-7b", 6_738_415_616), ("llama3-8b", 8_030_261_248)],
)
def test_shapes_have_the_published_number_of_parameters(shape: str, parameters: int) -> None:
    sides = tensor_shapes(shape_config(shape, tokens=1)).values()
    assert sum(math.prod(side) for side in sides) == parameters


def test_the_sizes_know_the_engines_chunk() -> None:
    assert CCA_CHUNK == CHUNK


def test_held_bytes_counts_storage_once_and_whole() -> None:
    buffer = torch.zeros(100)
    assert held_bytes([buffer[:10], buffer[50:], torch.zeros(5)]) == 4 * 105


def test_peak_is_that_of_the_time_since_the_reset() -> None:
    peak = PeakMemory(CPU)
    large = torch.ones(64 << 18)
    del large
    peak.reset()
    before = peak.read()
    large = torch.ones(64 << 18)
    del large
    after = peak.read()
    assert after - before > 60 << 20
    if os.access("/proc/self/clear_refs", os.W_OK):
        peak.reset()
        assert peak.read() < after - (30 << 20)


def test_a_gpu_keeps_nothing_reserved_from_before_the_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *device, name=name: calls.append(name))
    PeakMemory(torch.device("cuda")).reset()
    assert calls == ["empty_cache", "reset_peak_memory_stats"]


def test_free_memory_is_plausible() -> None:
    assert 1 << 20 < free_host_bytes() < 1 << 50


# Cases and processes.


def workload(shape: str = "llama2-7b", **more: Any) -> Workload:
    config = shape_config(shape, tokens=1 << 18)
    return Workload(name=shape, path=None, config=config, cca=CCAConfig(), **more)


def test_dense_llama2_at_128k_does_not_fit_on_80_gb_and_cca_does() -> None:
    full = plan_case(workload(), MACHINE, "full", 131072)
    cca = plan_case(workload(), MACHINE, "cca", 131072)
    assert full.needs.kv == pytest.approx(64 << 30, rel=0.001)
    assert full.needs.weights == 2 * 6_738_415_616
    assert not full.fits and cca.fits
    assert cca.needs.kv < 0.08 * full.needs.kv
    assert plan_case(workload(), MACHINE, "full", 32768).fits


@pytest.mark.parametrize("method", benchmarks.METHODS)
def test_on_80_gb_what_keeps_all_of_llama2_at_128k_is_refused_and_nothing_else(method: str) -> None:
    bounded = ("cca", "streaming-llm", "lm-infinite", "longformer", "snapkv")
    assert plan_case(workload(), MACHINE, method, 131072).fits == (method in bounded)
    assert plan_case(workload(), MACHINE, method, 32768).fits
    assert plan_case(workload("smollm2-135m", batch=4), MACHINE, method, 131072).fits


def test_dense_reads_in_chunks_where_one_shot_does_not_fit() -> None:
    assert plan_case(workload(), MACHINE, "full", 32768).one_shot
    tight = replace(MACHINE, free_bytes=72 << 30)
    case = plan_case(workload(), tight, "full", 98304)
    assert case.fits and not case.one_shot


def test_a_case_that_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("tried")

    monkeypatch.setattr(benchmarks, "run_task", refuse)
    case = plan_case(workload(), MACHINE, "full", 131072)
    found = run_case(workload(), case)
    assert found.mark == "oom" and not found.has_figures
    assert found.needs_bytes == case.needs.total and found.free_bytes == MACHINE.free_bytes


def worker(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let a few lines of Python stand in for the worker."""
    prelude = "import json, os, signal, sys; task = json.load(sys.stdin)\n"
    command = [sys.executable, "-c", prelude + code]
    monkeypatch.setattr(benchmarks_process, "worker_command", lambda: command)


def test_a_killed_process_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    worker(monkeypatch, "os.kill(os.getpid(), signal.SIGKILL)")
    found = run_case(workload(), plan_case(workload(), MACHINE, "cca", 1024))
    assert found.mark == "oom" and found.reason == "killed by the system"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (MemoryError(), True),
        (RuntimeError("shapes do not match"), False),
    ],
    ids=["cpu", "cuda", "cublas", "python", "other"],
)
def test_the_worker_knows_out_of_memory(error: Exception, expected: bool) -> None:
    from cca_models.benchmarks_worker import _describe

    assert _describe(error)["out_of_memory"] is expected


def test_a_crashed_process_is_a_failed_row_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    worker(monkeypatch, "sys.exit('no such thing')")
    found = run_case(workload(), plan_case(workload(), MACHINE, "cca", 1024))
    assert found.mark == "failed: the process ended early: no such thing"


def test_progress_and_the_result_come_through(monkeypatch: pytest.MonkeyPatch) -> None:
    worker(
        monkeypatch,
        "print(json.dumps({'progress': ['prefill', 1, 2]}))\n"
        "print(json.dumps({'result': {'got': task}}))",
    )
    seen = []
    result = run_task({"do": "x"}, report=lambda *progress: seen.append(progress))
    assert result == {"got": {"do": "x"}} and seen == [("prefill", 1, 2)]


def test_an_interrupt_leaves_no_process_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    worker(
        monkeypatch,
        "import time\n"
        "print(json.dumps({'progress': ['pid', os.getpid(), 0]}), flush=True)\n"
        "time.sleep(600)",
    )
    started = []

    def interrupt(stage: str, pid: int, total: int) -> None:
        started.append(pid)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_task({"do": "x"}, report=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_a_real_worker_says_what_is_wrong_with_the_device() -> None:
    with pytest.raises(TaskFailed, match="nonsense") as caught:
        run_task(workload(device="nonsense").task("machine"))
    assert caught.value.model_error and "cca doctor" in caught.value.hint


# Rows.


def measurement(seconds: float, kv: int, mark: str = "measured") -> Measurement:
    return Measurement(
        mark=mark, prefill_s=(seconds,), decode_s=(0.01, 0.02, 0.03), kv_bytes=kv, peak_bytes=kv,
        sampled="3 of 9 chunks" if mark == "sampled" else "",
    )  # fmt: skip


def test_rows_take_medians_and_ratios() -> None:
    full = make_row("full", 1000, [measurement(s, 400) for s in (4.0, 9.0, 5.0)])
    cca = make_row("cca", 1000, [measurement(2.0, 100), measurement(2.0, 100, "sampled")])
    assert (full.n, full.prefill_s, full.prefill_tokens_per_s) == (3, 5.0, 200.0)
    assert full.decode_ms == pytest.approx(20)
    assert full.decode_p95_ms == pytest.approx(30)
    assert (cca.mark, cca.sampled) == ("sampled", "3 of 9 chunks")
    _, beside = add_ratios([full, cca])
    assert (beside.prefill_ratio, beside.kv_ratio) == (2.5, 4.0)


def test_a_row_without_baseline_has_no_ratio() -> None:
    oom = make_row("full", 1000, [Measurement(mark="oom", reason="does not fit")])
    cca = make_row("cca", 1000, [measurement(2.0, 100)])
    rows = add_ratios([oom, cca])
    assert rows[0].mark == "oom" and rows[0].n == 0
    assert rows[1].prefill_ratio is None and rows[1].prefill_s == 2.0


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 2.5), (95, 3.85), (100, 4.0)])
def test_percentiles(percent: float, expected: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], percent) == pytest.approx(expected)


def test_methods_take_turns() -> None:
    order = [(length, method) for length, method, _ in rounds((1, 2), ("full", "cca"), 2)]
    turns = [(1, "full"), (1, "cca")] * 2 + [(2, "full"), (2, "cca")] * 2
    assert order == turns


def test_planning_imports_no_torch() -> None:
    import subprocess

    code = "import cca_models.benchmarks, sys; assert 'torch' not in sys.modules"
    path = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=True)
