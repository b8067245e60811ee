"""The side of the command that was typed: hand it over if a warm process listens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from types import FrameType
from typing import Any

__all__ = ["COMMANDS", "hand_over"]

# Those that load a model and do not talk to a terminal.
COMMANDS = frozenset({"ask", "ingest", "summarise", "summarize"})
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def hand_over(args: Sequence[str], command: str | None) -> int | None:
    """Let a warm process run a command line.

    Args:
        args: The arguments after the program's name.
        command: Which command that is.

    Returns:
        Its exit code; None if nobody listens, or only a process that does not fit, and the
        command is to be run here.
    """
    if command not in COMMANDS or {"-h", "--help"} & set(args) or not hasattr(os, "fork"):
        return None
    # Commands that are never handed over need not wait for more imports.
    from cca_cli.switches import means_off

    if means_off(os.environ.get("CCA_WARM", "")):
        return None
    link = _meet()
    if link is None:
        return None
    with link:
        return _wait(link, args)


def _meet() -> socket.socket | None:
    """Connect, if there is a socket at all."""
    from cca_cli.warm.meeting import connect, socket_path

    try:
        path = socket_path()
    except OSError:
        return None
    return connect(path) if path.exists() else None


def _wait(link: socket.socket, args: Sequence[str]) -> int | None:
    """Hand everything over, pass signals on, and wait for the end."""
    from cca_cli.warm.meeting import fingerprint, receive, send

    umask = os.umask(0)
    os.umask(umask)
    before = {number: signal.getsignal(number) for number in _PASSED_ON}
    forwarding = _Forwarding()
    try:
        request = {
            "run": list(args),
            "fingerprint": fingerprint(),
            "folder": os.getcwd(),
            "umask": umask,
            "environment": dict(os.environ),
            "ignored": [n for n in _PASSED_ON if before[n] == signal.SIG_IGN],
        }
        for number in _PASSED_ON:
            signal.signal(number, forwarding)
        send(link, request, (0, 1, 2))
        answer: Any = receive(link)
        if not answer or "pid" not in answer:
            return None
        forwarding.to(answer["pid"])
        ended: Any = receive(link)
    except OSError:
        if forwarding.pid is None:
            return None
        ended = None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if forwarding.pid is None:
            # Nobody took them: they are for the command that now runs here.
            for waiting in forwarding.waiting:
                signal.raise_signal(waiting)
    if ended is None:
        # Killed: whoever did it, the system for want of memory perhaps, left no word.
        return _killed(args)
    return int(ended["code"])


class _Forwarding:
    """Passes signals on to a process, those from before it was known as soon as it is.

    Attributes:
        pid: The process.
        waiting: Signals that came before.
    """

    def __init__(self) -> None:
        self.pid: int | None = None
        self.waiting: list[int] = []

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.pid is None:
            self.waiting.append(signum)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def to(self, pid: int) -> None:
        """Name the process."""
        self.pid = pid
        for number in self.waiting:
            self(number, None)


def _killed(args: Sequence[str]) -> int:
    from cca_cli.console import Console
    from cca_cli.errors import ExitCode
    from cca_cli.failures import Failure
    from cca_cli.usage_errors import form_of

    console = Console()
    console.mode = form_of(args) or console.mode
    failure = Failure(
        code=ExitCode.INTERNAL,
        message="the process that ran the command, a copy of the warm one, was killed",
        hint="CCA_WARM=off runs it here; cca warm stop ends the warm one",
    )
    console.error(failure)
    return failure.code
