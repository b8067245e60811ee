"""The frame of the command line: exit codes, error form, options everywhere, pipes, encodings."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cca_cli import __version__, errors
from cca_cli.app import run
from cca_cli.commands import docs
from cca_cli.failures import concerns_document, explain
from cca_models import errors as model_errors

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    for name in ("CCA_CACHE_DIR", "CCA_DEBUG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def cca(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cca_cli", *args],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment(**env),
        timeout=120,
        check=False,
    )


def environment(**env: str) -> dict[str, str]:
    """Return the environment of a child that finds the packages."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels", "tests"))
    return {**os.environ, "PYTHONPATH": path, **env}


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make ``cca docs ls`` raise."""

    def fail() -> None:
        raise error

    monkeypatch.setattr(docs, "open_library", fail)


class OutOfMemoryError(RuntimeError):
    """Looks like torch's."""

    __module__ = "torch"


class SafetensorError(Exception):
    """Looks like the one of safetensors."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (errors.CLIError("odd", hint="h"), 1, "odd"),
        (errors.UsageError("odd"), 2, "odd"),
        (errors.InputError("odd"), 4, "odd"),
        (errors.TooLongError("odd"), 5, "odd"),
        (errors.ModelUnusableError("odd"), 6, "odd"),
        (errors.ResourceError("odd"), 7, "odd"),
        (errors.MissingMemoryError("odd"), 8, "odd"),
        (errors.PartialFailureError("odd"), 9, "odd"),
        (model_errors.ModelError("Odd."), 6, "Odd"),
        (model_errors.CheckpointError("odd"), 6, "odd"),
        (model_errors.UnsupportedModelError("odd"), 6, "odd"),
        (model_errors.DownloadError("odd"), 6, "odd"),
        (model_errors.ContextTooLongError("odd"), 5, "odd"),
        (model_errors.MemoryFileError("odd"), 8, "odd"),
        (MemoryError(), 7, "out of memory"),
        (OutOfMemoryError("tried 3 GiB"), 7, "out of memory: tried 3 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), 7, "out of memory: "),
        (OSError(errno.ENOSPC, "No space left"), 7, "disk full: "),
        (OSError(errno.EDQUOT, "Quota"), 7, "disk full: "),
        (OSError("cannot write x: No space left on device (os error 28)"), 7, "disk full: "),
        (SafetensorError("I/O error: No space left (os error 28)"), 7, "disk full: "),
        (PermissionError(errno.EACCES, "no", "/x/y"), 7, "/x/y: permission denied"),
        (OSError(errno.EROFS, "no", "/x/y"), 7, "/x/y: read-only file system"),
        (ZeroDivisionError("odd"), 1, "unexpected ZeroDivisionError: odd"),
        (OSError("odd"), 1, "unexpected OSError: odd"),
        (KeyError("odd"), 1, "unexpected KeyError: 'odd'"),
    ],
)
def test_exit_codes(
    error: Exception,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail_with(monkeypatch, error)
    assert run(["docs", "ls"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith(f"cca: error: {message}")
    assert len(lines) <= 2 and all(line.startswith("hint: ") for line in lines[1:])
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "own"),
    [
        (errors.InputError("odd"), True),
        (errors.TooLongError("odd"), True),
        (model_errors.ContextTooLongError("odd"), True),
        (ValueError("a bug"), False),
        (errors.UsageError("odd"), False),
        (errors.ModelUnusableError("odd"), False),
        (errors.ResourceError("odd"), False),
        (model_errors.DownloadError("odd"), False),
        (OSError(errno.ENOSPC, "No space left"), False),
    ],
)
def test_after_which_errors_the_next_document_is_tried(error: Exception, own: bool) -> None:
    assert concerns_document(error) is own


def test_lock_timeout_of_the_real_library() -> None:
    from filelock import Timeout

    assert explain(Timeout("/x.lock")).code == 8


def test_disk_full_names_the_free_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failure = explain(OSError(errno.ENOSPC, "No space", str(tmp_path / "gone" / "file")))
    assert failure.message.startswith("disk full: ") and failure.message.endswith(
        f"free at {tmp_path}"
    )
    assert "cca docs rm" in failure.hint


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_errors_as_json(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, errors.InputError("odd", hint="do this"))
    assert run(["docs", "ls", form]) == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {"error": {"code": 4, "message": "odd", "hint": "do this"}}


@pytest.mark.parametrize(
    "args",
    [
        ["docs", "ls", "--nonsense"],
        ["nonsense"],
        ["docs", "show"],
        ["docs", "rm"],
        ["docs", "rm", "a", "--all"],
        ["docs", "ls", "--json", "--jsonl"],
        ["ingest", "x", "--pdf-backend", "nonsense"],
        ["--color", "green", "docs", "ls"],
    ],
)
def test_wrong_usage(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    if "--json" in args:
        assert json.loads(err)["error"]["code"] == 2
    else:
        first, second = err.splitlines()
        assert first.startswith("cca: error: ") and second.startswith("hint: ")


def test_no_command_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    assert "Usage: cca" in "".join(capsys.readouterr())


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--help", "-h"):
        assert run([flag]) == 0
        out = capsys.readouterr().out
        assert "Exit codes:" in out and "summarise" in out and "summarize" not in out
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"cca {__version__}\n"


@pytest.mark.parametrize("place", ["before", "after", "environment"])
def test_debug_shows_the_traceback(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, ZeroDivisionError("odd"))
    if place == "environment":
        monkeypatch.setenv("CCA_DEBUG", "1")
    args = {"before": ["--debug", "docs", "ls"], "after": ["docs", "ls", "--debug"]}
    assert run(args.get(place, ["docs", "ls"])) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and err.rstrip().splitlines()[-2].startswith("cca: error: unexpected")


@pytest.mark.parametrize("args", [["-q", "docs", "ls"], ["docs", "ls", "-q"]])
def test_quiet_before_and_after_the_command(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["docs", "ls"]) == 0
    assert "library is empty" in capsys.readouterr().err
    assert run(args) == 0
    assert capsys.readouterr() == ("", "")


def test_ctrl_c_is_130_and_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, KeyboardInterrupt())
    assert run(["docs", "ls"]) == 130
    assert capsys.readouterr() == ("", "")


def test_sigterm_is_143() -> None:
    script = (
        "import time; from cca_cli.commands import docs\n"
        "def wait():\n print('ready', flush=True); time.sleep(30)\n"
        "docs.open_library = wait\n"
        "import sys; sys.argv = ['cca', 'docs', 'ls']\n"
        "from cca_cli.app import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (143, "")


def test_a_closed_pipe_is_no_failure() -> None:
    script = (
        "import time; from cca_cli.commands import docs\n"
        "class Library:\n"
        " def listing(self):\n"
        "  time.sleep(0.3)\n"
        "  return [dict.fromkeys(docs._COLUMNS, 'x' * 5000) | {'key': 'k'}] * 500\n"
        "docs.open_library = Library\n"
        "import sys; sys.argv = ['cca', 'docs', 'ls', *sys.argv[1:]]\n"
        "from cca_cli.app import main; main()"
    )
    for form in ([], ["--json"], ["--jsonl"]):
        process = subprocess.Popen(
            [sys.executable, "-c", script, *form],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=10) == 0


def test_a_pipe_closed_before_a_short_answer() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "cca_cli", "docs", "ls", "--json"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment(),
        timeout=30,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_utf8_whatever_the_locale() -> None:
    script = (
        "from cca_cli.commands import docs\n"
        "class Library:\n"
        " def listing(self):\n"
        "  return [dict.fromkeys(docs._COLUMNS, 'Ähre \\udce9 漢') | {'key': 'k'}]\n"
        "docs.open_library = Library\n"
        "import sys; sys.argv = ['cca', 'docs', 'ls', *sys.argv[1:]]\n"
        "from cca_cli.app import main; main()"
    )
    env = environment(PYTHONIOENCODING="ascii", LC_ALL="C")
    for form in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-c", script, *form], capture_output=True, env=env, check=True
        )
        assert "Ähre" in done.stdout.decode("utf-8") and "漢" in done.stdout.decode("utf-8")
        if form:
            assert json.loads(done.stdout)["documents"][0]["name"] == "Ähre \udce9 漢"


def test_colour_of_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, errors.InputError("odd"))
    run(["docs", "ls"])
    assert "\x1b" not in capsys.readouterr().err
    monkeypatch.setenv("FORCE_COLOR", "1")
    run(["docs", "ls"])
    assert "\x1b[31m" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    run(["docs", "ls"])
    assert "\x1b" not in capsys.readouterr().err
    run(["--color", "always", "docs", "ls"])
    assert "\x1b[31m" in capsys.readouterr().err
    monkeypatch.delenv("NO_COLOR")
    run(["--color", "never", "docs", "ls"])
    assert "\x1b" not in capsys.readouterr().err


def test_an_error_cannot_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fail_with(monkeypatch, errors.InputError("a\x1b]52;c;ZXZpbA==\x07b\x1b[2Jc\x07\x9b1md"))
    run(["docs", "ls"])
    assert capsys.readouterr().err == "cca: error: abcd\n"


def test_a_missing_file_is_refused_before_any_model_is_loaded() -> None:
    start = time.monotonic()
    done = cca("ingest", "absent.pdf", CCA_HOME="/nonexistent/cca", CCA_OFFLINE="1")
    assert done.returncode == 4
    assert done.stderr.startswith("cca: error: absent.pdf: no such file\nhint: ")
    assert time.monotonic() - start < 10


def test_a_cache_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cca("docs", "ls", CCA_CACHE_DIR=str(tmp_path / "file" / "cache"))
    assert done.returncode in (1, 7) and "Traceback" not in done.stderr
