"""`cca bench`: options and errors, a real run on a tiny checkpoint, and what it prints."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import make_tiny_checkpoint

from cca_cli.app import run
from cca_cli.bench_options import parse_lengths, parse_methods
from cca_cli.errors import UsageError
from cca_models import benchmarks
from cca_models.benchmarks_process import TaskFailed

MACHINE = {
    "device": "cpu", "device_name": "a CPU", "dtype": "float32", "itemsize": 4, "threads": 2,
    "free_bytes": 1 << 40, "torch": "2", "transformers": "5", "max_tokens": 1 << 30,
}  # fmt: skip
CHECK = {"tokens": 512, "max_difference": 2e-5, "max_logit": 5.5, "same_top": 512}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home: nothing may be fetched."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("CCA_CACHE_DIR", raising=False)
    monkeypatch.delenv("CCA_MODEL", raising=False)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No process may start: the error must come before."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("measuring has started")

    monkeypatch.setattr(benchmarks, "run_task", refuse)


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Figures without measuring: `full` does not fit at 4,096, `cca` fails at 1,024."""
    tasks: list[dict[str, Any]] = []

    def answer(task: dict[str, Any], report: Any = None) -> Any:
        tasks.append(task)
        if task["do"] == "records":
            return {}
        if task["do"] != "cell":
            return MACHINE if task["do"] == "machine" else CHECK
        if task["method"] == "full" and task["length"] == 4096:
            raise TaskFailed("killed by the system", out_of_memory=True)
        if task["method"] == "cca" and task["length"] == 1024:
            raise TaskFailed("ValueError: a | b", detail="Traceback ...")
        seconds = task["length"] / (100 if task["method"] == "full" else 200)
        return {
            "mark": "sampled", "prefill_s": [seconds], "decode_s": [0.1, 0.2, 0.3],
            "kv_bytes": 3 << 20, "peak_bytes": 1 << 30, "plan": "one-shot",
            "sampled": "9 of 128 chunks", "reason": "", "needs_bytes": None, "free_bytes": None,
        }  # fmt: skip

    monkeypatch.setattr(benchmarks, "run_task", answer)
    return tasks


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("4k,32k,128k", (4096, 32768, 131072)),
        ("128K, 7", (7, 131072)),
        ("1m,1024k", (1048576,)),
        ("4k..32k", (4096, 8192, 16384, 32768)),
        ("1k, 512..3k", (512, 1024, 2048, 3072)),
        ("256k..1M", (262144, 524288, 1048576)),
        ("4k..4k", (4096,)),
    ],
)
def test_lengths_k_is_1024(text: str, lengths: tuple[int, ...]) -> None:
    assert parse_lengths(text) == lengths


@pytest.mark.parametrize(
    "text", ["", "4k,", "four", "0", "-4k", "4.5k", "4kk", "0k", "4k..", "..4k", "4k...8k"]
)
def test_bad_lengths(text: str) -> None:
    with pytest.raises(UsageError, match="is not a number of tokens"):
        parse_lengths(text)


def test_a_range_must_not_run_backwards() -> None:
    with pytest.raises(UsageError, match=r"8k\.\.4k ends before it begins") as caught:
        parse_lengths("1k,8k..4k")
    assert caught.value.hint == "--len 4k..8k"


def test_methods_keep_their_order() -> None:
    assert parse_methods("cca, full,cca") == ("cca", "full")


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["--len", "4q"], "'4q' is not a number of tokens", "--len 4k,32k,128k"),
        (["--attn", "full,magic"], "'magic' is unknown", "--attn all, or some of full,cca"),
        (["--shape", "gpt2"], "gpt2", "cca bench --help"),
        (["--csv", "/nowhere/x.csv"], "/nowhere/x.csv: no such file", "--csv FILE"),
        (["--csv", "/"], "/: is a directory", "--csv FILE"),
        (["--plot", "/nowhere/x.png"], "/nowhere/x.png: no such file", "--plot FILE"),
        (["--plot", "x.txt"], "must end in .png, .svg, .pdf", "--plot x.png"),
        (["--shape", "llama2-7b", "-m", "dir"], "exclude each other", "--shape takes random"),
        (["--window", "8"], "--window 8 is smaller than --group-size 16", "--window 16"),
        (["--repeat", "0"], "repeat", "cca bench --help"),
        (["--ops", "--tune"], "--ops and --tune exclude each other", "run one after"),
        (["--ops", "--shape", "llama2-7b"], "--shape and --ops exclude", "--shape is for whole"),
        (["--tune", "--plot", "x.png"], "--plot and --tune exclude", "--plot is for whole"),
        (["--ops", "--window", "8"], "--window 8 is smaller than --group-size 16", "--window 16"),
        (["--ops", "--format", "csv"], "have no --format csv", "--format json, or --csv"),
        (["--ops", "--batch", "2"], "--batch is for whole models", "leave --ops"),
        (["--format", "xml"], "xml", "cca bench --help"),
        (["--batch", "0"], "batch", "cca bench --help"),
        (["--ops", "--csv", "/nowhere/x.csv"], "/nowhere/x.csv: no such file", "--csv FILE"),
    ],
)
def test_usage_errors_come_before_measuring(
    unmeasured: None, capsys: pytest.CaptureFixture[str], args: list[str], message: str, hint: str
) -> None:
    assert run(["bench", *args]) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == "" and message in first and second.startswith(f"hint: {hint}")


def test_missing_matplotlib_is_said_before_measuring(
    unmeasured: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["bench", "--shape", "smollm2-135m", "--plot", str(tmp_path / "x.png")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "cca: error: --plot needs matplotlib, which is not installed",
        "hint: pip install 'cca[plot]'",
    ]


def test_a_failed_check_of_the_options_leaves_no_file(unmeasured: None, tmp_path: Path) -> None:
    files = ["--csv", str(tmp_path / "x.csv"), "--plot", str(tmp_path / "x.png")]
    assert run(["bench", *files, "--shape", "smollm2-135m", "--window", "1"]) == 2
    assert not [*tmp_path.glob("x.*")]


def test_a_length_beyond_the_model_is_said_before_measuring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks, "run_task", lambda task: {**MACHINE, "max_tokens": 4096})
    path = make_tiny_checkpoint(tmp_path / "tiny")
    assert run(["bench", "-m", str(path), "--len", "1k,4k"]) == 5
    err = capsys.readouterr().err
    assert "--len 4,096: needs 4,144 tokens" in err and "tiny reaches 4,096 (48 over)" in err


def test_the_table_has_every_cell(
    canned: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(["bench", "--shape", "smollm2-135m", "--len", "1k,4k,8k", "--repeat", "2"])
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert code == 9 and "1 of 6 cells failed, first cca at 1,024" in err
    assert lines[0].startswith("cca ") and "smollm2-135m (random weights)" in lines[0]
    assert "max |difference| 2.0e-05" in lines[-1]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:-2]]
    assert len({len(line) for line in lines[2:-2]}) == 1
    rows = {(row[0], row[1]): dict(zip(table[0], row, strict=True)) for row in table[2:]}
    assert len(rows) == 6
    assert rows["full", "4,096"]["mark"].startswith("oom (needs ")
    assert rows["full", "4,096"]["prefill s"] == ""
    assert rows["cca", "1,024"]["mark"] == "failed: ValueError: a / b"
    last = rows["cca", "8,192"]
    assert last["mark"] == "sampled (9 of 128 chunks)" and last["n"] == "2"
    assert (last["prefill s"], last["prefill tok/s"], last["× prefill"]) == ("41", "200", "2.00")
    assert (last["min – max"], last["decode tok/s"]) == ("41 – 41", "5")
    assert not {"rows", "reserved", "prefill J", "decode J"} & set(last)
    assert last["decode ms (p50 / p95)"] == "200 / 300" and last["KV"] == "3.0 MiB"


def test_plans_come_first_and_methods_take_turns(
    canned: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    run(["bench", "--shape", "smollm2-135m", "--len", "8k", "--repeat", "2", "--seed", "3"])
    err = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in err[:2]] == ["full 8,192", "cca 8,192"]
    assert "KV" in err[0] and err[0].endswith("free: runs")
    cells = [task for task in canned if task["do"] == "cell"]
    assert [task["method"] for task in cells] == ["full", "cca", "full", "cca"]
    assert {task["seed"] for task in canned} == {3}


def test_quiet_leaves_the_results_alone(
    canned: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "--shape", "smollm2-135m", "--len", "8k", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n| ") == 4


def test_a_real_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = make_tiny_checkpoint(tmp_path / "tiny", context=4096)
    files = {name: tmp_path / f"out.{name}" for name in ("csv", "png")}
    code = run(
        ["bench", "-m", str(path), "--len", "1k", "--new-tokens", "4", "--threads", "1", "--json",
         "--device", "cpu", "--csv", str(files["csv"]), "--plot", str(files["png"])]
    )  # fmt: skip
    out, err = capfd.readouterr()
    assert code == 0, err
    found = json.loads(out)
    full, cca = found["rows"]
    assert [full["method"], cca["method"]] == ["full", "cca"]
    for row in (full, cca):
        assert row["mark"] == "measured" and row["length"] == 1024 and row["prefill_s"] > 0
        assert len(row["samples"][0]["decode_s"]) == 4
        assert row["peak_bytes"] > 50 << 20
    slot = 2 * 2 * 2 * 8 * 4  # keys and values, layers, KV heads, head dim, bytes
    assert full["kv_bytes"] == slot * 1024 and cca["kv_bytes"] > slot * 1024
    assert full["prefill_ratio"] == 1 and cca["kv_ratio"] < 1
    assert found["check"]["tokens"] == 512 and found["check"]["same_top"] == 512
    assert found["check"]["max_difference"] < 1e-4
    facts = found["provenance"]
    assert facts["threads"] == 1 and facts["dtype"] == "float32" and facts["model"] == "tiny"
    assert facts["lengths"] == [1024] and facts["time"].endswith("+00:00")
    rows = [*csv.DictReader(files["csv"].read_text().splitlines())]
    assert [float(row["prefill_s"]) for row in rows] == [full["prefill_s"], cca["prefill_s"]]
    assert rows[0]["torch"] == facts["torch"]
    assert files["png"].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("option", ["--ops", "--tune"])
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_operations_need_a_gpu(
    option: str,
    device: str,
    unmeasured: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(["bench", option, "--device", device]) == 6
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == [
        f"cca: error: {option} needs a CUDA device: torch sees none",
        f"hint: cca bench without {option} measures whole models on any device",
    ]


def test_a_cpu_is_not_taken_for_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert run(["bench", "--ops", "--device", "cpu"]) == 2
    assert "--ops needs a CUDA device, not cpu" in capsys.readouterr().err


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The operations, tiny, on the CPU: a cell beside dense attention and one that fails."""
    import torch

    from cca_cli import bench_operations
    from cca_models import benchmarks_contenders, benchmarks_tuning
    from cca_models.benchmarks_operations import Bench, Cell, Contender, Sizes
    from cca_models.benchmarks_timing import ClockTimer

    seen: dict[str, Any] = {"failing": False}

    def prepare(device: Any, dtype: str, **options: Any) -> Bench:
        seen.update(options)
        return Bench(
            device=torch.device("cpu"), dtype=torch.float32, timer=ClockTimer(), dense="math",
            **options,
        )  # fmt: skip

    def cells(bench: Bench, *, group_size: int, window: int) -> list[Cell]:
        sizes = Sizes(
            heads=4, kv_heads=2, head_dim=16, length=100, group_size=group_size, window=window
        )

        def bad(bench: Bench) -> Any:
            raise RuntimeError("a | b" + "!" * 400)

        found = [
            benchmarks_contenders.copy_cell(1 << 30 >> 10),
            benchmarks_contenders.prefill_cell(sizes),
            benchmarks_contenders.decode_cell(sizes),
        ]
        if seen["failing"]:
            found.append(Cell(operation="prefill", contenders=bad, methods=("cca",), sizes=sizes))
        return found

    def tiles(*, group_size: int, window: int) -> list[Cell]:
        def some(bench: Bench) -> Any:
            yield Contender(method="slow", calls=[lambda: sum(range(90000))], flop=1.0)
            yield Contender(method="fast", calls=[lambda: None], flop=1.0, in_use=True)
            yield Contender(method="large", calls=[lambda: 1 // 0], flop=1.0)

        return [Cell(operation="prefill", contenders=some, methods=())]

    monkeypatch.setattr(bench_operations, "_cuda_device", lambda name, option: name)
    monkeypatch.setattr(bench_operations, "_prepare", prepare)
    monkeypatch.setattr(benchmarks_contenders, "all_cells", cells)
    monkeypatch.setattr(benchmarks_tuning, "all_tunings", tiles)
    return seen


def cells_of(lines: list[str]) -> list[dict[str, str]]:
    """Read a Markdown table."""
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(table[0], row, strict=True)) for row in table[2:]]


def test_the_table_of_operations(
    on_the_cpu: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.csv"
    code = run(["bench", "--ops", "--no-flex", "--window", "32", "--csv", str(file)])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert on_the_cpu["flex"] is False and on_the_cpu["repeat"] == 5
    lines = out.splitlines()
    assert lines[0].startswith("cca ") and " · triton " in lines[0] and "G 16 W 32" in lines[0]
    assert len({len(line) for line in lines[2:]}) == 1
    copy, ours, full, step, _ = cells_of(lines[2:])
    assert (copy["operation"], ours["method"], full["method"]) == ("copy", "cca", "math")
    assert copy["GB/s"] and not copy["error"] and copy["mark"] == "measured"
    assert ours["H / KV / D"] == "4 / 2 / 16" and ours["tokens"] == "100"
    assert ours["× dense"] and not full["× dense"] and ours["error"] and ours["n"] == "5"
    assert step["tokens"] == "100 (40 keys)" and step["share %"] and step["time"].endswith("s")
    progress = err.splitlines()
    assert progress[0] == lines[0]
    assert len(progress) == 6 and "prefill 4 / 2 / 16 at 100, cca: " in progress[2]
    rows = [*csv.DictReader(file.read_text().splitlines())]
    assert [row["method"] for row in rows][1:] == ["cca", "math", "cca", "math"]
    assert rows[0]["torch"] and rows[1]["window"] == "32" and float(rows[1]["tflops"]) > 0


def test_operations_as_json_and_a_failed_one(
    on_the_cpu: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    on_the_cpu["failing"] = True
    code = run(["bench", "--ops", "--window", "32", "--repeat", "2", "--json", "-q"])
    out, err = capsys.readouterr()
    assert code == 9 and on_the_cpu["flex"] is True
    found = json.loads(out)
    assert found["provenance"]["repeat"] == 2 and found["provenance"]["dtype"] == "float32"
    rows = found["rows"]
    assert [len(row["samples_ms"]) for row in rows] == [2, 2, 2, 2, 2, 0]
    assert rows[1]["error"] < 1e-5 and rows[-1]["mark"].startswith("failed: RuntimeError: a | b!")
    message = json.loads(err)["error"]["message"]
    assert message.startswith("1 of 6 rows failed, first prefill 4 / 2 / 16 at 100, cca: ")


def test_tiles_are_printed_best_first(
    on_the_cpu: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "--tune"]) == 0
    rows = cells_of(capsys.readouterr().out.splitlines()[2:])
    assert [(row["tile"], row["in use"]) for row in rows] == [
        ("fast", "in use"), ("slow", ""), ("large", ""),
    ]  # fmt: skip
    assert rows[2]["mark"].startswith("failed: ZeroDivisionError") and not rows[2]["time"]
