"""What commands are asked for: each option reaches the reader of the document, or the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cca_cli import model_loading
from cca_cli.app import run
from cca_cli.document_text import ReadOptions
from cca_cli.errors import InputError, ModelUnusableError

READING = (
    "--pages", "1", "--type", "text", "--encoding", "latin-1", "--pdf-backend", "pypdf", "--strict",
    "--password-file", "secret",
)  # fmt: skip
MODEL = ("-m", "tiny", "--adapter", "none", "--device", "cpu", "--dtype", "fp32", "--offline")
SIZES = ("--group-size", "8", "--window", "64")
COMMANDS = {
    "ask": ("ask", "a.txt", "Who?", *SIZES),
    "chat": ("chat", "a.txt", *SIZES),
    "count": ("count", "a.txt", *SIZES),
    "ingest": ("ingest", "a.txt", *SIZES),
    "summarise": ("summarise", "a.txt"),
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    # --offline sets it for the hub's client.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("a.txt").write_text("The nephew inherits.\n" * 20)
    Path("secret").write_text("open sesame\n")


def expect_reading(options: ReadOptions, *, pages: str | None = "1") -> None:
    assert (options.pages, options.kind, options.encoding) == (pages, "text", "latin-1")
    assert (options.backend, options.strict) == ("pypdf", True)
    assert options.password is not None and options.password() == "open sesame"


@pytest.mark.parametrize("command", COMMANDS)
def test_reader_and_model_are_told(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[ReadOptions] = []
    opened: list[tuple[str, dict[str, Any]]] = []

    def open_model(console: object, name: str, **settings: Any) -> None:
        opened.append((name, settings))
        raise ModelUnusableError("seen enough")

    monkeypatch.setattr(ReadOptions, "check", lambda self, path: read.append(self))
    monkeypatch.setattr(model_loading, "open_model", open_model)
    assert run([*COMMANDS[command], *READING, *MODEL]) == 6
    expect_reading(read[0])
    ((name, settings),) = opened
    sizes = (None, None) if command == "summarise" else (8, 64)
    assert (name, settings.pop("group_size"), settings.pop("window")) == ("tiny", *sizes)
    assert settings == {"adapter": "none", "device": "cpu", "dtype": "fp32", "offline": True}


def test_text_reads_every_page(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[ReadOptions] = []

    def stop(self: ReadOptions, path: str) -> None:
        read.append(self)
        raise InputError("seen enough")

    monkeypatch.setattr(ReadOptions, "read", stop)
    assert run(["text", "a.txt", *READING]) == 4
    expect_reading(read[0], pages=None)
