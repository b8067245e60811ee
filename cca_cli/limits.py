"""Whether a document fits the model, and what part of it would."""

from __future__ import annotations

from itertools import accumulate

from cca_cli.errors import TooLongError
from cca_cli.formatting import format_ranges
from cca_cli.library_entry import StoredText

__all__ = ["check_length"]


def check_length(text: StoredText, *, limit: int, reserve: int) -> None:
    """Check that prefix, document and room for question and answer fit.

    Args:
        text: The document in tokens.
        limit: Most tokens that a memory may hold.
        reserve: Tokens that must fit after the document.

    Raises:
        TooLongError: If they do not; its hint names pages that do.
    """
    needed = len(text.ids) + reserve
    if needed <= limit:
        return
    raise TooLongError(
        f"{text.document.name}: needs {needed:,} tokens, model allows {limit:,} "
        f"({needed - limit:,} over)",
        hint=_way_out(text, limit - reserve - text.prefix_tokens),
    )


def _way_out(text: StoredText, room: int) -> str:
    fitting = sum(total <= room for total in accumulate(text.page_tokens))
    if not fitting or not sum(text.page_tokens[:fitting]):
        return "not even its first page fits; a model with a longer context is needed"
    numbers = [page.number for page in text.document.pages[:fitting]]
    ranges = format_ranges(numbers, limit=0).replace(" ", "")
    tokens = sum(text.page_tokens[:fitting])
    return f"--pages {ranges} (≈{_thousands(tokens)} tokens), or a longer-context model"


def _thousands(tokens: int) -> str:
    return f"{tokens // 1000}k" if tokens >= 1000 else str(tokens)
