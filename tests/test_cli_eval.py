"""`cca eval`: a real run on a tiny checkpoint, resuming, JSON, and errors before any work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluation_helpers import write_books, write_lines, write_multidoc
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_cli.app import run
from cca_cli.errors import ExitCode
from cca_cli.eval_output import table_text
from cca_models.evaluation.types import Figure, Table

SIZES = ("--group-size", "4", "--window", "32", "--device", "cpu", "--dtype", "fp32")


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CCA_MODEL", "CCA_ADAPTER", "CCA_DEVICE", "CCA_DTYPE", "CCA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    with tiny_surroundings(tmp_path / "home"):
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    data = tmp_path / "data"
    data.mkdir()
    return str(write_books(write_multidoc(data)))


def test_a_run_prints_tables_and_goes_on(
    checkpoint: str, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.jsonl"
    common = ("--data", folder, "--model", checkpoint, *SIZES, "--out", str(out), "--quiet")
    few = ("--len", "1k", "--max-new-tokens", "3", "--method", "focus,core,full,window,lexical")
    assert run(["eval", "multidoc", "ppl", "locate", *common, *few, "--limit", "1"]) == 0
    text = capsys.readouterr().out
    assert "seed 0" in text.splitlines()[0] and "adapter none" in text.splitlines()[0]
    titles = [line.split(":")[0] for line in text.splitlines() if line[:1].isalpha()]
    assert [t for t in titles if t in ("multidoc", "ppl", "locate")] == [
        "multidoc",
        "ppl",
        "locate",
    ]
    for method in ("focus", "core", "full", "window", "lexical"):
        assert f"| 1k     | {method} " in text
    assert "| 0-1K     |  1,023 |" in text
    assert "without focus, lexical: no probability" in text
    assert "attention: no head of this model is known to locate" in text
    assert "full beyond 512 tokens" in text
    first = out.read_text().splitlines()
    assert len([line for line in first if '"task": "multidoc"' in line]) == 5
    # More of the same: what is there stays, and only the new question is asked.
    assert run(["eval", "multidoc", *common, *few, "--limit", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    lines = out.read_text().splitlines()
    assert lines[: len(first)] == first
    assert len(lines) == len(first) + 1 + 5
    table = result["tasks"][0]
    assert table["task"] == "multidoc" and table["failed"] == []
    assert {line["method"] for line in table["lines"]} == {
        "focus", "core", "full", "window", "lexical",
    }  # fmt: skip
    assert all(line["em"]["n"] == 2 and line["em"]["percent"] for line in table["lines"])
    facts = result["provenance"]
    assert facts["group_size"] == 4 and facts["window"] == 32 and facts["dtype"] == "float32"
    assert len(facts["fingerprint"]) == 64 and facts["limit"] == 2


def test_settings_are_not_mixed(
    checkpoint: str, folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.jsonl"
    line = ("eval", "ppl", "--data", folder, "--model", checkpoint, *SIZES, "--len", "64",
            "--limit", "1", "--method", "core", "--out", str(out))  # fmt: skip
    assert run([*line]) == 0
    kept = out.read_bytes()
    capsys.readouterr()
    assert run([*line, "--seed", "1"]) == ExitCode.INPUT
    error = capsys.readouterr().err.splitlines()
    assert error[-2].endswith("holds results of other settings: seed 0 there, 1 now")
    assert error[-1].startswith("hint: --out")
    assert run([*line, "--group-size", "8"]) == ExitCode.INPUT
    assert "group_size 4 there, 8 now" in capsys.readouterr().err
    (Path(folder) / "whole_books.jsonl").write_text('{"text": "another book altogether"}\n')
    assert run([*line]) == ExitCode.INPUT
    assert "ppl.data.whole_books.jsonl" in capsys.readouterr().err
    assert out.read_bytes() == kept


def test_needles_are_drawn(checkpoint: str, folder: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "map.png"
    assert run(
        ["eval", "needle", "--data", folder, "--model", checkpoint, *SIZES, "--len", "1k",
         "--limit", "1", "--method", "lexical", "--max-new-tokens", "2", "--plot", str(picture)]
    ) == 0  # fmt: skip
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_own_file(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = {"context": "The lamp was lit.", "question": "What was lit?", "answers": ["lamp"]}
    mine = write_lines(tmp_path / "mine.jsonl", [record])
    assert run(["eval", "longqa", "--data-file", str(mine), "--model", checkpoint, *SIZES,
                "--method", "core", "--max-new-tokens", "2"]) == 0  # fmt: skip
    assert "| mine | core " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "says", "hint"),
    [
        (["chess", "--data", "."], "task 'chess' is unknown", "one of ppl, multidoc"),
        (["ppl", "--data", ".", "--method", "core,flash"], "'flash' is unknown", "--method focus"),
        (["ppl"], "ppl needs data", "--data DIR"),
        (["ppl", "longqa", "--data-file", "x"], "serves one task", "cca eval TASK"),
        (["ppl", "--data", ".", "--len", "4q"], "'4q' is not a number of tokens", "4k,32k"),
        (["longqa", "--data", ".", "--plot", "x.png"], "draws ppl, multidoc", "--plot FILE"),
        (["ppl", "--data", ".", "--plot", "x.doc"], "must end in .png", "--plot x.png"),
        (["needle", "--data", ".", "--plot", "x.doc"], "must end in .png", "--plot x.png"),
        (["ppl", "--data", ".", "--out", "no/where"], "--out no/where: no such", "--out FILE"),
    ],
)
def test_wrong_options_are_told_before_a_model_is_loaded(
    line: list[str], says: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", *line, "--model", "/nowhere/at/all"]) == ExitCode.USAGE
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 2 and says in error[0]
    assert error[1].startswith("hint: ") and hint in error[1]


def test_missing_files_are_told_before_any_task_runs(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_books(data)
    out = tmp_path / "r.jsonl"
    line = ["eval", "ppl", "multidoc", "--data", str(data), "--model", checkpoint, *SIZES]
    assert run([*line, "--out", str(out), "--quiet"]) == ExitCode.INPUT
    error = capsys.readouterr().err
    assert "lost_in_the_middle_questions.jsonl.xz is missing" in error
    assert not out.exists()


def test_tables_say_counts_once_where_they_can() -> None:
    half = Figure(mean=0.5, low=0.25, high=0.75, n=12)
    other = Figure(mean=2.5, low=2.25, high=2.75, n=7, percent=False)
    lines = (("4k", 0.25, half, half), ("8k", None, half, None))
    table = Table(task="t", title="A title", columns=("len", "x", "a", "b"), lines=lines,
                  notes=("A note.",))  # fmt: skip
    assert table_text(table).splitlines() == [
        "A title",
        "",
        "| len |     x |                 a |                 b |   n |",
        "| --- | ----: | ----------------: | ----------------: | --: |",
        "| 4k  | 0.250 | 50.0 [25.0, 75.0] | 50.0 [25.0, 75.0] |  12 |",
        "| 8k  |       | 50.0 [25.0, 75.0] |                   |  12 |",
        "",
        "A note.",
    ]
    mixed = Table(task="t", title="T", columns=("a", "b"), lines=((half, other),))
    assert "50.0 [25.0, 75.0] (12) | 2.50 [2.25, 2.75] (7) |" in table_text(mixed)
