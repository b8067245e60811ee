"""``cca summarise``: a whole document in a few sentences, or by chapter, or by page."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cca_cli.console import Console
from cca_cli.formatting import format_duration, format_ranges
from cca_cli.model_loading import DEFAULT_ADAPTER, DEFAULT_MODEL, asked_model, model_json
from cca_cli.options import (
    AdapterOpt,
    DebugOpt,
    DeviceOpt,
    DtypeOpt,
    EncodingOpt,
    FormatOpt,
    JsonlOpt,
    JsonOpt,
    ModelOpt,
    OfflineOpt,
    PagesOpt,
    PasswordFileOpt,
    PdfBackendOpt,
    QuietOpt,
    StrictOpt,
    VerboseOpt,
)

if TYPE_CHECKING:
    from cca_models.documents import Document
    from cca_models.reading import Coverage, Section


def summarise(
    ctx: typer.Context,
    document: Annotated[str, typer.Argument(metavar="FILE", help="One document; - is stdin.")],
    by: Annotated[
        Literal["whole", "chapter", "page"],
        typer.Option("--by", help="chapter, page: show the summary of each of them, too."),
    ] = "whole",
    length: Annotated[
        Literal["short", "medium", "long"],
        typer.Option("--length", help="2, 4 or 8 sentences."),
    ] = "medium",
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
    offline: OfflineOpt = False,
    json: JsonOpt = False,
    jsonl: JsonlOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Summarise a whole document; every page is read.

    It is read part by part, then the parts' summaries are summarised. Documents are summarised one
    by one, each in a call of its own. Chapters follow the document's outline where it has one. How
    many pages were read is said on stderr, and in JSON. With --jsonl each chapter or page has a
    line, and the whole the last.

    \b
    Examples:
      cca summarise report.pdf
      cca summarise book.pdf --by chapter --length short
      cca summarise slides.pdf --by page --jsonl | jq -r '.section.summary // empty'
      for file in shelf/*.pdf; do cca summarise "$file"; done
    """
    # Importing these for --help would slow it down.
    from cca_cli.document_text import ReadOptions
    from cca_cli.ingestion import open_text

    console = Console.of(ctx)
    options = ReadOptions.asked(console, document, ctx.params)
    options.check(document)
    text = open_text(document, console=console, options=options)
    loaded = asked_model(console, ctx.params)
    # torch is loaded by now.
    from cca_models.reading import Summariser

    start = time.perf_counter()
    with console.progress(text.name) as progress:
        summariser = Summariser(
            loaded,
            text,
            length=length,
            by=by,
            on_part=lambda done, total: progress("summarise", done, total),
        )
        seconds = loaded.estimate_seconds(summariser.tokens) * 2
        console.note(
            f"{text.name}: all {_count(len(text.pages), text.unit)} in "
            f"{_count(summariser.parts, 'part')}, "
            f"about {format_duration(seconds)} or more"
        )
        if by == "chapter" and len(summariser.titles) == 1:
            console.warn(f"{text.name}: no chapters are known, it has no outline of use")
        sections = []
        for section in summariser.sections():
            sections.append(section)
            if by != "whole":
                _show(console, text, section)
        summary = summariser.whole(sections)
    for warning in summary.warnings:
        console.warn(warning)
    console.note(f"{text.name}: {_coverage(summary.coverage, text, pages)}")
    if console.human:
        # One section that was shown is the whole.
        if by == "whole" or len(sections) != 1:
            console.result(summary.summary)
        return
    record = {
        "doc": text.name,
        "path": text.path,
        "sha256": text.sha256,
        "by": by,
        "summary": summary.summary,
        "sections": [asdict(section) for section in summary.sections],
        "coverage": {**asdict(summary.coverage), "unit": text.unit, "selection": pages},
        "rounds": summary.rounds,
        "model": model_json(loaded),
        "timing_s": {"summarise": time.perf_counter() - start},
        "truncated": None,
        "warnings": console.warnings,
        "error": None,
    }
    if console.mode == "jsonl" and by != "whole":
        del record["sections"]  # each had a line of its own
    console.json(record)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _show(console: Console, text: Document, section: Section) -> None:
    """Write one section's summary as soon as it is there."""
    if console.human:
        one = section.first_page == section.last_page
        span = f"{section.first_page}" if one else f"{section.first_page}-{section.last_page}"
        place = f"{text.unit}{'' if one else 's'} {span}"
        title = place if section.title == place else f"{section.title} ({place})"
        console.result(f"{title}\n{section.summary}\n")
    elif console.mode == "jsonl":
        console.json({"doc": text.name, "section": asdict(section), "error": None})


def _coverage(coverage: Coverage, text: Document, pages: str | None) -> str:
    """Say how many pages were read: "412 of 412 pages, 3 of them without text (5, 210-211)"."""
    line = f"{coverage.read:,} of {_count(coverage.pages, text.unit)}"
    if pages is not None:
        line += f" chosen by --pages {pages}"
    if coverage.without_text:
        empty = format_ranges(coverage.without_text)
        line += f", {len(coverage.without_text):,} of them without text ({empty})"
    return line
