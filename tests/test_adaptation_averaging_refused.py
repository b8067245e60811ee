"""What is not averaged: adapters that do not belong together, damaged ones, shares of no mean."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_means import NORM, WEIGHTS, A, B, make_adapter
from safetensors.torch import load_file, save_file
from tiny_adapter import PREFIX, RANK, write_adapter
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_models.adaptation import average_adapters
from cca_models.adaptation.averaging import check_shares
from cca_models.adapters import read_adapter
from cca_models.errors import AdapterError


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


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"base": {"name": "tiny", "weights_sha256": "1" * 64}}, "different base weights"),
        ({"attention": "dense"}, "different attention: cca and dense"),
        ({"group_size": 8}, "different group size: 4 and 8"),
        ({"window": 64}, "different window: 32 and 64"),
        (
            {"rope": {"rule": "larger-base-1", "max_tokens": 99, "trained_tokens": 9}},
            "different rotary rule",
        ),
        (
            {"rope": {"rule": "fixed-base", "theta": 6e4, "max_tokens": 9, "trained_tokens": 9}},
            "different rotary base: 50000.0 and 60000.0",
        ),
    ],
    ids=["base", "attention", "group size", "window", "rule", "theta"],
)
def test_adapters_for_other_uses(
    tmp_path: Path, base: Path, changes: dict[str, Any], says: str
) -> None:
    parts = [
        (make_adapter(tmp_path / "one", base), 0.5),
        (make_adapter(tmp_path / "two", base, **changes), 0.5),
    ]
    refused(parts, tmp_path / "mean", f"adapters one and two were trained with {says}")


def refused(parts: list[tuple[Path, float]], target: Path, says: str) -> None:
    """Check that averaging is refused in two lines, and that nothing is written."""
    with pytest.raises(AdapterError) as caught:
        average_adapters(parts, target)
    assert says in str(caught.value) and caught.value.hint
    assert not target.exists()


Q = f"{PREFIX}model.layers.0.self_attn.q_proj"


def without_norm(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[NORM]


def wider_norm(tensors: dict[str, torch.Tensor]) -> None:
    tensors[NORM] = torch.ones(7)


def wider_input(tensors: dict[str, torch.Tensor]) -> None:
    tensors[Q + A] = torch.ones(RANK, 5)


def taller_output(tensors: dict[str, torch.Tensor]) -> None:
    tensors[Q + B] = torch.ones(5, RANK)


def lost_factor(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[Q + A]


def other_rank(tensors: dict[str, torch.Tensor]) -> None:
    tensors[Q + A], tensors[Q + B] = torch.ones(3, 32), torch.ones(32, 3)


def not_a_number(tensors: dict[str, torch.Tensor]) -> None:
    tensors[Q + B][0, 0] = torch.nan


def embeddings(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{PREFIX}model.embed_tokens.lora_embedding_A"] = torch.ones(RANK, 5)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_norm, "input_layernorm.weight is [32] in the one and missing in the other"),
        (wider_norm, "is [32] in the one and [7] in the other"),
        (wider_input, "is [r, 32] in the one and [r, 5] in the other"),
        (taller_output, "is [32, r] in the one and [5, r] in the other"),
        (lost_factor, "q_proj.lora_B.weight has no partner"),
        (other_rank, "has not rank 4, as its config says"),
        (not_a_number, "not finite"),
        (embeddings, "lora_embedding_A is not supported"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_tensors_that_do_not_fit(
    tmp_path: Path,
    pair: tuple[Path, Path],
    spoil: Callable[[dict[str, torch.Tensor]], None],
    says: str,
) -> None:
    tensors = load_file(pair[1] / WEIGHTS)
    spoil(tensors)
    save_file(tensors, pair[1] / WEIGHTS)
    refused([(pair[0], 0.5), (pair[1], 0.5)], tmp_path / "mean", says)


def test_parts_that_cannot_be_used(tmp_path: Path, base: Path, pair: tuple[Path, Path]) -> None:
    one, two = pair
    refused([(one, 1.0)], tmp_path / "mean", "two adapters or more")
    plain = write_adapter(tmp_path / "plain", base)
    refused([(one, 0.5), (plain, 0.5)], tmp_path / "mean", "adapter plain has no cca.json")
    zero = make_adapter(tmp_path / "zero", base, config={"lora_alpha": 0})
    refused([(zero, 0.5), (two, 0.5)], tmp_path / "mean", "with 0, and so would the mean")
    (two / WEIGHTS).write_bytes(b"nothing")
    refused([(one, 0.5), (two, 0.5)], tmp_path / "mean", "cannot be read")


def test_what_is_there_is_not_overwritten(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    parts = [(pair[0], 0.5), (pair[1], 0.5)]
    before = (pair[0] / WEIGHTS).read_bytes()
    file = tmp_path / "file"
    file.write_text("")
    for target in (pair[0], file):
        with pytest.raises(AdapterError, match="not overwritten"):
            average_adapters(parts, target)
    assert (pair[0] / WEIGHTS).read_bytes() == before and file.read_text() == ""
    (tmp_path / "empty").mkdir()
    average_adapters(parts, tmp_path / "empty")
    read_adapter(tmp_path / "empty")


def test_half_an_adapter_is_not_left(
    tmp_path: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("cca_models.adaptation.averaging.pack_adapter", full)
        average_adapters([(pair[0], 0.5), (pair[1], 0.5)], tmp_path / "mean")
    assert list((tmp_path / "mean").iterdir()) == []
    average_adapters([(pair[0], 0.5), (pair[1], 0.5)], tmp_path / "mean")


@pytest.mark.parametrize(
    ("shares", "says"),
    [
        ((0.5, 0.4), "sum to 0.9, not to 1"),
        ((0.5, 0.50001), "sum to 1.00001, not to 1"),
        ((1.5, -0.5), "-0.5 cannot"),
        ((float("nan"), 1.0), "nan cannot"),
        ((float("inf"), 0.0), "sum to inf"),
    ],
)
def test_shares_that_make_no_mean(
    tmp_path: Path, pair: tuple[Path, Path], shares: tuple[float, float], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        average_adapters(list(zip(pair, shares, strict=True)), tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_thirds_may_be_written_with_a_few_digits() -> None:
    check_shares([0.3333333] * 3)
    check_shares([0.1] * 10)
