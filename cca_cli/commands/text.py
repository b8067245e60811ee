"""``cca text``: the text of a document's pages, as the model reads it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cca_cli.console import Console
from cca_cli.errors import UsageError
from cca_cli.options import (
    DebugOpt,
    EncodingOpt,
    FormatOpt,
    JsonlOpt,
    JsonOpt,
    PasswordFileOpt,
    PdfBackendOpt,
    QuietOpt,
    StrictOpt,
    VerboseOpt,
)
from cca_cli.safe_output import emit

if TYPE_CHECKING:
    from cca_cli.document_text import ReadOptions
    from cca_cli.documents.traced import Original
    from cca_models.documents import Document, Page


def text(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A document; - is stdin.")],
    pages: Annotated[
        str | None,
        typer.Option(
            "--page",
            "--pages",
            metavar="RANGES",
            help="Pages to show: 12, 1-20,35,40- or label:iv-xii for printed; all by default.",
        ),
    ] = None,
    outline: Annotated[
        bool, typer.Option("--outline", help="Show the outline instead of the text.")
    ] = False,
    original: Annotated[
        bool,
        typer.Option(
            "--original",
            help="Show a PDF's pages as they came out of the file, before line-end hyphens were "
            "joined and running heads taken away.",
        ),
    ] = False,
    kind: FormatOpt = None,
    encoding: EncodingOpt = None,
    password_file: PasswordFileOpt = None,
    pdf_backend: PdfBackendOpt = "auto",
    strict: StrictOpt = False,
    json: JsonOpt = False,
    jsonl: JsonlOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Show the text of a document as the model sees it, page by page.

    Pages are set apart by a line on a terminal, and by a form feed in a pipe or a file.

    \b
    Examples:
      cca text book.pdf --page 12
      cca text book.epub > book.txt
    """
    # Listing the commands must not wait for what only reading needs.
    from cca_cli.document_text import ReadOptions
    from cca_cli.documents.ranges import select_pages
    from cca_cli.ingestion import open_text

    console = Console.of(ctx)
    if original and outline:
        raise UsageError("--original and --outline exclude each other", hint="leave one out")
    # The whole document is read for one page of it, too: what is a running head, and which
    # hyphens are meant, shows on the other pages.
    options = replace(ReadOptions.asked(console, file, ctx.params), pages=None)
    document = open_text(file, console=console, options=options)
    numbers = select_pages(
        pages, [page.label for page in document.pages], name=document.name, unit=document.unit
    )
    chosen = [document.pages[number - 1] for number in numbers]
    originals = _originals(file, options) if original else {}
    if console.mode == "json":
        shown = [_page_record(page, originals) for page in chosen]
        console.json({**_record(document), "pages": shown, "warnings": console.warnings})
    elif console.mode == "jsonl":
        for page in chosen:
            console.json({"doc": document.name, **_page_record(page, originals)})
    elif outline:
        _say_outline(console, document, set(numbers))
    else:
        texts = [originals[p.number].text if originals else p.text for p in chosen]
        _say_pages(console, document, chosen, texts)


def _record(document: Document) -> dict[str, Any]:
    return {
        "doc": document.name,
        "path": document.path,
        "sha256": document.sha256,
        "format": document.format,
        "reader": document.reader,
        "unit": document.unit,
        "count": len(document.pages),
        "outline": [
            {"title": entry.title, "page": entry.page, "level": entry.level}
            for entry in document.outline
        ],
    }


def _page_record(page: Page, originals: Mapping[int, Original]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "number": page.number,
        "label": page.label,
        "characters": len(page.text),
        "text": page.text,
    }
    if originals:
        record["original"] = originals[page.number].text
        record["spans"] = [list(span) for span in originals[page.number].spans]
    return record


def _say_pages(
    console: Console, document: Document, pages: Sequence[Page], texts: Sequence[str]
) -> None:
    apart = len(pages) > 1 and sys.stdout.isatty()
    for place, (page, shown) in enumerate(zip(pages, texts, strict=True)):
        if apart:
            label = f" ({page.label})" if page.label is not None else ""
            blank = "\n" if place else ""
            console.result(f"{blank}--- {document.unit} {page.number}{label} ---")
        elif place:
            # The console takes control characters away; this one, as pdftotext has it, is meant.
            emit("\f")
        console.result(shown)


def _say_outline(console: Console, document: Document, numbers: set[int]) -> None:
    entries = [entry for entry in document.outline if entry.page in numbers]
    if not entries:
        console.note(f"{document.name}: has no outline")
    for entry in entries:
        console.result(f"{'  ' * entry.level}{entry.title}\t{entry.page}")


def _originals(file: str, options: ReadOptions) -> Mapping[int, Original]:
    from cca_cli.documents import read_originals

    if file == "-":
        raise UsageError("--original: standard input can be read once only", hint="name a file")
    return read_originals(
        file, password=options.password, backend=options.backend, kind=options.kind
    )
