"""The commands as Python functions, and the examples of docs/python.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

import cca_cli
from cca_cli import api
from cca_cli.app import run
from cca_cli.errors import InputError, UsageError
from cca_models.errors import ModelError

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/python.md"
QUESTION = "Who inherits the estate?"


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield
    cca_cli.forget_models()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=4096)


@pytest.fixture
def shelf(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three documents in the working directory, an empty home, the tiny model."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    for name in ("CCA_CACHE_DIR", "CCA_CONFIG", "CCA_PASSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CCA_MODEL", str(checkpoint))
    monkeypatch.setenv("CCA_MAX_NEW_TOKENS", "6")
    monkeypatch.chdir(tmp_path)
    weather = "The keeper wrote down the weather every evening. " * 20
    Path("book.md").write_text(f"# One\n\n{weather}\n\n# Two\n\nThe nephew inherits the estate.\n")
    Path("may.md").write_text("# May\n\nThe bridge was closed in 1987.\n")
    Path("june.md").write_text("# June\n\nThe bridge was opened again in 1990.\n")
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    """Return what a command prints with --json."""
    assert run([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def timeless(record: Any) -> Any:
    """Leave out what differs from call to call."""
    changing = ("timing_s", "cache", "log", "prefill_seconds")
    kept = {key: value for key, value in record.items() if key not in changing}
    return json.loads(json.dumps(kept))


def test_the_same_as_the_command_prints(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = cca_cli.ask("book.md", QUESTION, read="lexical")
    assert timeless(answer) == timeless(
        printed(capsys, "ask", "book.md", QUESTION, "--read", "lexical")
    )
    count = cca_cli.count(Path("book.md"))
    assert timeless(count) == timeless(printed(capsys, "count", "book.md"))
    (record,) = cca_cli.ingest("book.md")
    assert record["error"] is None and record["tokens"] == count["tokens"]
    assert cca_cli.list_documents() == printed(capsys, "docs", "ls")["documents"]
    assert cca_cli.list_models() == []
    assert capsys.readouterr() == ("", "")


def test_nothing_is_printed_and_progress_is_told(
    shelf: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    stages: list[tuple[str, int, int]] = []
    cca_cli.ingest(["book.md"], progress=lambda *step: stages.append(step))
    assert {"tokenise", "prefill"} <= {stage for stage, _, _ in stages}
    assert capfd.readouterr() == ("", "")


def test_one_question_or_several(shelf: Path) -> None:
    one = cca_cli.ask("book.md", [QUESTION], read="lexical")
    assert isinstance(one, list) and [record["id"] for record in one] == ["1"]
    several = cca_cli.ask("book.md", [QUESTION, "-q? --json", "Which garden?"], read="lexical")
    assert [record["question"] for record in several] == [QUESTION, "-q? --json", "Which garden?"]
    with pytest.raises(UsageError, match="no question"):
        cca_cli.ask("book.md", [])


def test_the_model_stays(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cca_models import engine

    loaded: list[Any] = []
    original = engine.load_model
    monkeypatch.setattr(engine, "load_model", lambda *a, **k: loaded.append(a) or original(*a, **k))
    cca_cli.forget_models()
    for _ in range(2):
        cca_cli.ask("book.md", QUESTION, read="lexical")
    assert len(loaded) == 1
    cca_cli.ask("book.md", QUESTION, read="lexical", window=64)
    assert len(loaded) == 2 and len(api._models) == 1
    cca_cli.forget_models()
    cca_cli.ask("book.md", QUESTION, read="lexical", window=64)
    assert len(loaded) == 3


def test_errors_are_raised(shelf: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.pdf: no such file"):
        cca_cli.ask("absent.pdf", QUESTION)
    with pytest.raises(ModelError, match="no such model"):
        cca_cli.ask("book.md", QUESTION, model="absent")
    with pytest.raises(UsageError, match="'--passages'"):
        cca_cli.ask("book.md", QUESTION, passages=99)
    with pytest.raises(UsageError, match="passage is no option of ask"):
        cca_cli.ask("book.md", QUESTION, passage=1)
    with pytest.raises(UsageError, match="jsonl is no option"):
        cca_cli.count("book.md", jsonl=True)
    with pytest.raises(UsageError, match="docs nonsense: no such command"):
        cca_cli.command("docs", "nonsense")
    records = cca_cli.ingest(["book.md", "absent.pdf"])
    assert [bool(record["error"]) for record in records] == [False, True]


def test_options_are_those_of_the_command(shelf: Path) -> None:
    typed = {"quotes": False, "debug": False, "quiet": True, "pages": None, "passages": 2}
    _, arguments, found = api._split(["ask", "--odd.md"])
    assert list(api._typed(found, typed)) == ["--no-quotes", "--quiet", "--passages=2"]
    assert arguments == ["--odd.md"]
    assert list(api._typed(found, {"type": "text", "question": ["a", "b"]})) == [
        "--type=text",
        "--question=a",
        "--question=b",
    ]


def test_the_config_file_is_not_for_programs(shelf: Path) -> None:
    (shelf / "home").mkdir(exist_ok=True)
    (shelf / "home/config.toml").write_text("not toml")
    assert cca_cli.list_documents() == []


def test_importing_is_light() -> None:
    code = (
        "import cca_cli, sys; cca_cli.ask; cca_cli.read_document\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pypdf', 'rich'}\n"
        "assert not heavy & {m.split('.')[0] for m in sys.modules}\n"
        "assert sorted(cca_cli.__all__) == cca_cli.__all__ == sorted(cca_cli._MODULE_OF)\n"
    )
    path = os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels"))
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_public_names_are_there() -> None:
    for name in cca_cli.__all__:
        assert getattr(cca_cli, name) is not None
    with pytest.raises(AttributeError):
        _ = cca_cli.nonsense


def test_the_examples_of_the_page(
    shelf: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) >= 6
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("smollm2-135m-instruct", str(checkpoint)), names)
    out = capsys.readouterr().out
    assert "4 absent.pdf: no such file" in out and "['book.md', 'may.md']" in out
