"""How long a GPU computes in a step, without the pauses in which it waits for its host.

A step of a small model is over sooner on a GPU than Python launches its operations. What the caller
waits for says then who launches fewer; this says who computes less.
"""

from collections.abc import Callable, Iterable

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile, supported_activities

from cca_models.benchmarks_cells import BUSY_STEPS


def busy_seconds(step: Callable[[], None], device: torch.device) -> float | None:
    """Give the seconds of a step in which at least one kernel or copy ran, the mean of a few.

    Args:
        step: Runs a step; called BUSY_STEPS times, first to start the recorder.
        device: Where; on CUDA the current device.

    Returns:
        The seconds; None off CUDA, and where nothing can be recorded: torch was built without it,
        the driver does not allow it, memory is short.
    """
    if device.type != "cuda" or ProfilerActivity.CUDA not in supported_activities():
        return None
    try:
        spans = _recorded(step)
    except RuntimeError:
        return None
    return covered(spans) / 1e6 / (BUSY_STEPS - 1) if spans else None


def _recorded(step: Callable[[], None]) -> list[tuple[float, float]]:
    """Record all steps but the first; give when kernels and copies began and ended, in µs.

    A captured step returns when the one after it has been launched. That each recording ends by
    waiting for the device is why there are as many steps in it as are run in it.
    """
    with profile(activities=[ProfilerActivity.CUDA]):
        step()
    with profile(activities=[ProfilerActivity.CUDA]) as recorder:
        for _ in range(BUSY_STEPS - 1):
            step()
    return [
        (event.time_range.start, event.time_range.end)
        for event in recorder.events() or ()
        # Of a region that somebody named, the pauses are part.
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Add up what intervals cover; what lies under several counts once.

    A kernel that is launched early waits on the device for the one before it: their intervals
    overlap.
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
