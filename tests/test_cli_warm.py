"""The warm process: what it runs is what would have run here, and nothing of it is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_checkpoint import make_tiny_checkpoint

from cca_cli.warm import meeting

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Warm:
    """A folder, a tiny model, and the program as processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {k: os.environ[k] for k in ("HOME", "PATH", "TMPDIR") if k in os.environ}
        self.environment = {
            **kept,
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels")),
            "OMP_NUM_THREADS": "1",
            "CCA_HOME": str(folder / "home"),
            "CCA_MODEL": str(folder / "tiny"),
            "CCA_OFFLINE": "1",
            "CCA_MAX_NEW_TOKENS": "4",
            "XDG_RUNTIME_DIR": str(folder / "run"),
        }

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cca_cli", *words],
            cwd=self.folder,
            env={**self.environment, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, text: str = "", **variables: str) -> tuple[int, str, str]:
        process = self.start(*words, **variables)
        out, err = process.communicate(text, timeout=100)
        return process.returncode, out, err

    def state(self) -> dict:
        return json.loads(self.run("warm", "status", "--json")[1])


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    folder = tmp_path_factory.mktemp("warm")
    (folder / "run").mkdir()
    make_tiny_checkpoint(folder / "tiny", context=4096)
    (folder / "a.md").write_text("# Eins\n\nDer Neffe erbt das Häuschen. 漢字\n", encoding="utf-8")
    made = Warm(folder)
    code, out, err = made.run("warm", "start", "--json")
    assert code == 0, err
    assert json.loads(out)["running"] and json.loads(out)["model"] == str(folder / "tiny")
    yield made
    made.run("warm", "stop")


def _without_times(out: str) -> dict:
    record = json.loads(out)
    return {k: record[k] for k in ("answer", "found", "citations", "read", "finish", "model")}


def test_an_answer_is_the_same(warm: Warm) -> None:
    asked = ("ask", "a.md", "Wer erbt?", "--json")
    here = warm.run(*asked, CCA_WARM="off")
    before = warm.state()["commands"]
    there = warm.run(*asked)
    assert warm.state()["commands"] == before + 1
    assert here[0] == there[0] == 0
    assert _without_times(here[1]) == _without_times(there[1])


def test_streams_folder_and_exit_codes_are_the_callers(warm: Warm, tmp_path: Path) -> None:
    before = warm.state()["commands"]
    code, out, _ = warm.run("ask", "-", "Wer?", "--json", text="Der Neffe erbt das Haus.\n")
    assert code == 0 and json.loads(out)["documents"][0]["name"] == "stdin"
    code, out, err = warm.run("ask", "none.pdf", "Wer?")
    assert (code, out) == (4, "") and err.startswith("cca: error: none.pdf: ")
    assert err.count("\n") == 2
    code, _, err = warm.run("ask", "a.md", "Wer?", "--no-such-option")
    assert code == 2 and "no-such-option" in err
    # A variable of the caller's counts, not that of the process.
    code, out, _ = warm.run("ingest", "a.md", "--json", CCA_HOME=str(warm.folder / "home"))
    assert code == 0 and json.loads(out)["documents"][0]["cache"]["hit"]
    assert warm.state()["commands"] == before + 4


def test_what_it_was_not_started_with_runs_here(warm: Warm) -> None:
    before = warm.state()["commands"]
    assert warm.run("ask", "a.md", "Wer?", TRITON_CACHE_DIR="/nowhere")[0] == 0
    assert warm.run("docs", "ls")[0] == 0
    assert warm.run("ask", "--help")[0] == 0
    assert warm.state()["commands"] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_reach_the_command(warm: Warm, number: int, code: int) -> None:
    process = warm.start("ask", "-", "Wer?")
    _until(lambda: warm.state()["active"])
    process.send_signal(number)
    # Its input stays open until it has ended: with no document in it the command would fail first.
    assert process.wait(timeout=60) == code
    process.communicate()
    _until(lambda: not warm.state()["active"])


@pytest.mark.parametrize("form", [[], ["--json"], ["--jsonl"]], ids=["text", "json", "jsonl"])
def test_a_killed_command_is_said(warm: Warm, form: list[str]) -> None:
    process = warm.start("ask", "-", "Wer?", *form)
    _until(lambda: warm.state()["active"])
    (child,) = _children(warm.state()["pid"])
    os.kill(child, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    told = "the process that ran the command, a copy of the warm one, was killed"
    if form:
        error = json.loads(err)["error"]
        assert (error["code"], error["message"]) == (1, told) and error["hint"]
    else:
        assert err.startswith(f"cca: error: {told}\nhint: ")


def test_a_folder_that_others_may_enter_is_not_used(warm: Warm) -> None:
    run = warm.folder / "open"
    (run / f"cca-{os.getuid()}").mkdir(parents=True, mode=0o755)
    (run / f"cca-{os.getuid()}").chmod(0o755)
    code, _, err = warm.run("warm", "start", XDG_RUNTIME_DIR=str(run))
    assert code == 7 and "not a folder of this user alone" in err
    # Commands do without.
    assert warm.run("ask", "a.md", "Wer?", XDG_RUNTIME_DIR=str(run))[0] == 0


def test_only_the_user_may_open_the_socket(warm: Warm) -> None:
    (socket,) = (warm.folder / "run").glob("cca-*/*.sock")
    assert socket.stat().st_mode & 0o777 == 0o600
    assert socket.parent.stat().st_mode & 0o777 == 0o700


def test_it_ends_when_told_and_when_nobody_asks(warm: Warm) -> None:
    run = warm.folder / "short"
    run.mkdir()
    elsewhere = {"XDG_RUNTIME_DIR": str(run)}
    assert warm.run("warm", "status", **elsewhere)[1] == "not running\n"
    assert warm.run("warm", "stop", **elsewhere)[1] == "not running\n"
    assert warm.run("warm", "start", "--for", "0.01", **elsewhere)[0] == 0
    _until(lambda: not list(run.glob("cca-*/*.sock")))
    assert warm.run("warm", "status", **elsewhere)[1] == "not running\n"


def test_a_changed_module_makes_it_old(monkeypatch: pytest.MonkeyPatch) -> None:
    before = meeting.fingerprint()
    assert before == meeting.fingerprint()
    monkeypatch.setenv("TRITON_INTERPRET", "changed")
    assert meeting.fingerprint() != before


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def _until(done) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)
