"""Which sentences an answer rests on, and whether they stand where they are said to stand."""

import re
from collections.abc import Sequence
from dataclasses import replace

from cca_models.documents import Document
from cca_models.reading.lexical import Words
from cca_models.reading.passages import Span, quotable
from cca_models.reading.types import Citation

MOST = 3
# "Not found" at the beginning, or the text's silence stated; not "the body was not found".
_DENIAL = re.compile(
    r"^\W*(?:(?:it|this|that|the answer) is )?"
    r"not (?:found|mentioned|stated|specified|provided|given)\b"
    r"|\b(?:text|document|passage|author)s? (?:does not|doesn't|do not|don't) "
    r"(?:mention|say|state|specify|provide|contain|give)\b"
    r"|\bnot (?:mentioned|stated|specified|provided|given|found) (?:in|by) (?:the|this) "
    r"(?:text|document|passage)\b"
    r"|^\W*(?:there is )?no (?:information|mention)\b",
    re.IGNORECASE,
)


def is_denial(answer: str) -> bool:
    """Say whether an answer says that the document does not say."""
    return not answer.strip() or _DENIAL.search(answer) is not None


def find_citations(
    documents: Sequence[Document], passages: Sequence[Span], question: str, answer: str
) -> tuple[Citation, ...]:
    """Choose the sentences, among the passages read, that hold the answer's words.

    Args:
        documents: What was read.
        passages: What the answer was written from, best first.
        question: As asked.
        answer: As given.

    Returns:
        At most MOST citations, best support first. If no sentence holds a word of the answer that
        the question does not hold itself, one citation of the best passage, marked as no support.
    """
    words = Words()
    asked = set(words.stems(question))
    said = set(words.stems(answer))
    new = said - asked or said
    ranked = []
    for order, passage in enumerate(passages):
        text = documents[passage.doc].pages[passage.page].text
        for start, end in quotable(text, passage.start, passage.end):
            held = set(words.stems(text[start:end]))
            share = len(new & held) / len(new) if new else 0.0
            near = len(asked & held) / len(asked) if asked else 0.0
            ranked.append((share, near, -order, replace(passage, start=start, end=end)))
    ranked.sort(key=lambda item: item[:3], reverse=True)
    best = ranked[0][0] if ranked else 0.0
    supporting = [span for share, near, _, span in ranked if share and share + near / 4 >= best]
    if supporting:
        return tuple(cite(documents, span, supports=True) for span in supporting[:MOST])
    nearest = sorted(ranked, key=lambda item: (item[1], item[2]), reverse=True)
    return tuple(cite(documents, span, supports=False) for *_, span in nearest[:1])


def cite(documents: Sequence[Document], span: Span, *, supports: bool) -> Citation:
    """Quote a stretch of a page."""
    document = documents[span.doc]
    page = document.pages[span.page]
    quote = page.text[span.start : span.end]
    return Citation(
        doc=document.name,
        path=document.path,
        unit=document.unit,
        page=page.number,
        page_label=page.label,
        quote=quote,
        start=span.start,
        end=span.end,
        verified=verify(document, page.number, quote, span.start),
        supports=supports,
    )


def verify(document: Document, page: int, quote: str, start: int) -> bool:
    """Check that a quote stands on a page at a place, letter by letter."""
    texts = [p.text for p in document.pages if p.number == page]
    return bool(quote) and any(text[start : start + len(quote)] == quote for text in texts)
