"""Errors that the command line reports as one sentence, and the exit codes they end with.

The codes are one table (`ExitCode`), printed by ``cca --help`` and kept stable: scripts test
them. Nothing heavy may be imported here, since every part of the command line imports it.
"""

from __future__ import annotations

import enum

__all__ = [
    "CLIError",
    "ExitCode",
    "InputError",
    "MissingMemoryError",
    "ModelUnusableError",
    "PartialFailureError",
    "ResourceError",
    "TooLongError",
    "UsageError",
]


class ExitCode(enum.IntEnum):
    """Exit codes of ``cca``."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    NOT_FOUND = 3
    INPUT = 4
    TOO_LONG = 5
    MODEL = 6
    RESOURCES = 7
    MEMORY = 8
    PARTIAL = 9
    INTERRUPTED = 130
    TERMINATED = 143


class CLIError(Exception):
    """A failure that is explained to the user rather than traced.

    Attributes:
        message: What went wrong, one sentence without a trailing full stop.
        hint: What to do about it, or empty.
        code: Exit code of the process.
    """

    default_code: int = ExitCode.INTERNAL

    def __init__(self, message: str, *, hint: str = "", code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = int(self.default_code if code is None else code)


class UsageError(CLIError):
    """Options that contradict each other, or a value that no option allows."""

    default_code = ExitCode.USAGE


class InputError(CLIError):
    """A document that cannot be read."""

    default_code = ExitCode.INPUT


class TooLongError(CLIError):
    """A document, prompt and answer that together exceed what the model may hold."""

    default_code = ExitCode.TOO_LONG


class ModelUnusableError(CLIError):
    """A checkpoint that is missing, damaged or of another kind."""

    default_code = ExitCode.MODEL


class ResourceError(CLIError):
    """Not enough memory, disk or device for the request."""

    default_code = ExitCode.RESOURCES


class MissingMemoryError(CLIError):
    """No usable memory of the document in the library, where one was required."""

    default_code = ExitCode.MEMORY


class PartialFailureError(CLIError):
    """Some of several inputs failed, the others are done."""

    default_code = ExitCode.PARTIAL
