"""Timing of single operations: calls that take turns, in milliseconds.

On a GPU a timed call starts behind a write of a gigabyte: the host has launched it before the
device gets to it, so launches are not timed, and the caches hold none of its inputs.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

Call = Callable[[], Any]


class Timer(Protocol):
    """How a device's time is taken."""

    def once(self, call: Call) -> float:
        """Run a call; return its milliseconds."""

    def join(self, calls: Sequence[Call]) -> Call:
        """Make one call of many, as cheap to launch as the device allows."""


class ClockTimer:
    """The wall's clock, for a device that has finished when the call returns."""

    def once(self, call: Call) -> float:
        """Run a call; return its milliseconds."""
        begun = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - begun)

    def join(self, calls: Sequence[Call]) -> Call:
        """Make one call of many."""

        def run() -> None:
            for call in calls:
                call()

        return run


class CudaTimer:
    """The device's own clock; many calls become one CUDA graph."""

    def __init__(self, device: torch.device, *, flush_bytes: int = 1 << 30) -> None:
        self._flush = torch.empty(flush_bytes, dtype=torch.uint8, device=device)

    def once(self, call: Call) -> float:
        """Run a call behind a write of the flush buffer; return its milliseconds."""
        begun = torch.cuda.Event(enable_timing=True)
        ended = torch.cuda.Event(enable_timing=True)
        # Twice: long enough for the host to launch a forward pass of several kernels.
        self._flush.zero_()
        self._flush.zero_()
        begun.record()
        call()
        ended.record()
        ended.synchronize()
        return float(begun.elapsed_time(ended))

    def join(self, calls: Sequence[Call]) -> Call:
        """Capture the calls, which have run before, in a graph."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            kept = [call() for call in calls]

        def run() -> None:
            # What the calls returned lives in the graph's memory and with it.
            assert kept is not None
            graph.replay()

        return run


def take_turns(calls: Sequence[Call], *, repeat: int, timer: Timer) -> list[list[float]]:
    """Time calls in turns, so that a drift of the clock hits all; a first round is discarded.

    Returns:
        The milliseconds of every round, call by call.
    """
    samples: list[list[float]] = [[] for _ in calls]
    for turn in range(repeat + 1):
        for call, own in zip(calls, samples, strict=True):
            milliseconds = timer.once(call)
            if turn:
                own.append(milliseconds)
    return samples
