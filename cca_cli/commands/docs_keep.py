"""``cca docs rm|prune|export|import``: what stays in the library, and what moves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from cca_cli.completion import complete_documents
from cca_cli.console import Console
from cca_cli.errors import InputError, ResourceError, UsageError
from cca_cli.formatting import format_bytes
from cca_cli.options import DebugOpt, JsonlOpt, JsonOpt, QuietOpt, VerboseOpt
from cca_cli.safe_output import one_line

if TYPE_CHECKING:
    from cca_cli.library import Library
    from cca_cli.library_space import Removed, Tenant

__all__ = ["register"]


def register(docs: typer.Typer) -> None:
    """Add these commands to the group."""
    docs.command("rm")(rm)
    docs.command("prune")(prune)
    docs.command("export")(export)
    docs.command("import")(import_)


def _library() -> Library:
    # Listing the commands must not wait for what only the library needs.
    from cca_cli.library import Library
    from cca_cli.paths import library_dir

    return Library(library_dir())


def _entries(count: int) -> str:
    return f"{count} entr{'y' if count == 1 else 'ies'}"


def rm(
    ctx: typer.Context,
    doc: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DOC...",
            help="Path, name, or the start of an entry's key.",
            autocompletion=complete_documents,
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Empty the library.")] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Remove documents: memory, tokens and text, with any model.

    \b
    Examples:
      cca docs rm book.pdf
      cca docs rm --all
    """
    from cca_cli.library_files import key_of

    console = Console.of(ctx)
    if bool(doc) == everything:
        raise UsageError("name the documents to remove, or --all", hint="cca docs ls")
    library = _library()
    paths: dict[Path, str] = {}
    for query in doc or []:
        remains = library.remains(query)
        try:
            found = [entry.path for entry in library.find(query)]
        except InputError:
            if not remains:
                raise
            found = []
        paths.update(dict.fromkeys([*found, *remains], query))
    if everything:
        paths.update(dict.fromkeys(library.directories(), "--all"))
    freed = sum(library.remove(path) for path in paths)
    if console.human:
        console.note(f"removed {_entries(len(paths))}, {format_bytes(freed)}")
    else:
        console.json({"removed": [key_of(path) for path in paths], "bytes": freed})


def prune(
    ctx: typer.Context,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            metavar="SIZE",
            help="Remove what was used longest ago until the library holds no more than this "
            "(2GB, 500MB); CCA_LIBRARY_SIZE if not set.",
        ),
    ] = None,
    unused: Annotated[
        int | None,
        typer.Option("--unused", min=0, metavar="DAYS", help="Remove what was unused for so long."),
    ] = None,
    stale: Annotated[
        bool,
        typer.Option("--stale", help="Remove documents whose file is gone or has changed since."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Say what would go, and remove nothing.")
    ] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Make room: remove what is old, out of date or half-written.

    Documents that another cca is using or reading are left alone.

    \b
    Examples:
      cca docs prune --max-size 5GB
      cca docs prune --stale --dry-run
    """
    # Listing the commands must not wait for what only pruning needs.
    from cca_cli.library_prune import prune_library
    from cca_cli.library_space import parse_size, size_cap

    console = Console.of(ctx)
    library = _library()
    cap = parse_size(max_size, name="--max-size") if max_size else size_cap(library.root)
    removed = prune_library(library, cap=cap, unused_days=unused, stale=stale, dry_run=dry_run)
    if not console.human:
        console.json(_pruned_json(removed, cap, dry_run))
        return
    verb = "would remove" if dry_run else "removed"
    for tenant in removed.gone:
        console.result(
            f"{verb}\t{one_line(tenant.name)}\t{format_bytes(tenant.bytes)}\t{tenant.key[:12]}"
        )
    for tenant in removed.kept:
        console.note(f"{tenant.name}: in use, left alone")
    limit = "" if cap is None else f" of {format_bytes(cap)}"
    console.note(
        f"{verb} {_entries(len(removed.gone))}, {format_bytes(removed.bytes)}; "
        f"the library holds {format_bytes(removed.left)}{limit}"
    )


def _pruned_json(removed: Removed, cap: int | None, dry_run: bool) -> Mapping[str, Any]:
    def rows(tenants: Sequence[Tenant]) -> list[dict[str, Any]]:
        return [{"key": t.key, "name": t.name, "bytes": t.bytes} for t in tenants]

    return {
        "dry_run": dry_run,
        "removed": rows(removed.gone),
        "in_use": rows(removed.kept),
        "bytes": removed.bytes,
        "left_bytes": removed.left,
        "max_bytes": cap,
    }


def export(
    ctx: typer.Context,
    doc: Annotated[
        list[str],
        typer.Argument(
            metavar="DOC...",
            help="Path, name, or the start of an entry's key.",
            autocompletion=complete_documents,
        ),
    ],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="File to write; - is stdout."),
    ],
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite the file.")] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Write documents, their memory and text, to one file.

    On another machine the same document need not be read again with the same model.

    \b
    Examples:
      cca docs export book.pdf -o book.cca
      cca docs export book.pdf -o - | ssh host cca docs import -
    """
    from cca_cli.library_archive import export_entries

    console = Console.of(ctx)
    library = _library()
    entries = {entry.key: entry for query in doc for entry in library.find(query)}
    leases = [library.use(entry.fingerprint) for entry in entries.values()]
    with _output(output, force) as stream:
        size = export_entries(entries.values(), stream)
    for lease in leases:
        if lease is not None:
            lease.release()
    if console.human or output == "-":
        console.note(f"wrote {_entries(len(entries))}, {format_bytes(size)}")
    else:
        console.json({"exported": list(entries), "bytes": size, "file": output})


@contextmanager
def _output(name: str, force: bool) -> Iterator[IO[bytes]]:
    if name == "-":
        if sys.stdout.isatty():
            raise UsageError(
                "an export is not for a terminal", hint="-o FILE, or pipe it: -o - | …"
            )
        with _written_to("standard output"):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    path = Path(name)
    if path.exists() and not force:
        raise UsageError(f"{name}: there is a file already", hint="--force overwrites it")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{name}: there is no such directory", hint="mkdir makes it")
    # The file appears when it is whole, and is private: it is the document in another form.
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with _written_to(name):
            made = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(made, "wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(aside, path)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


@contextmanager
def _written_to(name: str) -> Iterator[None]:
    """Say where an export found no room; it is not the library's disk."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ResourceError(
            f"{name}: cannot be written: {(error.strerror or str(error)).lower()}",
            hint="make room where the export goes, or send it elsewhere",
        ) from error


def import_(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What was exported; - is stdin.")],
    json: JsonOpt = False,
    jsonl: JsonlOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Take documents into the library that `cca docs export` wrote.

    Every file is checked against its digest. That the text is the document's own is only known
    to whoever wrote it: import from people you trust.

    \b
    Examples:
      cca docs import book.cca
      ssh host cca docs export book.pdf -o - | cca docs import -
    """
    from cca_cli.library_archive import import_entries
    from cca_cli.library_space import make_room, size_cap, told_of

    console = Console.of(ctx)
    library = _library()
    cap = size_cap(library.root)
    rows: list[dict[str, Any]] = []
    with _input(file) as stream:
        for imported in import_entries(
            stream,
            library,
            name="stdin" if file == "-" else file,
            on_wait=lambda pid: console.note(f"another cca (pid {pid}) is at work on it; waiting"),
        ):
            entry = imported.entry
            rows.append({**entry.summary(), "id": entry.key[:12], "new": imported.new})
            if console.human:
                state = "imported" if imported.new else "already in the library"
                name = entry.manifest["document"]["name"]
                console.result(f"{one_line(name)}: {state} ({format_bytes(entry.nbytes)})")
            elif console.mode == "jsonl":
                console.json(rows[-1])
    if console.mode == "json":
        console.json({"documents": rows})
    for line in told_of(make_room(library, cap, spare=[row["key"] for row in rows]), cap):
        console.note(line)


@contextmanager
def _input(name: str) -> Iterator[IO[bytes]]:
    if name == "-":
        if sys.stdin.isatty():
            raise UsageError("an export is read from a pipe or a file", hint="cca docs import FILE")
        yield sys.stdin.buffer
        return
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(open(name, "rb"))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InputError(f"{name}: {reason}", hint="cca docs export writes one") from error
        yield stream
