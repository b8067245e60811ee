"""Averaged adapters: against the float64 mean of their products, and what is said of them."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_means import NORM, WEIGHTS, A, B, furthest, make_adapter, mean_of, products
from safetensors.torch import load_file, save_file
from tiny_adapter import PREFIX, RANK, cca_settings
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_models.adaptation import average_adapters
from cca_models.adaptation.low_rank import at_rank
from cca_models.adaptation.model_card import model_card, sources_used
from cca_models.adapters import read_adapter
from cca_models.checkpoints import resolve_checkpoint
from cca_models.engine import load_model


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


def about(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cca.json").read_text())


# Numbers.


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.8, 0.2), (1.0, 0.0)], ids=str)
def test_where_the_rank_suffices_it_is_the_mean(
    tmp_path: Path, base: Path, shares: tuple[float, float]
) -> None:
    one, two = (make_adapter(tmp_path / name, base, seed=seed, rank=8, own=4)
                for seed, name in enumerate(("one", "two")))  # fmt: skip
    parts = list(zip((one, two), shares, strict=True))
    kept = average_adapters(parts, tmp_path / "mean")
    assert kept.lowest == pytest.approx(1) and kept.mean == pytest.approx(1)
    assert furthest(products(tmp_path / "mean"), mean_of(*parts)) < 1e-6


def test_where_it_does_not_it_is_the_nearest_of_its_rank(
    tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    parts = [(pair[0], 0.3), (pair[1], 0.7)]
    kept = average_adapters(parts, tmp_path / "mean")
    found, exact = products(tmp_path / "mean"), mean_of(*parts)
    shares = []
    for module, product in exact.items():
        u, s, vt = torch.linalg.svd(product, full_matrices=False)
        nearest = u[:, :RANK] * s[:RANK] @ vt[:RANK]
        torch.testing.assert_close(found[module], nearest, rtol=0, atol=1e-5)
        shares.append(float(s[:RANK].square().sum() / s.square().sum()))
    assert kept.mean == pytest.approx(np.mean(shares)) and kept.lowest == pytest.approx(min(shares))
    assert 0.5 < kept.lowest < kept.mean < 0.99


def test_both_factors_are_equally_long(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    average_adapters([(pair[0], 0.5), (pair[1], 0.5)], tmp_path / "mean")
    tensors = load_file(tmp_path / "mean" / WEIGHTS)
    for name in [name for name in tensors if name.endswith(A)]:
        b = tensors[name.removesuffix(A) + B]
        torch.testing.assert_close(tensors[name].norm(dim=1), b.norm(dim=0))


def test_an_adapter_averaged_with_itself_is_itself(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    kept = average_adapters([(pair[0], 0.25), (pair[0], 0.75)], tmp_path / "mean")
    assert kept.lowest == pytest.approx(1)
    assert furthest(products(tmp_path / "mean"), products(pair[0])) < 1e-6


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"lora_alpha": 3}, {"lora_alpha": 20}),
        ({"use_rslora": True}, {"lora_alpha": 3}),
        ({"lora_alpha": -3}, {}),
        ({"alpha_pattern": {"gate_proj": 5}}, {"alpha_pattern": {r"0\.mlp\.gate_proj": 2}}),
    ],
    ids=["alpha", "rslora", "negative", "patterns"],
)
def test_products_count_what_their_own_configs_say(
    tmp_path: Path, base: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    one = make_adapter(tmp_path / "one", base, rank=8, own=4, config=first)
    two = make_adapter(tmp_path / "two", base, seed=1, rank=8, own=4, config=second)
    average_adapters([(one, 0.5), (two, 0.5)], tmp_path / "mean")
    assert read_adapter(tmp_path / "mean").lora == read_adapter(one).lora
    assert furthest(products(tmp_path / "mean"), mean_of((one, 0.5), (two, 0.5))) < 1e-6


def test_ranks_may_differ_and_the_first_ones_stay(tmp_path: Path, base: Path) -> None:
    one = make_adapter(tmp_path / "one", base, rank=8, own=4)
    two = make_adapter(tmp_path / "two", base, seed=1, rank=3)
    tensors = load_file(one / WEIGHTS)
    module = f"{PREFIX}model.layers.0.self_attn.q_proj"
    for factor in (A, B):
        tensors[module + factor] = torch.cat([tensors[module + factor]] * 2, dim=int(factor == B))
    save_file(tensors, one / WEIGHTS)
    config = json.loads((one / "adapter_config.json").read_text())
    config["rank_pattern"] = {r"layers\.0\.self_attn\.q_proj": 16}
    (one / "adapter_config.json").write_text(json.dumps(config))
    average_adapters([(one, 0.5), (two, 0.5)], tmp_path / "mean")
    assert furthest(products(tmp_path / "mean"), mean_of((one, 0.5), (two, 0.5))) < 1e-6
    ranks = {n: len(t) for n, t in load_file(tmp_path / "mean" / WEIGHTS).items() if A in n}
    assert ranks.pop(module + A) == 16 and set(ranks.values()) == {8}


def test_a_rank_above_that_of_the_matrix_is_filled_up() -> None:
    torch.manual_seed(0)
    b, a = torch.randn(3, 6), torch.randn(6, 9)
    left, right, kept = at_rank(b, a, 5)
    assert (left.shape, right.shape, kept) == ((3, 5), (5, 9), 1.0)
    torch.testing.assert_close(left @ right, b @ a)
    zeros, _, kept = at_rank(torch.zeros(3, 2), torch.zeros(2, 4), 2)
    assert kept == 1.0 and not zeros.any()


@pytest.mark.parametrize("saved", [torch.float8_e4m3fn, torch.bfloat16], ids=str)
def test_small_types_are_read_as_what_they_hold(
    tmp_path: Path, base: Path, saved: torch.dtype
) -> None:
    one = make_adapter(tmp_path / "one", base, rank=8, own=4)
    two = make_adapter(tmp_path / "two", base, seed=1, rank=8, own=4)
    tensors = {name: tensor.to(saved) for name, tensor in load_file(two / WEIGHTS).items()}
    save_file(tensors, two / WEIGHTS)
    average_adapters([(one, 0.5), (two, 0.5)], tmp_path / "mean")
    assert furthest(products(tmp_path / "mean"), mean_of((one, 0.5), (two, 0.5))) < 1e-6
    written = load_file(tmp_path / "mean" / WEIGHTS)
    assert {tensor.dtype for tensor in written.values()} == {torch.float32}
    expected = (load_file(one / WEIGHTS)[NORM].double() + tensors[NORM].double()) / 2
    torch.testing.assert_close(written[NORM].double(), expected, rtol=1e-7, atol=0)


def test_norms_are_averaged_with_their_shares(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    average_adapters([(pair[0], 0.1), (pair[1], 0.9)], tmp_path / "mean")
    one, two, mean = (load_file(f / WEIGHTS)[NORM] for f in (*pair, tmp_path / "mean"))
    torch.testing.assert_close(mean, 0.1 * one + 0.9 * two)


def test_norms_alone_lose_nothing(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    for folder in pair:
        save_file({NORM: load_file(folder / WEIGHTS)[NORM]}, folder / WEIGHTS)
    kept = average_adapters([(pair[0], 0.5), (pair[1], 0.5)], tmp_path / "mean")
    assert (kept.mean, kept.lowest) == (1.0, 1.0)


@pytest.mark.parametrize("dtype", ["fp32", "fp8"])
def test_it_is_merged_like_the_mean(tmp_path: Path, base: Path, dtype: str) -> None:
    one = make_adapter(tmp_path / "one", base, rank=8, own=4)
    two = make_adapter(tmp_path / "two", base, seed=1, rank=8, own=4)
    average_adapters([(one, 0.5), (two, 0.5)], tmp_path / "mean", dtype=dtype)
    checkpoint = resolve_checkpoint(str(base), adapter=str(tmp_path / "mean"))
    weights = load_model(checkpoint, device="cpu", dtype="fp32").decoder.weights
    plain = load_file(base / "model.safetensors")
    for module, product in mean_of((one, 0.5), (two, 0.5)).items():
        added = weights[f"{module}.weight"].double() - plain[f"{module}.weight"].double()
        allowed = 0.06 if dtype == "fp8" else 1e-5
        assert float((added - product).norm()) <= allowed * float(product.norm()), module


# What is said of it.

TRAINED = {
    "steps": 2000, "tokens": 136_000_000, "finished": True, "recipe": {"without": ["blanks"]},
    "sources": ["books-00", "quac.train", "blanks", "facts"],
    "begun_from": {"name": "first", "weights_sha256": "0" * 64},
}  # fmt: skip
SHORT = {
    "steps": 30, "tokens": 9_000, "finished": False, "recipe": {"without": ["facts"]},
    "sources": ["quac.train", "squadshifts_reddit_amazon.train", "facts", "blanks"],
}  # fmt: skip


def test_settings_say_what_it_was_made_of(tmp_path: Path, base: Path) -> None:
    rope = {"rule": "fixed-base", "theta": 5e4, "max_tokens": 9000, "trained_tokens": 700}
    one = make_adapter(tmp_path / "one", base, training=TRAINED)
    two = make_adapter(
        tmp_path / "two", base, seed=1, training=SHORT, rope=rope,
        not_found={"coverage": 0.9}, locate={"heads": [[0, 0]]},
    )  # fmt: skip
    average_adapters([(one, 0.75), (two, 0.25)], tmp_path / "mean")
    found, first = about(tmp_path / "mean"), about(one)
    averaged = found["training"]["averaged"]
    assert [(part["name"], part["share"]) for part in averaged] == [("one", 0.75), ("two", 0.25)]
    assert [part["training"] for part in averaged] == [TRAINED, SHORT]
    digests = [hashlib.sha256((f / WEIGHTS).read_bytes()).hexdigest() for f in (one, two)]
    assert [part["weights_sha256"] for part in averaged] == digests
    # Left out by one and drawn from by the other.
    assert found["training"]["sources"] == [
        "books-00", "quac.train", "facts", "squadshifts_reddit_amazon.train", "blanks",
    ]  # fmt: skip
    assert found["rope"] == {**rope, "trained_tokens": 1024, "max_tokens": 8192}
    for name in ("format", "base", "group_size", "window", "locate", "not_found"):
        assert found[name] == first[name], name
    config = "adapter_config.json"
    assert (tmp_path / "mean" / config).read_bytes() == (one / config).read_bytes()
    assert {file.name for file in (tmp_path / "mean").iterdir()} == {
        WEIGHTS, config, "cca.json", "README.md",
    }  # fmt: skip


def test_the_card_names_parts_and_data(tmp_path: Path, base: Path) -> None:
    one = make_adapter(tmp_path / "one", base, training=TRAINED)
    two = make_adapter(tmp_path / "two", base, training=SHORT)
    average_adapters([(one, 0.75), (two, 0.25)], tmp_path / "mean")
    card = (tmp_path / "mean" / "README.md").read_text()
    assert "- 75 % one: 2,000 steps, 136,000,000 tokens read, begun from first\n" in card
    assert "- 25 % two: 30 steps, 9,000 tokens read, not all of the planned steps\n" in card
    assert "`cca models average` made" in card and "rotary base 50,000" in card
    for name in ("books-00", "quac.train", "squadshifts_reddit_amazon.train"):
        assert card.count(f"| {name} |") == 1
    assert "books-01" not in card and "belong to their authors" in card
    assert "without further text: blanks, facts." in card


def test_a_mean_may_be_averaged_again(tmp_path: Path, base: Path) -> None:
    one = make_adapter(tmp_path / "one", base, training=TRAINED)
    two = make_adapter(tmp_path / "two", base, training=SHORT)
    average_adapters([(one, 0.5), (two, 0.5)], tmp_path / "mean")
    average_adapters([(tmp_path / "mean", 0.5), (two, 0.5)], tmp_path / "again")
    card = (tmp_path / "again" / "README.md").read_text()
    assert card.count("- 25 % ") == 2 and card.count("- 50 % two: ") == 1
    training = about(tmp_path / "again")["training"]
    assert training["sources"] == about(tmp_path / "mean")["training"]["sources"]


def test_the_card_of_one_training(base: Path) -> None:
    said = {**cca_settings(base), "attention": "cca", "training": TRAINED}
    card = model_card(said)
    assert "`cca adapt` made\nit.\n\n- Steps: 2,000; tokens read: 136,000,000\n" in card
    assert f"- Begun from the adapter first ({'0' * 64})\n\n## Data\n" in card
    assert card.endswith("- Made by rule, without further text: facts.\n")
    assert "(not all of the planned steps)" in model_card({**said, "training": SHORT})
    assert sources_used({}) == []


def test_a_positions_rule_without_a_base_can_be_averaged(tmp_path: Path, base: Path) -> None:
    rope = {"rule": "larger-base-1", "max_tokens": 100, "trained_tokens": 100}
    one, two = (make_adapter(tmp_path / name, base, rope=rope) for name in ("one", "two"))
    average_adapters([(one, 0.5), (two, 0.5)], tmp_path / "mean")
    assert about(tmp_path / "mean")["rope"] == rope
    assert "rotary base by length" in (tmp_path / "mean" / "README.md").read_text()


def test_averaging_needs_no_training_packages() -> None:
    from test_layering import modules_after

    loaded = modules_after("from cca_models.adaptation import average_adapters")
    assert not loaded & {"peft", "accelerate", "transformers"}
