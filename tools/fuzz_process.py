"""One document read in a process of its own, under limits of time and memory; and what is a fault.

Needs fork and resource limits: Linux or macOS.
"""

import json
import os
import resource
import select
import signal
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cca_cli.documents import read_document
from cca_cli.errors import ExitCode
from cca_cli.failures import explain
from cca_cli.formatting import strip_control

__all__ = ["CANARY", "Backend", "Limits", "Result", "finding_of", "read_apart", "read_here"]

Backend = Literal["auto", "pypdf", "pdfium"]
CANARY = "canary-5d41402abc4b"
"""Content of the file that no document may make a reader open."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one document may take: seconds on the clock, and bytes of address space."""

    seconds: float = 60.0
    memory: int = 1 << 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What became of one document.

    Attributes:
        code: Exit code that the command line would end with; None if the process ended otherwise.
        message: What it would say, or how the process ended.
        where: Where an unexpected exception came from.
        seconds: On the clock.
        memory: Largest resident set, bytes.
    """

    code: int | None
    message: str
    where: str = ""
    seconds: float = 0.0
    memory: int = 0


def finding_of(result: Result) -> str | None:
    """Name what is wrong with a result in a few words; None if nothing is."""
    if result.code in (ExitCode.OK, ExitCode.INPUT):
        return None
    if result.code is None:
        return result.message
    return f"exit {result.code}: {result.where or result.message}"


def read_apart(path: Path, limits: Limits, *, backend: Backend = "auto") -> Result:
    """Read a document in a child process under limits.

    Args:
        path: The document.
        limits: Of its process, and of the processes that it starts.
        backend: What reads a PDF.
    """
    start = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setpgid(0, 0)
        _be_child(path, limits, backend, writing)
    os.close(writing)
    said = _listen(reading, start + limits.seconds)
    os.close(reading)
    try:
        os.killpg(child, signal.SIGKILL)  # those it started, too
    except (ProcessLookupError, PermissionError):
        if said is None:
            os.kill(child, signal.SIGKILL)
    _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - start
    memory = usage.ru_maxrss * 1024
    if said is None:
        return Result(
            code=None, message=f"over {limits.seconds:.0f} s", seconds=seconds, memory=memory
        )
    if not said:
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "silence"
        return Result(code=None, message=f"ended by {how}", seconds=seconds, memory=memory)
    return Result(**json.loads(said), seconds=seconds, memory=memory)


def _listen(pipe: int, until: float) -> bytes | None:
    """Return all that the child says; None if it is still busy at the end of its time."""
    said = b""
    while (left := until - time.monotonic()) > 0:
        if select.select([pipe], [], [], left)[0]:
            part = os.read(pipe, 65536)
            said += part
            # The line's end, not the pipe's: a grandchild may hold it open.
            if not part or said.endswith(b"\n"):
                return said
    return None


def _be_child(path: Path, limits: Limits, backend: Backend, pipe: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    says: dict[str, object]
    try:
        says = read_here(path, backend)
    except BaseException as error:
        # The traceback's text would need memory that is not there.
        limit = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        failure = explain(error)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        expected = failure.code == ExitCode.INPUT
        says = {
            "code": int(failure.code),
            "message": failure.message[:300],
            "where": "" if expected else where,
        }
    os.write(pipe, json.dumps(says).encode() + b"\n")
    os._exit(0)


def read_here(path: Path, backend: Backend = "auto") -> dict[str, object]:
    """Read a document in this process and look the result over: code and message."""
    document = read_document(str(path), backend=backend)
    texts = [page.text for page in document.pages]
    titles = [entry.title for entry in document.outline]
    labels = [page.label or "" for page in document.pages]
    problem = ""
    if not any(text.strip() for text in texts):
        problem = "read as empty"
    elif any(strip_control(text) != text for text in (*texts, *titles, *labels)):
        problem = "control characters in the text"
    elif any(CANARY in text for text in texts):
        problem = "a file outside the document was read"
    elif any(not 1 <= entry.page <= document.pages[-1].number for entry in document.outline):
        problem = "an outline entry leads to no page"
    try:
        json.dumps(asdict(document), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        problem = "a lone surrogate in the text"
    return {"code": None if problem else 0, "message": problem}
