"""Questions that are never trained on: which they are, what they come to, and the best adapter."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from adaptation_data import make_data
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_cli import adapt_run
from cca_cli.console import Console
from cca_models.adaptation import corpus as corpora
from cca_models.adaptation.corpus import Corpus, prepare
from cca_models.adaptation.folded_lora import build_model
from cca_models.adaptation.mixtures import Portion
from cca_models.adaptation.objective import Objective
from cca_models.adaptation.recipe import Recipe
from cca_models.adaptation.trainer import Step, Training, train
from cca_models.adaptation.unseen import Unseen, best_step
from cca_models.adaptation.wording import Wording
from cca_models.checkpoints import Checkpoint, resolve_checkpoint
from cca_models.config import CCAConfig
from cca_models.tokenizer import Tokenizer, load_tokenizer

CCA = CCAConfig(group_size=4, window=32)
RECIPE = Recipe(
    longest=1024, tokens=1024,
    portions=(
        Portion(length=512, share=1.0, kinds={"few": 0.5, "text": 0.5}),
        Portion(length=1024, share=1.0, kinds={"questions": 1.0}),
    ),
)  # fmt: skip
TRAINING = Training(
    steps=6, cca=CCA, theta=1e5, rank=4, alpha=4.0, heads=((0, 1),), checkpoint_every=2,
    warmup=0.0, learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    place = tmp_path_factory.mktemp("unseen") / "tiny"
    make_tiny_checkpoint(place, layers=2, vocab_size=300, context=2048)
    return resolve_checkpoint(str(place))


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return load_tokenizer(checkpoint.path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Corpus:
    place = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "_BLANKS", 20)
        patch.setattr(corpora, "_FACTS", 20)
        patch.setattr(corpora, "_HELD_OUT", 4)
        return prepare(make_data(place / "data"), checkpoint.path, place / "corpora", workers=1)


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path):
    with tiny_surroundings(tmp_path / "home"):
        yield


def without_held_out(corpus: Corpus) -> Corpus:
    none = np.zeros_like(corpus.flat["held_out"])
    return replace(corpus, flat={**corpus.flat, "held_out": none})


def unseen(corpus: Corpus, tokenizer: Tokenizer, out: Path, recipe: Recipe = RECIPE) -> Unseen:
    return Unseen(
        corpus, Wording.of(tokenizer), recipe, accelerator=Accelerator(), cca=CCA, out=out, pad=2
    )


def objective(checkpoint: Checkpoint, seed: int = 0) -> Objective:
    model = build_model(
        checkpoint.path, cca=CCA, theta=1e5, rank=4, alpha=4.0, dtype=torch.float32,
        device=torch.device("cpu"), seed=seed,
    )  # fmt: skip
    return Objective(model, heads=(), group_size=4, weight=0.0)


def asked_of(corpus: Corpus, tokenizer: Tokenizer, *, held_out: bool) -> set[str]:
    """Spell the questions of one side, as they stand in rows but for capitals and the mark."""
    sides = corpus.flat["held_out"][corpus.flat["question_context"]]
    return {
        tokenizer.decode([int(i) for i in corpus.arrays["questions"][int(q)]]).lower().strip("?")
        for q in np.flatnonzero(sides == held_out)
    }


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("kind", ["questions", "few"])
def test_rows_ask_of_one_side_alone(
    corpus: Corpus, tokenizer: Tokenizer, kind: str, held_out: bool
) -> None:
    arranger = RECIPE.arranger(corpus, Wording.of(tokenizer), held_out=held_out)
    side = asked_of(corpus, tokenizer, held_out=held_out)
    other = asked_of(corpus, tokenizer, held_out=not held_out)
    rng, asked, strange = np.random.default_rng(0), 0, 0
    for _ in range(30):
        row = getattr(arranger, kind)(rng, 1024)
        text = tokenizer.decode([int(i) for i in np.concatenate(row.ids)]).lower()
        asked += sum(question in text for question in side)
        strange += sum(question in text for question in other - side)
    assert asked > 20 and strange == 0


def test_what_is_measured_is_the_answers_likelihood(
    corpus: Corpus, tokenizer: Tokenizer, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    measured = unseen(corpus, tokenizer, tmp_path / "a")
    losses, best = measured.measure(objective(checkpoint), 2)
    assert set(losses) == {"unseen questions", "unseen few"} and best
    expected: dict[str, list[float]] = {}
    asking = objective(checkpoint)
    for batch in measured._batches:
        expected.setdefault(f"unseen {batch.kind}", []).append(float(asking(batch, 32).words))
    for name, values in expected.items():
        assert losses[name] == pytest.approx(sum(values) / len(values), rel=1e-6)
    assert all(0 < value < 3 * math.log(300) for value in losses.values())


def test_asking_twice_gives_the_same_and_trains_nothing(
    corpus: Corpus, tokenizer: Tokenizer, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    model = objective(checkpoint)
    first, _ = unseen(corpus, tokenizer, tmp_path / "a").measure(model, 2)
    second, _ = unseen(corpus, tokenizer, tmp_path / "b").measure(model, 2)
    assert first == second
    assert all(p.grad is None for p in model.parameters())


def test_nothing_is_exchanged_or_made_by_rule_or_trained_on(
    corpus: Corpus, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    measured = unseen(corpus, tokenizer, tmp_path / "a", replace(RECIPE, exchanged=1.0))
    plain = unseen(corpus, tokenizer, tmp_path / "b", replace(RECIPE, exchanged=0.0))
    trained = asked_of(corpus, tokenizer, held_out=False)
    unknown = asked_of(corpus, tokenizer, held_out=True)
    for one, other in zip(measured._batches, plain._batches, strict=True):
        assert torch.equal(one.ids, other.ids)
        for row in one.ids:
            text = tokenizer.decode(row.tolist()).lower()
            assert "fill in the blank" not in text
            assert not any(question in text for question in trained - unknown)
            assert any(question in text for question in unknown)


@pytest.mark.parametrize("why", ["no context", "no questions", "sources left out"])
def test_where_nothing_is_held_out_nothing_is_measured(
    corpus: Corpus, tokenizer: Tokenizer, checkpoint: Checkpoint, tmp_path: Path, why: str
) -> None:
    recipe, used = RECIPE, corpus
    if why == "no context":
        used = without_held_out(corpus)
    elif why == "no questions":
        recipe = replace(RECIPE, portions=(Portion(length=512, share=1.0, kinds={"text": 1.0}),))
    else:
        recipe = replace(RECIPE, without=("squadshifts_new_wiki.train",))
    out = tmp_path / "a"
    assert unseen(used, tokenizer, out, recipe).measure(objective(checkpoint), 2) == ({}, False)
    assert not out.exists() and best_step(out) is None


def test_questions_that_name_no_text_are_asked_among_few_passages_alone(
    corpus: Corpus, tokenizer: Tokenizer, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    named = corpus.flat["named"] & ~corpus.flat["held_out"][corpus.flat["question_context"]]
    used = replace(corpus, flat={**corpus.flat, "named": named})
    losses, _ = unseen(used, tokenizer, tmp_path / "a").measure(objective(checkpoint), 2)
    assert [*losses] == ["unseen few"]


def test_the_lowest_so_far_is_the_best(
    corpus: Corpus, tokenizer: Tokenizer, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    out = tmp_path / "a"
    measured = unseen(corpus, tokenizer, out)
    models = [objective(checkpoint) for _ in range(3)]
    with torch.no_grad():
        for model, scale in zip(models, (1.0, 4.0, 0.0), strict=True):
            # Louder logits are wrong more surely, silent ones know nothing.
            model.model.base_model.model.model.norm.weight.mul_(scale)
    found = [measured.measure(m, 2 * n + 2) for n, m in enumerate(models)]
    means = [sum(losses.values()) for losses, _ in found]
    lowest = [all(mean < past for past in means[:n]) for n, mean in enumerate(means)]
    assert [best for _, best in found] == lowest and lowest[1] is False
    assert best_step(out) == 2 * means.index(min(means)) + 2


def fit(checkpoint: Checkpoint, corpus: Corpus, out: Path, **options: object) -> list[Step]:
    steps: list[Step] = []
    changes = {k: options.pop(k) for k in [*options] if k != "stop_after"}
    train(
        checkpoint, corpus, RECIPE, replace(TRAINING, **changes), out,  # type: ignore[arg-type]
        workers=0, report_every=3, on_step=steps.append, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    return steps


def test_a_training_tells_and_keeps_the_best(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    steps = fit(checkpoint, corpus, tmp_path)
    told = {s.number: s.losses for s in steps if "unseen few" in s.losses}
    assert [s.number for s in steps] == [2, 3, 4, 6] and [*told] == [2, 4, 6]
    past = json.loads((tmp_path / "unseen.json").read_text())
    assert [one["step"] for one in past] == [2, 4, 6]
    assert all(told[one["step"]].items() >= one["losses"].items() for one in past)
    best = best_step(tmp_path)
    about = json.loads((tmp_path / "best" / "cca.json").read_text())
    assert about["training"]["steps"] == best
    kept, last = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("best", "adapter")
    )
    same = all(torch.equal(kept[name], last[name]) for name in last)
    assert same is (best == 6)


def test_asking_changes_nothing_of_what_is_learnt(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    for name, every in (("often", 1), ("once", 6)):
        fit(checkpoint, corpus, tmp_path / name, checkpoint_every=every)
    often, once = (
        (tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes()
        for name in ("often", "once")
    )
    assert often == once


def test_a_resumed_training_remembers_the_best(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    fit(checkpoint, corpus, tmp_path / "parts", stop_after=0.0, checkpoint_every=1)
    fit(checkpoint, corpus, tmp_path / "parts", checkpoint_every=1)
    fit(checkpoint, corpus, tmp_path / "whole", checkpoint_every=1)
    parts, whole = (
        json.loads((tmp_path / name / "unseen.json").read_text()) for name in ("parts", "whole")
    )
    assert parts == whole and len(whole) == 6
    kept = [(tmp_path / name / "best" / "cca.json").read_text() for name in ("parts", "whole")]
    assert kept[0] == kept[1]


# What the command says of it


STEP = Step(6, 600, {"text": 1.0}, 2.0, 300.0)


def report(capsys: pytest.CaptureFixture[str], out: Path, *, json_lines: bool) -> tuple[str, str]:
    (out / "adapter").mkdir(parents=True, exist_ok=True)
    (out / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    console = Console()
    console.mode = "json" if json_lines else "human"
    adapt_run._report(console, out, STEP, finished=True)
    found = capsys.readouterr()
    return found.out, found.err


@pytest.mark.parametrize(("losses", "best"), [((3.0, 2.0, 2.5), 4), ((3.0, 2.0, 1.5), 6)])
def test_the_command_says_where_the_best_lies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], losses: tuple[float, ...], best: int
) -> None:
    past = [{"step": 2 * n + 2, "losses": {"unseen few": x}} for n, x in enumerate(losses)]
    (tmp_path / "unseen.json").write_text(json.dumps(past))
    out, err = report(capsys, tmp_path, json_lines=False)
    assert ("answered best after step 4" in out + err) is (best == 4)
    out, _ = report(capsys, tmp_path, json_lines=True)
    assert json.loads(out)["best"] == {"adapter": str(tmp_path / "best"), "steps": best}


def test_the_command_says_nothing_where_nothing_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = report(capsys, tmp_path, json_lines=False)
    assert "unseen" not in out + err
    out, _ = report(capsys, tmp_path, json_lines=True)
    assert "best" not in json.loads(out)
