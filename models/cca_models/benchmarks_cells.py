"""One cell of a benchmark: reading timed whole or sampled, then writing, KV bytes and the peak.

What runs is a Contender: the engine of this package, or the dense baseline.
"""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from cca_models.benchmarks_energy import EnergyMeter, joules
from cca_models.benchmarks_forking import Report
from cca_models.benchmarks_memory import PeakMemory, held_bytes
from cca_models.benchmarks_results import Measurement

# A reading shorter than this is run once untimed before; probes have warmed up for longer ones.
_WARM_SECONDS = 5.0
# Readings are repeated within a process until they add up to this, five at most.
_ENOUGH_SECONDS = 1.0
# Untimed steps before the timed ones, at most.
WARM_STEPS = 3
# Steps after the timed ones, in which a GPU tells how long it computes itself.
BUSY_STEPS = 4
# A step that takes this many seconds has warmed up whatever there is to warm up.
_SLOW_STEP = 2.0
# Part of the budget that writing may take, and the steps that it gets in any case.
_DECODE_SHARE = 0.25
_FEWEST_STEPS = 3


class Contender(Protocol):
    """What a cell runs. Times are in seconds and end when the device has finished."""

    @property
    def plan(self) -> str:
        """How it reads."""

    def estimate(self, length: int, budget: float) -> float:
        """Estimate the reading of so many tokens from parts of it; warms up by the way."""

    def prefill(self, length: int, report: Report) -> float:
        """Read so many tokens afresh."""

    def sample(self, length: int, budget: float) -> tuple[float, str]:
        """Time parts of the reading, say which, and leave a memory of that length.

        What the estimate took counts towards the budget.
        """

    def settle(self) -> None:
        """Get ready to write: untimed steps."""

    def step(self) -> None:
        """Write a token to every row, greedy, and wait for them."""

    def tensors(self) -> Iterable[Tensor]:
        """Give the keys and values held."""


def measure_cell(
    contender: Contender,
    *,
    length: int,
    new_tokens: int,
    budget: float,
    peak: PeakMemory,
    report: Report,
    energy: EnergyMeter | None = None,
    busy: Callable[[Callable[[], None]], float | None] | None = None,
) -> Measurement:
    """Measure reading `length` tokens and writing `new_tokens` after them.

    Args:
        contender: What reads and writes.
        length: Tokens of each of its rows.
        new_tokens: Tokens to write to each.
        budget: Seconds; a reading that would take longer is sampled.
        peak: The memory of its device.
        report: Told how far it is.
        energy: Counter of its device's joules, if there is one.
        busy: Runs BUSY_STEPS steps and gives the seconds of one in which its device computed;
            None where that is not known.
    """
    peak.reset()
    report("estimate", 0, 0)
    estimate = contender.estimate(length, budget)
    sampled, prefill_j = "", None
    if estimate > budget:
        report("sample", 0, 0)
        seconds, sampled = contender.sample(length, budget)
        times = [seconds]
    else:
        # The parts that were timed for the estimate are gone; their peak is not the cell's.
        peak.reset()
        if estimate < _WARM_SECONDS:
            contender.prefill(length, report)
        before = energy.read() if energy is not None else 0.0
        times = [contender.prefill(length, report)]
        while sum(times) < _ENOUGH_SECONDS and len(times) < 5:
            times.append(contender.prefill(length, report))
        if energy is not None:
            prefill_j = joules(before, energy.read(), sum(times), len(times))
    kv_bytes = held_bytes(contender.tensors())
    report("decode", 0, new_tokens)
    contender.settle()
    decode: list[float] = []
    before = energy.read() if energy is not None else 0.0
    while len(decode) < new_tokens and (
        len(decode) < _FEWEST_STEPS or sum(decode) < _DECODE_SHARE * budget
    ):
        start = time.perf_counter()
        contender.step()
        decode.append(time.perf_counter() - start)
        report("decode", len(decode), new_tokens)
    decode_j = None
    if energy is not None:
        decode_j = joules(before, energy.read(), sum(decode), len(decode))
    peak_bytes, reserved_bytes = peak.read(), peak.read_reserved()
    # Last: recording costs time and memory of its own.
    busy_s = busy(contender.step) if busy is not None else None
    return Measurement(
        mark="sampled" if sampled else "measured",
        prefill_s=tuple(times),
        decode_s=tuple(decode),
        decode_busy_s=busy_s,
        kv_bytes=kv_bytes,
        peak_bytes=peak_bytes,
        reserved_bytes=reserved_bytes,
        prefill_j=prefill_j,
        decode_j=decode_j,
        plan=contender.plan,
        sampled=sampled,
    )


def warm_up(step: Callable[[], None], *, compiles: bool = False) -> None:
    """Write a few tokens untimed; one, where it takes seconds and did not compile kernels."""
    for _ in range(WARM_STEPS):
        start = time.perf_counter()
        step()
        if time.perf_counter() - start > _SLOW_STEP and not compiles:
            return


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def random_ids(length: int, vocabulary: int, seed: int) -> list[int]:
    """Draw token ids; the same for every contender."""
    ids: list[int] = random_rows(1, length, vocabulary, seed)[0].tolist()
    return ids


def random_rows(rows: int, length: int, vocabulary: int, seed: int) -> Tensor:
    """Draw the token ids of some rows, [rows, length]; the first does not depend on the others."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(vocabulary, (length,), generator=generator) for _ in range(rows)]
    return torch.stack(drawn)
