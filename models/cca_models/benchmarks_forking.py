"""Tasks of a benchmark in copies of processes that have imported everything; imports no torch.

`with forked_tasks():` lets cca_models.benchmarks_process.run_task ask a host, a process of
cca_models.benchmarks_host, for a copy of itself instead of starting Python anew: the task's process
is its own as before, but the seconds of importing torch and transformers are spent once.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import IO, Any

from cca_models.attention_names import PEERS

Report = Callable[[str, int, int], None]
# What a host is given to end by itself: its copy with it, if there is one.
_PATIENCE = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a task's process ended.

    Attributes:
        answer: Its result or error; empty if it gave none.
        code: Its exit code; a signal's number below zero.
        complaint: What stood on its stderr.
    """

    answer: Mapping[str, Any]
    code: int
    complaint: str


def host_command(kind: str, device: str) -> list[str]:
    """Give the command of a host; -P keeps the working directory out of its imports."""
    return [sys.executable, "-P", "-m", "cca_models.benchmarks_host", kind, device]


def environment_of(task: Mapping[str, Any]) -> dict[str, str]:
    """Give the environment of a task's process; OpenMP reads its threads when torch is imported."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    if task.get("threads"):
        environment["OMP_NUM_THREADS"] = str(task["threads"])
    return environment


def messages(lines: IO[str], report: Report | None) -> Iterator[dict[str, Any]]:
    """Read a protocol's lines up to the end; tells progress, and gives the others."""
    for line in lines:
        try:
            message = json.loads(line)
        except ValueError:
            continue  # of a process that was killed while it wrote
        if "progress" not in message:
            yield message
        elif report is not None:
            report(*message["progress"])


class Hosts:
    """The hosts of a benchmark, each started when it is first wanted.

    There is one for what imports alike: the libraries count in a cell's peak, so that no cell may
    hold those of another.
    """

    def __init__(self) -> None:
        self._hosts: dict[tuple[str, str], _Host | None] = {}

    def run(self, task: Mapping[str, Any], report: Report | None) -> Ended | None:
        """Run a task in a copy of its host; None if there is no such host, or none any more."""
        key = _kind(task), str(task.get("threads"))
        try:
            if key not in self._hosts:
                device = str(task.get("device", "auto"))
                self._hosts[key] = _Host(host_command(key[0], device), environment_of(task))
            host = self._hosts[key]
            ended = host.run(task, report) if host is not None else None
        except OSError:
            ended = None
        except BaseException:
            # Whoever was told of progress has had enough.
            self._stop(key)
            raise
        if ended is None:
            self._stop(key)
        return ended

    def close(self) -> None:
        """End all hosts and what runs in copies of them."""
        for key in self._hosts:
            self._stop(key)

    def _stop(self, key: tuple[str, str]) -> None:
        host = self._hosts.get(key)
        self._hosts[key] = None
        if host is not None:
            host.stop()


class _Host:
    """A process of cca_models.benchmarks_host, from this side."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        # The tasks' stderr, one task's at a time: all share the place in the file.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
                env=environment, encoding="utf-8",
            )  # fmt: skip
        except OSError:
            self._stderr.close()
            raise

    def run(self, task: Mapping[str, Any], report: Report | None) -> Ended | None:
        """Run a task; None if the host cannot, or has gone."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stderr.seek(0)
        self._stderr.truncate()
        self._process.stdin.write(json.dumps(dict(task)) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = {}
        for message in messages(self._process.stdout, report):
            if "unfit" in message:
                return None
            if "ended" in message:
                self._stderr.seek(0)
                complaint = self._stderr.read().decode("utf-8", "replace").strip()
                return Ended(answer=answer, code=int(message["ended"]), complaint=complaint)
            answer = message
        return None

    def stop(self) -> None:
        """End it; a copy that still runs ends with it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(OSError):  # gone already
            self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._stderr.close()


def _kind(task: Mapping[str, Any]) -> str:
    """Say which host imports what a task imports."""
    if task["do"] == "records" or task.get("method") in PEERS:
        return "peers"
    return "dense" if task["do"] == "check" or task.get("method") == "full" else "engine"


CURRENT: ContextVar[Hosts | None] = ContextVar("hosts", default=None)


@contextmanager
def forked_tasks() -> Iterator[None]:
    """Let tasks run in copies of hosts meanwhile; where processes cannot be copied, nothing."""
    if sys.platform != "linux":
        # Windows has no fork, and on macOS the system's libraries do not survive one.
        yield
        return
    hosts = Hosts()
    token = CURRENT.set(hosts)
    try:
        yield
    finally:
        CURRENT.reset(token)
        hosts.close()
