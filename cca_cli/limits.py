"""Whether a document fits the model and the disk, and what part of it would."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from cca_cli.errors import ResourceError, TooLongError
from cca_cli.formatting import format_bytes, format_ranges
from cca_cli.library_entry import StoredText

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel

__all__ = ["check_length", "expect_disk"]


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


def expect_disk(root: Path, model: LanguageModel, text: StoredText, *, held: int = 0) -> None:
    """Check that the disk has room for a document's memory, before minutes are spent on it.

    Args:
        root: Directory of the library, which exists.
        model: What will read.
        text: The document in tokens.
        held: Bytes of an interrupted run's memory, which gives way if need be.

    Raises:
        ResourceError: If it has not.
    """
    import shutil

    from cca_cli.dry_run import kept_tokens, key_value_bytes

    kept = kept_tokens(len(text.ids), group_size=model.cca.group_size, window=model.cca.window)
    needed = kept * key_value_bytes(model.checkpoint.config, model.dtype.itemsize)
    free = shutil.disk_usage(root).free + held
    if needed > free:
        raise ResourceError(
            f"{text.document.name}: its memory takes {format_bytes(needed)}, "
            f"{format_bytes(free)} are free at {root}",
            hint="cca docs prune --max-size SIZE makes room; CCA_CACHE_DIR=DIR is another disk",
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
