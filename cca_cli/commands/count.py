"""``cca count``: what reading a document would take, without reading it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cca_cli.console import Console
from cca_cli.formatting import format_bytes, format_duration
from cca_cli.model_loading import DEFAULT_ADAPTER, DEFAULT_MODEL, open_model, warn_of_length
from cca_cli.options import (
    AdapterOpt,
    DebugOpt,
    DeviceOpt,
    DtypeOpt,
    EncodingOpt,
    FormatOpt,
    GroupSizeOpt,
    JsonOpt,
    ModelOpt,
    OfflineOpt,
    PagesOpt,
    PasswordFileOpt,
    PdfBackendOpt,
    QuietOpt,
    VerboseOpt,
    WindowOpt,
)

if TYPE_CHECKING:
    from cca_cli.library_entry import StoredText


def count(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A document; - is stdin.")],
    pages: PagesOpt = None,
    kind: FormatOpt = None,
    encoding: EncodingOpt = None,
    password_file: PasswordFileOpt = None,
    pdf_backend: PdfBackendOpt = "auto",
    model: ModelOpt = DEFAULT_MODEL,
    adapter: AdapterOpt = DEFAULT_ADAPTER,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    group_size: GroupSizeOpt = None,
    window: WindowOpt = None,
    offline: OfflineOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Count a document's tokens and say what reading it takes: memory, disk, time.

    \b
    Examples:
      cca count book.pdf
      cca count book.pdf --json | jq .tokens
    """
    # Listing the commands must not wait for what only reading needs.
    from cca_cli.document_text import ReadOptions
    from cca_cli.ingestion import RESERVED_TOKENS, measure
    from cca_cli.passwords import password_source

    console = Console.of(ctx)
    options = ReadOptions(
        pages=pages,
        password=password_source(console, password_file, file),
        backend=pdf_backend,
        kind=kind,
        encoding=encoding,
    )
    options.check(file)
    loaded = open_model(
        console,
        model,
        adapter=adapter,
        device=device,
        dtype=dtype,
        group_size=group_size,
        window=window,
        offline=offline,
    )
    text, miss = measure(file, loaded, console=console, options=options)
    tokens = len(text.ids)
    kv = key_value_bytes(loaded.checkpoint.config, loaded.dtype.itemsize)
    cca = loaded.cca
    held = kept_tokens(tokens, group_size=cca.group_size, window=cca.window)
    warn_of_length(console, loaded, text.document.name, tokens)
    facts = {
        "doc": text.document.name,
        "path": text.document.path,
        "pages": len(text.document.pages),
        "words": sum(len(page.text.split()) for page in text.document.pages),
        "tokens": tokens,
        "limit": loaded.max_tokens,
        "reserved": RESERVED_TOKENS,
        "share": tokens / loaded.max_tokens,
        "fits": tokens + RESERVED_TOKENS <= loaded.max_tokens,
        "kv_bytes_dense": kv * tokens,
        "kv_bytes_cca": kv * held,
        # The memory, the token ids and the text are all that an entry holds.
        "disk_bytes": kv * held + 4 * tokens + _text_bytes(text),
        "prefill_seconds": loaded.estimate_seconds(tokens),
        "model": loaded.checkpoint.name,
        "adapter": loaded.checkpoint.adapter.name if loaded.checkpoint.adapter else None,
        "cache": {"hit": miss is None, "reason": miss},
        "warnings": console.warnings,
    }
    if console.human:
        _say(console, facts, text)
    else:
        console.json(facts)


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


def _say(console: Console, facts: Mapping[str, Any], text: StoredText) -> None:
    from cca_cli.document_text import summary_line

    less = 100 * (1 - facts["kv_bytes_cca"] / facts["kv_bytes_dense"]) if facts["tokens"] else 0
    library = "there already" if facts["cache"]["hit"] else facts["cache"]["reason"]
    fits = "" if facts["fits"] else ", too long"
    console.result(summary_line(text))
    for name, value in (
        ("limit", f"{facts['limit']:,} tokens ({100 * facts['share']:.0f} % used{fits})"),
        ("memory, dense attention", format_bytes(facts["kv_bytes_dense"])),
        ("memory, cca", f"{format_bytes(facts['kv_bytes_cca'])} ({less:.0f} % less)"),
        ("disk", format_bytes(facts["disk_bytes"])),
        ("reading", f"about {format_duration(facts['prefill_seconds'])}"),
        ("library", library),
    ):
        console.result(f"{name}\t{value}")
