"""Formats of output: tables and tab-separated rows, progress, numbers, control characters."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import pytest

from cca_cli import progress
from cca_cli.console import Console
from cca_cli.errors import InputError
from cca_cli.failures import Failure
from cca_cli.formatting import (
    format_bytes,
    format_count,
    format_duration,
    format_ranges,
    strip_control,
)
from cca_cli.passwords import password_source
from cca_cli.progress import PlainProgress

ROWS = [
    {"name": "a\tb\nc", "bytes": 123456789, "more": None},
    {"name": "x" * 300, "bytes": 5, "more": {"y": 1}},
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain\ttext\nände 漢", "plain\ttext\nände 漢"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1$r\x1b\\x", "x"),
        ("\x9b2Jx\x9d0;t\x9cy", "xy"),
        ("a\rb\x00c\x08d\x7fe\x85f", "abcdef"),
        ("end\x1b", "end"),
        ("\x1b]52;c;never ends", ""),
        ("\x1b(Bx\x1bcy", "xy"),
    ],
)
def test_strip_control(text: str, clean: str) -> None:
    assert strip_control(text) == clean
    assert strip_control(clean) == clean


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "pipe"])
def test_results_cannot_steer_a_terminal(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the end of a pipe either: `cca docs show book.pdf --page 3 | less -R`."""
    monkeypatch.setattr(sys, "stdout", stream)
    console = Console()
    for piece in ("a\x07b", "\x1b]52;c;ZXZp", "bA==\x07", "\x1b", "[2J", "\u202etxt.exe"):
        console.write(piece)
    assert stream.getvalue() == "abbA==[2Jtxt.exe"


def test_form_feeds_part_pages_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in ((Terminal(), "ab"), (io.StringIO(), "a\fb")):
        monkeypatch.setattr(sys, "stdout", stream)
        Console().write("a\x1b[1m\fb")
        assert stream.getvalue() == expected


def test_json_holds_every_character_and_no_live_one(capsys: pytest.CaptureFixture[str]) -> None:
    text = "a\x1b[2J\x9b2J\x7f\u2028b\u202ec\u00e9\U0001f600"
    for mode in ("json", "jsonl"):
        console = Console()
        console.mode = mode  # type: ignore[assignment]
        console.json({"answer": text})
        console.error(Failure(code=4, message=text))
        for out in capsys.readouterr():
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", out)
            assert text in str(json.loads(out).get("answer") or json.loads(out)["error"]["message"])
            assert "\u00e9\U0001f600" in out


def test_an_error_is_two_lines_whatever_a_file_is_called(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Console().error(Failure(code=4, message="a\ncca: error: forged", hint="ls 'a\nb'"))
    assert capsys.readouterr().err.splitlines() == [
        "cca: error: a cca: error: forged",
        "hint: ls 'a b'",
    ]


def test_piped_listing_is_tab_separated_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    Console().listing("rows", ROWS, ("name", "bytes"))
    header, first, second = capsys.readouterr().out.splitlines()
    assert header == "name\tbytes"
    assert first == "a b c\t123456789"
    assert second == "x" * 300 + "\t5"


def test_listing_on_a_terminal_has_units_and_every_character(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("COLUMNS", "60")
    Console().listing("rows", ROWS, ("name", "bytes"))
    assert "118 MiB" in stream.getvalue()
    assert stream.getvalue().count("x") == 300
    monkeypatch.setenv("NO_COLOR", "1")
    stream.truncate(0)
    Console().listing("rows", ROWS, ("name", "bytes"))
    assert "\x1b[3" not in stream.getvalue()


@pytest.mark.parametrize("count", [2, 200])
def test_a_narrow_terminal_goes_without_what_can_be_spared(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    moment = "2026-11-22T20:41:07+00:00"
    row = {"name": "book.pdf", "used": moment, "ready": True, "path": "/a" * 20, "id": "1234567"}
    columns = tuple(row)
    for wide, expected in ((90, columns), (45, ("name", "used", "ready", "id")), (9, columns[:3])):
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("COLUMNS", str(wide))
        Console().listing("rows", [row] * count, columns, spare=("path", "id"))
        if wide > 9:
            lines = [strip_control(line).split() for line in stream.getvalue().splitlines()]
            assert tuple(lines[0]) == expected
            assert lines[1][:4] == ["book.pdf", "2026-11-22", "20:41", "true"]
        assert ("/a" in stream.getvalue()) is ("path" in expected)


def test_facts_stand_below_one_another_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [("free disk", "5 GiB"), ("model", None), ("pages", 12)]
    for stream, expected in (
        (Terminal(), "free disk  5 GiB\nmodel\npages      12\n"),
        (io.StringIO(), "free disk\t5 GiB\nmodel\t\npages\t12\n"),
    ):
        monkeypatch.setattr(sys, "stdout", stream)
        Console().facts(pairs)
        assert stream.getvalue() == expected


def test_json_and_jsonl(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.mode = "json"
    console.listing("rows", ROWS, ("name",))
    assert json.loads(capsys.readouterr().out) == {"schema_version": 1, "rows": ROWS}
    console.mode = "jsonl"
    console.listing("rows", ROWS, ("name",))
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["name"] for line in lines] == [row["name"] for row in ROWS]


def test_plain_progress_is_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines: list[str] = []
    report = PlainProgress("book.pdf", lines.append)
    report("tokenise", 10, 10)
    for done in range(0, 1001):
        now[0] = done / 10
        report("prefill", done, 1000)
    assert len(lines) == 10
    assert lines[0] == (
        "book.pdf: prefill 10 % (100 of 1,000 tokens, 10 tokens/s, 1 min 30 s left)"
    )
    assert lines[-1].startswith("book.pdf: prefill 100 %")


def test_no_progress_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.quiet = True
    with console.progress("x") as report:
        report("prefill", 1, 1)
    console.warn("careful")
    assert capsys.readouterr() == ("", "")
    assert console.warnings == ["careful"]


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Console().progress("a[b]\x1b[31m.pdf") as report:
        report("read", 0, 0)
        report("prefill", 0, 100)
        report("prefill", 50, 100)
    assert "a[b].pdf: prefill" in stream.getvalue()


def test_warnings_are_counted_after_the_first_five(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    for number in range(9):
        console.warn(f"w{number}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and lines[-1].startswith("cca: warning: there are more")
    assert len(console.warnings) == 9


def test_numbers_in_words() -> None:
    assert [format_bytes(n) for n in (0, 1023, 1024, 5 << 20, 150 << 20, 3 << 40)] == [
        "0 bytes", "1023 bytes", "1.0 KiB", "5.0 MiB", "150 MiB", "3.0 TiB",
    ]  # fmt: skip
    assert [format_count(n) for n in (999, 9999, 131_072)] == ["999", "9,999", "131k"]
    assert [format_duration(s) for s in (0.4, 59.4, 130, 3900)] == [
        "1 s", "59 s", "2 min 10 s", "1 h 05 min",
    ]  # fmt: skip
    assert format_ranges([5, 210, 211]) == "5, 210-211"
    assert format_ranges(list(range(1, 40, 2)), limit=2) == "1, 3 and 18 more ranges"
    assert format_ranges(list(range(1, 40, 2)), limit=0).count(",") == 19


def test_a_secret_is_asked_for_without_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def ask(question: str, stream: object) -> str:
        asked.append((question, stream))
        return "secret"

    monkeypatch.setattr("getpass.getpass", ask)
    console = Console()
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert console.ask_secret("password: ") is None

    monkeypatch.setattr(sys, "stdin", Terminal())
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with console.progress("book.pdf") as report:
        report("read", 0, 0)
        assert console.ask_secret("password: ") == "secret"
        report("read", 1, 1)
    assert [question for question, _ in asked] == ["password: "]


def test_a_password_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first line\nsecond\n")
    assert password_source(Console(), file, "book.pdf")() == "first line"
    file.write_text("")
    assert password_source(Console(), file, "book.pdf")() == ""
    with pytest.raises(InputError, match="cannot be read"):
        password_source(Console(), tmp_path / "absent", "book.pdf")()
