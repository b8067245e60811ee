"""``cca log``: what was asked and answered."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cca_cli.console import Console
from cca_cli.errors import InputError, UsageError
from cca_cli.formatting import format_moment
from cca_cli.options import DebugOpt, JsonlOpt, JsonOpt, QuietOpt, VerboseOpt

if TYPE_CHECKING:
    from cca_cli.question_log import QuestionLog

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)

_COLUMNS = ("id", "asked", "question", "answer", "found", "docs", "places")


def open_log() -> QuestionLog:
    """Return the user's log."""
    # Listing the commands must not wait for it.
    from cca_cli.question_log import QuestionLog

    return QuestionLog()


@app.callback()
def log(
    ctx: typer.Context,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, help="The latest so many; 0 for all.")
    ] = 20,
    search: Annotated[
        str | None,
        typer.Option("--search", metavar="TEXT", help="Only those with this text, or document."),
    ] = None,
    json: JsonOpt = False,
    jsonl: JsonlOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Show what was asked and answered, the latest first.

    The log holds questions, answers and the places of citations, but no text of the documents.
    CCA_LOG=off keeps none; --no-log and --cache off leave a single call out.

    \b
    Examples:
      cca log
      cca log --search book.pdf --json | jq '.answers[].answer'
    """
    if ctx.invoked_subcommand is not None:
        return
    console = Console.of(ctx)
    rows = open_log().rows(limit=limit or None, search=search)
    if not rows and console.human:
        from cca_cli.question_log import is_on

        what = "nothing was found" if search else "nothing was asked yet"
        console.note(what if is_on() else f"{what}; the log is off (CCA_LOG)")
        return
    if console.human and sys.stdout.isatty():
        for row in rows:
            _show(console, row)
        return
    # The short forms are for people; JSON has the whole.
    shown = [{**row, **_short(row)} for row in rows] if console.human else rows
    console.listing("answers", shown, _COLUMNS)


def _show(console: Console, row: dict[str, Any]) -> None:
    """Write one answer on a terminal, where questions are too long for a table."""
    short = _short(row)
    answer = row["answer"] if row["error"] is None else f"failed: {row['error']['message']}"
    places = f"  [{short['places']}]" if short["places"] else ""
    console.result(f"{row['id']}  {format_moment(row['asked'])}  {short['docs']}")
    console.result(f"    {row['question']}\n    {answer}{places}\n")


def _short(row: dict[str, Any]) -> dict[str, str]:
    """Name documents and places in few words, for the text forms."""
    docs = dict.fromkeys(str(one["name"]) for one in row["documents"])
    several = len(docs) > 1
    places = dict.fromkeys(
        f"{one['doc']} {one['page']}" if several else str(one["page"])
        for one in row["citations"]
        if one["supports"]
    )
    return {"docs": ", ".join(docs), "places": ", ".join(places)}


@app.command("show")
def show(
    ctx: typer.Context,
    number: Annotated[int, typer.Argument(metavar="ID", min=1, help="From cca log.")],
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Show one question with its answer, places and settings.

    \b
    Examples:
      cca log show 12
      cca log show 12 --json
    """
    console = Console.of(ctx)
    rows = open_log().rows(number=number)
    if not rows:
        raise InputError(f"{number}: not in the log", hint="cca log")
    if not console.human:
        console.json(rows[0])
        return
    row = rows[0]
    console.result(f"{row['question']}\n{row['answer']}\n")
    for one in row["citations"]:
        if one["supports"]:
            console.result(f"  {one['doc']}, {one['unit']} {one['page']}")
    facts = [("document", document["path"]) for document in row["documents"]]
    console.facts([*facts, *((name, row[name]) for name in ("asked", "conversation", "model"))])


@app.command("path")
def path(
    ctx: typer.Context,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Print the file that the log is kept in.

    \b
    Examples:
      cca log path
      sqlite3 "$(cca log path)" "select question from answers"
    """
    from cca_cli.question_log import is_on

    console = Console.of(ctx)
    kept = open_log()
    if console.human:
        console.result(str(kept.path))
        if not is_on():
            console.note("the log is off (CCA_LOG): nothing new is kept")
    else:
        console.json({"path": str(kept.path), "exists": kept.path.exists(), "on": is_on()})


@app.command("rm")
def rm(
    ctx: typer.Context,
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="From cca log.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all of it.")] = False,
    older_than: Annotated[
        int | None,
        typer.Option("--older-than", metavar="DAYS", min=0, help="What is older than this."),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Remove answers from the log, for good.

    \b
    Examples:
      cca log rm 12 13
      cca log rm --older-than 30
    """
    console = Console.of(ctx)
    if sum((bool(numbers), everything, older_than is not None)) != 1:
        raise UsageError("say what to remove: IDs, --older-than DAYS or --all", hint="cca log")
    kept = open_log()
    missing = [n for n in numbers or () if not kept.rows(number=n)]
    if missing:
        names = ", ".join(map(str, missing))
        raise InputError(f"{names}: not in the log; nothing was removed", hint="cca log")
    gone = kept.remove(numbers or (), older_than_days=older_than, everything=everything)
    if console.human:
        console.note(f"removed {gone:,} answer{'' if gone == 1 else 's'}")
    else:
        console.json({"removed": gone})
