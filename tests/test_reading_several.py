"""Several documents read together, questions that follow from others, and what was looked at."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reading_helpers import ToldModel, make_document
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import change_config, load_tiny, random_ids, tiny_surroundings

from cca_models.config import CCAConfig
from cca_models.documents import Document
from cca_models.engine import LanguageModel
from cca_models.layer_memory import Sight
from cca_models.reading import Reader, Source, Turn, Writing, document_prefix, look
from cca_models.reading.locate import attention, token_votes
from cca_models.reading.prompts import question_suffix

HEADS = ((0, 1), (1, 3))
QUESTION = "Who inherits the estate?"
MAY = ("The lamp was lit in May.", "The nephew inherits the estate.")
JUNE = ("The garden was kept.", "The bridge was closed in 1987. The sister inherits the boat.")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=4096)
    return change_config(path, cca_locate_heads=HEADS)


@pytest.fixture(scope="module")
def model(path: Path) -> LanguageModel:
    return load_tiny(path, cca=CCAConfig(group_size=4, window=64))


def two() -> list[Document]:
    """May and June, whose pages have the same numbers."""
    return [
        replace(make_document(*MAY), name="may.pdf", path="/shelf/may.pdf"),
        replace(make_document(*JUNE), name="june.pdf", path="/shelf/june.pdf"),
    ]


def read(model: LanguageModel, document: Document) -> Source:
    """Read a document into a memory."""
    ids, spans = document_prefix(model.tokenizer), []
    for page in document.pages:
        tokens = model.tokenizer.encode(page.text)
        spans.append((len(ids), len(ids) + len(tokens)))
        ids += tokens
    memory = model.new_memory(1000)
    model.prefill(memory, ids)
    return Source(document=document, memory=memory, page_spans=spans)


def told(path: Path, says: str, **options: object) -> ToldModel:
    return ToldModel.of(path, says=says, **options)


@pytest.mark.parametrize(
    ("question", "says", "doc", "page"),
    [
        (QUESTION, "The nephew.", "may.pdf", 2),
        ("Who inherits the boat?", "The sister.", "june.pdf", 2),
        ("When was the bridge closed?", "1987", "june.pdf", 2),
        ("What was lit?", "The lamp", "may.pdf", 1),
    ],
)
def test_citations_name_the_document(
    path: Path, question: str, says: str, doc: str, page: int
) -> None:
    documents = two()
    reader = Reader.over(told(path, says), [Source(document=d) for d in documents])  # type: ignore[arg-type]
    answer = reader.ask(question, read="lexical").finished()
    first = answer.citations[0]
    assert answer.found and (first.doc, first.page, first.path) == (doc, page, f"/shelf/{doc}")
    own = next(d for d in documents if d.name == doc)
    for citation in answer.citations:
        assert citation.verified and citation.unit == "page"
    assert own.pages[page - 1].text[first.start : first.end] == first.quote


def test_every_passage_stands_under_its_name(path: Path) -> None:
    model = told(path, "The nephew.")
    Reader.over(model, [Source(document=d) for d in two()]).ask(  # type: ignore[arg-type]
        "Who inherits the boat, and who inherits the estate?", read="lexical"
    ).finished()
    text = model.tokenizer.decode(model.prompts[0])
    assert text.index("may.pdf:\nThe nephew") < text.index("june.pdf:\n")
    alone = told(path, "The nephew.")
    Reader(alone, two()[0]).ask(QUESTION, read="lexical").finished()  # type: ignore[arg-type]
    assert "may.pdf" not in alone.tokenizer.decode(alone.prompts[0])


@pytest.mark.parametrize("window", [80, 120])
def test_names_count_towards_the_window(path: Path, window: int) -> None:
    model = told(path, "The nephew.", cca=CCAConfig(group_size=4, window=window))
    documents = [replace(d, name="x" * 60 + d.name) for d in two()]
    reader = Reader.over(model, [Source(document=d) for d in documents])  # type: ignore[arg-type]
    writing = Writing(max_new_tokens=4, passages=4)
    order = reader.rank(QUESTION, attention=False)
    chosen = reader.choose(order, QUESTION, writing)
    assert 1 <= len(chosen) < 4
    if len(chosen) > 1:
        reader.ask(QUESTION, read="lexical", writing=writing).finished()
        assert len(model.prompts[0]) + 4 <= window


def test_documents_compete_as_parts_of_one_would(model: LanguageModel) -> None:
    """One softmax over the keys of both memories, computed here straight from what probes see."""
    memories = []
    for seed, length in ((0, 101), (1, 37)):
        memories.append(model.new_memory(1000))
        model.prefill(memories[-1], random_ids(length, seed=seed))
    ids = question_suffix(model.tokenizer, QUESTION)
    shares = attention(model, memories, QUESTION, HEADS)
    votes = token_votes(model, memories, QUESTION, HEADS)
    assert [len(v) for v in votes] == [101, 37]
    for layer, head in HEADS:
        logits = []
        for memory in memories:
            seen: list[Sight] = []
            keep = lambda s, seen=seen: seen.append(  # noqa: E731
                Sight(s.q.clone(), s.position, s.core_k.clone(), s.raw_k.clone())
            )
            model.probe(memory.fork(), ids, {layer: keep})
            (sight,) = seen
            kv = head // 2
            cores = min(sight.core_k.shape[2], memory.seen // 4)
            first = sight.position + len(ids) - sight.raw_k.shape[2]
            raw = sight.raw_k[0, kv, cores * 4 - first : memory.seen - first]
            keys = torch.cat([sight.core_k[0, kv, :cores], raw])
            logits.append(sight.q[0, head] @ keys.T * model.decoder.scale)
        exact = torch.softmax(torch.cat(logits, dim=1), dim=1).mean(0)
        split = exact[: logits[0].shape[1]].sum(), exact[logits[0].shape[1] :].sum()
        for share, total in zip(shares, split, strict=True):
            torch.testing.assert_close(share[layer, head].sum(), total, atol=1e-5, rtol=1e-4)
        assert min(split) > 0.01, "both are looked at, or this test says nothing"


def test_one_of_several_is_voted_for_as_it_is_alone_but_for_scale(model: LanguageModel) -> None:
    memory = model.new_memory(1000)
    model.prefill(memory, random_ids(101))
    other = model.new_memory(1000)
    model.prefill(other, random_ids(50, seed=3))
    alone = attention(model, [memory], QUESTION, HEADS)[0]
    beside = attention(model, [memory, other], QUESTION, HEADS)[0]
    for head in HEADS:
        assert float(alone[head].sum()) == pytest.approx(1.0, abs=1e-5)
        assert float(beside[head].sum()) < 1.0
        assert int(alone[head].argmax()) == int(beside[head].argmax())


@pytest.mark.parametrize("mode", ["focus", "lexical"])
def test_several_with_memories(model: LanguageModel, mode: str) -> None:
    reader = Reader.over(model, [read(model, document) for document in two()])
    answer = reader.ask(QUESTION, read=mode, writing=Writing(max_new_tokens=6)).finished()  # type: ignore[arg-type]
    assert answer.usage["new_tokens"] <= 6
    votes = reader.passage_votes(QUESTION)
    assert votes is not None and len(votes) == len(reader.passages) == 4


def test_what_several_documents_cannot_be_asked(model: LanguageModel) -> None:
    with pytest.raises(ValueError, match="document"):
        Reader.over(model, [])
    sources = [read(model, document) for document in two()]
    with pytest.raises(ValueError, match="one document"):
        Reader.over(model, sources).ask(QUESTION, read="core")
    half = [sources[0], Source(document=sources[1].document)]
    with pytest.raises(ValueError, match="memory"):
        Reader.over(model, half).ask(QUESTION, read="focus")


def test_a_question_that_follows_is_looked_for_with_the_one_before(path: Path) -> None:
    filler = [f"Nothing of note happened on day {i}." for i in range(12)]
    document = make_document(*filler, "The bridge was closed in 1987.", "A lamp was lit.")
    model = told(path, "In 1987.")
    reader = Reader(model, document)  # type: ignore[arg-type]
    before = [Turn("Which bridge was closed?", "The old bridge.")]
    order = reader.rank("And when?", attention=False, history=before)
    assert reader.passages[order[0]].page == 12
    # What it says itself counts more than what was said before.
    order = reader.rank("Was the lamp lit?", attention=False, history=before)
    assert [reader.passages[i].page for i in order[:2]] == [13, 12]
    stream = reader.ask("And when?", read="lexical", history=before)
    assert stream.finished().citations[0].page == 13
    text = model.tokenizer.decode(model.prompts[0])
    assert text.index("Question: Which bridge was closed?\nAnswer: The old bridge.") < text.index(
        "Question: And when?"
    )


def test_what_was_looked_at_adds_up(model: LanguageModel) -> None:
    reader = Reader.over(model, [read(model, document) for document in two()])
    stream = reader.ask(QUESTION, writing=Writing(max_new_tokens=4))
    seen = look(stream)
    assert seen.rows == ("layer 0, head 1", "layer 1, head 3")
    for share, source, pages in zip(seen.shares, reader.sources, seen.pages, strict=True):
        assert share.shape == (2, source.page_spans[-1][1] - source.page_spans[0][0])
        assert pages[0][0] == 0 and pages[-1][1] == share.shape[1]
    total = sum(share.sum(1) for share in seen.shares)
    torch.testing.assert_close(total, torch.ones(2), atol=1e-4, rtol=0)
    assert sum(map(sum, seen.page_shares())) == pytest.approx(1.0, abs=1e-4)
    assert len(seen.read) == len(stream.passages) > 0
    for doc, a, b in (*seen.read, *seen.cited):
        assert 0 <= a < b <= seen.shares[doc].shape[1] + 1


def test_quoted_passages_lie_on_their_page(path: Path, model: LanguageModel) -> None:
    reader = Reader.over(model, [read(model, document) for document in two()])
    stream = reader.ask("Who inherits the boat?", writing=Writing(max_new_tokens=4))
    stream.finished()
    quoting = Reader.over(told(path, "The sister."), reader.sources)  # type: ignore[arg-type]
    answer = quoting.ask("Who inherits the boat?", read="lexical").finished()
    stream.answer = answer
    ((doc, a, b),) = look(stream).cited
    first, end = look(stream).pages[1][1]
    assert doc == 1 and first <= a < b <= end


@pytest.mark.parametrize("mode", ["core", "focus"])
def test_where_no_head_is_known_every_layer_is_shown(
    tmp_path: Path, model: LanguageModel, mode: str
) -> None:
    other = load_tiny(make_tiny_checkpoint(tmp_path / "plain", context=2048))
    reader = Reader.over(other, [read(other, two()[0])])
    seen = look(reader.ask(QUESTION, read=mode, writing=Writing(max_new_tokens=2)))  # type: ignore[arg-type]
    assert seen.rows == ("layer 0", "layer 1")
    reader = Reader.over(model, [read(model, two()[0])])
    seen = look(reader.ask(QUESTION, read=mode, writing=Writing(max_new_tokens=2)))  # type: ignore[arg-type]
    assert len(seen.rows) == 2 and ("head" in seen.rows[0]) == (mode == "focus")


def test_words_alone_look_at_nothing(path: Path) -> None:
    stream = Reader(told(path, "x"), two()[0]).ask(QUESTION, read="lexical")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="lexical"):
        look(stream)
