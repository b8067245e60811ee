"""How many threads torch takes, and how they wait for each other, where others want the cores."""

from __future__ import annotations

import os
import time

__all__ = ["SPIN", "calm_threads", "crowded"]

SPIN = "GOMP_SPINCOUNT"
_STATE = "/proc/loadavg"
_LOOKS, _APART, _CROWDED = 3, 0.002, 1.25


def crowded() -> bool:
    """Say whether other programs want half of the cores or more.

    What wants to run at this moment is counted; and where more than a core's worth for every core
    wanted to run in the last minute, that was not our own last command alone. Where the system
    does not tell, nothing is crowded.
    """
    cores = os.cpu_count() or 1
    try:
        looks = [_look(number) for number in range(_LOOKS)]
    except (OSError, ValueError, IndexError):
        return False
    return 2 * max(now for _, now in looks) >= cores or looks[0][0] > _CROWDED * cores


def _look(number: int) -> tuple[float, int]:
    """Give the load of the last minute, and how many threads of others run or could run."""
    if number:
        time.sleep(_APART)
    with open(_STATE) as file:
        fields = file.read().split()
    # The fourth field is RUNNING/ALL, this thread included.
    return float(fields[0]), int(fields[3].partition("/")[0]) - 1


def calm_threads() -> None:
    """Let waiting threads sleep instead of spin where the cores are crowded.

    Spinning threads keep others from the work they wait for: a question that takes 5 seconds took
    20 to 40 beside six busy processes on four cores. With the cores to itself a program is faster
    if its threads spin, 75 ms a token instead of 110. GNU's OpenMP reads this once, when torch is
    imported; what the user has set stays.
    """
    if SPIN not in os.environ and "OMP_WAIT_POLICY" not in os.environ and crowded():
        # As long as a short loop of the other threads takes.
        os.environ[SPIN] = "1000"
