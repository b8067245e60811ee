"""Benchmarks of several rows: every attention reads and writes each row as it does alone."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from bench_contenders import make_contender, settle_small
from test_model_benchmarks import CPU, TINY, nothing

from cca_models.attention_names import PEERS
from cca_models.benchmarks import METHODS
from cca_models.benchmarks_cells import measure_cell, random_ids, random_rows
from cca_models.benchmarks_energy import NoEnergyMeter, energy_meter, joules
from cca_models.benchmarks_memory import PeakMemory, held_bytes
from cca_models.benchmarks_rows import chunk_of_rows
from cca_models.benchmarks_sizes import cca_needs, dense_needs, peer_needs
from cca_models.config import CCAConfig
from cca_models.decoder import Decoder

LENGTH = 200


def contender(method: str, rows: torch.Tensor) -> Any:
    """Make a contender that reads given rows."""
    made = make_contender(method, length=LENGTH, new_tokens=4, batch=rows.shape[0])
    if method == "full":
        made._ids = rows
        return made
    made._rows, made._ids = rows, rows[0].tolist()
    return made


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_read_and_written_as_they_are_alone(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle_small(monkeypatch)
    rows = random_rows(2, LENGTH, TINY["vocab_size"], seed=3)
    assert not torch.equal(rows[0], rows[1])

    def written(one: Any) -> list[list[int]]:
        one.prefill(LENGTH, nothing)
        found = []
        for _ in range(4):
            one.step()
            last = one._token if method == "full" else torch.tensor(one._tokens)
            found.append(last.flatten().tolist())
        return found

    both = contender(method, rows)
    together = written(both)
    alone = [written(contender(method, row[None])) for row in rows]
    assert together == [[a[0], b[0]] for a, b in zip(*alone, strict=True)]
    single = contender(method, rows[:1])
    written(single)
    assert held_bytes(both.tensors()) == 2 * held_bytes(single.tensors())


@pytest.mark.parametrize("method", ["full", "cca", "streaming-llm", "quest"])
def test_a_sampled_cell_has_as_many_rows(method: str) -> None:
    rows = random_rows(3, LENGTH, TINY["vocab_size"], seed=0)
    found = measure_cell(
        contender(method, rows), length=LENGTH, new_tokens=4, budget=0.0, peak=PeakMemory(CPU),
        report=nothing,
    )  # fmt: skip
    assert found.mark == "sampled" and len(found.decode_s) == 3
    if method == "full":
        assert found.kv_bytes == 3 * LENGTH * 2 * 4 * 2 * 8 * 4


def test_the_plan_says_where_steps_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(2, LENGTH, TINY["vocab_size"], seed=0)
    two, one = contender("cca", rows), contender("cca", rows[:1])
    assert two.plan == one.plan == "chunks of 1,024"
    monkeypatch.setattr(Decoder, "stepper", lambda self, config: object())
    assert "not captured" in two.plan and one.plan == "chunks of 1,024"


def test_the_first_row_does_not_depend_on_the_others() -> None:
    assert random_rows(3, 50, 96, seed=1)[0].tolist() == random_ids(50, 96, seed=1)


def test_rows_share_the_states_of_a_long_chunk() -> None:
    assert chunk_of_rows(16384, 1) == 16384
    assert chunk_of_rows(16384, 4) == 4096
    assert chunk_of_rows(16384, 64) == 1024  # no fewer than what keeps a device busy
    assert chunk_of_rows(1024, 8) == 1024


def test_needs_grow_with_the_rows() -> None:
    sizes: dict[str, Any] = {"length": 8192, "new_tokens": 32, "itemsize": 4, "device": "cpu"}
    for needs in (
        lambda batch: dense_needs(TINY, one_shot=True, batch=batch, **sizes),
        lambda batch: dense_needs(TINY, one_shot=False, batch=batch, **sizes),
        lambda batch: cca_needs(TINY, cca=CCAConfig(), batch=batch, **sizes),
        lambda batch: peer_needs(TINY, peer=PEERS["moba"], batch=batch, **sizes),
    ):
        one, four = needs(1), needs(4)
        assert four.kv == 4 * one.kv and four.weights == one.weights
        assert one.total + 3 * one.kv <= four.total < 4 * one.total


# Energy.


class Counter:
    """A counter that grows by ten joules a reading."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        self.now += 10
        return self.now


def test_energy_is_divided_among_what_was_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cca_models.benchmarks_energy.SHORTEST_SECONDS", 0.0)
    rows = random_rows(1, LENGTH, TINY["vocab_size"], seed=0)
    found = measure_cell(
        contender("cca", rows), length=LENGTH, new_tokens=4, budget=100.0, peak=PeakMemory(CPU),
        report=nothing, energy=Counter(),
    )  # fmt: skip
    assert found.prefill_j == pytest.approx(10 / len(found.prefill_s))
    assert found.decode_j == pytest.approx(10 / 4)


def test_what_is_too_short_for_the_counter_has_no_joules() -> None:
    assert joules(1.0, 5.0, seconds=0.1, count=2) is None
    assert joules(1.0, 5.0, seconds=1.0, count=2) == 2.0


def test_a_cpu_has_no_counter() -> None:
    assert energy_meter(CPU) is None


def fake_nvml(monkeypatch: pytest.MonkeyPatch, **broken: bool) -> Any:
    """Stand in for the driver's library, and for a CUDA device."""

    class NVMLError(Exception):
        pass

    asked = []

    def start() -> None:
        if broken.get("start"):
            raise NVMLError("Driver Not Loaded")

    def energy(handle: str) -> int:
        if broken.get("energy"):
            raise NVMLError("Not Supported")
        return 12_500

    module = SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=start, nvmlDeviceGetTotalEnergyConsumption=energy,
        nvmlDeviceGetHandleByUUID=lambda uuid: asked.append(uuid) or uuid,
        nvmlSystemGetDriverVersion=lambda: "600.1",
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.setattr("cca_models.benchmarks_energy.find_spec", lambda name: object())
    properties = SimpleNamespace(uuid="ab-cd")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: properties)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    return asked


def test_the_card_is_found_by_its_uuid_and_millijoules_become_joules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = fake_nvml(monkeypatch)
    meter = energy_meter(torch.device("cuda", 1))
    assert meter is not None and asked == ["GPU-ab-cd"]
    assert meter.read() == 12.5 and meter.driver == "600.1"


@pytest.mark.parametrize(
    ("broken", "says"), [("start", "Driver Not Loaded"), ("energy", "Not Supported")]
)
def test_a_driver_that_does_not_count_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, broken: str, says: str
) -> None:
    fake_nvml(monkeypatch, **{broken: True})
    with pytest.raises(NoEnergyMeter, match=says):
        energy_meter(torch.device("cuda"))


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch)
    monkeypatch.setattr("cca_models.benchmarks_energy.find_spec", lambda name: None)
    with pytest.raises(NoEnergyMeter, match=r"pip install 'cca\[energy\]'"):
        energy_meter(torch.device("cuda"))
