"""Writing to stdout and stderr so that nothing written can steer a terminal, or break a line.

Also what happens where nobody listens: a closed pipe, a full disk behind a redirection.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from cca_cli.errors import ResourceError
from cca_cli.formatting import strip_control

__all__ = ["dump_json", "emit", "one_line", "tell"]

# C1 controls, line ends that are none in JSON Lines, and marks that turn the text's direction.
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def emit(text: str) -> None:
    """Write to stdout; a closed pipe is the reader's choice and goes up as it is."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ResourceError(
            f"the results cannot be written: {(error.strerror or str(error)).lower()}",
            hint="make room where the output goes, or send it elsewhere",
        ) from error


def tell(text: str) -> None:
    """Write to stderr; where nobody can listen any more, the work goes on."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def one_line(text: str) -> str:
    """Return a text safe and on one line, whatever line ends the name of a file has."""
    return strip_control(text).replace("\n", " ")


def dump_json(value: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Write JSON in UTF-8, but for what some terminal or reader of lines takes for a command."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNSAFE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
