"""Benchmarks in copies of a host: each task a process of its own, and none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_model_benchmarks import CPU, MACHINE, TINY

from cca_models import benchmarks_forking, benchmarks_host, benchmarks_process
from cca_models.benchmarks import Workload, plan_case, run_case
from cca_models.benchmarks_forking import CURRENT, Hosts, forked_tasks, host_command
from cca_models.benchmarks_memory import PeakMemory, file_bytes
from cca_models.benchmarks_process import TaskFailed, run_task
from cca_models.config import CCAConfig

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="hosts fork on Linux only")

WORK = Workload(name="tiny", path=None, config=TINY, threads=2, cca=CCAConfig(), new_tokens=4)
MACHINE_CPU = replace(MACHINE, device="cpu", dtype="float32", itemsize=4)
# Stands in for what a cell does: a product that all threads take part in, and what is asked for.
TASKS = """
import os, signal, sys, time
import torch
from cca_models import benchmarks_host, benchmarks_worker

def task(task, out):
    torch.set_num_threads(2)
    a = torch.ones(400, 400)
    total = float((a @ a).sum())
    benchmarks_worker.say(out, {"progress": ["pid", os.getpid(), os.getppid()]})
    print("noise")
    if task["how"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if task["how"] == "cut short":
        out.write('{"resu')
        out.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    if task["how"] == "crashed":
        sys.exit("no such thing")
    if task["how"] == "waits":
        time.sleep(600)
    return {"pid": os.getpid(), "host": os.getppid(), "threads": os.environ["OMP_NUM_THREADS"],
            "total": total, "score": open("/proc/self/oom_score_adj").read().strip()}

benchmarks_worker._TASKS["x"] = task
benchmarks_host.main()
"""


def running(pid: int) -> bool:
    """Say whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(*pids: int) -> bool:
    """Give processes a moment to end."""
    for _ in range(100):
        if not any(running(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def task(how: str = "", threads: int = 3) -> dict[str, Any]:
    return {"do": "x", "how": how, "threads": threads, "device": "cpu"}


@pytest.fixture(scope="module")
def hosted() -> Iterator[Hosts]:
    """Hosts whose tasks are those above, one process for this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks_forking, "host_command", stand_in)
        with forked_tasks():
            hosts = CURRENT.get()
            assert hosts is not None
            yield hosts


def stand_in(kind: str, device: str) -> list[str]:
    return [sys.executable, "-c", TASKS, kind, device]


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a process that begins anew say only that it is one."""
    code = "import json; print(json.dumps({'result': {'anew': True}}))"
    monkeypatch.setattr(benchmarks_process, "worker_command", lambda: [sys.executable, "-c", code])


@pytest.fixture
def current(hosted: Hosts) -> Iterator[Hosts]:
    """Set the hosts: pytest's fixtures and tests need not share a context."""
    token = CURRENT.set(hosted)
    yield hosted
    CURRENT.reset(token)


def test_tasks_run_in_copies_of_one_process_that_was_told_its_threads(current: Hosts) -> None:
    seen: list[Any] = []
    first = run_task(task(), report=lambda *progress: seen.append(progress))
    second = run_task(task())
    assert first["host"] == second["host"] and first["pid"] != second["pid"]
    assert seen == [("pid", first["pid"], first["host"])]
    assert first["threads"] == "3" and first["total"] == 400**3
    # Where memory runs out the copy goes, not the host.
    assert first["score"] == "1000"
    host_score = Path(f"/proc/{first['host']}/oom_score_adj").read_text().strip()
    assert host_score == Path("/proc/self/oom_score_adj").read_text().strip()
    assert not running(first["pid"]) and running(first["host"])


@pytest.mark.parametrize("how", ["killed", "cut short"])
def test_a_killed_copy_is_out_of_memory_and_the_next_one_runs(current: Hosts, how: str) -> None:
    before = run_task(task())
    with pytest.raises(TaskFailed, match="killed by the system") as caught:
        run_task(task(how))
    assert caught.value.out_of_memory
    assert run_task(task())["host"] == before["host"]


def test_a_crashed_copy_says_why_and_the_next_one_nothing_of_it(current: Hosts) -> None:
    with pytest.raises(TaskFailed, match="ended early: SystemExit: no such thing") as caught:
        run_task(task("crashed"))
    assert not caught.value.out_of_memory and "noise" in caught.value.detail
    with pytest.raises(TaskFailed) as again:
        run_task(task("killed"))
    assert again.value.detail == "noise"


def test_other_threads_want_another_host_and_an_interrupt_ends_it(current: Hosts) -> None:
    three, two = run_task(task()), run_task(task(threads=2))
    assert two["threads"] == "2" and two["host"] != three["host"]
    pids: list[int] = []

    def interrupt(stage: str, pid: int, host: int) -> None:
        pids.extend((pid, host))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_task(task("waits", threads=2), report=interrupt)
    assert pids[1] == two["host"] and gone(*pids)
    assert running(three["host"])


@pytest.mark.usefixtures("anew")
def test_where_the_host_dies_tasks_begin_anew_and_its_copy_ends(hosted: Hosts) -> None:
    pids: list[int] = []

    def kill(stage: str, pid: int, host: int) -> None:
        pids.append(pid)
        os.kill(host, signal.SIGKILL)

    with forked_tasks():
        assert run_task(task("waits"), report=kill) == {"anew": True}
        assert gone(*pids)
        assert run_task(task()) == {"anew": True}
    assert len(pids) == 1


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("command", [["/nowhere/python"], [sys.executable, "-c", "raise OSError"]])
def test_where_no_host_starts_tasks_begin_anew(
    monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setattr(benchmarks_forking, "host_command", lambda kind, device: command)
    with forked_tasks():
        assert run_task(task()) == {"anew": True}


@pytest.mark.usefixtures("anew")
def test_where_an_import_has_looked_at_the_gpu_tasks_begin_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = "torch.cuda._is_in_bad_fork = lambda: True\nbenchmarks_host.main()"
    code = TASKS.replace("benchmarks_host.main()", looked)
    command = [sys.executable, "-c", code, "engine", "cpu"]
    monkeypatch.setattr(benchmarks_forking, "host_command", lambda kind, device: command)
    with forked_tasks():
        assert run_task(task()) == {"anew": True}


def test_a_driver_that_has_been_started_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not benchmarks_host._holds_gpu()
    monkeypatch.setattr(os, "readlink", lambda path: "/dev/nvidiactl")
    assert benchmarks_host._holds_gpu()


def test_elsewhere_than_on_linux_there_are_no_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    before = CURRENT.get()
    with forked_tasks():
        assert CURRENT.get() is before


def test_nothing_runs_on_when_whoever_asked_has_gone() -> None:
    code = (
        f"import sys; TASKS = {TASKS!r}\n"
        "from cca_models import benchmarks_forking\n"
        "from cca_models.benchmarks_process import run_task\n"
        "stand_in = lambda *a: [sys.executable, '-c', TASKS, *a]\n"
        "benchmarks_forking.host_command = stand_in\n"
        "with benchmarks_forking.forked_tasks():\n"
        "    run_task(dict(do='x', how='waits', threads=1, device='cpu'),\n"
        "             report=lambda *a: print(*a[1:], flush=True))\n"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    pids: list[int] = []
    with ExitStack() as stack:
        asking = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": path}, encoding="utf-8",
                )
            )
            for _ in range(3)
        ]  # fmt: skip
        for one, number in zip(
            asking, (signal.SIGINT, signal.SIGTERM, signal.SIGKILL), strict=True
        ):
            assert one.stdout is not None
            found = [int(pid) for pid in one.stdout.readline().split()]
            assert len(found) == 2 and all(running(pid) for pid in found)
            pids += found
            one.send_signal(number)
            one.wait(20)
    assert gone(*pids)


def test_real_hosts_measure_what_a_process_of_its_own_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(benchmarks_forking, "host_command", host_command)
    case = plan_case(WORK, MACHINE_CPU, "cca", 2048)
    alone = run_case(WORK, case)
    with forked_tasks():
        hosts = CURRENT.get()
        assert hosts is not None
        copied = run_case(WORK, case)
        assert [kind for (kind, _), host in hosts._hosts.items() if host] == ["engine"]
    assert copied.mark == alone.mark == "measured" and copied.kv_bytes == alone.kv_bytes
    assert alone.peak_bytes is not None and copied.peak_bytes is not None
    assert copied.peak_bytes == pytest.approx(alone.peak_bytes, rel=0.08)


def test_libraries_of_the_host_count_in_the_peak() -> None:
    assert file_bytes() > 10 << 20
    peak = PeakMemory(CPU, libraries=1 << 40)
    assert peak.read() - PeakMemory(CPU).read() == pytest.approx(1 << 40, rel=1e-3)


def test_a_host_imports_what_a_dense_cell_imports_and_computes_nothing() -> None:
    code = (
        "import os, sys, torch\n"
        "from cca_models import benchmarks_host\n"
        "def refuse(*a, **k): raise AssertionError('looked at the GPU')\n"
        "for name in ('is_available', 'device_count', 'get_device_capability', 'init'):\n"
        "    setattr(torch.cuda, name, refuse)\n"
        "torch.accelerator.is_available = torch.accelerator.device_count = refuse\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "benchmarks_host.load('dense', 'cpu')\n"
        "assert len(os.listdir('/proc/self/task')) == before\n"
        "assert 'transformers.models.llama.modeling_llama' in sys.modules\n"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "4"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_the_command_of_a_host_keeps_the_folder_out() -> None:
    assert "-P" in host_command("engine", "cpu")
