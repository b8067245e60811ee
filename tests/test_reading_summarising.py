"""Summaries: every page reaches the model, along the outline, and it comes to an end."""

import re
from pathlib import Path
from typing import Any

import pytest
from reading_helpers import ToldModel, make_document
from tiny_checkpoint import make_tiny_checkpoint

from cca_models.config import CCAConfig
from cca_models.documents import Document, OutlineEntry
from cca_models.reading import Summariser, Summary

FILLER = "Nothing happened to anybody on that day. "


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


def told(checkpoint: Path, *, window: int = 1024, **options: Any) -> ToldModel:
    return ToldModel.of(checkpoint, cca=CCAConfig(group_size=4, window=window), **options)


def summarise(model: ToldModel, document: Document, **options: Any) -> tuple[Summariser, Summary]:
    summariser = Summariser(model, document, **options)  # type: ignore[arg-type]
    return summariser, summariser.whole(list(summariser.sections()))


def marked_pages(count: int, *, filler: int) -> list[str]:
    """Make pages whose every line carries a mark of its own."""
    return [
        "\n".join(f"mark-{page}-{line}-end. {FILLER * filler}" for line in range(6))
        for page in range(count)
    ]


def read_by(model: ToldModel) -> list[str]:
    return [model.tokenizer.decode(prompt) for prompt in model.prompts]


@pytest.mark.parametrize("outline", [False, True], ids=["plain", "outline"])
@pytest.mark.parametrize("window", [256, 1024])
def test_every_character_reaches_the_model(checkpoint: Path, window: int, outline: bool) -> None:
    model = told(checkpoint, window=window, says="Short.")
    pages = [
        *marked_pages(9, filler=8),
        "",
        "灯台守は毎晩天気を書き留めた。" * 30,
        "x" * 1500,
        "end",
    ]
    entries = [OutlineEntry(title=t, page=p, level=0) for t, p in [("A", 3), ("B", 7)]]
    document = make_document(*pages, outline=entries if outline else ())
    summariser, summary = summarise(model, document)
    whole = re.sub(r"\s", "", "".join(read_by(model)))
    for page in marked_pages(9, filler=8):
        for line in page.split("\n"):
            assert whole.count(re.sub(r"\s", "", line.split(".")[0])) == 1
    assert whole.count("灯台守は毎晩天気を書き留めた。") == 30
    assert whole.count("x") >= 1500
    letters = sum(len(re.sub(r"\s", "", page)) for page in pages)
    assert len(whole) >= letters
    assert summary.pages == len(pages)
    assert sum(section.parts for section in summary.sections) == summariser.parts
    assert summariser.tokens > letters / 10


def test_parts_fit_the_window_with_prompt_and_summary(checkpoint: Path) -> None:
    for length in ("short", "medium", "long"):
        model = told(checkpoint, says="Short.")
        summarise(model, make_document(*marked_pages(12, filler=8)), length=length)
        sizes = [
            len(prompt) + settings["max_new_tokens"]
            for prompt, settings in zip(model.prompts, model.settings, strict=True)
        ]
        assert max(sizes) <= 1024 and len(sizes) > 3
        assert sorted(sizes)[len(sizes) // 2] > 400, "parts are filled"


def test_the_outline_is_followed(checkpoint: Path) -> None:
    entries = [
        OutlineEntry(title="One", page=2, level=0),
        OutlineEntry(title="One, a", page=3, level=1),
        OutlineEntry(title="Two", page=4, level=0),
        OutlineEntry(title="Three", page=4, level=0),
        OutlineEntry(title="Beyond the pages", page=99, level=0),
    ]
    model = told(checkpoint)
    _, summary = summarise(model, make_document(*marked_pages(6, filler=1), outline=entries))
    spans = [(s.first_page, s.last_page) for s in summary.sections]
    assert spans == [(1, 1), (2, 3), (4, 6)]
    titles = [s.title for s in summary.sections]
    assert titles[1:] == ["One", "Two; Three"] and titles[0]
    for text, (first, last) in zip(read_by(model)[:3], spans, strict=True):
        marks = {int(page) for page in re.findall(r"mark-(\d+)-", text)}
        assert marks == set(range(first - 1, last))


def test_chapters_under_a_title_are_found(checkpoint: Path) -> None:
    entries = [
        OutlineEntry(title="The book", page=1, level=0),
        OutlineEntry(title="One", page=2, level=1),
        OutlineEntry(title="One, a", page=2, level=2),
        OutlineEntry(title="Two", page=3, level=1),
    ]
    document = make_document(*marked_pages(3, filler=1), outline=entries)
    summariser, _ = summarise(told(checkpoint), document)
    assert summariser.titles == ("The book", "One", "Two")
    # One heading over all divides nothing, and smaller parts take longer.
    summariser, _ = summarise(told(checkpoint), document, by="whole")
    assert summariser.titles == ("pages 1-3",)


@pytest.mark.parametrize(
    "outline",
    [[], [OutlineEntry(title="Only", page=1, level=0)], [OutlineEntry(title="x", page=9, level=0)]],
    ids=["none", "one", "elsewhere"],
)
def test_without_an_outline_it_is_one_section(
    checkpoint: Path, outline: list[OutlineEntry]
) -> None:
    document = make_document("The lamp was lit.", "It went out.", outline=outline)
    _, summary = summarise(told(checkpoint), document)
    (section,) = summary.sections
    assert (section.first_page, section.last_page, section.title) == (1, 2, "pages 1-2")
    assert summary.summary == section.summary == "An answer." and summary.rounds == 0


def test_one_part_is_summarised_at_the_length_asked_for(checkpoint: Path) -> None:
    longest = []
    for length in ("short", "medium", "long"):
        model = told(checkpoint)
        summarise(model, make_document("The lamp was lit."), length=length)
        assert len(model.prompts) == 1
        longest.append(model.settings[0]["max_new_tokens"])
    assert longest[0] < longest[1] < longest[2]


@pytest.mark.parametrize("size", [1, 60, 250])
def test_it_ends_however_long_the_summaries_are(checkpoint: Path, size: int) -> None:
    """250 words fill a window alone, so that nothing would become less by joining what fits."""
    model = told(checkpoint, window=256, says="mumble " * size)
    summariser, summary = summarise(model, make_document(*marked_pages(6, filler=10)))
    assert summariser.parts > 8
    assert summary.summary.startswith("mumble")
    assert len(model.prompts) < 3 * summariser.parts
    assert summary.rounds >= 1


def test_cut_summaries_are_reported_and_end_with_a_sentence(checkpoint: Path) -> None:
    model = told(checkpoint, says="One is whole. Two is cu", finish="length")
    _, summary = summarise(model, make_document("The lamp was lit.", "It went out."))
    assert summary.summary == "One is whole."
    assert len(summary.warnings) == 1 and summary.warnings[0].startswith("1 ")
    model = told(checkpoint, says="no end in sight", finish="length")
    assert summarise(model, make_document("The lamp."))[1].summary == "no end in sight"


def test_progress_ends_at_its_total(checkpoint: Path) -> None:
    steps: list[tuple[int, int]] = []
    model = told(checkpoint, window=256)
    summariser, _ = summarise(
        model, make_document(*marked_pages(5, filler=10)),
        on_part=lambda *step: steps.append(step),
    )  # fmt: skip
    assert [done for done, _ in steps] == list(range(1, len(model.prompts) + 1))
    assert steps[-1][0] == steps[-1][1] and all(done <= total for done, total in steps)
    assert len(steps) > summariser.parts


@pytest.mark.parametrize("by", ["chapter", "page"])
def test_coverage_is_counted_while_reading(checkpoint: Path, by: Any) -> None:
    """Half way through, half the pages are not said to be read."""
    model = told(checkpoint, window=256)
    document = make_document(*marked_pages(4, filler=8), "", *marked_pages(2, filler=1))
    summariser = Summariser(model, document, by=by)  # type: ignore[arg-type]
    assert (summariser.coverage.read, summariser.coverage.without_text) == (1, (5,))
    counts, sections = [], []
    for section in summariser.sections():
        sections.append(section)
        counts.append(summariser.coverage.read)
    whole = summariser.whole(sections)
    assert whole.coverage.read == whole.coverage.pages == 7
    assert whole.coverage.parts == summariser.parts == sum(s.parts for s in sections)
    if by == "page":
        assert counts == [2, 3, 4, 5, 5, 6, 7]
        assert [s.title for s in sections] == [f"page {n}" for n in range(1, 8)]
        for i, section in enumerate(sections):
            assert (section.first_page, section.last_page) == (i + 1, i + 1)
            assert bool(section.summary) == (i != 4)


def test_a_page_of_a_few_words_is_given_as_it_stands(checkpoint: Path) -> None:
    model = told(checkpoint)
    document = make_document("Q & A", FILLER * 12, " \n")
    summariser, summary = summarise(model, document, by="page")
    first, second, third = summary.sections
    assert first.verbatim and first.summary == "Q & A"
    assert not second.verbatim and second.summary == "An answer."
    assert not third.verbatim and third.summary == ""
    assert len(model.prompts) == 2 and summary.coverage.read == 3 and summariser.parts == 2
    # A chapter is summarised however short it is.
    _, summary = summarise(told(checkpoint), make_document("Q & A"))
    assert summary.summary == "An answer." and not summary.sections[0].verbatim


def test_a_page_that_was_not_given_to_the_model_is_not_covered(checkpoint: Path) -> None:
    summariser = Summariser(told(checkpoint), make_document("The lamp.", "It went out."), by="page")  # type: ignore[arg-type]
    first = next(summariser.sections())
    summary = summariser.whole([first])
    assert (summary.coverage.read, summary.coverage.pages) == (1, 2)


def test_pages_without_text(checkpoint: Path) -> None:
    model = told(checkpoint)
    _, summary = summarise(model, make_document("", " \n"))
    assert summary.summary == "" and summary.pages == 2 and model.prompts == []
    entries = [OutlineEntry(title=t, page=p, level=0) for t, p in [("A", 1), ("B", 2)]]
    _, summary = summarise(model, make_document("", "The lamp was lit.", outline=entries))
    assert [s.summary for s in summary.sections] == ["", "An answer."]
    assert summary.summary == "An answer."
