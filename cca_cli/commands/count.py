"""``cca count``: what reading a document would take, without reading it."""

from __future__ import annotations

from typing import Annotated

import typer

from cca_cli.console import Console
from cca_cli.model_loading import DEFAULT_ADAPTER, DEFAULT_MODEL, open_model
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
    StrictOpt,
    VerboseOpt,
    WindowOpt,
)


def count(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A document; - is stdin.")],
    pages: PagesOpt = None,
    kind: FormatOpt = None,
    encoding: EncodingOpt = None,
    password_file: PasswordFileOpt = None,
    pdf_backend: PdfBackendOpt = "auto",
    strict: StrictOpt = False,
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
    from cca_cli.dry_run import measured, say
    from cca_cli.passwords import password_source

    console = Console.of(ctx)
    options = ReadOptions(
        pages=pages,
        password=password_source(console, password_file, file),
        backend=pdf_backend,
        kind=kind,
        encoding=encoding,
        strict=strict,
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
    text, facts = measured(console, loaded, file, options)
    if console.human:
        say(console, text, facts)
    else:
        console.json({**facts, "warnings": console.warnings})
