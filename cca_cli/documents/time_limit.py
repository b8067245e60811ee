"""A time limit for pure Python code, against files made to hang their reader.

Covered: Python code on the main thread of a POSIX system, which is where the command line reads
PDFs with pypdf. Not covered: a single long call into C (zlib, a regular expression), which is
stopped only when it returns; other threads and Windows, where there is no limit. pdfium, which
is all C, runs in a process of its own and is killed instead (pdfium.py).
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

__all__ = ["OutOfTime", "time_limit"]


class OutOfTime(BaseException):
    """The limit was reached.

    Not an Exception, so that a reader's own `except Exception` does not swallow it.
    """


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime if the body runs longer, where that can be done."""
    on_main = threading.current_thread() is threading.main_thread()
    if not on_main or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    # The interval fires again, in case a bare `except:` swallowed the first one.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        # First, so that an alarm on its way here cannot raise outside the body.
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
