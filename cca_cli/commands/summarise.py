"""``cca summarise``: a whole document in a few sentences, or chapter by chapter."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Literal

import typer

from cca_cli.console import Console
from cca_cli.formatting import format_duration
from cca_cli.model_loading import DEFAULT_ADAPTER, DEFAULT_MODEL, model_json, open_model
from cca_cli.options import (
    AdapterOpt,
    DebugOpt,
    DeviceOpt,
    DtypeOpt,
    EncodingOpt,
    FormatOpt,
    JsonOpt,
    ModelOpt,
    OfflineOpt,
    PagesOpt,
    PasswordFileOpt,
    PdfBackendOpt,
    QuietOpt,
    VerboseOpt,
)


def summarise(
    ctx: typer.Context,
    document: Annotated[str, typer.Argument(help="PDF, Markdown or text file; - reads stdin.")],
    by: Annotated[
        Literal["document", "chapter"],
        typer.Option("--by", help="chapter: show the summary of every chapter too."),
    ] = "document",
    length: Annotated[
        Literal["short", "medium", "long"],
        typer.Option("--length", help="2, 4 or 8 sentences."),
    ] = "medium",
    pages: PagesOpt = None,
    kind: FormatOpt = None,
    encoding: EncodingOpt = None,
    password_file: PasswordFileOpt = None,
    pdf_backend: PdfBackendOpt = "auto",
    model: ModelOpt = DEFAULT_MODEL,
    adapter: AdapterOpt = DEFAULT_ADAPTER,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    offline: OfflineOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Summarise a whole document: every page is read, part by part, then the parts' summaries.

    Chapters follow the document's outline where it has one.

    \b
    Examples:
      cca summarise report.pdf
      cca summarise book.pdf --by chapter --length short
    """
    # Importing these for --help would slow it down.
    from cca_cli.document_text import ReadOptions
    from cca_cli.ingestion import open_text
    from cca_cli.passwords import password_source

    console = Console.of(ctx)
    options = ReadOptions(
        pages=pages,
        password=password_source(console, password_file, document),
        backend=pdf_backend,
        kind=kind,
        encoding=encoding,
    )
    options.check(document)
    text = open_text(document, console=console, options=options)
    loaded = open_model(
        console, model, adapter=adapter, device=device, dtype=dtype, offline=offline
    )
    # torch is loaded by now.
    from cca_models.reading import Summariser

    start = time.perf_counter()
    with console.progress(text.name) as progress:
        summariser = Summariser(
            loaded,
            text,
            length=length,
            on_part=lambda done, total: progress("summarise", done, total),
        )
        seconds = loaded.estimate_seconds(summariser.tokens) * 2
        console.note(
            f"{text.name}: all {len(text.pages):,} {text.unit}s in {summariser.parts:,} parts, "
            f"about {format_duration(seconds)} or more"
        )
        sections = []
        for section in summariser.sections():
            sections.append(section)
            if console.human and by == "chapter":
                span = f"{text.unit}s {section.first_page}-{section.last_page}"
                console.result(f"{section.title} ({span})\n{section.summary}\n")
        summary = summariser.whole(sections)
    for warning in summary.warnings:
        console.warn(warning)
    if console.human:
        console.result(summary.summary)
        return
    console.json(
        {
            "doc": text.name,
            "path": text.path,
            "sha256": text.sha256,
            "summary": summary.summary,
            "sections": [asdict(section) for section in summary.sections],
            "coverage": {"pages": summary.pages, "unit": text.unit, "parts": summariser.parts},
            "rounds": summary.rounds,
            "model": model_json(loaded),
            "timing_s": {"summarise": time.perf_counter() - start},
            "truncated": None,
            "warnings": console.warnings,
            "error": None,
        }
    )
