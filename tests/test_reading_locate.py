"""Votes: the attention that the question pays to each token of the document."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reading_helpers import make_document
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import change_config, load_tiny, random_ids, tiny_surroundings

from cca_models.config import CCAConfig
from cca_models.engine import LanguageModel
from cca_models.layer_memory import Probe, Sight
from cca_models.reading import Reader
from cca_models.reading.locate import _EMPTY_QUESTION, locating_heads, token_votes
from cca_models.reading.prompts import question_suffix
from cca_models.tokenizer import Tokenizer, load_tokenizer

G, W, D = 4, 8, 8
HEADS = [(0, 1), (1, 3)]
QUESTION = "Who inherits the estate?"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=4096)
    return change_config(path, cca_locate_heads=HEADS)


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    return load_tokenizer(path)


class Pointing:
    """A model whose question looks at one slot of the memory; an empty question at all alike.

    Keys of the document are the unit vector 0, of the slot looked at also the vector 1; keys of
    the question are neither.
    """

    def __init__(self, tokenizer: Tokenizer, seen: int, target: int, strength: float) -> None:
        self.tokenizer = tokenizer
        self.cca = CCAConfig(group_size=G, window=W)
        self.decoder = SimpleNamespace(heads=4, kv_heads=2, scale=1.0)
        self.checkpoint = SimpleNamespace(adapter=None)
        self.seen, self.target, self.strength = seen, target, strength
        self.asked = question_suffix(tokenizer, QUESTION)

    def fork(self) -> "Pointing":
        """It is its own memory, too."""
        return self

    def probe(self, memory: Any, ids: Sequence[int], probes: Mapping[int, Probe]) -> None:
        length, end = len(ids), self.seen + len(ids)
        cores = self.cca.visible_cores(end - 1)
        start = self.cca.raw_start(self.seen)
        core_k = torch.zeros(1, 2, cores, D)
        raw_k = torch.zeros(1, 2, end - start, D)
        core_k[:, :, : -(-self.seen // G), 0] = raw_k[:, :, : self.seen - start, 0] = 50.0
        if self.target < cores * G:
            core_k[:, :, self.target // G, 1] = 1.0
        else:
            raw_k[:, :, self.target - start, 1] = 1.0
        q = torch.zeros(1, 4, length, D)
        q[..., 0] = 1.0
        if list(ids) == self.asked:
            q[..., 1] = self.strength
        for look in probes.values():
            look(Sight(q, self.seen, core_k, raw_k))


@pytest.mark.parametrize("seen", [40, 41, 42, 43])
@pytest.mark.parametrize("target", [0, 3, 13, 39])
def test_votes_point_at_what_is_looked_at(tokenizer: Tokenizer, seen: int, target: int) -> None:
    # The question is so long that by its end even the last group may be a core token.
    model = Pointing(tokenizer, seen, target, strength=50.0)
    (votes,) = token_votes(model, [model], QUESTION, HEADS)  # type: ignore[arg-type, list-item]
    assert votes.shape == (seen,) and votes.dtype == torch.float32
    group = range(target // G * G, min(seen, target // G * G + G))
    assert {int(i) for i in (votes > 0).nonzero()} == set(group)
    # What it gains there it takes off elsewhere; every head has one vote, half of it gained.
    assert float(votes.abs().sum()) == pytest.approx(len(HEADS), rel=1e-4)
    assert float(votes[target]) == pytest.approx(len(HEADS) / 2 / len(group), rel=0.1)


def test_raw_tokens_are_told_apart(path: Path, tokenizer: Tokenizer) -> None:
    model = Pointing(tokenizer, 40, 37, strength=50.0)
    model.cca = CCAConfig(group_size=G, window=1024)
    (votes,) = token_votes(model, [model], QUESTION, HEADS)  # type: ignore[arg-type, list-item]
    assert [int(i) for i in (votes > 0).nonzero()] == [37]
    assert float(votes[37]) == pytest.approx(len(HEADS) / 2, rel=0.05)


def test_a_question_without_content_votes_for_nothing(tokenizer: Tokenizer) -> None:
    model = Pointing(tokenizer, 40, 8, strength=0.0)
    (votes,) = token_votes(model, [model], QUESTION, HEADS)  # type: ignore[arg-type, list-item]
    assert float(votes.abs().max()) < 1e-3 or float(votes.max() - votes.min()) < 0.2


def test_attention_is_that_of_transformers(path: Path) -> None:
    """Within the window there are no core tokens, and dense attention is there to compare."""
    transformers = pytest.importorskip("transformers")
    model = load_tiny(path, cca=CCAConfig(group_size=G, window=1024))
    ids = random_ids(60)
    memory = model.new_memory(1024)
    model.prefill(memory, ids)
    (votes,) = token_votes(model, [memory], QUESTION, HEADS)
    exact = transformers.LlamaForCausalLM.from_pretrained(path, attn_implementation="eager")

    def attention(question: str) -> list[torch.Tensor]:
        whole = torch.tensor([[*ids, *question_suffix(model.tokenizer, question)]])
        with torch.no_grad():
            layers = exact(whole, output_attentions=True).attentions
        # Over the document alone: what question tokens give each other is left out.
        seen = [layers[layer][0, head, len(ids) :, : len(ids)] for layer, head in HEADS]
        return [(each / each.sum(-1, keepdim=True)).mean(0) for each in seen]

    asked, empty = attention(QUESTION), attention(_EMPTY_QUESTION)
    expected = sum((a - b) / (a - b).abs().sum() for a, b in zip(asked, empty, strict=True))
    torch.testing.assert_close(votes, expected, rtol=0, atol=1e-4)


def test_looking_changes_nothing(path: Path) -> None:
    model = load_tiny(path, cca=CCAConfig(group_size=G, window=W))
    memory = model.new_memory(2000)
    model.prefill(memory, random_ids(101))
    before = model.prefill(memory.fork(), [5, 6])
    first, second = (token_votes(model, [memory], QUESTION, HEADS)[0] for _ in range(2))
    assert torch.equal(first, second) and first.shape == (101,)
    assert memory.seen == 101 and torch.equal(model.prefill(memory.fork(), [5, 6]), before)


def test_heads_come_with_the_checkpoint(path: Path, tmp_path: Path) -> None:
    assert locating_heads(load_tiny(path)) == tuple(HEADS)
    assert locating_heads(load_tiny(make_tiny_checkpoint(tmp_path / "other"))) == ()


Vote = Callable[..., list[torch.Tensor]]


@pytest.fixture
def reader(path: Path) -> Reader:
    """Three pages of one passage each, 10 tokens a page, after a prefix of 5."""
    model: LanguageModel = load_tiny(path)
    document = make_document("The lamp was lit.", "The lamp was dark.", "The garden was kept.")
    memory = model.new_memory(100)
    model.prefill(memory, random_ids(35))
    return Reader(model, document, memory=memory, page_spans=[(5, 15), (15, 25), (25, 35)])


def test_attention_chooses_among_equals(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    def votes_for(page: int) -> Vote:
        first, end = reader.sources[0].page_spans[page]
        votes = torch.zeros(35)
        votes[:5] = 9.0  # the prefix is no part of any page
        votes[first:end] = 0.1
        return lambda *args: [votes]

    question = "What about the lamp?"
    assert reader.rank(question, attention=False)[:2] == [0, 1]
    for page in (0, 1):
        monkeypatch.setattr("cca_models.reading.locate.token_votes", votes_for(page))
        assert reader.rank(question, attention=True)[0] == page
    # A page that shares no word with the question needs more than attention to be first.
    monkeypatch.setattr("cca_models.reading.locate.token_votes", votes_for(2))
    assert set(reader.rank(question, attention=True)) == {0, 1, 2}


def test_without_known_heads_words_decide(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cca_models.reading.locate.locating_heads", lambda model: ())
    for question in ("What about the garden?", "Was the lamp dark?"):
        both = [reader.rank(question, attention=on) for on in (True, False)]
        assert both[0] == both[1]
