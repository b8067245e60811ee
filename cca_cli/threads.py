"""How torch's threads wait for each other."""

from __future__ import annotations

import os

__all__ = ["calm_threads"]


def calm_threads() -> None:
    """Let waiting threads sleep instead of spin, unless the user has said how they shall wait.

    Where other programs want the cores, spinning threads keep each other from the work they wait
    for: reading a page beside six busy processes on four cores took 20 to 40 seconds instead of 5.
    GNU's OpenMP reads this once, when torch is imported.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        # So long as a short loop of other threads lasts; the default is thousands of times that.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
