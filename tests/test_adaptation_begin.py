"""Beginning from an adapter, windows of short rows, and going on: library and command line."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from adaptation_data import make_data
from numpy.random import Generator, default_rng
from safetensors.torch import load_file
from tiny_adapter import cca_settings, write_adapter
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_cli.app import run as run_cca
from cca_models.adaptation import corpus as corpora
from cca_models.adaptation.begin_from import expect_fit, load_beginning
from cca_models.adaptation.corpus import Corpus, prepare
from cca_models.adaptation.folded_lora import build_model, decoder_of, trained_weights
from cca_models.adaptation.mixtures import Portion
from cca_models.adaptation.objective import Objective
from cca_models.adaptation.recipe import Batches, Recipe
from cca_models.adaptation.trainer import Training, train
from cca_models.adaptation.windows import row_window
from cca_models.adaptation.wording import Wording
from cca_models.adapters import read_adapter
from cca_models.checkpoints import Checkpoint, resolve_checkpoint
from cca_models.config import CCAConfig
from cca_models.errors import AdapterError, ModelError
from cca_models.tokenizer import load_tokenizer

CCA = CCAConfig(group_size=4, window=32)
RECIPE = Recipe(
    tokens=128,
    portions=(
        Portion(length=32, share=1.0, kinds={"text": 1.0}),
        Portion(length=64, share=1.0, kinds={"text": 1.0}),
    ),
)
TRAINING = Training(
    steps=6, cca=CCA, theta=5e4, rank=4, alpha=4.0, heads=((1, 2),), checkpoint_every=2,
    warmup=0.0, learning_rate=1e-2, batches=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("begin")


@pytest.fixture(scope="module", autouse=True)
def surroundings(place: Path) -> Iterator[None]:
    with tiny_surroundings(place / "home"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "_BLANKS", 0)
        patch.setattr(corpora, "_FACTS", 0)
        yield


@pytest.fixture(scope="module")
def checkpoint(place: Path) -> Checkpoint:
    return resolve_checkpoint(str(make_tiny_checkpoint(place / "tiny", context=2048)))


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    return make_data(place / "data")


@pytest.fixture(scope="module")
def corpus(place: Path, data: Path, checkpoint: Checkpoint) -> Corpus:
    from cca_models.paths import cache_dir

    # Where the command looks for it, too.
    return prepare(data, checkpoint.path, cache_dir() / "corpora", workers=1)


@pytest.fixture(scope="module")
def adapter(place: Path, checkpoint: Checkpoint) -> Path:
    """An adapter whose product counts twice: alpha is 8, its rank 4."""
    settings = cca_settings(checkpoint.path)
    return write_adapter(place / "old", checkpoint.path, settings=settings)


def trained(checkpoint: Checkpoint, corpus: Corpus, out: Path, **changes: object) -> bool:
    options = {name: changes.pop(name, None) for name in ("begin_from", "stop_after")}
    return train(
        checkpoint, corpus, RECIPE, replace(TRAINING, **changes), out,  # type: ignore[arg-type]
        workers=0, report_every=1, **options,  # type: ignore[arg-type]
    )  # fmt: skip


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "adapter_model.safetensors")


# Windows


def stream(number: int) -> Generator:
    return default_rng((0, number, 2))


def test_short_rows_have_narrow_windows_but_for_a_share() -> None:
    def drawn(length: int, share: float = 0.35) -> Counter[int]:
        rngs = (stream(number) for number in range(1000))
        return Counter(row_window(length, CCAConfig(), raw_small=share, rng=rng) for rng in rngs)

    assert drawn(4096) == {1024: 1000}
    two, one = drawn(2048), drawn(1024)
    assert two.keys() == {256, 1024} and one.keys() == {128, 1024}
    assert two[1024] == pytest.approx(350, abs=50)
    assert one[1024] == pytest.approx(560, abs=50)
    assert drawn(2048, 1.0) == {1024: 1000} and drawn(2048, 0.0) == {256: 1000}
    assert row_window(64, CCA, raw_small=0.0, rng=stream(0)) == 8
    assert row_window(32, CCA, raw_small=0.0, rng=stream(0)) == CCA.group_size
    with pytest.raises(ValueError, match="raw_small"):
        replace(TRAINING, raw_small=-0.1)


def test_the_objective_reads_with_the_window_it_is_given(
    checkpoint: Checkpoint, corpus: Corpus
) -> None:
    wording = Wording.of(load_tokenizer(checkpoint.path))
    batch = Batches(corpus, wording, RECIPE, devices=1, count=9)[0]

    def loss(window: int, given: int | None) -> tuple[float, torch.Tensor]:
        cca = replace(CCA, window=window)
        model = built(checkpoint, cca=cca)
        objective = Objective(
            model, heads=(), group_size=CCA.group_size, weight=0.0, recompute_from=0
        )
        total = objective(batch, given).total
        total.backward()
        assert decoder_of(model).config.cca == asdict(replace(cca, window=given or window))
        grad = next(p.grad for n, p in model.named_parameters() if "lora_B" in n)
        assert grad is not None
        return float(total), grad

    (narrow, told, wide) = loss(8, None), loss(32, 8), loss(32, None)
    assert narrow[0] == told[0] and torch.equal(narrow[1], told[1])
    assert narrow[0] != wide[0]


def test_windows_are_drawn_the_same_in_a_resumed_training(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    forward = Objective.forward

    def spy(self: Objective, batch: object, window: int) -> object:
        seen.append((batch.ids.shape[1], window))  # type: ignore[attr-defined]
        return forward(self, batch, window)  # type: ignore[arg-type]

    monkeypatch.setattr(Objective, "forward", spy)
    assert trained(checkpoint, corpus, tmp_path / "whole")
    whole = list(seen)
    seen.clear()
    assert not trained(checkpoint, corpus, tmp_path / "parts", stop_after=0.0)
    assert trained(checkpoint, corpus, tmp_path / "parts")
    assert seen == whole and len(whole) == 12
    assert {window for _, window in whole} == {4, 8, 32}
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "parts")[name]), name


# Going on


@pytest.mark.parametrize("lacking", ["exchanged", "raw_small", "begun_from"])
def test_a_training_of_an_earlier_release_is_not_gone_on_with(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path, lacking: str
) -> None:
    trained(checkpoint, corpus, tmp_path, stop_after=0.0)
    file = tmp_path / "checkpoint" / "state.json"
    state = json.loads(file.read_text())
    for part in (state, state["recipe"], state["training"]):
        part.pop(lacking, None)
    file.write_text(json.dumps(state))
    with pytest.raises(ModelError, match=f"earlier release of cca, which had no {lacking}"):
        trained(checkpoint, corpus, tmp_path)


def test_a_training_begun_from_another_adapter_is_not_gone_on_with(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path, adapter: Path
) -> None:
    trained(checkpoint, corpus, tmp_path, stop_after=0.0, begin_from=read_adapter(adapter))
    with pytest.raises(ModelError, match="another begun_from"):
        trained(checkpoint, corpus, tmp_path)


# Beginning


def built(checkpoint: Checkpoint, *, cca: CCAConfig | None = CCA, alpha: float = 4.0):
    return build_model(
        checkpoint.path, cca=cca, theta=5e4, rank=4, alpha=alpha, dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip


def test_a_model_begins_with_the_adapters_weights(checkpoint: Checkpoint, adapter: Path) -> None:
    old = load_file(adapter / "adapter_model.safetensors")
    for alpha in (8.0, 4.0):
        model = built(checkpoint, alpha=alpha)
        load_beginning(model, read_adapter(adapter), replace(TRAINING, alpha=alpha))
        new = trained_weights(model)
        assert new.keys() == old.keys()
        for name, tensor in old.items():
            # What the products come to is the same, whatever they are scaled by.
            scale = 8.0 / alpha if ".lora_B." in name else 1.0
            assert torch.equal(new[name], tensor * scale), name


def test_the_adapter_says_what_it_was_begun_from(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path, adapter: Path
) -> None:
    from cca_models.fingerprints import file_sha256

    trained(checkpoint, corpus, tmp_path, steps=1, begin_from=read_adapter(adapter))
    about = json.loads((tmp_path / "adapter" / "cca.json").read_text())
    digest = file_sha256(adapter / "adapter_model.safetensors")
    assert about["training"]["begun_from"] == {"name": "old", "weights_sha256": digest}
    assert about["training"]["settings"]["raw_small"] == 0.35
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert f"Begun from the adapter old ({digest})" in card
    # What was trained can be begun from in turn.
    assert expect_fit(read_adapter(tmp_path / "adapter"), checkpoint, TRAINING) == []


def test_an_adapter_of_another_rank_or_base_is_refused(
    checkpoint: Checkpoint, adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match="rank 4, the training 8"):
        expect_fit(read_adapter(adapter), checkpoint, replace(TRAINING, rank=8))
    other = make_tiny_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(AdapterError, match="other weights of tiny than those of other"):
        expect_fit(read_adapter(adapter), resolve_checkpoint(str(other)), TRAINING)
    settings = cca_settings(checkpoint.path, attention="banded")
    odd = write_adapter(tmp_path / "odd", checkpoint.path, settings=settings)
    with pytest.raises(AdapterError, match="'banded' attention"):
        expect_fit(read_adapter(odd), checkpoint, TRAINING)


def test_an_adapter_that_trains_other_tensors_is_refused(
    checkpoint: Checkpoint, adapter: Path
) -> None:
    model = build_model(
        checkpoint.path, cca=CCA, theta=5e4, rank=4, alpha=4.0, dtype=torch.float32,
        device=torch.device("cpu"), norms=False,
    )  # fmt: skip
    with pytest.raises(AdapterError, match="does not fit"):
        load_beginning(model, read_adapter(adapter), TRAINING)


def test_what_is_trained_otherwise_is_said(
    checkpoint: Checkpoint, adapter: Path, tmp_path: Path
) -> None:
    read = read_adapter(adapter)
    assert expect_fit(read, checkpoint, TRAINING) == []
    (dense,) = expect_fit(read, checkpoint, replace(TRAINING, attention="dense"))
    assert "trained with cca attention; it is trained on with dense" in dense
    other = replace(TRAINING, cca=CCAConfig(group_size=8, window=64), theta=1e5)
    assert [
        text.split(" was trained with ")[1] for text in expect_fit(read, checkpoint, other)
    ] == [
        "rotary base 50000; it is trained on with 100000",
        "group size 4; it is trained on with 8",
        "window 32; it is trained on with 64",
    ]
    plain = write_adapter(tmp_path / "plain", checkpoint.path)
    (unknown,) = expect_fit(read_adapter(plain), checkpoint, TRAINING)
    assert "does not say" in unknown


# The command


def adapted(checkpoint: Checkpoint, data: Path, out: Path, *options: str | Path) -> int:
    return run_cca(
        [
            "adapt", "--data", str(data), "--out", str(out), "-m", str(checkpoint.path),
            "--steps", "1", "--tokens", "1024", "--longest", "1024", "--rank", "4",
            "--group-size", "4", "--window", "32", "--theta", "5e4", "--locate", "none",
            "--workers", "0", *map(str, options),
        ]
    )  # fmt: skip


def test_the_command_begins_where_the_adapter_ended(
    checkpoint: Checkpoint,
    corpus: Corpus,
    data: Path,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # At a rate of 0 the step changes nothing.
    dense = ("--from", adapter, "--attention", "dense", "--learning-rate", "0")
    assert adapted(checkpoint, data, tmp_path / "new", *dense) == 0
    assert "trained with cca attention; it is trained on with dense" in capsys.readouterr().err
    for name, tensor in load_file(adapter / "adapter_model.safetensors").items():
        scale = 2.0 if ".lora_B." in name else 1.0
        assert torch.equal(weights(tmp_path / "new")[name], tensor * scale), name
    # And the other way round.
    cca = ("--from", tmp_path / "new" / "adapter", "--json", "--raw-small", "1")
    assert adapted(checkpoint, data, tmp_path / "back", *cca, "--exchanged", "0") == 0
    out, err = capsys.readouterr()
    assert "trained with dense attention; it is trained on with cca" in err
    about = json.loads((Path(json.loads(out)["adapter"]) / "cca.json").read_text())
    assert about["training"]["begun_from"]["name"] == "adapter"
    assert about["training"]["recipe"]["exchanged"] == 0
    assert about["training"]["settings"]["raw_small"] == 1


def test_the_command_refuses_what_it_cannot_begin_from(
    checkpoint: Checkpoint,
    data: Path,
    adapter: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = adapted(checkpoint, data, tmp_path / "new", "--from", adapter, "--rank", "8")
    err = capsys.readouterr().err
    assert code != 0 and "rank 4, the training 8" in err and "--rank 4" in err
    assert adapted(checkpoint, data, tmp_path / "new", "--from", tmp_path / "none") == 2
    assert "no adapter is there" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_command_takes_a_recipe(
    checkpoint: Checkpoint, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Text asks nothing: no head is measured, though none was named.
    text = ("--recipe", "text", "--tokens", "2048", "--longest", "2048", "--locate", "auto")
    assert adapted(checkpoint, data, tmp_path / "text", *text, "--json") == 0
    assert not {"questions", "few"} & json.loads(capsys.readouterr().out)["losses"].keys()
    begun = ("--recipe", "reading", "--from", tmp_path / "text" / "adapter", "--json")
    assert adapted(checkpoint, data, tmp_path / "read", *begun) == 0
    capsys.readouterr()
    about = json.loads((tmp_path / "read" / "adapter" / "cca.json").read_text())["training"]
    assert about["settings"]["raw_small"] == 0.8 and about["recipe"]["exchanged"] == 0
    assert [p["length"] for p in about["recipe"]["portions"]] == [1024, 2048, 8192]
    assert adapted(checkpoint, data, tmp_path / "no", "--recipe", "text") == 2
    assert "rows of 2048 tokens at least, got 1024" in capsys.readouterr().err


def test_the_help_names_the_recipes_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cca(["adapt", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in ("--recipe", "--from ADAPTER", "--exchanged", "0.5 for mixed", "--raw-small"):
        assert text in out
