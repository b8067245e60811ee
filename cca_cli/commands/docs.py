"""``cca docs``: the library of documents that have been read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cca_cli.completion import complete_documents
from cca_cli.console import Console
from cca_cli.errors import InputError, MissingMemoryError
from cca_cli.options import DebugOpt, JsonlOpt, JsonOpt, QuietOpt, VerboseOpt

if TYPE_CHECKING:
    from cca_cli.library import Library

app = typer.Typer(
    help="List, show, check, remove and move documents in the library.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_COLUMNS = ("name", "pages", "tokens", "model", "bytes", "last_used", "state", "id", "path")

DocArg = Annotated[
    str,
    typer.Argument(
        metavar="DOC",
        autocompletion=complete_documents,
        help="Path, name, or the start of an entry's key.",
    ),
]


def open_library() -> Library:
    """Return the user's library."""
    # Listing the commands must not wait for what only the library needs.
    from cca_cli.library import Library
    from cca_cli.paths import library_dir

    return Library(library_dir())


@app.command("ls")
def ls(
    ctx: typer.Context,
    json: JsonOpt = False,
    jsonl: JsonlOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """List the documents in the library, last used first.

    A narrow terminal goes without path, id and model; a pipe has them all.

    \b
    Examples:
      cca docs ls
      cca docs ls --json | jq '.documents[].path'
    """
    console = Console.of(ctx)
    rows = open_library().listing()
    if not rows and console.human:
        console.note("the library is empty; cca ingest FILE reads a document into it")
        return
    shown = [{**row, "id": row["key"][:12]} for row in rows]
    console.listing("documents", shown, _COLUMNS, spare=("path", "id", "model"))


@app.command("show")
def show(
    ctx: typer.Context,
    doc: DocArg,
    page: Annotated[
        int | None, typer.Option("--page", min=1, help="Print the text of this page.")
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Show what is known of a document, or the text of one page.

    \b
    Examples:
      cca docs show book.pdf
      cca docs show book.pdf --page 12
    """
    console = Console.of(ctx)
    entry = open_library().find(doc)[0]
    if page is not None:
        found = next((p for p in entry.pages_to_show() if p["number"] == page), None)
        if found is None:
            raise InputError(
                f"{doc}: page {page} is not among the pages read",
                hint=f"it has {entry.manifest['pages']:,} pages: cca docs show {doc}",
            )
        if console.human:
            console.result(found["text"])
        else:
            console.json({"doc": entry.manifest["document"]["name"], **found})
        return
    from cca_cli.library_manifest import outline_of

    document = entry.manifest["document"]
    outline = outline_of(document)
    facts = {
        **entry.summary(),
        "format": document["format"],
        "reader": document["reader"],
        "directory": str(entry.path),
        "empty_pages": [p["number"] for p in entry.pages_to_show() if not p["text"].strip()],
        "outline": outline,
        "warnings": document["warnings"],
    }
    if not console.human:
        console.json(facts)
        return
    lists = {name: value for name, value in facts.items() if isinstance(value, list)}
    told = {**facts, **{name: ", ".join(map(str, value)) for name, value in lists.items()}}
    console.facts([(name, value) for name, value in told.items() if name != "outline"])
    for item in outline:
        console.result(f"outline\t{'  ' * item['level']}{item['title']}\t{item['page']}")


@app.command("path")
def path(
    ctx: typer.Context,
    doc: Annotated[
        str | None,
        typer.Argument(
            metavar="DOC",
            help="Path, name, or the start of an entry's key.",
            autocompletion=complete_documents,
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Print where the library, or a document's entry, is on disk.

    \b
    Examples:
      cca docs path
      du -sh "$(cca docs path)"
    """
    console = Console.of(ctx)
    library = open_library()
    where = library.root if doc is None else library.find(doc)[0].path
    if console.human:
        console.result(str(where))
    else:
        console.json({"path": str(where)})


@app.command("verify")
def verify(
    ctx: typer.Context,
    doc: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DOC...",
            autocompletion=complete_documents,
            help="Path, name, or key; all without one.",
        ),
    ] = None,
    json: JsonOpt = False,
    jsonl: JsonlOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Hash every file and compare with what was written (exit 8).

    \b
    Examples:
      cca docs verify
      cca docs verify book.pdf
    """
    # Listing the commands must not wait for what only this one needs.
    from cca_cli.library_check import check, finding_of

    console = Console.of(ctx)
    library = open_library()
    if doc:
        findings = [finding_of(entry) for query in doc for entry in library.find(query)]
    else:
        findings = list(check(library))
    rows = [
        {"id": found.key[:12], "key": found.key, "name": found.name, "damage": found.damage}
        for found in findings
    ]
    shown = [{**row, "damage": row["damage"] or "none"} if console.human else row for row in rows]
    console.listing("documents", shown, ("id", "name", "damage"))
    bad = [row for row in rows if row["damage"]]
    if bad:
        raise MissingMemoryError(
            f"{len(bad)} of {len(rows)} entries are damaged",
            hint=f"cca docs rm {bad[0]['id']}; the next cca ask or ingest reads it again",
        )
