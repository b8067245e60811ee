"""The three standard streams, whatever state the shell hands them over in."""

from __future__ import annotations

import os
import sys

__all__ = ["close_stdout", "close_streams", "prepare_streams"]


def prepare_streams() -> None:
    """Make stdout and stderr UTF-8 whatever the locale, and open what was closed (`>&-`).

    A closed one is nothing to write to, and its number must not become that of a file that is
    opened later: what a library prints would end up in there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, "r" if number == 0 else "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def close_streams() -> bool:
    """Write out what is left, and let nobody complain of what cannot be.

    Returns:
        Whether all of stdout was written, or its reader did not want the rest.
    """
    whole = True
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except BrokenPipeError:
            _point_at_nothing(number)
        except OSError:
            _point_at_nothing(number)
            whole = whole and number != 1
    return whole


def close_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain."""
    _point_at_nothing(1)


def _point_at_nothing(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
