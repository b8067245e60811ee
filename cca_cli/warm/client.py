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
_OFF = frozenset({"0", "off", "no", "false"})


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
    if os.environ.get("CCA_WARM", "").lower() in _OFF:
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
    try:
        request = {
            "run": list(args),
            "fingerprint": fingerprint(),
            "folder": os.getcwd(),
            "umask": umask,
            "environment": dict(os.environ),
            "ignored": [n for n in _passed_on() if signal.getsignal(n) == signal.SIG_IGN],
        }
        send(link, request, (0, 1, 2))
        answer = receive(link)
    except OSError:
        return None
    if not answer or "pid" not in answer:
        return None
    before = {n: signal.signal(n, _to(answer["pid"])) for n in _passed_on()}
    try:
        ended: Any = receive(link)
    except OSError:
        ended = None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if ended is None:
        # Killed: whoever did it, the system for want of memory perhaps, left no word.
        return _killed(args)
    return int(ended["code"])


def _killed(args: Sequence[str]) -> int:
    from cca_cli.console import Console
    from cca_cli.errors import ExitCode
    from cca_cli.failures import Failure

    console = Console()
    console.mode = "json" if "--json" in args else "jsonl" if "--jsonl" in args else "human"
    failure = Failure(
        code=ExitCode.INTERNAL,
        message="the process that ran the command, a copy of the warm one, was killed",
        hint="CCA_WARM=off runs it here; cca warm stop ends the warm one",
    )
    console.error(failure)
    return failure.code


def _passed_on() -> tuple[signal.Signals, ...]:
    return (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _to(pid: int) -> Any:
    """Return a handler that passes a signal on."""

    def handle(signum: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)

    return handle
