"""An answer as people and as scripts see it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_cli.model_loading import model_json

if TYPE_CHECKING:
    from cca_cli.questions import Question
    from cca_models.documents import Document
    from cca_models.engine import LanguageModel
    from cca_models.reading import Answer, Citation

__all__ = ["answer_json", "citation_lines", "document_json", "place_of", "process_seconds"]


def place_of(citation: Citation, *, named: bool = False) -> str:
    """Name a citation's place: physical page and, where it differs, the printed one.

    Args:
        citation: The citation.
        named: Whether to name the document, too.
    """
    where = f"{citation.doc}, " if named else ""
    if not citation.verified:
        return f"{where}[p. ?]"
    if citation.unit != "page":
        label = f", {citation.page_label}" if citation.page_label else ""
        return f"{where}section {citation.page}{label}"
    printed = citation.page_label
    label = f" (printed {printed})" if printed and printed != str(citation.page) else ""
    return f"{where}p. {citation.page}{label}"


def citation_lines(answer: Answer, *, quotes: bool, named: bool) -> Iterator[str]:
    """Write the citations below an answer, one line each.

    Args:
        answer: The answer.
        quotes: Whether to quote the sentences.
        named: Whether to name the documents.
    """
    if not answer.citations:
        return
    yield ""
    for citation in answer.citations:
        place = place_of(citation, named=named)
        lead = "" if citation.supports else "read, but without the answer's words: "
        quote = f': "{" ".join(citation.quote.split())}"' if quotes else ""
        yield f"  {lead}{place}{quote}"


def process_seconds() -> float:
    """Give the seconds since this process was started, the interpreter's own start included."""
    import psutil

    return time.time() - float(psutil.Process().create_time())


def document_json(
    document: Document, *, tokens: int | None, cache: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Build what the record says of one document."""
    return {
        "name": document.name,
        "path": document.path,
        "sha256": document.sha256,
        "pages": len(document.pages),
        "unit": document.unit,
        "tokens": tokens,
        "cache": cache,
        "warnings": list(document.warnings),
    }


def answer_json(
    question: Question,
    answer: Answer | None,
    *,
    documents: Sequence[Mapping[str, Any]],
    model: LanguageModel,
    timing_s: Mapping[str, float],
    warnings: Sequence[str],
    error: Mapping[str, Any] | None,
    picture: Path | None = None,
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
        "documents": list(documents),
        "model": {
            **model_json(model),
            "attention": "cca",
            "adapted": model.checkpoint.adapted,
        },
        "cache": _cache_of_all([one["cache"] for one in documents]),
        "usage": dict(answer.usage) if answer else None,
        "timing_s": {
            **timing_s,
            **(answer.timing_s if answer else {}),
            "total": process_seconds(),
        },
        "map": str(picture) if picture else None,
        "truncated": None,
        "warnings": list(warnings),
        "error": error,
    }


def _cache_of_all(caches: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Sum the documents' caches up; one alone stands for itself."""
    known = [cache for cache in caches if cache is not None]
    if not known:
        return None
    if len(known) == 1:
        return dict(known[0])
    sizes = [cache["bytes"] for cache in known]
    return {
        "hit": all(cache["hit"] for cache in known),
        "reason": next((cache["reason"] for cache in known if cache["reason"]), None),
        "bytes": None if None in sizes else sum(sizes),
        "entry": None,
    }
