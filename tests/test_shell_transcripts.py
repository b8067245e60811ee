"""The program as a shell meets it: real processes, real pipes, a tiny model that answers nonsense.

Each case is a line of shell, what it must print and how it must end. `cca` on the path is this
interpreter; the line runs in a folder with a book that the library has.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_checkpoint import make_tiny_checkpoint

pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="the transcripts are bash")

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/scripting.md"
WEATHER = "The keeper wrote down the weather every evening. "
# What a script can rely on: documented exit codes, two lines or one object on stderr.
TWO_LINES = r"cca: error: .+\nhint: .+\n"


class Shell:
    """A folder to type commands in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        tools = folder / "bin"
        tools.mkdir()
        (tools / "cca").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cca_cli "$@"\n')
        (tools / "cca").chmod(0o755)
        # What users have as jq: enough of it for these lines.
        (tools / "field").write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -c \'import json, sys\n'
            'for line in sys.stdin: print(json.loads(line)[sys.argv[1]])\' "$@"\n'
        )
        (tools / "field").chmod(0o755)
        kept = ("HOME", "LANG", "TMPDIR")
        self.environment = {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels")),
            "OMP_NUM_THREADS": "1",
            "CCA_HOME": str(folder / "home"),
            "CCA_MODEL": str(folder / "tiny"),
            "CCA_OFFLINE": "1",
            "CCA_MAX_NEW_TOKENS": "4",
        }

    def type(self, line: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
        """Run a line of bash without a terminal."""
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,
            timeout=100,
            check=False,
        )


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("shell")
    make_tiny_checkpoint(folder / "tiny", context=4096)
    (folder / "book.md").write_text(
        f"# Eins\n\n{WEATHER * 10}\n\n# Zwei\n\nDer Neffe erbt das Häuschen. 漢字\n",
        encoding="utf-8",
    )
    (folder / "questions.txt").write_text("Who inherits?\nWhich lamp?\n")
    made = Shell(folder)
    done = made.type("cca ingest book.md --json")
    assert done.returncode == 0, done.stderr
    yield made


LINES: list[tuple[str, int, str, str]] = [
    # A pipe carries rows, tabs between, and nothing else.
    ("cca docs ls | cut -f1", 0, r"name\nbook\.md\n", ""),
    ("cca docs ls --jsonl | field name", 0, r"book\.md\n", ""),
    ("cca docs show book.md --page 2 | grep -c Neffe", 0, r"1\n", ""),
    ('for f in $(cca docs ls | tail -n +2 | cut -f1); do echo "<$f>"; done', 0, "<book.md>\n", ""),
    # A reader that leaves early is no failure, and nobody is told.
    ("cca docs show book.md --page 1 | head -c 1; echo ${PIPESTATUS[0]}", 0, r"T0\n|\S0\n", ""),
    ("cca docs ls --json | true; echo ${PIPESTATUS[0]}", 0, r"0\n", ""),
    ("cca --help | head -n 1; echo ${PIPESTATUS[0]}", 0, r"Usage: cca .*\n0\n", ""),
    ("cca ask book.md Who? --read lexical -q | true; echo ${PIPESTATUS[0]}", 0, r"0\n", ""),
    ("cca docs show absent 2>&1 | true; echo ${PIPESTATUS[0]}", 0, r"4\n", ""),
    # Streams that are closed or full.
    ("cca docs ls >&-", 0, "", ""),
    ("cca docs ls --jsonl 2>&- | field name", 0, r"book\.md\n", ""),
    ("cca docs ls <&- | wc -l", 0, r" *2\n", ""),
    ("cca docs ls --json > /dev/full", 7, "", r"\{.*cannot be written: no space left.*\}\n"),
    ("cca docs show absent 2> /dev/full", 4, "", ""),
    # Failures: code, two lines, nothing on stdout; with --json one object on stderr.
    ("cca docs show absent", 4, "", TWO_LINES),
    ("cca ask absent.pdf 'Who?'", 4, "", TWO_LINES),
    ("cca ask absent.pdf 'Who?' --json", 4, "", r'\{"error": \{"code": 4, .*\}\}\n'),
    ("cca ask absent.pdf 'Who?' --jsonl", 4, "", r'\{"error": \{"code": 4, .*\}\}\n'),
    ("cca --nonsense", 2, "", TWO_LINES),
    ("cca ask book.md 'Who?' --passages many --json", 2, "", r'\{"error": \{"code": 2, .*\}\}\n'),
    ("CCA_PASSAGES=0 cca ask book.md 'Who?'", 2, "", r"cca: error: CCA_PASSAGES: .*\nhint: .*\n"),
    ("cca ask book.md 'Who?' -m ./absent", 6, "", TWO_LINES),
    ("cca docs ls --json --jsonl", 2, "", r'\{"error": .*\}\n'),
    ("if ! cca docs show absent -q 2>/dev/null; then echo missing; fi", 0, "missing\n", ""),
    ("set -e; cca docs show absent 2>/dev/null; echo not reached", 4, "", ""),
    # Nobody to ask: a password is not waited for.
    ("cca summarise locked.pdf", 4, "", r"cca: error: .*needs a password\nhint: --pass.*\n"),
    # Names that look like options, or that steer terminals.
    ("cca docs show -- --absent", 4, "", r"cca: error: --absent: .*\nhint: .*\n"),
    ("cca docs show $'a\\e[2J\\nb'", 4, "", r"cca: error: a b: .*\nhint: .*\n"),
    # No colour where there is no terminal; --color always insists.
    ("cca docs show absent 2>&1 | grep -c $'\\e'", 1, r"0\n", ""),
    ("cca --color always docs show absent 2>&1 | grep -c $'\\e'", 0, r"1\n", ""),
    ("NO_COLOR=1 FORCE_COLOR=1 cca docs show absent 2>&1 | grep -c $'\\e'", 1, r"0\n", ""),
]  # fmt: skip


@pytest.fixture(scope="module")
def locked(shell: Shell) -> None:
    """A PDF that needs a password."""
    from pypdf import PdfWriter

    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(shell.folder / "locked.pdf")


def type_all(shell: Shell, lines: Sequence[str]) -> list[subprocess.CompletedProcess[bytes]]:
    """Run lines beside each other: most of the time of each is the interpreter's start."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(shell.type, lines))


@pytest.mark.usefixtures("locked")
def test_lines(shell: Shell) -> None:
    done = type_all(shell, [line for line, *_ in LINES])
    wrong = []
    for (line, code, out, err), got in zip(LINES, done, strict=True):
        said, told = got.stdout.decode(), got.stderr.decode()
        right = got.returncode == code and re.fullmatch(out, said) and re.fullmatch(err, told)
        if not right:
            wrong.append(f"$ {line}\n[{got.returncode}, not {code}]\n{said}---\n{told}")
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "no_SUCH"])
def test_utf8_in_any_locale(shell: Shell, locale: str) -> None:
    done = shell.type("cca docs show book.md --page 2", LC_ALL=locale, PYTHONUTF8="0")
    assert "Häuschen. 漢字" in done.stdout.decode("utf-8") and done.returncode == 0


def test_a_name_that_is_not_ascii(shell: Shell) -> None:
    done = shell.type("cca docs show 'bücher-漢.md'", LC_ALL="C")
    assert done.stderr.decode("utf-8").startswith("cca: error: bücher-漢.md: not in the library")


def test_answers_in_a_pipe(shell: Shell) -> None:
    line = (
        "cat book.md | cca ask - --questions questions.txt --read lexical --jsonl 2>err"
        " | tee answers.jsonl | field question; echo ${PIPESTATUS[@]}; cat err"
    )
    done = shell.type(line, LC_ALL="C")
    assert done.stdout.decode().splitlines()[:3] == ["Who inherits?", "Which lamp?", "0 0 0 0"]
    records = [json.loads(line) for line in (shell.folder / "answers.jsonl").open()]
    assert [record["id"] for record in records] == ["1", "2"]
    assert records[0]["documents"][0]["path"] == "-" and records[0]["error"] is None


def test_on_a_terminal(shell: Shell) -> None:
    """Colour and tables; NO_COLOR and TERM=dumb take the colour away."""
    import pty

    def typed(line: str, **variables: str) -> str:
        master, slave = pty.openpty()
        process = subprocess.Popen(
            ["bash", "-c", line],
            cwd=shell.folder,
            env={**shell.environment, "TERM": "xterm", **variables},
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        said = b""
        try:
            while part := os.read(master, 4096):
                said += part
        except OSError:  # Linux says so when the other end is closed
            pass
        os.close(master)
        assert process.wait(timeout=60) in (0, 4)
        return said.decode()

    assert "\x1b[31mcca: error:\x1b[0m" in typed("cca docs show absent")
    assert "\x1b" not in typed("cca docs show absent", NO_COLOR="1")
    assert "\x1b" not in typed("cca docs show absent", TERM="dumb")
    assert "\x1b" not in typed("cca docs show absent", NO_COLOR="1", FORCE_COLOR="1")
    table = typed("cca docs ls", NO_COLOR="1", COLUMNS="200")
    assert "book.md" in table and "\t" not in table and "KiB" in table
    assert "\x1b[3" not in table


def test_the_lines_of_the_page(shell: Shell) -> None:
    """Every line of docs/scripting.md that is marked `$` runs, and ends as the page says."""
    blocks = re.findall(r"^```console\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) >= 8
    commands, codes = zip(*([*line.split("   # exit "), "0"][:2] for line in lines), strict=True)
    done = type_all(shell, commands)
    wrong = [
        f"$ {line}\n[{got.returncode}] {got.stderr.decode()}"
        for line, code, got in zip(commands, codes, done, strict=True)
        if got.returncode != int(code)
    ]
    assert not wrong, "\n".join(wrong)
