"""`cca bench --compare`: what changed, what cannot be compared, and the exit code for CI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cca_cli.app import run
from cca_cli.bench_compare import (
    changes_of,
    comparison_table,
    fail_if_worse,
    load_earlier,
    parse_limit,
)
from cca_cli.errors import PartialFailureError, UsageError
from cca_models.benchmarks_results import Row

PROVENANCE = {"time": "2026-01-01", "device_name": "a CPU", "dtype": "float32", "model": "m",
              "group_size": 16, "window": 1024, "threads": 2, "torch": "2"}  # fmt: skip


def row(method: str = "cca", length: int = 4096, **figures: Any) -> Row:
    figures = {"prefill_s": 2.0, "decode_ms": 10.0, "kv_bytes": 100, "peak_bytes": 1000} | figures
    return Row(method=method, length=length, mark="measured", n=1, **figures)


def earlier_file(folder: Path, *rows: Row, **provenance: Any) -> Path:
    file = folder / "old.json"
    kept = ("method", "length", "prefill_s", "decode_ms", "kv_bytes", "peak_bytes")
    value = {
        "provenance": PROVENANCE | provenance,
        "rows": [{name: getattr(one, name) for name in kept} for one in rows],
    }
    file.write_text(json.dumps(value))
    return file


def test_changes_are_of_cells_that_both_have(tmp_path: Path) -> None:
    earlier = load_earlier(
        earlier_file(tmp_path, row(), row(length=8192), row("moba", peak_bytes=0))
    )
    now = [row(prefill_s=2.2), row(length=1024), row("moba", kv_bytes=50)]
    changes = {(c.method, c.length, c.figure): c.share for c in changes_of(now, earlier)}
    assert changes["cca", 4096, "prefill_s"] == pytest.approx(0.1)
    assert changes["moba", 4096, "kv_bytes"] == pytest.approx(-0.5)
    assert ("moba", 4096, "peak_bytes") not in changes
    assert {length for _, length, _ in changes} == {4096}


def test_a_file_from_before_the_busy_time_compares(tmp_path: Path) -> None:
    earlier = load_earlier(earlier_file(tmp_path, row()))
    figures = [c.figure for c in changes_of([row(decode_busy_ms=4.0)], earlier)]
    assert figures == ["prefill_s", "decode_ms", "kv_bytes", "peak_bytes"]


def test_table_says_what_differs_between_the_machines(tmp_path: Path) -> None:
    earlier = load_earlier(earlier_file(tmp_path, row(), device_name="another CPU"))
    text = comparison_table(changes_of([row(decode_ms=9.0)], earlier), earlier, PROVENANCE)
    assert "change since old.json (2026-01-01)" in text
    assert "-10.0%" in text and "+0.0%" in text
    assert "device name was another CPU, is a CPU: not comparable" in text
    assert "dtype was" not in text
    nothing = comparison_table([], earlier, PROVENANCE)
    assert nothing.endswith("no cell in common")


@pytest.mark.parametrize(("grown", "worse"), [(1.04, False), (1.06, True), (0.5, False)])
def test_exit_follows_the_limit(tmp_path: Path, grown: float, worse: bool) -> None:
    earlier = load_earlier(earlier_file(tmp_path, row()))
    changes = changes_of([row(decode_ms=10.0 * grown)], earlier)
    if not worse:
        fail_if_worse(changes, earlier, limit=0.05)
        return
    with pytest.raises(PartialFailureError, match=r"1 of 4 figures .* decode of cca at 4,096"):
        fail_if_worse(changes, earlier, limit=0.05)


def test_nothing_in_common_is_no_success(tmp_path: Path) -> None:
    earlier = load_earlier(earlier_file(tmp_path, row(length=1)))
    with pytest.raises(PartialFailureError, match="no cell"):
        fail_if_worse(changes_of([row()], earlier), earlier, limit=0.05)


@pytest.mark.parametrize(("text", "limit"), [("5%", 0.05), (" 12.5 % ", 0.125), ("0", 0.0)])
def test_limits(text: str, limit: float) -> None:
    assert parse_limit(text) == pytest.approx(limit)


@pytest.mark.parametrize("text", ["", "%", "five", "-1%", "nan", "inf"])
def test_bad_limits(text: str) -> None:
    with pytest.raises(UsageError, match="is not a percentage"):
        parse_limit(text)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        ("{broken", "is not what cca bench --json writes"),
        ('{"rows": 3, "provenance": {}}', "is not what cca bench --json writes"),
        ('{"rows": [{"length": 3}], "provenance": {}}', "is not what cca bench --json writes"),
        ("[]", "is not what cca bench --json writes"),
    ],
)
def test_a_wrong_file_is_told_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    file = tmp_path / "old.json"
    if content is not None:
        file.write_text(content)
    assert run(["bench", "--shape", "smollm2-135m", "--compare", str(file)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert says in first and second == "hint: cca bench --json > bench.json makes one"


def test_a_limit_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--shape", "smollm2-135m", "--max-regress", "5%"]) == 2
    assert "--max-regress needs --compare" in capsys.readouterr().err
