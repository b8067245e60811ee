"""All methods side by side: the table, the picture, and both from the command line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluation_helpers import write_books, write_multidoc
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_cli.app import run
from cca_cli.eval_output import table_text
from cca_models.attention_names import PEERS
from cca_models.attention_styles import attention_style
from cca_models.evaluation.comparison import comparison_table, panels
from cca_models.evaluation.methods import method_names
from cca_models.evaluation.plots import save_comparison
from cca_models.evaluation.types import Figure, Row, Table, TaskResult


def result(task: str, rows: Sequence[Row]) -> TaskResult:
    table = Table(task=task, title=task, columns=(), lines=())
    return TaskResult(table=table, rows=tuple(rows))


def stretch(method: str, low: int, nll: float) -> Row:
    return {
        "method": method, "from": low, "text": "a", "tokens": 1024,
        "blocks": [[nll - 0.1, 512], [nll + 0.1, 512]], "metrics": {"nll": nll},
    }  # fmt: skip


def asked(method: str, length: int, **metrics: float) -> Row:
    return {"method": method, "length": length, "metrics": metrics}


@pytest.fixture
def results() -> list[TaskResult]:
    losses = [("full", 0, 2.0), ("core", 0, 2.0), ("full", 1024, 3.0), ("core", 1024, 2.5)]
    return [
        result("ppl", [stretch(*one) for one in losses]),
        result(
            "multidoc",
            [asked("full", 4096, em=1.0), asked("full", 4096, em=0.0), asked("core", 4096, em=1.0),
             asked("core", 8192, em=0.0), {"method": "full", "length": 8192, "error": "too long"},
             {"method": "core", "length": 8192, "metrics": {"not found": 1.0}}],
        ),
        result("longqa", [asked("core", 10, f1=1.0)]),
        result("needle", [asked("focus", 32768, found=1.0), asked("core", 32768, found=0.0)]),
    ]  # fmt: skip


def line_of(table: Table, method: str) -> dict[str, Any]:
    (line,) = (one for one in table.lines if one[0] == method)
    return dict(zip(table.columns, line, strict=True))


def test_the_table_has_a_line_a_method_and_a_column_a_length(results: list[TaskResult]) -> None:
    table = comparison_table(results)
    assert table is not None
    assert table.columns == (
        "method", "ppl", "ppl 0-1K", "ppl 1K-4K", "multidoc", "multidoc 4k", "multidoc 8k",
        "needle 32k",
    )  # fmt: skip
    assert [line[0] for line in table.lines] == ["full", "core", "focus"]
    full, core, focus = (line_of(table, name) for name in ("full", "core", "focus"))
    # Over all positions the losses are weighed, not the perplexities.
    assert full["ppl"].mean == pytest.approx(math.exp(2.5)) and not full["ppl"].percent
    assert core["ppl 1K-4K"].mean == pytest.approx(math.exp(2.5))
    assert (full["multidoc 4k"].mean, full["multidoc 4k"].n) == (0.5, 2)
    assert full["multidoc 8k"] is None  # too long is no answer
    assert (core["multidoc"].mean, core["multidoc 8k"].n) == (0.5, 1)
    assert focus["ppl"] is None and focus["needle 32k"].mean == 1.0
    assert table_text(table).count("\n| ") == 5


def test_untrained_methods_are_named(results: list[TaskResult]) -> None:
    table = comparison_table(results, untrained=("nsa", "core"))
    assert table is not None and table.notes[-1].startswith("core: nobody trained")
    plain = comparison_table(results, untrained=("nsa",))
    assert plain is not None and not any("nobody trained" in note for note in plain.notes)


def test_one_task_or_one_method_is_no_comparison(results: list[TaskResult]) -> None:
    assert comparison_table(results[:1]) is None
    assert comparison_table([results[0], results[2]]) is None
    alone = [
        result("ppl", [stretch("core", 0, 2.0)]), result("needle", [asked("core", 8, found=1.0)])
    ]  # fmt: skip
    assert comparison_table(alone) is None
    assert comparison_table([]) is None and panels([result("ppl", [])]) == []


@pytest.mark.parametrize(("suffix", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_the_picture_has_every_method_and_panel(
    results: list[TaskResult], tmp_path: Path, suffix: str, begins: bytes
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    path = tmp_path / f"all.{suffix}"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        save_comparison(panels(results), path, title="the title of it")
    drawn = path.read_bytes()
    assert drawn.startswith(begins)
    if suffix == "svg":
        for text in ("the title of it", "perplexity", "exact match, %", "needles found, %",
                     "full", "core", "focus", "1K-4K", "32k"):  # fmt: skip
            assert f">{text}<" in drawn.decode(), text


def test_every_method_is_drawn_in_its_own_way() -> None:
    names = [*method_names(), *PEERS]
    styles = {name: attention_style(name)[:2] for name in names}
    assert len(set(styles.values())) == len(styles)
    assert attention_style("cca") == attention_style("core")


def test_the_command_prints_and_draws_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.delenv("CCA_MODEL", raising=False)
    monkeypatch.delenv("CCA_ADAPTER", raising=False)
    folder = tmp_path / "data"
    folder.mkdir()
    write_books(write_multidoc(folder))
    picture = tmp_path / "all.svg"
    line = [
        "eval", "ppl", "multidoc", "needle", "--data", str(folder), "--len", "1k",
        "--model", str(make_tiny_checkpoint(tmp_path / "tiny")), "--method", "core,snapkv",
        "--limit", "1", "--max-new-tokens", "2", "--group-size", "4", "--window", "32",
        "--device", "cpu", "--dtype", "fp32", "--plot", str(picture), "--out",
        str(tmp_path / "r.jsonl"), "--quiet",
    ]  # fmt: skip
    with tiny_surroundings(tmp_path / "home"):
        assert run(line) == 0
        text = capsys.readouterr().out
        assert "comparison: what each method keeps" in text
        assert picture.read_bytes().startswith(b"<?xml")
        assert run([*line, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["comparison"]
    assert [one["method"] for one in found["lines"]] == ["core", "snapkv"]
    assert found["lines"][0]["needle 1k"]["n"] == 11
    assert found["lines"][1]["ppl 0-1K"]["mean"] > 1
    assert Figure(**found["lines"][0]["multidoc 1k"]).percent
