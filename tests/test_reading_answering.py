"""Answers: what is read for them, what is said of them, and when there is none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reading_helpers import ToldModel, make_document
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import load_tiny, tiny_surroundings

from cca_models.config import CCAConfig
from cca_models.reading import NOT_FOUND, Answer, Reader, Writing, document_prefix

PAGES = (
    "Contents. One. Two.",
    "The will was read on Monday. The nephew inherits the estate. His sister keeps the garden.",
    "The bridge was closed in 1987. It opened again in 1990.",
)
QUESTION = "Who inherits the estate?"


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=2048)


@pytest.fixture
def model(checkpoint: Path) -> ToldModel:
    return ToldModel.of(checkpoint, says="The nephew.")


def ask(model: Any, question: str = QUESTION, *, pages: Any = PAGES, **options: Any) -> Answer:
    document = make_document(*pages, labels=[str(i) for i in range(len(pages))])
    stream = Reader(model, document).ask(question, **{"read": "lexical", **options})
    pieces = list(stream)
    answer = stream.finished()
    assert "".join(pieces).strip() == answer.answer and pieces
    for citation in answer.citations:
        text = document.pages[citation.page - 1].text
        assert citation.verified and citation.quote == text[citation.start : citation.end]
        assert citation.page_label == str(citation.page - 1)
    assert set(answer.usage) == {"prompt_tokens", "cached_tokens", "new_tokens"}
    return answer


def test_an_answer_with_its_place(model: ToldModel) -> None:
    answer = ask(model)
    assert (answer.answer, answer.found, answer.finish) == ("The nephew.", True, "eos")
    assert answer.citations[0].quote == "The nephew inherits the estate."
    assert answer.citations[0].page == 2 and answer.citations[0].supports
    assert answer.warnings == () and answer.read == "lexical" and answer.question == QUESTION
    assert answer.usage["prompt_tokens"] == len(model.prompts[0])
    assert answer.usage["new_tokens"] == 2
    assert {"locate", "first_token", "decode"} <= set(answer.timing_s)


def test_the_prompt_holds_passages_and_question(model: ToldModel) -> None:
    ask(model)
    (prompt,) = model.prompts
    text = model.tokenizer.decode(prompt)
    assert "The nephew inherits the estate." in text and QUESTION in text
    assert text.index("The nephew") < text.index(QUESTION)
    prefix = document_prefix(model.tokenizer)
    assert prompt[: len(prefix)] == prefix


def test_special_tokens_in_a_document_are_only_text(model: ToldModel) -> None:
    ask(model, pages=["The estate. <|im_end|> The nephew inherits <|im_start|> it all."])
    ask(model, pages=["The estate. [end] The nephew inherits [start] it all."])
    special = [sum(token in (1, 2) for token in prompt) for prompt in model.prompts]
    assert special[0] == special[1] > 0


def test_a_question_that_shares_no_word_is_not_answered(model: ToldModel) -> None:
    answer = ask(model, "Which submarine exploded?")
    assert answer.found is False and answer.answer == NOT_FOUND
    assert answer.citations == () and model.prompts == []
    assert answer.usage["new_tokens"] == 0 and answer.finish == "stop"


def test_documents_without_text_hold_no_answer(model: ToldModel) -> None:
    for pages in ([""], ["", " \n"], ["---"]):
        assert ask(model, pages=pages).found is False


@pytest.mark.parametrize("says", ["The document does not say.", "Not found in the document."])
def test_a_model_that_says_that_it_is_not_there(checkpoint: Path, says: str) -> None:
    answer = ask(ToldModel.of(checkpoint, says=says))
    assert answer.found is False and answer.answer == says and answer.citations == ()


@pytest.mark.parametrize("says", ["", " \n"])
def test_silence_is_shown_as_not_found(checkpoint: Path, says: str) -> None:
    answer = ask(ToldModel.of(checkpoint, says=says))
    assert answer.found is False and answer.answer == NOT_FOUND


def test_words_that_are_nowhere_are_doubted(checkpoint: Path) -> None:
    answer = ask(ToldModel.of(checkpoint, says="A submarine captain."))
    assert answer.found is None and len(answer.warnings) == 1
    assert len(answer.citations) == 1 and not answer.citations[0].supports


def test_an_answer_that_was_cut_says_so(checkpoint: Path) -> None:
    answer = ask(ToldModel.of(checkpoint, says="The nephew", finish="length"))
    assert answer.finish == "length" and any("cut" in w for w in answer.warnings)


def test_writing_settings_reach_the_model(model: ToldModel) -> None:
    writing = Writing(max_new_tokens=9, temperature=0.7, top_p=0.8, seed=5, passages=1)
    ask(model, writing=writing)
    (settings,) = model.settings
    assert settings["max_new_tokens"] == 9 and settings["temperature"] == 0.7
    assert settings["top_p"] == 0.8 and settings["seed"] == 5
    text = model.tokenizer.decode(model.prompts[0])
    assert "Contents" not in text and "bridge" not in text


def test_passages_stand_in_reading_order_and_neighbours_join(model: ToldModel) -> None:
    filler = "Nothing happened to anybody on that day in the village by the sea. " * 7
    page = "".join(f"{filler}The estate and letter {i} are here. " for i in range(4))
    ask(model, pages=[page, "The estate, the estate: nobody inherits."])
    text = model.tokenizer.decode(model.prompts[0])
    assert text.index("letter") < text.index("nobody inherits")


@pytest.mark.parametrize("window", [64, 200, 400, 1024])
def test_what_is_read_fits_the_window(checkpoint: Path, window: int) -> None:
    model = ToldModel.of(checkpoint, cca=CCAConfig(group_size=4, window=window))
    sentence = "The nephew inherits the estate after the reading of the will on Monday. "
    pages = [sentence * 30] * 5
    ask(model, pages=pages, writing=Writing(passages=20, max_new_tokens=30))
    size = len(model.prompts[0]) + 30
    one = len(model.tokenizer.encode(sentence * 8))
    assert size <= window or size < 250 + one  # at least one passage, whatever the window
    if window == 1024:
        assert size > window - one - 30, "more passages would have fitted"


@pytest.mark.parametrize(
    ("question", "options", "says"),
    [
        (" \n", {}, "question"),
        (QUESTION, {"read": "guess"}, "guess"),
        (QUESTION, {"read": "focus"}, "memory"),
        (QUESTION, {"read": "core"}, "memory"),
    ],
)
def test_what_cannot_be_asked(
    model: ToldModel, question: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Reader(model, make_document(*PAGES)).ask(question, **{"read": "lexical", **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("read", ["focus", "core"])
def test_with_a_memory(checkpoint: Path, read: Any) -> None:
    model = load_tiny(checkpoint, cca=CCAConfig(group_size=4, window=256))
    document = make_document(*PAGES)
    memory, spans, ids = model.new_memory(2000), [], document_prefix(model.tokenizer)
    for page in PAGES:
        tokens = model.tokenizer.encode(page)
        spans.append((len(ids), len(ids) + len(tokens)))
        ids += tokens
    model.prefill(memory, ids)
    reader = Reader(model, document, memory=memory, page_spans=spans)
    answers = []
    for _ in range(2):
        answers.append(reader.ask(QUESTION, read=read, writing=Writing(max_new_tokens=8)))
        assert answers[-1].finished().usage["new_tokens"] <= 8
    first, second = (stream.finished() for stream in answers)
    assert first.answer == second.answer and first.citations == second.citations
    assert memory.seen == len(ids), "the memory serves the next question, too"
    doubt = any("not adapted" in warning for warning in first.warnings)
    assert doubt == (read == "core")
    if read == "core":
        assert first.usage["cached_tokens"] == len(ids) < first.usage["prompt_tokens"]
