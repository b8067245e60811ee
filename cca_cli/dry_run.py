"""What reading documents would take, told without reading them: tokens, memory, disk, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cca_cli.console import Console
from cca_cli.document_text import ReadOptions, summary_line
from cca_cli.formatting import format_bytes, format_duration
from cca_cli.model_loading import warn_of_length

if TYPE_CHECKING:
    from cca_cli.library_entry import StoredText
    from cca_models.engine import LanguageModel

__all__ = ["kept_tokens", "key_value_bytes", "measured", "report", "say"]


def measured(
    console: Console, model: LanguageModel, path: str, options: ReadOptions
) -> tuple[StoredText, dict[str, Any]]:
    """Tokenise a document and work out what reading it takes.

    Args:
        console: For progress and warnings.
        model: What would read it.
        path: Path of a file, or "-" for standard input.
        options: How to read the file.

    Returns:
        The document in tokens, and the facts as JSON shows them: sizes in bytes, seconds.

    Raises:
        CLIError: If the file cannot be read.
    """
    # They import numpy, or torch.
    from cca_cli.ingestion import RESERVED_TOKENS, measure

    text, miss = measure(path, model, console=console, options=options)
    tokens = len(text.ids)
    kv = key_value_bytes(model.checkpoint.config, model.dtype.itemsize)
    held = kept_tokens(tokens, group_size=model.cca.group_size, window=model.cca.window)
    warn_of_length(console, model, text.document.name, tokens)
    return text, {
        "doc": text.document.name,
        "path": text.document.path,
        "pages": len(text.document.pages),
        "words": sum(len(page.text.split()) for page in text.document.pages),
        "tokens": tokens,
        "limit": model.max_tokens,
        "reserved": RESERVED_TOKENS,
        "share": tokens / model.max_tokens,
        "fits": tokens + RESERVED_TOKENS <= model.max_tokens,
        "kv_bytes_dense": kv * tokens,
        "kv_bytes_cca": kv * held,
        # The memory, the token ids and the text are all that an entry holds.
        "disk_bytes": kv * held + 4 * tokens + _text_bytes(text),
        "prefill_seconds": model.estimate_seconds(tokens),
        "model": model.checkpoint.name,
        "adapter": model.checkpoint.adapter.name if model.checkpoint.adapter else None,
        "cache": {"hit": miss is None, "reason": miss},
    }


def key_value_bytes(config: Mapping[str, Any], itemsize: int) -> int:
    """Return the bytes of keys and values of one token in all layers."""
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or config["hidden_size"] // heads)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    return 2 * int(config["num_hidden_layers"]) * kv_heads * head_dim * itemsize


def kept_tokens(tokens: int, *, group_size: int, window: int) -> int:
    """Return how many keys a memory of so many tokens holds per head: core tokens and raw tail."""
    visible = max(0, tokens - window) // group_size
    return tokens // group_size + tokens - visible * group_size


def _text_bytes(text: StoredText) -> int:
    return sum(len(page.text.encode(errors="replace")) for page in text.document.pages)


def say(console: Console, text: StoredText, facts: Mapping[str, Any]) -> None:
    """Write the facts of one document for people: a line on the text, then name and value."""
    dense, cca = facts["kv_bytes_dense"], facts["kv_bytes_cca"]
    less = 100 * (1 - cca / dense) if dense else 0
    # Within one window nothing is saved yet, and core tokens are held besides.
    beside = f"{less:.0f} % less" if less >= 0 else f"{-less:.0f} % more"
    library = "there already" if facts["cache"]["hit"] else facts["cache"]["reason"]
    fits = "" if facts["fits"] else ", too long"
    console.result(summary_line(text))
    console.facts(
        [
            ("limit", f"{facts['limit']:,} tokens ({100 * facts['share']:.0f} % used{fits})"),
            ("memory, dense attention", format_bytes(dense)),
            ("memory, cca", f"{format_bytes(cca)} ({beside})"),
            ("disk", format_bytes(facts["disk_bytes"])),
            ("reading", f"about {format_duration(facts['prefill_seconds'])}"),
            ("library", library),
        ]
    )


def report(
    console: Console,
    model: LanguageModel,
    readings: Sequence[tuple[str, ReadOptions]],
    *,
    questions: int,
    remembered: bool,
) -> None:
    """Tell what a call of ``cca ask`` would take, and do none of it.

    Args:
        console: Where it is told.
        model: What would read.
        readings: The documents, and how they are read.
        questions: How many would be asked.
        remembered: Whether the way of answering needs memories (--read lexical does not).
    """
    found = [measured(console, model, path, options) for path, options in readings]
    facts = [one for _, one in found]
    missing = [one for one in facts if remembered and not one["cache"]["hit"]]
    total = {
        "tokens": sum(one["tokens"] for one in facts),
        "fits": all(one["fits"] for one in facts) or not remembered,
        "kv_bytes_dense": sum(one["kv_bytes_dense"] for one in facts) if remembered else 0,
        "kv_bytes_cca": sum(one["kv_bytes_cca"] for one in facts) if remembered else 0,
        "new_disk_bytes": sum(one["disk_bytes"] for one in missing),
        "prefill_seconds": sum(one["prefill_seconds"] for one in missing),
    }
    if not console.human:
        warnings = console.warnings
        console.json(
            {"dry_run": True, "documents": facts, "questions": questions, "total": total}
            | {"warnings": warnings, "error": None}
        )
        return
    for i, (text, one) in enumerate(found):
        if i:
            console.result()
        say(console, text, one)
    console.result()
    if not remembered:
        read = "by words alone: no memory is needed"
    elif not missing:
        read = "from the library, nothing anew"
    else:
        read = (
            f"{len(missing)} of {len(facts)}, in about "
            f"{format_duration(total['prefill_seconds'])}, "
            f"{format_bytes(total['new_disk_bytes'])} on disk"
        )
    count = f"{questions} question{'' if questions == 1 else 's'}"
    console.facts([("would be read", read), ("would be asked", count)])
