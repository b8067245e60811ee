"""Ctrl-C and SIGTERM during long work: the first asks, the second insists."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from cca_cli.errors import ExitCode

__all__ = [
    "StopRequest",
    "deferred_interrupts",
    "heard_interrupts",
    "terminate_with_exit_code",
]


class StopRequest:
    """Whether the user has asked the work to stop, and by which signal."""

    def __init__(self) -> None:
        self._signal: int | None = None

    def __bool__(self) -> bool:
        return self._signal is not None

    def record(self, signum: int) -> None:
        """Note that a signal arrived."""
        self._signal = signum

    def leave(self) -> None:
        """Raise what the signal would have raised at once.

        Raises:
            KeyboardInterrupt: For Ctrl-C.
            SystemExit: For SIGTERM, with code 143.
        """
        if self._signal == signal.SIGTERM:
            raise SystemExit(int(ExitCode.TERMINATED))
        raise KeyboardInterrupt


@contextmanager
def deferred_interrupts(on_request: Callable[[], None]) -> Iterator[StopRequest]:
    """Turn the first Ctrl-C or SIGTERM into a request that the work looks at between steps.

    A second one acts at once. Outside the main thread signals cannot be caught, so nothing
    changes there.

    Args:
        on_request: Called once, from the handler, to tell the user that the request was heard.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(signum: int, frame: FrameType | None) -> None:
        again = bool(request)
        request.record(signum)
        if again:
            request.leave()
        # The signal may have cut into a write to the same stream, which then refuses a second.
        with suppress(RuntimeError):
            on_request()

    # A shell starts its background jobs with Ctrl-C ignored; that stays so.
    caught = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in caught}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def heard_interrupts() -> Iterator[None]:
    """Let no Ctrl-C or SIGTERM get lost in the body: raise it again at the end, if need be.

    Importing torch is partly C, which drops what is raised while it looks for optional packages.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}

    def handle(signum: int, frame: FrameType | None) -> None:
        request.record(signum)
        request.leave()

    for number in (signal.SIGINT, signal.SIGTERM):
        # Ignored, or left to the system: that stays so.
        if callable(signal.getsignal(number)):
            before[number] = signal.signal(number, handle)
    try:
        yield
        if request:
            request.leave()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def terminate_with_exit_code() -> None:
    """Make SIGTERM unwind the stack (exit 143), so that temporary files are removed."""

    def handle(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(int(ExitCode.TERMINATED))

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handle)
