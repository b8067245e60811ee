"""Timing: steady seconds of a call, and a long reading timed on some of its chunks.

A chunk's time grows with what lies before it, nearly in a straight line. So chunks at several
depths are timed and the rest are read off the lines between them.
"""

import time
from collections.abc import Callable, Mapping, Sequence

# A call longer than this is timed once: its first run's extra cost no longer matters.
_LONG = 2.0


def steady_seconds(call: Callable[[], float], *, compiles: bool = False) -> float:
    """Time a call that reports its own seconds: the median of three after a first, untimed one.

    A call that takes seconds is run once only.

    Args:
        call: What to time.
        compiles: Whether a first call may spend its seconds on kernels that are compiled for it, as
            on a GPU: then it counts in no case.
    """
    first = call()
    if compiles and first > _LONG:
        first = call()
    if first > _LONG:
        return first
    return sorted(call() for _ in range(3))[1]


def sample_order(count: int) -> list[int]:
    """Put chunk numbers 0 .. count - 1 in the order in which they tell most: ends first."""
    order: dict[int, None] = dict.fromkeys(i for i in (0, count - 1, 1, 2) if 0 <= i < count)
    parts = 2
    while len(order) < count:
        for part in range(1, parts, 2):
            order.setdefault(round(part * (count - 1) / parts))
        if parts > 2 * count:
            # Rounding may skip a few.
            order.update(dict.fromkeys(i for i in range(count) if i not in order))
        parts *= 2
    return list(order)


def sample_chunks(
    time_chunk: Callable[[int], float],
    count: int,
    *,
    most: int,
    budget: float,
    known: Mapping[int, float] | None = None,
) -> dict[int, float]:
    """Time some of `count` chunks.

    Args:
        time_chunk: Gives the seconds of the chunk of that number.
        count: Chunks in all.
        most: Chunks to time at most.
        budget: Seconds; once they are spent, no more are timed, but three in any case.
        known: Chunks timed before.

    Returns:
        Seconds by chunk number.
    """
    times = dict(known or {})
    start = time.perf_counter()
    for i in sample_order(count):
        if len(times) >= min(most, count):
            break
        if len(times) >= 3 and time.perf_counter() - start > budget:
            break
        if i not in times:
            times[i] = time_chunk(i)
    return times


def integrate(times: Mapping[int, float], count: int) -> float:
    """Add up the seconds of all chunks, those between two timed ones on the line between them."""
    numbers = sorted(times)
    total = 0.0
    for i in range(count):
        right = next((n for n in numbers if n >= i), numbers[-1])
        left = next((n for n in reversed(numbers) if n <= i), numbers[0])
        if left == right:
            total += times[left]
        else:
            part = (i - left) / (right - left)
            total += (1 - part) * times[left] + part * times[right]
    return total


def extrapolate(lengths: Sequence[int], seconds: Sequence[float], length: int) -> float:
    """Read off what a length takes from one or two shorter ones: a line and a square of it.

    Args:
        lengths: Ascending; one is taken for `length` itself.
        seconds: What they took.
        length: The length asked about.
    """
    if len(lengths) == 1:
        return seconds[0]
    (a, b), (at_a, at_b) = lengths, seconds
    # Neither part is below zero, whatever the noise says.
    square = max(0.0, (at_b / b - at_a / a) / (b - a))
    line = max(0.0, at_b / b - square * b)
    return line * length + min(square, at_b / b**2) * length**2
