"""Passages read one by one, and the answer from the one that knows."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reading_helpers import ToldModel, make_document
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings
from torch import Tensor

from cca_models.reading import NOT_FOUND, Reader, Turn, Writing
from cca_models.reading.apart import read_apart

PAGES = (
    "The estate is large. Everybody inherits something, and the estate is old.",
    "The will was read on Monday. The nephew inherits the estate.",
    "An estate agent inherits the keys of the estate.",
)
QUESTION = "Who inherits the estate?"


class _Memory(SimpleNamespace):
    """Tokens read so far."""

    @property
    def seen(self) -> int:
        return len(self.ids)

    def fork(self) -> "_Memory":
        return _Memory(capacity=self.capacity, ids=list(self.ids))


class KnowingModel(ToldModel):
    """Says "not found" but for prompts with a known word; knows thresholds."""

    knows: str = "nephew"

    def __post_init__(self) -> None:
        super().__post_init__()
        settings = SimpleNamespace(not_found={"focus": 0.5}, locate=None)
        self.checkpoint.adapter = SimpleNamespace(settings=settings)
        self.read: list[str] = []
        self.sizes: list[int] = []

    def new_memory(self, capacity: int) -> Any:
        return _Memory(capacity=capacity, ids=[])

    def prefill(self, memory: Any, ids: Sequence[int]) -> Tensor:
        memory.ids += ids
        assert len(memory.ids) <= memory.capacity
        text = self.tokenizer.decode(memory.ids)
        if len(ids) == 1:
            self.read.append(text)
            self.sizes.append(memory.seen)
        logits = torch.zeros(self.tokenizer.vocab_size)
        token = self.tokenizer.encode(f" {NOT_FOUND}")[0]
        logits[token] = -20.0 if self.knows in text else 12.0
        return logits

    def generate(self, memory: Any, ids: Sequence[int], **settings: Any) -> Any:
        return super().generate(memory, [*memory.ids, *ids], **settings)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=2048)


@pytest.fixture
def model(checkpoint: Path) -> Any:
    return KnowingModel.of(checkpoint, says="The nephew.")


def test_the_answer_is_written_from_the_passage_that_knows(model: Any) -> None:
    reader = Reader(model, make_document(*PAGES))
    answer = reader.ask(QUESTION, read="lexical").finished()
    (prompt,) = model.prompts
    text = model.tokenizer.decode(prompt)
    assert PAGES[1] in text and PAGES[0] not in text and PAGES[2] not in text
    assert len(model.read) == 3, "each passage is read once, alone"
    assert [sum(page in one for page in PAGES) for one in model.read] == [1, 1, 1]
    assert (answer.answer, answer.found) == ("The nephew.", True)
    assert {citation.page for citation in answer.citations} == {2}
    assert answer.usage["prompt_tokens"] == sum(model.sizes)


def test_the_surest_comes_first_and_equal_ones_keep_their_order(model: Any) -> None:
    reader = Reader(model, make_document(*PAGES))
    read = read_apart(reader, [2, 0, 1], QUESTION, room=5)
    assert [one.passage for one in read] == [1, 2, 0]
    assert read[0].refusal < 1e-6 < 0.9 < read[1].refusal == read[2].refusal
    assert all(one.memory.capacity >= one.tokens + 4 for one in read)


def test_what_was_asked_before_stands_before_every_question(model: Any) -> None:
    reader = Reader(model, make_document(*PAGES))
    read_apart(reader, [0, 1], "And his sister?", [Turn(QUESTION, "The nephew.")])
    assert all(QUESTION in one and "And his sister?" in one for one in model.read)


def test_a_checkpoint_that_was_not_taught_reads_them_together(checkpoint: Path) -> None:
    told = ToldModel.of(checkpoint, says="The nephew.")
    Reader(told, make_document(*PAGES)).ask(QUESTION, read="lexical").finished()
    (prompt,) = told.prompts
    assert all(page in told.tokenizer.decode(prompt) for page in PAGES)


@pytest.mark.parametrize("pages", [[""], ["", " \n"]])
def test_without_text_nothing_is_read(model: Any, pages: list[str]) -> None:
    answer = Reader(model, make_document(*pages)).ask(QUESTION, read="lexical").finished()
    assert answer.found is False and answer.answer == NOT_FOUND and not model.read


def test_as_many_passages_as_asked_for(model: Any) -> None:
    reader = Reader(model, make_document(*PAGES))
    reader.ask(QUESTION, read="lexical", writing=Writing(passages=2)).finished()
    assert len(model.read) == 2
