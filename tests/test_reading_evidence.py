"""Citations: words of the page, at their place, or an honest doubt."""

import pytest
from reading_helpers import make_document

from cca_models.documents import Document
from cca_models.reading.evidence import MOST, find_citations, is_denial, verify
from cca_models.reading.passages import Span, cut_passages

PAGES = (
    "Contents. One. Two.",
    "The will was read on Monday. The nephew inherits the estate. His sister keeps\nthe garden. "
    "Nobody was surprised.",
    "The bridge was closed in 1987. The nephew built it. It opened again in 1990.",
)


@pytest.fixture
def document() -> Document:
    return make_document(*PAGES, labels=["i", "1", "2"])


def test_a_citation_is_what_stands_on_the_page(document: Document) -> None:
    passages = cut_passages(document)
    cited = find_citations([document], passages, "Who keeps the garden?", "His sister.")
    assert len(cited) == 1
    citation = cited[0]
    assert citation.quote == "His sister keeps\nthe garden."
    assert (citation.doc, citation.page, citation.page_label) == ("book.pdf", 2, "1")
    assert PAGES[1][citation.start : citation.end] == citation.quote
    assert citation.verified and citation.supports


def test_the_sentence_that_the_question_is_about_comes_first(document: Document) -> None:
    passages = cut_passages(document)
    first = find_citations([document], passages, "Who built the bridge?", "The nephew.")[0]
    assert first.quote == "The nephew built it."
    first = find_citations([document], passages, "Who inherits the estate?", "The nephew.")[0]
    assert first.quote == "The nephew inherits the estate."


def test_only_the_passages_that_were_read_are_cited(document: Document) -> None:
    passages = [p for p in cut_passages(document) if p.page != 1]
    for citation in find_citations([document], passages, "Who inherits?", "The nephew."):
        assert citation.page == 3


def test_there_are_few(document: Document) -> None:
    many = make_document(*(f"The nephew wrote letter {i}." for i in range(20)))
    cited = find_citations([many], cut_passages(many), "Who wrote letters?", "The nephew.")
    assert len(cited) == MOST and all(c.supports and c.verified for c in cited)


def test_words_that_are_nowhere_support_nothing(document: Document) -> None:
    passages = cut_passages(document)
    cited = find_citations([document], passages, "When did the bridge open?", "By submarine.")
    assert len(cited) == 1 and not cited[0].supports
    assert (cited[0].page == 3 and "bridge" in cited[0].quote) or "opened" in cited[0].quote
    assert find_citations([document], [], "Who?", "Nobody.") == ()


def test_verification() -> None:
    document = make_document("One two.", "Three four.")
    assert verify(document, 1, "two", 4)
    for page, quote, start in [(1, "two", 3), (2, "two", 4), (1, "Two", 4), (3, "two", 4)]:
        assert not verify(document, page, quote, start)
    assert not verify(document, 1, "", 0)


def test_spans_may_begin_within_a_sentence(document: Document) -> None:
    span = Span(1, 5, 40)
    for citation in find_citations([document], [span], "What was read?", "The will, on Monday."):
        assert 5 <= citation.start < citation.end <= 40 and citation.verified


@pytest.mark.parametrize(
    ("answer", "denies"),
    [
        ("Not found in the document.", True),
        ("The text does not say who inherits.", True),
        ("It is not mentioned.", True),
        ("  \n", True),
        ("The nephew inherits the estate.", False),
        ("Nobody.", False),
        ("1987", False),
    ],
)
def test_denials(answer: str, denies: bool) -> None:
    assert is_denial(answer) == denies
