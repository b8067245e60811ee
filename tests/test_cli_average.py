"""`cca models average` on adapters of a tiny checkpoint."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from adapter_means import WEIGHTS, make_adapter
from safetensors.torch import load_file
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_cli.app import run


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def pair(tmp_path: Path, base: Path) -> tuple[Path, Path]:
    """Two adapters of rank 4 that share nothing; their mean has rank 8."""
    return make_adapter(tmp_path / "one", base), make_adapter(tmp_path / "two", base, seed=1)


def cca(*args: str | Path) -> int:
    return run(["models", "average", *map(str, args)])


def test_the_command(
    tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cca(*pair, "--out", tmp_path / "mean") == 0
    out, err = capsys.readouterr()
    size = (tmp_path / "mean" / WEIGHTS).stat().st_size
    assert out.startswith(f"averaged: {tmp_path / 'mean'} (") and "rank 4 keeps " in err
    assert "locate and not_found are those of one" in err and "calibrate_not_found" in err
    assert cca(*pair, "--out", tmp_path / "small", "--weights", "0.2,0.8", "--save-dtype", "fp8",
               "--json") == 0  # fmt: skip
    facts = json.loads(capsys.readouterr().out)
    assert facts["adapter"] == str(tmp_path / "small") and 0 < facts["bytes"] < size / 2
    assert [(part["name"], part["share"]) for part in facts["parts"]] == [
        ("one", 0.2),
        ("two", 0.8),
    ]
    assert 0.5 < facts["kept_energy"]["lowest"] < facts["kept_energy"]["mean"] < 1
    dtypes = {t.dtype for n, t in load_file(tmp_path / "small" / WEIGHTS).items() if ".lora_" in n}
    assert dtypes == {torch.float8_e4m3fn}


def test_the_command_counts_all_alike_and_tells_names_apart(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = [
        make_adapter(tmp_path / name / "adapter", base) for name in ("long", "short", "last")
    ]
    assert cca(*trained, "--out", tmp_path / "mean", "--json", "-q") == 0
    out, err = capsys.readouterr()
    assert err == ""
    parts = json.loads(out)["parts"]
    assert [part["name"] for part in parts] == ["long/adapter", "short/adapter", "last/adapter"]
    assert [part["share"] for part in parts] == [pytest.approx(1 / 3)] * 3


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("0.5,0.4", "the shares sum to 0.9"),
        ("2,-1", "a share of -1 cannot be used"),
        ("nan,1", "a share of nan cannot be used"),
        ("half,half", "is no number"),
        ("0.2,0.3,0.5", "3 for 2 adapters"),
    ],
)
def test_weights_that_the_command_refuses(
    tmp_path: Path,
    pair: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    weights: str,
    says: str,
) -> None:
    assert cca(*pair, "--out", tmp_path / "mean", "--weights", weights) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("cca: error: --weights ") and says in first
    assert second.startswith("hint: ") and not (tmp_path / "mean").exists()


def test_settings_of_computing_say_nothing_about_files(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text('dtype = "fp16"\n')
    monkeypatch.setenv("CCA_CONFIG", str(tmp_path / "config.toml"))
    assert run(["config", "show", "count"]) == 0
    assert cca(*pair, "--out", tmp_path / "mean") == 0


def test_adapters_that_the_command_refuses(
    tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for code, args, says in (
        (2, (pair[0], tmp_path / "absent"), "absent: no adapter is there"),
        (6, (pair[0],), "two adapters or more"),
    ):
        assert cca(*args, "--out", tmp_path / "mean") == code
        first, second = capsys.readouterr().err.splitlines()
        assert says in first and second.startswith("hint: ")
    assert cca(*pair, "--out", pair[1]) == 6
    assert "not overwritten" in capsys.readouterr().err
