"""Running a task of a benchmark in a process of its own; imports no torch."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from cca_models.benchmarks_forking import CURRENT, Ended, Report, environment_of, messages


class TaskFailed(Exception):
    """A task ended without a result.

    Attributes:
        message: Why, one line.
        hint: What to do about it, or empty.
        out_of_memory: Whether that was it.
        model_error: Whether the model, the device or the dtype cannot be used.
        detail: The traceback or what stood on stderr, for people who debug.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        out_of_memory: bool = False,
        model_error: bool = False,
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint
        self.out_of_memory, self.model_error = out_of_memory, model_error
        self.detail = detail


def worker_command() -> list[str]:
    """Give the command that runs a task; -P keeps the working directory out of its imports."""
    return [sys.executable, "-P", "-m", "cca_models.benchmarks_worker"]


def run_task(task: Mapping[str, Any], *, report: Report | None = None) -> dict[str, Any]:
    """Run a task and give its result.

    Within `forked_tasks` of cca_models.benchmarks_forking the process is a copy of one that has
    imported everything; else, or where that cannot be, it begins anew.

    Raises:
        TaskFailed: If it fails or is killed.
    """
    hosts = CURRENT.get()
    ended = hosts.run(task, report) if hosts is not None else None
    return _result(ended or _run_anew(task, report))


def _run_anew(task: Mapping[str, Any], report: Report | None) -> Ended:
    """Run a task in a process that imports what it needs itself."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        process = subprocess.Popen(
            worker_command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment_of(task),
            encoding="utf-8",
        )
        try:
            answer = _listen(process, task, report)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        stderr.seek(0)
        return Ended(answer=answer, code=code, complaint=stderr.read().strip())


def _listen(
    process: "subprocess.Popen[str]", task: Mapping[str, Any], report: Report | None
) -> dict[str, Any]:
    """Hand the task over and read lines until the last; give the one that is no progress."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(json.dumps(dict(task)))
        process.stdin.close()
    except BrokenPipeError:
        return {}
    answer: dict[str, Any] = {}
    for message in messages(process.stdout, report):
        answer = message
    return answer


def _result(ended: Ended) -> dict[str, Any]:
    answer, code, complaint = ended.answer, ended.code, ended.complaint
    if "result" in answer:
        result: dict[str, Any] = answer["result"]
        return result
    error = answer.get("error")
    if error is not None:
        named = error["message"] or error["type"]
        raise TaskFailed(
            named if error["model_error"] else f"{error['type']}: {named}",
            hint=error["hint"],
            out_of_memory=error["out_of_memory"],
            model_error=error["model_error"],
            detail=error["traceback"],
        )
    if code == -signal.SIGKILL:
        # Nobody but the system, short of memory, ends a process like this.
        raise TaskFailed("killed by the system", out_of_memory=True, detail=complaint)
    last = complaint.splitlines()[-1] if complaint else f"exit code {code}"
    raise TaskFailed(f"the process ended early: {last}", detail=complaint)
