"""Text of PDF pages by pdfium, in a child process that may crash, hang and be killed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from cca_cli.documents.source import Source

__all__ = ["PdfiumFailure", "installed", "page_texts", "version"]

PAGE_SECONDS = 30.0
OPEN_SECONDS = 60.0
WORKER = Path(__file__).with_name("pdfium_worker.py")
# A document that kills this many readers is given up.
MAX_CRASHES = 3


class PdfiumFailure(Exception):
    """pdfium does not open the file, or broke down on page after page."""


def installed() -> bool:
    """Return whether the extra `fast` is there; imports nothing."""
    return importlib.util.find_spec("pypdfium2") is not None


def version() -> str:
    """Return the version of pypdfium2, which fixes that of the pdfium in it."""
    return metadata.version("pypdfium2")


def page_texts(
    source: Source, numbers: Sequence[int], password: str | None, *, count: int
) -> Iterator[tuple[int, str | None, str]]:
    """Read pages, each within a time limit.

    Args:
        source: The PDF.
        numbers: Physical page numbers, ascending.
        password: What opens it, None if nothing is needed.
        count: How many pages there should be.

    Yields:
        Page number, raw text or None, and the reason where there is no text.

    Raises:
        PdfiumFailure: If the file does not open, has another number of pages, or if the reader
            broke down on several pages.
    """
    left = list(numbers)
    crashes = 0
    while left:
        with _worker(source, left, password) as answers:
            opened = _next(answers, OPEN_SECONDS)
            if opened is None or opened.get("count") != count:
                reason = (opened or {}).get("error", "it broke down while opening the file")
                raise PdfiumFailure(reason if "count" not in (opened or {}) else "pages differ")
            while left:
                answer = _next(answers, PAGE_SECONDS)
                number = left.pop(0)
                if answer is None:
                    break
                yield number, answer.get("text"), answer.get("error", "")
            else:
                return
        crashes += 1
        if crashes >= MAX_CRASHES:
            raise PdfiumFailure(f"it broke down on {crashes} pages")
        yield number, None, "the reader crashed or took too long"


def _next(answers: queue.Queue[bytes | None], seconds: float) -> dict[str, Any] | None:
    try:
        line = answers.get(timeout=seconds)
        return None if line is None else dict(json.loads(line))
    except (queue.Empty, ValueError):  # silence, or a line that a crash cut off
        return None


@contextlib.contextmanager
def _worker(
    source: Source, numbers: Sequence[int], password: str | None
) -> Iterator[queue.Queue[bytes | None]]:
    # -P: the worker's own folder, whose modules have common names, stays off the import path.
    command = [sys.executable, "-P", str(WORKER)]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdin is not None and child.stdout is not None
    stdin, stdout = child.stdin, child.stdout
    answers: queue.Queue[bytes | None] = queue.Queue()
    request = {
        "path": source.path if source.data is None else None,
        # On standard input and not in the arguments, which every user of the machine can list.
        "password": password,
        "pages": list(numbers),
        "size": source.size,
    }

    def feed() -> None:
        with contextlib.suppress(OSError):
            stdin.write(json.dumps(request).encode() + b"\n")
            if source.data is not None:
                stdin.write(source.data)
            stdin.close()

    def listen() -> None:
        for line in stdout:
            answers.put(line)
        answers.put(None)

    threads = [threading.Thread(target=run, daemon=True) for run in (feed, listen)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        child.kill()
        child.wait()
        for thread in threads:
            thread.join()
        stdout.close()
