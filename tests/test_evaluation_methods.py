"""Methods: dense is transformers', window is CCA without core tokens, contexts are read once."""

from pathlib import Path

import pytest
import torch
from evaluation_helpers import WORDS
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import CCA, make_tiny_model, random_ids, tiny_surroundings

from cca_kernels import reference
from cca_models.checkpoints import resolve_checkpoint
from cca_models.dense_model import dense_model
from cca_models.engine import LanguageModel, load_model
from cca_models.evaluation import methods
from cca_models.evaluation.contexts import Context, TextCache, cut_pages
from cca_models.evaluation.methods import make_methods, register
from cca_models.evaluation.sliding import SlidingDecoder, SlidingLayer
from cca_models.evaluation.types import EvaluationError, Reply

PASSAGES = [f"Town {i}\nThe {WORDS[i]} of town {i} is {WORDS[-i - 1]}." for i in range(9)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    home = tmp_path_factory.mktemp("home")
    with tiny_surroundings(home):
        return make_tiny_model(home / "tiny", context=2048)


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path):
    with tiny_surroundings(tmp_path / "home"):
        yield


def losses_of(logits: torch.Tensor, ids: list[int]) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(
        logits[0, :-1], torch.tensor(ids[1:]), reduction="none"
    )


def test_full_is_transformers_dense_attention_far_beyond_the_window(model: LanguageModel) -> None:
    ids = random_ids(10 * CCA.window + 3)
    dense = dense_model(model.checkpoint.config, model.decoder.weights)
    with torch.inference_mode():
        expected = losses_of(dense(torch.tensor([ids])).logits, ids)
    made = make_methods(model, ["full", "core"])
    torch.testing.assert_close(made["full"].losses(ids), expected, atol=2e-5, rtol=0)
    assert (made["core"].losses(ids) - expected).abs().max() > 1e-4


def test_all_agree_within_the_window_and_part_beyond_it(model: LanguageModel) -> None:
    ids = random_ids(3 * CCA.window)
    made = make_methods(model, ["full", "core", "window"])
    full, core, window = (made[name].losses(ids) for name in ("full", "core", "window"))
    inside = CCA.window + CCA.group_size - 1
    torch.testing.assert_close(core[:inside], full[:inside], atol=1e-5, rtol=0)
    torch.testing.assert_close(window[:inside], full[:inside], atol=1e-5, rtol=0)
    for one, other in ((full, core), (full, window), (core, window)):
        assert (one[inside + 8 :] - other[inside + 8 :]).abs().max() > 1e-4


def test_losses_do_not_depend_on_the_chunk(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = random_ids(150)
    made = make_methods(model, ["full", "core", "window"])
    whole = {name: method.losses(ids) for name, method in made.items()}
    monkeypatch.setattr("cca_models.decoder.CHUNK", 37)
    monkeypatch.setitem(methods._LOGIT_ROWS, "cpu", 5)
    for name, method in made.items():
        torch.testing.assert_close(method.losses(ids), whole[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [(97,), (40, 1, 56), (1,) * 50])
def test_sliding_layer_is_the_raw_part_of_cca(steps: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    total = sum(steps)
    q, k, v = (torch.randn(1, h, total, 8, dtype=torch.float64) for h in (4, 2, 2))
    seen = reference.visibility(
        position=0, L=total, S=total, M=0, group_size=4, window=32, device=q.device
    )
    score = (q @ k.repeat_interleave(2, 1).transpose(-1, -2) * 0.3).masked_fill(~seen, -torch.inf)
    expected = score.softmax(-1) @ v.repeat_interleave(2, 1)
    layer, parts, at = SlidingLayer(CCA), [], 0
    for step in steps:
        part = slice(at, at + step)
        parts.append(layer.attend(q[:, :, part], k[:, :, part], v[:, :, part], scale=0.3))
        # A fork that reads something else must leave no trace.
        layer.fork().attend(q[:, :, :3], k[:, :, :3], v[:, :, :3], scale=0.3)
        at += step
    torch.testing.assert_close(torch.cat(parts, 2), expected)
    assert layer.nbytes < 2 * 2 * 8 * 8 * (32 + 4)


def test_tokens_of_a_context_are_those_of_the_joined_text(model: LanguageModel) -> None:
    texts = TextCache(model.tokenizer)
    context = Context([" " + passage + "\n" for passage in PASSAGES], texts)
    expected = [*texts.prefix, *model.tokenizer.encode("\n\n".join(PASSAGES))]
    assert context.ids == expected
    for passage, (start, end) in zip(PASSAGES, context.spans, strict=True):
        assert model.tokenizer.decode(context.ids[start:end]).strip() == passage


def test_room_is_enough_for_every_question(model: LanguageModel) -> None:
    from cca_models.reading.prompts import question_suffix

    texts = TextCache(model.tokenizer)
    questions = ["Who?", "Where did the keeper put the letters that nobody had read for years?", ""]
    room = texts.room(questions, 7)
    needs = [len(question_suffix(model.tokenizer, question)) + 7 for question in questions]
    assert max(needs) <= room <= max(needs) + 4


def test_pages_hold_the_whole_text() -> None:
    blocks = [f"Paragraph {i}. " + "It goes on. " * (i % 7) for i in range(60)]
    for joiner in ("\n\n", "\n", " "):
        text = joiner.join(blocks)
        pages = cut_pages(text, characters=300)
        assert max(map(len, pages)) <= 300
        assert "".join("".join(pages).split()) == "".join(text.split())
        assert joiner != "\n\n" or all(page.startswith("Paragraph") for page in pages)
    assert cut_pages("x" * 700, characters=300) == ["x" * 300, "x" * 300, "x" * 100]


def test_core_and_focus_read_a_context_once(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    prefill = LanguageModel.prefill

    def count(self: LanguageModel, memory, ids, **options):
        if len(ids) > 100:
            reads.append(len(ids))
        return prefill(self, memory, ids, **options)

    monkeypatch.setattr(LanguageModel, "prefill", count)
    made = make_methods(model, ["core", "focus", "full"])
    long = [f"{passage} " * 5 for passage in PASSAGES]
    for name in ("core", "focus"):
        reading = made[name].read(long, room=200)
        reading.ask("What is the harbour of town 0?", max_new_tokens=2)
    assert reads.count(len(reading._context.ids)) == 1
    made["full"].read(long, room=200)
    assert reads.count(len(reading._context.ids)) == 2


def test_asking_leaves_no_trace(model: LanguageModel) -> None:
    for method in make_methods(model, ["core", "full", "window"]).values():
        reading = method.read(PASSAGES, room=300)
        first = reading.ask("What is the word?", max_new_tokens=12)
        reading.ask("Who keeps the lamp at night, and why?", max_new_tokens=12)
        assert reading.ask("What is the word?", max_new_tokens=12) == first


def test_bm25_ranks_given_passages(model: LanguageModel) -> None:
    reading = make_methods(model, ["lexical"])["lexical"].read(PASSAGES)
    assert reading.rank(f"Where is the {WORDS[4]}?", by="bm25")[0] == 4
    assert reading.rank("anything", by="attention") == []


def test_attention_ranks_where_heads_are_known(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cca_models.reading.locate.locating_heads", lambda _: ((1, 0), (0, 2)))
    long = [PASSAGES[0], PASSAGES[1] * 30, *PASSAGES[2:]]
    reading = make_methods(model, ["focus"])["focus"].read(long)
    for by in ("attention", "fused"):
        assert sorted(reading.rank("Where is the meadow?", by=by)) == list(range(9))


def test_window_is_made_of_the_same_weights(model: LanguageModel) -> None:
    window = make_methods(model, ["window"])["window"]
    decoder = window.model_for(10).decoder
    assert isinstance(decoder, SlidingDecoder)
    assert decoder.embedding.data_ptr() == model.decoder.embedding.data_ptr()
    assert model.decoder is not decoder and not isinstance(model.decoder, SlidingDecoder)


def test_full_says_when_it_is_out_of_its_depth(model: LanguageModel) -> None:
    made = make_methods(model, ["full", "core"])
    assert made["full"].note(2048) == "" and "2,048" in made["full"].note(2049)
    assert made["core"].note(10**6) == ""


def test_further_methods_plug_in(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    class Echo:
        name = "echo"

        def read(self, passages, *, room=512):
            return self

        def ask(self, question, *, max_new_tokens=32):
            return Reply(text=question)

    monkeypatch.setattr(methods, "_FACTORIES", dict(methods._FACTORIES))
    register("echo", lambda workshop: Echo())
    assert make_methods(model, ["echo"])["echo"].read([]).ask("so") == Reply(text="so")
    with pytest.raises(ValueError, match="new name"):
        register("full", lambda workshop: Echo())
    with pytest.raises(EvaluationError, match="'flash' is unknown"):
        make_methods(model, ["flash"])


@pytest.mark.gpu
def test_full_and_window_on_a_gpu(tmp_path: Path) -> None:
    path = make_tiny_checkpoint(tmp_path / "m", hidden=256, heads=4, kv_heads=2, context=8192)
    model = load_model(resolve_checkpoint(str(path)), device="cuda", dtype="fp32")
    ids = random_ids(5000)
    dense = dense_model(model.checkpoint.config, model.decoder.weights)
    with torch.inference_mode():
        logits = dense(torch.tensor([ids], device="cuda")).logits.cpu()
    made = make_methods(model, ["full", "core", "window"])
    losses = {name: method.losses(ids) for name, method in made.items()}
    torch.testing.assert_close(losses["full"], losses_of(logits, ids), atol=5e-3, rtol=0)
    inside = model.cca.window
    for name in ("core", "window"):
        torch.testing.assert_close(
            losses[name][:inside], losses["full"][:inside], atol=5e-3, rtol=0
        )
    for method in made.values():
        reading = method.read([f"{passage} " * 20 for passage in PASSAGES], room=300)
        first = reading.ask("What is the word?", max_new_tokens=12)
        reading.ask("Who keeps the lamp at night, and why?", max_new_tokens=12)
        assert reading.ask("What is the word?", max_new_tokens=12) == first


def test_the_fused_decoder_gives_the_same(model: LanguageModel) -> None:
    """Without a GPU its kernels run under Triton's interpreter."""
    from cca_models.fused_decoder import FusedDecoder
    from cca_models.weights import load_weights

    where = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = load_weights(model.checkpoint.path, device=where, dtype=torch.float32)
    decoder = FusedDecoder(model.checkpoint.config, weights)
    fused = LanguageModel(model.checkpoint, model.tokenizer, decoder, cca=CCA)
    ids = random_ids(90)
    names = ["full", "core", "window"]
    here, there = make_methods(model, names), make_methods(fused, names)
    for name in names:
        torch.testing.assert_close(
            there[name].losses(ids), here[name].losses(ids), atol=1e-4, rtol=0
        )
        replies = [
            made[name].read(PASSAGES[:2], room=150).ask("What is it?", max_new_tokens=4)
            for made in (here, there)
        ]
        assert replies[0] == replies[1]
