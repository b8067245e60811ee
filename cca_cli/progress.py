"""Progress on stderr: a bar on a terminal, sparse plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cca_cli.formatting import format_duration, strip_control

__all__ = ["PlainProgress", "ProgressBar"]

_RATED = "prefill"
"""The stage whose speed is shown, in tokens per second."""


_SILENT_SECONDS = 2.0
"""Stages shorter than this get no plain line."""


class PlainProgress:
    """Progress as plain lines, at most one per tenth of a stage, none for a short stage."""

    def __init__(self, label: str, write: Callable[[str], None]) -> None:
        self._label = label
        self._write = write
        self._stage = ""
        self._tenth = 0
        self._start = (0.0, 0)

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage, self._tenth, self._start = stage, 0, (time.monotonic(), done)
        tenth = 10 * done // total if total else 0
        if tenth <= self._tenth or time.monotonic() - self._start[0] < _SILENT_SECONDS:
            return
        self._tenth = tenth
        line = f"{self._label}: {stage} {10 * tenth} %"
        if stage == _RATED:
            line += _speed(done, total, self._start)
        self._write(line)


def _speed(done: int, total: int, start: tuple[float, int]) -> str:
    seconds, first = time.monotonic() - start[0], start[1]
    if seconds <= 0 or done <= first:
        return ""
    rate = (done - first) / seconds
    left = (total - done) / rate
    return f" ({done:,} of {total:,} tokens, {rate:,.0f} tokens/s, {format_duration(left)} left)"


class ProgressBar:
    """Progress as one line on a terminal, gone at the end."""

    def __init__(self, label: str, *, color: bool) -> None:
        # rich costs start-up time; only a bar on a terminal needs it.
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True, no_color=not color)
        self._bars = Progress(*columns, console=console, transient=True)
        self._name = escape(strip_control(label))
        self._task = self._bars.add_task(self._name, total=None, speed="")
        self._stage = ""
        self._start = (0.0, 0)

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._stage, self._start = stage, (time.monotonic(), done)
            description = f"{self._name}: {stage}"
            self._bars.reset(self._task, description=description, total=None, speed="")
        seconds = time.monotonic() - self._start[0]
        speed = ""
        if stage == _RATED and seconds > 0 and done > self._start[1]:
            speed = f"{(done - self._start[1]) / seconds:,.0f} tokens/s"
        self._bars.update(self._task, completed=done, total=total or None, speed=speed)

    def __enter__(self) -> ProgressBar:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Take the bar off the terminal while the block runs, to ask something."""
        self._bars.stop()
        try:
            yield
        finally:
            self._bars.start()
