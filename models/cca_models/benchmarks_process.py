"""Running a task of a benchmark in a process of its own; imports no torch."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

Report = Callable[[str, int, int], None]


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

    Raises:
        TaskFailed: If it fails or is killed.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if task.get("threads"):
        environment["OMP_NUM_THREADS"] = str(task["threads"])
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        process = subprocess.Popen(
            worker_command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
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
        complaint = stderr.read().strip()
    return _result(answer, code, complaint)


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
    for line in process.stdout:
        message = json.loads(line)
        if "progress" not in message:
            answer = message
        elif report is not None:
            report(*message["progress"])
    return answer


def _result(answer: Mapping[str, Any], code: int, complaint: str) -> dict[str, Any]:
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
