"""`cca bench`: its rows as Markdown, CSV, JSON and JSON lines, and columns that not all have."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import make_tiny_checkpoint

from cca_cli.app import run
from cca_cli.bench_output import table
from cca_cli.bench_plot import save_plot
from cca_models import benchmarks
from cca_models.benchmarks import LogitCheck
from cca_models.benchmarks_results import Measurement, Row, add_ratios, make_row

MACHINE = {
    "device": "cuda:0", "device_name": "a GPU", "dtype": "bfloat16", "itemsize": 2, "threads": 2,
    "free_bytes": 1 << 40, "torch": "2", "transformers": "5", "max_tokens": 1 << 30,
    "cuda": "13.0", "driver": "600.1", "system": "an OS", "energy": "",
}  # fmt: skip
CHECK = {"tokens": 512, "max_difference": 2e-5, "max_logit": 5.5, "same_top": 512}
LINE = ("bench", "--shape", "smollm2-135m", "--len", "4k,8k", "--batch", "2", "--repeat", "2")


def measurement(seconds: float = 2.0, **more: Any) -> dict[str, Any]:
    return {
        "mark": "measured", "prefill_s": [seconds, seconds / 2], "decode_s": [0.1, 0.2, 0.3],
        "kv_bytes": 3 << 20, "peak_bytes": 1 << 30, "plan": "one-shot", **more,
    }  # fmt: skip


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Figures of a GPU that counts joules, without measuring."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    asked: list[dict[str, Any]] = []

    def answer(task: dict[str, Any], report: Any = None) -> Any:
        asked.append(task)
        if task["do"] == "machine":
            return MACHINE
        if task["do"] == "check":
            return CHECK
        if task["do"] == "records":
            return {name: {"name": name} for name in task["methods"]}
        # What is known of the GPU's own time is known of `cca` alone.
        busy = {"decode_busy_s": 0.05} if task["method"] == "cca" else {}
        return measurement(reserved_bytes=5 << 30, prefill_j=300.0, decode_j=2.5, **busy)

    monkeypatch.setattr(benchmarks, "run_task", answer)
    return asked


def cells_of(text: str) -> list[dict[str, str]]:
    """Read the Markdown table in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_the_table_has_rows_spread_rates_memory_and_joules(
    tasks: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*LINE]) == 0
    out = capsys.readouterr().out
    first = out.splitlines()[0]
    assert "torch 2 (CUDA 13.0)" in first and "driver 600.1" in first and "batch 2" in first
    full, cca, *_ = cells_of(out)
    assert (full["decode GPU ms"], cca["decode GPU ms"]) == ("", "50")
    assert [*cca].index("decode GPU ms") == [*cca].index("decode ms (p50 / p95)") + 1
    assert (full["rows"], full["prefill s"], full["min – max"]) == ("2", "1.5", "1 – 2")
    # Of both rows: 2 * 4,096 tokens in 1.5 s, 2 tokens in 0.2 s.
    assert (full["prefill tok/s"], full["decode tok/s"]) == ("5,461", "10")
    assert (full["peak"], full["reserved"]) == ("1.0 GiB", "5.0 GiB")
    assert (full["prefill J"], full["decode J"], full["n"]) == ("300", "2.5", "4")
    assert {task["batch"] for task in tasks} == {2}


def test_csv_on_stdout_is_what_the_file_has(
    tasks: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.csv"
    assert run([*LINE, "--format", "csv", "--csv", str(file)]) == 0
    out = capsys.readouterr().out
    assert out == file.read_text(encoding="utf-8")
    rows = [*csv.DictReader(out.splitlines())]
    assert [(row["method"], row["length"]) for row in rows] == [
        ("full", "4096"), ("cca", "4096"), ("full", "8192"), ("cca", "8192"),
    ]  # fmt: skip
    assert rows[0]["batch"] == "2" and rows[0]["reserved_bytes"] == str(5 << 30)
    assert float(rows[0]["prefill_min_s"]) == 1.0 and float(rows[0]["decode_j"]) == 2.5
    assert rows[0]["decode_busy_ms"] == "" and float(rows[1]["decode_busy_ms"]) == 50.0


@pytest.mark.parametrize("how", [["--json"], ["--format", "json"]])
def test_json_has_every_sample(
    tasks: list[dict[str, Any]], capsys: pytest.CaptureFixture[str], how: list[str]
) -> None:
    assert run([*LINE, *how, "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["provenance"]["batch"] == 2 and found["provenance"]["driver"] == "600.1"
    samples = found["rows"][0]["samples"]
    assert [sample["prefill_s"] for sample in samples] == [[2.0, 1.0], [2.0, 1.0]]
    assert [one["name"] for one in found["attentions"]] == ["full", "cca"]
    assert [row["decode_busy_ms"] for row in found["rows"]] == [None, 50.0, None, 50.0]
    assert [row["samples"][1]["decode_busy_s"] for row in found["rows"][:2]] == [None, 0.05]


def test_json_lines_say_what_they_are(
    tasks: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*LINE, "--format", "jsonl", "-q"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [line["kind"] for line in lines]
    assert kinds == ["provenance", "attention", "attention", "check", *["row"] * 4]
    assert lines[0]["model"] == "smollm2-135m" and lines[-1]["length"] == 8192
    assert lines[-1]["samples"][1]["decode_s"] == [0.1, 0.2, 0.3]


def test_why_there_are_no_joules_is_said_once(
    tasks: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(MACHINE, "energy", "needs nvidia-ml-py: pip install 'cca[energy]'")
    assert run([*LINE]) == 0
    err = capsys.readouterr().err
    assert err.count("energy is not measured: needs nvidia-ml-py") == 1


def test_columns_are_left_out_where_nobody_has_them() -> None:
    one = Measurement(mark="measured", prefill_s=(2.0,), decode_s=(0.1,), kv_bytes=1, peak_bytes=1)
    rows = add_ratios([make_row("full", 100, [one]), Row(method="cca", length=100, mark="oom")])
    (full, cca) = cells_of(table(rows))
    absent = {"rows", "min – max", "decode GPU ms", "reserved", "prefill J", "decode J"}
    assert not absent & set(full)
    assert full["prefill tok/s"] == "50" and cca["decode tok/s"] == ""


def test_rows_without_the_captured_step_are_said_to_be() -> None:
    def read_as(plan: str) -> str:
        one = Measurement(mark="measured", prefill_s=(2.0,), decode_s=(0.1,), plan=plan)
        return table([make_row("cca", 100, [one], batch=2)])

    assert "without the captured step" in read_as("chunks of 4,096, steps not captured: one row")
    assert "captured" not in read_as("chunks of 4,096")


def test_json_and_another_format_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--json", "--format", "csv"]) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert error["message"] == "--json and --format csv exclude each other"


def test_a_real_run_of_two_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # The check of the logits is not about rows, and imports transformers.
    monkeypatch.setattr(benchmarks, "check_logits", lambda *_: LogitCheck(reason="left out"))
    path = make_tiny_checkpoint(tmp_path / "tiny", context=4096)
    code = run(
        ["bench", "-m", str(path), "--len", "256", "--attn", "cca", "--batch", "2",
         "--new-tokens", "3", "--threads", "1", "--device", "cpu", "--format", "csv"]
    )  # fmt: skip
    out, err = capfd.readouterr()
    assert code == 0, err
    (row,) = csv.DictReader(out.splitlines())
    assert row["mark"] == "measured" and row["batch"] == "2"
    seconds = float(row["prefill_s"])
    assert float(row["prefill_tokens_per_s"]) == pytest.approx(512 / seconds)
    assert float(row["prefill_min_s"]) <= seconds <= float(row["prefill_max_s"])
    slot = 2 * 2 * 2 * 8 * 4  # keys and values, layers, KV heads, head dim, bytes
    assert int(row["kv_bytes"]) >= 2 * slot * 256
    assert row["reserved_bytes"] == row["decode_j"] == row["decode_busy_ms"] == ""


def test_the_picture_has_three_panels_and_every_attention(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    one = Measurement(mark="measured", prefill_s=(2.0,), decode_s=(0.1,), kv_bytes=9, peak_bytes=9)
    rows = [make_row(name, length, [one]) for length in (4096, 8192) for name in benchmarks.METHODS]
    path = tmp_path / "all.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        save_plot(rows, path, title="the title of it")
    drawn = path.read_text(encoding="utf-8")
    for text in ("prefill", "decode, per token", "keys and values held", "the title of it", "8k",
                 "full (dense SDPA)", *benchmarks.METHODS[1:]):  # fmt: skip
        assert f">{text}<" in drawn, text
