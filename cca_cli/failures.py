"""The table that turns any exception into one sentence, one hint and one exit code.

Exceptions of libraries are matched by module and class name, so that nothing heavy is imported
just to be compared with.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

from cca_cli.errors import CLIError, ExitCode

__all__ = ["Failure", "concerns_document", "explain"]

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Where a directory is to be made: no permission, or something else in its place.
_UNUSABLE = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS,
        errno.EEXIST, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A failure as it is shown.

    Attributes:
        code: Exit code.
        message: One sentence.
        hint: What to do next, or empty.
        expected: False for a bug: the message then names the exception.
    """

    code: int
    message: str
    hint: str = ""
    expected: bool = True

    def to_json(self) -> dict[str, object]:
        """Return the object that stands under ``error`` in JSON output."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


def explain(error: BaseException) -> Failure:
    """Look an exception up in the table.

    Args:
        error: Whatever reached the top of a command.

    Returns:
        What to tell the user; ``expected`` is False if no row fits.
    """
    if isinstance(error, CLIError):
        return Failure(code=error.code, message=error.message, hint=error.hint)
    if _is_disk_full(error):
        return _disk_full(error)
    for kind in type(error).__mro__:
        row = _TABLE.get(f"{kind.__module__}.{kind.__qualname__}")
        if row is not None:
            return row(error)
    if isinstance(error, OSError) and error.errno in _UNUSABLE and error.filename is not None:
        return _not_permitted(error)
    if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):
        return _out_of_memory(error)
    return Failure(
        code=ExitCode.INTERNAL,
        message=f"unexpected {type(error).__name__}: {_sentence(error)}",
        hint="re-run with --debug for the traceback",
        expected=False,
    )


def concerns_document(error: BaseException) -> bool:
    """Say whether an error is one document's own: the next one may fare better.

    A model that is missing or a disk that is full stays as it is.
    """
    failure = explain(error)
    return failure.expected and failure.code in (ExitCode.INPUT, ExitCode.TOO_LONG)


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text.rstrip(".") or type(error).__name__


def _model_error(code: ExitCode) -> Callable[[BaseException], Failure]:
    def build(error: BaseException) -> Failure:
        return Failure(code=code, message=_sentence(error), hint=getattr(error, "hint", ""))

    return build


def _out_of_memory(error: BaseException) -> Failure:
    detail = "" if isinstance(error, MemoryError) and not str(error) else f": {_sentence(error)}"
    return Failure(
        code=ExitCode.RESOURCES,
        message=f"out of memory{detail[:300]}",
        hint="take fewer pages (--pages), or --device cpu if a GPU was used",
    )


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return True
    # safetensors raises its own class and keeps only the text of the cause.
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        return any(f"(os error {code})" in str(error) for code in _DISK_FULL)
    return False


def _disk_full(error: BaseException) -> Failure:
    where = _existing_parent(getattr(error, "filename", None))
    return Failure(
        code=ExitCode.RESOURCES,
        message=f"disk full: {_free_space(where)} free at {where}",
        hint="cca docs ls, then cca docs rm DOC; or CCA_CACHE_DIR=DIR on a larger disk",
    )


def _existing_parent(name: object) -> str:
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if not isinstance(name, str) or not name:
        from cca_cli.paths import library_dir

        name = str(library_dir())
    path = os.path.abspath(name)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _free_space(path: str) -> str:
    import shutil

    from cca_cli.formatting import format_bytes

    return format_bytes(shutil.disk_usage(path).free)


def _not_permitted(error: OSError) -> Failure:
    reason = os.strerror(error.errno or 0).lower()
    return Failure(
        code=ExitCode.RESOURCES,
        message=f"{os.fsdecode(error.filename)}: {reason}",
        hint="CCA_HOME=DIR puts models and library into a directory that you may write",
    )


def _lock_timeout(error: BaseException) -> Failure:
    return Failure(
        code=ExitCode.MEMORY,
        message=_sentence(error),
        hint="another cca is at work on this document; try again when it has ended",
    )


_TABLE: dict[str, Callable[[BaseException], Failure]] = {
    "cca_models.evaluation.types.EvaluationError": _model_error(ExitCode.INPUT),
    "cca_models.errors.ContextTooLongError": _model_error(ExitCode.TOO_LONG),
    "cca_models.errors.MemoryFileError": _model_error(ExitCode.MEMORY),
    "cca_models.errors.ModelError": _model_error(ExitCode.MODEL),
    "builtins.MemoryError": _out_of_memory,
    "torch.OutOfMemoryError": _out_of_memory,
    "torch.cuda.OutOfMemoryError": _out_of_memory,
    "filelock._error.Timeout": _lock_timeout,
    "filelock.Timeout": _lock_timeout,
}
