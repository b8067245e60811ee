"""From a file to a memory: read, tokenise, look into the library, prefill what is missing, store.

`open_document` is the one way in for every command that needs a memory; `open_text` for those
that need the text alone. Nothing is ever left out of a document in silence: what does not fit is
an error that says what would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cca_cli.console import Console
from cca_cli.document_text import ReadOptions, absolute, canonical_pages, without_text
from cca_cli.errors import MissingMemoryError
from cca_cli.ingestion_job import Job
from cca_cli.ingestion_types import FileChangedError, OpenDocument, Plan
from cca_cli.library import DAMAGED, Hit, Library
from cca_cli.library_entry import StoredText
from cca_cli.library_files import file_sha256
from cca_cli.library_sweep import sweep
from cca_cli.paths import library_dir

if TYPE_CHECKING:
    from cca_cli.options import CachePolicy
    from cca_models.documents import Document
    from cca_models.engine import LanguageModel

__all__ = [
    "RESERVED_TOKENS",
    "OpenDocument",
    "Plan",
    "measure",
    "open_document",
    "open_text",
    "prefix_ids",
]

RESERVED_TOKENS = 4096
"""Room in every memory for question, passages and answer. One figure for all commands: the
capacity of a memory decides the stretch of its positions, so another figure reads differently."""


def open_document(
    path: str,
    model: LanguageModel,
    *,
    console: Console,
    prefix_ids: Sequence[int] = (),
    options: ReadOptions | None = None,
    cache: CachePolicy = "use",
    reserve: int = RESERVED_TOKENS,
    on_plan: Callable[[Plan], None] | None = None,
    library: Library | None = None,
    must_keep: bool = True,
) -> OpenDocument:
    """Open a document with its memory, from the library or by reading it.

    A re-run continues where an interrupted one stopped. Two processes that want the same memory
    make it once.

    Args:
        path: Path of a file, or "-" for standard input.
        model: What reads.
        console: For the summary line, warnings and progress.
        prefix_ids: Tokens before the document; the same for every question.
        options: How to read the file.
        cache: "use" the library, "refresh" the entry, "off" leaves nothing on disk, "require"
            fails if the document would have to be read.
        reserve: Tokens that must fit after the document.
        on_plan: Called before the model reads anything; what it raises stops the work.
        library: The user's own if None.
        must_keep: Whether it is an error if the memory cannot be stored once it is made; otherwise
            a warning.

    Returns:
        The document and a memory of exactly ``text.ids``.

    Raises:
        CLIError: If the file cannot be read, or (exit 8) is not in the library with "require".
        TooLongError: If prefix, document and `reserve` exceed what the model can hold.
        KeyboardInterrupt: On Ctrl-C; what was read so far is kept.
        OSError: If the disk is full; finished entries are untouched.
    """
    job = Job(
        path=path,
        model=model,
        console=console,
        prefix_ids=tuple(prefix_ids),
        options=options or ReadOptions(),
        reserve=reserve,
        on_plan=on_plan,
        # Where nothing is kept, not even the library's directory is made.
        library=library or Library(library_dir() if cache != "off" else Path(os.devnull)),
        must_keep=must_keep,
    )
    if cache == "off":
        return job.read_only_now()
    try:
        return _open(job, cache)
    except FileChangedError:
        # A log grows between its digest and its reading; what was read is what counts then.
        return _open(job, cache)


def _open(job: Job, cache: CachePolicy) -> OpenDocument:
    console = job.console
    wanted = job.recognise()
    reason = "to be read anew, as asked"
    if cache != "refresh":
        found = job.look_up(wanted)
        if isinstance(found, OpenDocument):
            return found
        reason = found.reason
    if cache == "require":
        raise MissingMemoryError(
            f"{job.name}: {reason}", hint=f"cca ingest {job.path}, or leave out --cache require"
        )
    if reason.startswith(DAMAGED):
        console.warn(f"{job.name}: {reason}; reading it again")
    sweep(job.library, spare=wanted.key)
    with job.library.hold(wanted, on_wait=job.tell_wait):
        if cache != "refresh":
            # Whoever held the key may have made what we want.
            found = job.look_up(wanted)
            if isinstance(found, OpenDocument):
                return found
            reason = found.reason
        return job.read_and_store(wanted, reason, anew=cache == "refresh")


def measure(
    path: str,
    model: LanguageModel,
    *,
    console: Console,
    options: ReadOptions,
    library: Library | None = None,
) -> tuple[StoredText, str | None]:
    """Tokenise a document without reading it with the model.

    Args:
        path: Path of a file, or "-" for standard input.
        model: What would read it.
        console: For progress and warnings.
        options: How to read the file.
        library: The user's own if None.

    Returns:
        The document in tokens, and why the library cannot serve it; None if it can.
    """
    job = Job(
        path=path,
        model=model,
        console=console,
        prefix_ids=tuple(prefix_ids(model)),
        options=options,
        reserve=RESERVED_TOKENS,
        on_plan=None,
        library=library or Library(library_dir()),
    )
    wanted = job.recognise()
    found = job.library.lookup(wanted, path=absolute(path), settings=job.settings)
    if isinstance(found, Hit):
        stored = job.stored_text(found.entry)
        if isinstance(stored, StoredText):
            return stored, None
        found = stored
    return job.text_read(), found.reason


def prefix_ids(model: LanguageModel) -> list[int]:
    """Return the tokens that stand before every document, in all commands alike."""
    # It imports torch.
    from cca_models.reading import document_prefix

    return document_prefix(model.tokenizer)


def open_text(
    path: str,
    *,
    console: Console,
    options: ReadOptions | None = None,
    library: Library | None = None,
) -> Document:
    """Read a document without any model; text that the library already has is not read again.

    Args:
        path: Path of a file, or "-" for standard input.
        console: For the warnings.
        options: How to read the file.
        library: The user's own if None.

    Raises:
        CLIError: If the file cannot be read.
    """
    options = options or ReadOptions()
    if os.path.isfile(path) and os.access(path, os.R_OK):
        stored = (library or Library(library_dir())).find_text(
            sha256=file_sha256(Path(path)),
            reading=options.recipe(path),
            pages=canonical_pages(options.pages),
        )
        if stored is not None:
            options.require_text(stored)
            return replace(stored, name=os.path.basename(path), path=absolute(path))
    with console.progress(os.path.basename(path)) as progress:
        progress("read", 0, 0)
        document = options.read(path)
    options.require_text(document)
    empty = without_text(document)
    if empty:
        console.note(f"{document.name}: {empty}")
    for warning in document.warnings:
        console.warn(f"{document.name}: {warning}")
    return document
