"""An answer as people and as scripts see it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cca_cli.model_loading import model_json

if TYPE_CHECKING:
    from cca_cli.questions import Question
    from cca_models.documents import Document
    from cca_models.engine import LanguageModel
    from cca_models.reading import Answer, Citation

__all__ = ["answer_json", "citation_lines", "place_of", "process_seconds"]


def place_of(citation: Citation, unit: str) -> str:
    """Name a citation's place: physical page and, where it differs, the printed one."""
    if not citation.verified:
        return "[p. ?]"
    if unit != "page":
        label = f", {citation.page_label}" if citation.page_label else ""
        return f"section {citation.page}{label}"
    printed = citation.page_label
    label = f" (printed {printed})" if printed and printed != str(citation.page) else ""
    return f"p. {citation.page}{label}"


def citation_lines(answer: Answer, unit: str, *, quotes: bool) -> Iterator[str]:
    """Write the citations below an answer, one line each."""
    if not answer.citations:
        return
    yield ""
    for citation in answer.citations:
        place = place_of(citation, unit)
        lead = "" if citation.supports else "read, but without the answer's words: "
        quote = f': "{" ".join(citation.quote.split())}"' if quotes else ""
        yield f"  {lead}{place}{quote}"


def process_seconds() -> float:
    """Give the seconds since this process was started, the interpreter's own start included."""
    import psutil

    return time.time() - float(psutil.Process().create_time())


def answer_json(
    question: Question,
    answer: Answer | None,
    *,
    document: Document,
    tokens: int | None,
    model: LanguageModel,
    cache: Mapping[str, Any] | None,
    timing_s: Mapping[str, float],
    warnings: Sequence[str],
    error: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Build the JSON record of one answer; docs/cli.md describes it."""
    return {
        "id": question.id,
        "question": question.text,
        "answer": answer.answer if answer else None,
        "found": answer.found if answer else None,
        "citations": [asdict(c) for c in answer.citations] if answer else [],
        "read": answer.read if answer else None,
        "finish": answer.finish if answer else None,
        "documents": [
            {
                "path": document.path,
                "sha256": document.sha256,
                "pages": len(document.pages),
                "unit": document.unit,
                "tokens": tokens,
                "warnings": list(document.warnings),
            }
        ],
        "model": {
            **model_json(model),
            "attention": "cca",
            "adapted": model.checkpoint.adapted,
        },
        "cache": cache,
        "usage": dict(answer.usage) if answer else None,
        "timing_s": {
            **timing_s,
            **(answer.timing_s if answer else {}),
            "total": process_seconds(),
        },
        "truncated": None,
        "warnings": list(warnings),
        "error": error,
    }
