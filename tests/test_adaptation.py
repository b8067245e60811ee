"""Adaptation: data as tokens, rows, folded LoRA, pointing, steps and resuming, adapters."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adaptation_data import make_data
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_models.adaptation import corpus as corpora
from cca_models.adaptation.adapter_packing import pack_adapter
from cca_models.adaptation.corpus import Corpus, prepare
from cca_models.adaptation.folded_lora import FoldedLinear, build_model, trained_weights
from cca_models.adaptation.head_choice import measure_heads
from cca_models.adaptation.mixtures import Portion
from cca_models.adaptation.objective import Objective
from cca_models.adaptation.overlap import find_overlap
from cca_models.adaptation.pointing import Pointing
from cca_models.adaptation.recipe import Batch, Batches, Recipe
from cca_models.adaptation.trainer import Training, train
from cca_models.adaptation.wording import Wording
from cca_models.checkpoints import Checkpoint, resolve_checkpoint
from cca_models.config import CCAConfig
from cca_models.errors import ModelError
from cca_models.tokenizer import Tokenizer, load_tokenizer

CCA = CCAConfig(group_size=4, window=32)
RECIPE = Recipe(
    longest=1024,
    tokens=1024,
    portions=(
        Portion(length=512, share=1.0, kinds={"few": 0.4, "summary": 0.3, "text": 0.3}),
        Portion(length=1024, share=1.0, kinds={"questions": 1.0}),
    ),
)
TRAINING = Training(
    steps=4, cca=CCA, theta=1e5, rank=4, alpha=4.0, heads=((0, 1), (1, 2)), checkpoint_every=2,
    warmup=0.0, learning_rate=1e-2,
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adaptation")


@pytest.fixture(scope="module")
def checkpoint(place: Path) -> Checkpoint:
    make_tiny_checkpoint(place / "tiny", layers=2, vocab_size=300, context=2048)
    return resolve_checkpoint(str(place / "tiny"))


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    return load_tokenizer(checkpoint.path)


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    return make_data(place / "data")


@pytest.fixture(scope="module")
def corpus(place: Path, data: Path, checkpoint: Checkpoint) -> Corpus:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "_BLANKS", 20)
        patch.setattr(corpora, "_FACTS", 20)
        return prepare(data, checkpoint.path, place / "corpora", workers=1)


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path):
    with tiny_surroundings(tmp_path / "home"):
        yield


def written(tokenizer: Tokenizer, ids: object) -> str:
    return tokenizer.decode([int(i) for i in np.asarray(ids)])


def batches(corpus: Corpus, tokenizer: Tokenizer, recipe: Recipe = RECIPE) -> Batches:
    return Batches(corpus, Wording.of(tokenizer), recipe, devices=1, count=40, pad=2)


# Data as tokens


def test_gold_pieces_hold_the_answer(corpus: Corpus, tokenizer: Tokenizer) -> None:
    a = corpus.arrays
    located = 0
    for question in range(len(a["questions"])):
        answers = [written(tokenizer, a["answers"][i]) for i in a["question_answers"][question]]
        for piece in a["gold"][question]:
            text = written(tokenizer, a["pieces"][int(piece)])
            located += any(answer.strip() in text for answer in answers)
    assert located >= 40


def test_tokens_are_used_again_and_made_anew_when_the_data_changes(
    tmp_path: Path, data: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "_BLANKS", 2)
    monkeypatch.setattr(corpora, "_FACTS", 2)
    other = make_data(tmp_path / "data")
    told: list[str] = []
    prepare(other, checkpoint.path, tmp_path / "c", workers=1, on_source=told.append)
    assert "books-00" in told
    told.clear()
    prepare(other, checkpoint.path, tmp_path / "c", workers=1, on_source=told.append)
    assert not told
    make_data(tmp_path / "data", seed=1)
    prepare(other, checkpoint.path, tmp_path / "c", workers=1, on_source=told.append)
    assert "books-00" in told


def test_a_folder_without_data_is_named(tmp_path: Path, checkpoint: Checkpoint) -> None:
    with pytest.raises(ModelError, match="no training data"):
        prepare(tmp_path, checkpoint.path, tmp_path / "c")


def test_summaries_may_be_missing(
    tmp_path: Path, checkpoint: Checkpoint, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "_BLANKS", 20)
    monkeypatch.setattr(corpora, "_FACTS", 20)
    folder = make_data(tmp_path / "data")
    (folder / "summarise" / "scitldr.train.jsonl").unlink()
    bare = prepare(folder, checkpoint.path, tmp_path / "c", workers=1)
    source = batches(bare, tokenizer)
    assert {source[i].kind for i in range(30)} == {"text", "questions", "few"}


def test_among_many_passages_only_questions_that_name_theirs_are_asked(
    tmp_path: Path, checkpoint: Checkpoint, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "_BLANKS", 20)
    monkeypatch.setattr(corpora, "_FACTS", 20)
    folder = make_data(tmp_path / "data")
    file = folder / "qa" / "squadshifts_new_wiki.train.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    vague = "What did the author of these lines like?"
    records += [{**record, "id": f"v{i}", "question": vague} for i, record in enumerate(records)]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    corpus = prepare(folder, checkpoint.path, tmp_path / "c", workers=1)
    asked = corpus.arrays["questions"]
    named = {
        written(tokenizer, torch.tensor(asked[i].astype(int)))
        for i in range(len(asked))
        if corpus.flat["named"][i]
    }
    assert not any(vague in text for text in named) and len(named) > 20
    source = batches(corpus, tokenizer)
    for batch in (source[i] for i in range(40)):
        vague_asked = vague.lower()[:-1] in written(tokenizer, batch.ids.flatten()).lower()
        assert not vague_asked or batch.kind == "few"


def test_a_damaged_line_is_named(tmp_path: Path, checkpoint: Checkpoint) -> None:
    folder = make_data(tmp_path / "data")
    with (folder / "pretrain" / "books-00.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(ModelError, match=r"books-00\.jsonl, line 5"):
        prepare(folder, checkpoint.path, tmp_path / "c", workers=1)


# Rows


def test_the_same_number_draws_the_same_batch(corpus: Corpus, tokenizer: Tokenizer) -> None:
    one, two = (batches(corpus, tokenizer)[7] for _ in range(2))
    assert torch.equal(one.ids, two.ids) and torch.equal(one.taught, two.taught)
    other = batches(corpus, tokenizer, replace(RECIPE, seed=1))[7]
    assert not torch.equal(one.ids, other.ids)


def test_devices_get_rows_of_one_length(corpus: Corpus, tokenizer: Tokenizer) -> None:
    both = Batches(corpus, Wording.of(tokenizer), RECIPE, devices=2, count=40)
    for step in range(10):
        first, second = both[2 * step], both[2 * step + 1]
        assert first.ids.shape == second.ids.shape
    assert not torch.equal(both[0].ids, both[1].ids)


def test_looks_point_at_the_answer(corpus: Corpus, tokenizer: Tokenizer) -> None:
    seen = 0
    source = batches(corpus, tokenizer)
    for batch in (source[i] for i in range(40)):
        for number, (row, start, end) in enumerate(batch.looks.tolist()):
            question = written(tokenizer, batch.ids[row, start:end])
            assert question.strip().startswith("Question:") and question.endswith("Answer:")
            answer = written(tokenizer, batch.ids[row, end : end + 12]).split("\n")[0].strip()
            gold = " ".join(
                written(tokenizer, batch.ids[row, a:b])
                for g, a, b in batch.gold.tolist()
                if g == number
            )
            if "barrels does" in question:
                assert answer.split()[0] in gold
                seen += 1
    assert seen > 20


def test_absent_answers_are_absent(corpus: Corpus, tokenizer: Tokenizer) -> None:
    source = batches(corpus, tokenizer)
    refused = 0
    for batch in (source[i] for i in range(40)):
        if batch.kind != "questions":
            continue
        text = written(tokenizer, batch.ids[0])
        for turn in text.split("Question:")[1:]:
            asked, _, answer = turn.partition("Answer:")
            if answer.strip().startswith("Not found") and "barrels does the" in asked:
                trade = asked.split("barrels does the ")[1].split(" of ")[0]
                town = asked.split(" of ")[1].split(" own")[0]
                assert f"In the town of {town} the {trade} owns" not in text
                refused += 1
    assert refused


def test_taught_tokens_are_answers_with_their_end(corpus: Corpus, tokenizer: Tokenizer) -> None:
    source = batches(corpus, tokenizer)
    batch = next(b for b in (source[i] for i in range(40)) if b.kind == "few")
    taught = batch.ids.flatten()[batch.taught]
    assert int((taught == 2).sum()) >= batch.ids.shape[0]
    assert len(taught) < batch.ids.numel() // 4


def test_answers_count_alike_and_their_first_words_most(
    corpus: Corpus, tokenizer: Tokenizer
) -> None:
    source = batches(corpus, tokenizer)
    for batch in (source[i] for i in range(20)):
        assert batch.weights.shape == batch.taught.shape
        if not len(batch.taught):
            continue
        assert batch.weights.mean() == pytest.approx(1.0, abs=1e-4)
        plain = batch.kind in ("text", "summary")
        assert (batch.weights.unique().numel() == 1) == plain


def test_held_out_contexts_are_never_drawn(
    corpus: Corpus, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    towns = corpus.arrays["titles"]
    held = np.asarray(
        [written(tokenizer, t) == "Bosk" for t in (towns[i] for i in range(len(towns)))]
    )
    assert held.any()
    kept = replace(corpus, flat={**corpus.flat, "held_out": held})
    source = batches(kept, tokenizer)
    for batch in (source[i] for i in range(40)):
        if batch.kind in ("few", "questions"):
            assert "In the town of Bosk" not in written(tokenizer, batch.ids.flatten())


# Folded LoRA


def test_folded_is_the_same_as_applied(checkpoint: Checkpoint) -> None:
    model = _model(checkpoint)
    layer = model.base_model.model.model.layers[0].mlp.down_proj.double()
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    x = torch.randn(3, 5, layer.in_features, dtype=torch.float64, requires_grad=True)
    from peft.tuners.lora import Linear

    folded, applied = layer(x), Linear.forward(layer, x)
    torch.testing.assert_close(folded, applied)
    grads = [
        torch.autograd.grad(y.square().sum(), (x, layer.lora_A["default"].weight))
        for y in (folded, applied)
    ]
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_folding_together_is_folding_one_by_one(checkpoint: Checkpoint, again: bool) -> None:
    model = _model(checkpoint)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    decoder = model.base_model.model
    if again:
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
        decoder.train()
    learnt = [p for p in model.parameters() if p.requires_grad]
    ids = torch.arange(40)[None]

    def run() -> tuple[torch.Tensor, ...]:
        state = decoder.model(ids, use_cache=False)[0]
        return state, *torch.autograd.grad(state.square().sum(), learnt)

    together = run()
    (hook,) = decoder.model._forward_pre_hooks
    del decoder.model._forward_pre_hooks[hook]
    for module in decoder.modules():
        if isinstance(module, FoldedLinear):
            assert module.folded is not None
            module.folded = None
    torch.testing.assert_close(together, run())


def test_a_switched_off_adapter_is_not_folded_in(checkpoint: Checkpoint) -> None:
    model = _model(checkpoint)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        plain = model(ids).logits
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
        assert not torch.allclose(model(ids).logits, plain)
        with model.disable_adapter():
            torch.testing.assert_close(model(ids).logits, plain)


def test_norms_are_trained_in_float32_under_bfloat16(checkpoint: Checkpoint) -> None:
    model = _model(checkpoint, dtype=torch.bfloat16)
    learnt = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert all(p.dtype == torch.float32 for p in learnt.values())
    assert any("layernorm" in name for name in learnt)
    state = model.base_model.model.model(torch.arange(8)[None])[0]
    assert state.dtype == torch.bfloat16


def _model(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32):
    return build_model(
        checkpoint.path, cca=CCA, theta=1e5, rank=4, alpha=8.0, dtype=dtype,
        device=torch.device("cpu"),
    )  # fmt: skip


# Pointing


def test_pointing_is_the_attention_on_the_gold_groups() -> None:
    torch.manual_seed(0)
    G, L, D = 4, 64, 8
    q, core_k = torch.randn(1, 2, L, D), torch.randn(1, 1, L // G, D)
    batch = Batch(
        "questions", torch.zeros(1, L, dtype=torch.long), torch.tensor([1]), torch.ones(1),
        torch.tensor([[0, 50, 56], [0, 60, 63]]), torch.tensor([[0, 9, 15], [1, 40, 44]]),
    )  # fmt: skip
    watch = Pointing([(3, 1)], batch, group_size=G)
    watch.see(2, q, core_k, scale=0.3)
    watch.see(3, q, core_k, scale=0.3)
    loss, _ = watch.loss()
    masses = []
    for start, end, groups in ((50, 56, [2, 3]), (60, 63, [10])):
        # Only groups that end before the first question are part of the document.
        score = q[0, 1, start:end] @ core_k[0, 0, : 50 // G].T * 0.3
        masses.append(torch.softmax(score, -1)[:, groups].sum(-1).mean())
    expected = -torch.stack(masses).add(1e-6).log().mean()
    torch.testing.assert_close(loss, expected)


def test_pointing_reaches_the_weights(
    checkpoint: Checkpoint, corpus: Corpus, tokenizer: Tokenizer
) -> None:
    source = batches(corpus, tokenizer)
    batch = next(b for b in (source[i] for i in range(40)) if len(b.looks))
    model = _model(checkpoint)
    before: dict[str, torch.Tensor] = {}
    for recompute in (False, True):
        objective = Objective(
            model,
            heads=((1, 2),),
            group_size=4,
            weight=1.0,
            recompute_from=0 if recompute else None,
        )
        losses = objective(batch)
        (losses.total - 0).backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
        for name, grad in before.items():
            torch.testing.assert_close(grads[name], grad, msg=name)
        before = grads
        model.zero_grad()
        assert float(losses.pointing) > 0


def test_heads_that_locate_are_measured(
    checkpoint: Checkpoint, corpus: Corpus, tokenizer: Tokenizer
) -> None:
    source = batches(corpus, tokenizer)
    asked = [b for b in (source[i] for i in range(12)) if len(b.looks)][:3]
    model = _model(checkpoint)
    found = measure_heads(model, asked, group_size=4)
    assert len(found) == 8 and list(found.values()) == sorted(found.values(), reverse=True)
    for head in ((0, 3), (1, 1)):
        total, questions = 0.0, 0
        for batch in asked:
            objective = Objective(model, heads=(head,), group_size=4, weight=1.0)
            watch = Pointing([head], batch, group_size=4)
            objective.model.base_model.model.model(batch.ids, use_cache=False, observer=watch)
            total += float(watch.masses()[head].sum())
            questions += int(watch.located())
        assert found[head] == pytest.approx(total / questions, rel=1e-5)


def test_measured_heads_are_kept_for_the_whole_training(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    assert not run(checkpoint, corpus, tmp_path, heads=None, stop_after=0.0)
    chosen = json.loads((tmp_path / "heads.json").read_text())
    assert run(checkpoint, corpus, tmp_path, heads=None)
    about = json.loads((tmp_path / "adapter" / "cca.json").read_text())
    assert about["locate"]["heads"] == [[layer, head] for layer, head, _ in chosen]


# Steps


def run(checkpoint: Checkpoint, corpus: Corpus, out: Path, **changes: object) -> bool:
    options = {"stop_after": changes.pop("stop_after", None)}
    return train(
        checkpoint,
        corpus,
        RECIPE,
        replace(TRAINING, **changes),
        out,
        workers=0,  # type: ignore[arg-type]
        report_every=1,
        **options,  # type: ignore[arg-type]
    )


def test_a_resumed_training_ends_where_an_unbroken_one_does(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    assert run(checkpoint, corpus, tmp_path / "whole")
    assert not run(checkpoint, corpus, tmp_path / "parts", stop_after=0.0)
    state = json.loads((tmp_path / "parts" / "checkpoint" / "state.json").read_text())
    assert state["step"] == 1
    assert run(checkpoint, corpus, tmp_path / "parts")
    whole, parts = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name
    assert any(tensor.abs().sum() > 0 for name, tensor in whole.items() if "lora_B" in name)


def test_a_finished_training_is_left_as_it_is(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    run(checkpoint, corpus, tmp_path, steps=2)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    before = file.read_bytes()
    assert run(checkpoint, corpus, tmp_path, steps=2)
    assert file.read_bytes() == before


def test_another_training_is_not_gone_on_with(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    run(checkpoint, corpus, tmp_path, stop_after=0.0)
    with pytest.raises(ModelError, match="another training"):
        run(checkpoint, corpus, tmp_path, learning_rate=0.5)


def test_training_lowers_the_loss(checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path) -> None:
    losses: list[float] = []
    train(
        checkpoint, corpus,
        Recipe(tokens=512, portions=(Portion(length=512, share=1.0, kinds={"text": 1.0}),)),
        replace(TRAINING, steps=30), tmp_path, workers=0, report_every=1,
        on_step=lambda step: losses.append(step.losses["text"]),
    )  # fmt: skip
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_the_second_matrices_may_learn_faster(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    norms = []
    for ratio in (1.0, 8.0):
        run(checkpoint, corpus, tmp_path / str(ratio), steps=1, ratio=ratio)
        file = tmp_path / str(ratio) / "adapter" / "adapter_model.safetensors"
        norms.append(sum(float(t.norm()) for n, t in load_file(file).items() if "lora_B" in n))
    # Adam's first step is as long as the rate, whatever the gradient.
    assert norms[1] == pytest.approx(8 * norms[0], rel=0.01)


def test_dense_attention_is_trained_for_comparison(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    assert run(checkpoint, corpus, tmp_path, attention="dense", steps=1)
    about = json.loads((tmp_path / "adapter" / "cca.json").read_text())
    assert about["attention"] == "dense"


# Adapters


def test_the_adapter_says_what_it_was_trained_with(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    run(checkpoint, corpus, tmp_path, steps=1)
    about = json.loads((tmp_path / "adapter" / "cca.json").read_text())
    assert (about["group_size"], about["window"]) == (4, 32)
    assert about["rope"]["theta"] == 1e5 and about["rope"]["trained_tokens"] == 1024
    assert about["locate"]["heads"] == [[0, 1], [1, 2]]
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "squadshifts_new_wiki.train" in card and "CC-BY-4.0" in card
    assert "quac" not in card  # was not drawn from


def test_the_engine_reads_an_adapter_as_training_did(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path
) -> None:
    from cca_models.engine import load_model

    run(checkpoint, corpus, tmp_path)
    peft = _model(checkpoint)
    from safetensors.torch import load_file

    from cca_models.adaptation.folded_lora import load_weights_into

    peft = build_model(
        checkpoint.path, cca=CCA, theta=1e5, rank=4, alpha=4.0, dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    load_weights_into(peft, weights)
    assert trained_weights(peft).keys() == weights.keys()
    ids = torch.randint(3, 280, (1, 150))
    with torch.no_grad():
        expected = peft(input_ids=ids, use_cache=False).logits[0, -1]
    adapted = resolve_checkpoint(str(checkpoint.path), adapter=str(tmp_path / "adapter"))
    model = load_model(adapted, device="cpu", dtype="fp32")
    assert (model.cca.group_size, model.cca.window) == (4, 32)
    found = model.prefill(model.new_memory(200), ids[0].tolist())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
def test_a_packed_adapter_keeps_its_products(
    checkpoint: Checkpoint, corpus: Corpus, tmp_path: Path, dtype: str
) -> None:
    from safetensors.torch import load_file

    run(checkpoint, corpus, tmp_path)
    size = pack_adapter(tmp_path / "adapter", tmp_path / "packed", dtype=dtype)
    whole, packed = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "packed")
    )
    assert size < 0.6 * (tmp_path / "adapter" / "adapter_model.safetensors").stat().st_size
    for name in whole:
        if name.endswith("lora_A.weight"):
            b = name.replace("lora_A", "lora_B")
            one = whole[b] @ whole[name]
            two = packed[b].float() @ packed[name].float()
            assert (one - two).norm() <= (0.05 if dtype == "fp8" else 0.01) * one.norm() + 1e-7


# No evaluation text in training


def test_planted_evaluation_text_is_found(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    clean = " ".join(f"alpha{i} beta{i} gamma{i}" for i in range(60))
    evaluation = tmp_path / "eval"
    evaluation.mkdir()
    (evaluation / "qa.jsonl").write_text(json.dumps({"id": "e1", "context": clean}) + "\n")
    assert find_overlap(data, evaluation) == []
    with (data / "pretrain" / "books-00.jsonl").open("a") as file:
        file.write(json.dumps({"id": "leak", "text": f"Before. {clean} Behind."}) + "\n")
    found = find_overlap(data, evaluation)
    assert [(o.record, o.evaluation) for o in found] == [("leak", "qa.jsonl e1")]
    assert found[0].share > 0.9
