"""``cca ingest``: read documents into the library ahead of time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cca_cli.console import Console
from cca_cli.errors import PartialFailureError, UsageError
from cca_cli.failures import concerns_document, explain
from cca_cli.formatting import format_bytes
from cca_cli.model_loading import (
    DEFAULT_ADAPTER,
    DEFAULT_MODEL,
    asked_model,
    model_json,
    warn_of_length,
)
from cca_cli.options import (
    AdapterOpt,
    DebugOpt,
    DeviceOpt,
    DtypeOpt,
    EncodingOpt,
    FormatOpt,
    GroupSizeOpt,
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
    WindowOpt,
)
from cca_cli.safe_output import one_line

if TYPE_CHECKING:
    from cca_cli.document_text import ReadOptions
    from cca_cli.ingestion import OpenDocument
    from cca_models.engine import LanguageModel


def ingest(
    ctx: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Documents, directories of them, patterns; - is stdin."
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Read anew what the library has already.")
    ] = False,
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
    jsonl: JsonlOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Read documents ahead, so that later questions start at once.

    Their memories are kept in the library. What is there already is left alone, and an interrupted
    run continues where it stopped. One bad file does not stop the others (exit 9).

    \b
    Examples:
      cca ingest shelf/*.pdf
      cca ingest shelf
      find . -name '*.pdf' -print0 | xargs -0 cca ingest -q
    """
    # Listing the commands must not wait for what only reading needs.
    from cca_cli.collecting import collect_documents
    from cca_cli.document_text import ReadOptions

    console = Console.of(ctx)
    files = collect_documents(console, files)
    if len(files) > 1 and files.count("-") > 1:
        raise UsageError("standard input (-) can be read once only", hint="name it once")
    loaded: LanguageModel | None = None
    records: list[dict[str, Any]] = []
    failures: list[Exception] = []
    for file in files:
        options = ReadOptions.asked(console, file, ctx.params)
        start = time.perf_counter()
        first_warning = len(console.warnings)
        try:
            options.check(file)
            loaded = loaded or asked_model(console, ctx.params)
            opened = _open(file, loaded, console, options, force)
            warn_of_length(console, loaded, opened.document.name, len(opened.text.ids))
        except Exception as error:
            failure = explain(error)
            if len(files) == 1 or not failure.expected or not concerns_document(error):
                raise
            failures.append(error)
            records.append({"path": file, "error": failure.to_json()})
            if console.mode != "jsonl":
                console.error(failure)
        else:
            seconds = time.perf_counter() - start
            records.append(_record(opened, loaded, console.warnings[first_warning:], seconds))
        if console.mode == "jsonl":
            console.json(records[-1])
        elif console.human and not console.quiet and records[-1]["error"] is None:
            _say(console, records[-1])
    if console.mode == "json":
        console.json({"documents": records})
    if failures:
        raise PartialFailureError(
            f"{len(failures)} of {len(files)} documents could not be read",
            hint="the others are in the library: cca docs ls",
        )


def _open(
    file: str, model: LanguageModel, console: Console, options: ReadOptions, force: bool
) -> OpenDocument:
    from cca_cli.ingestion import open_document, prefix_ids

    return open_document(
        file,
        model,
        console=console,
        prefix_ids=prefix_ids(model),
        options=options,
        cache="refresh" if force else "use",
    )


def _record(
    opened: OpenDocument, model: LanguageModel, warnings: list[str], seconds: float
) -> dict[str, Any]:
    document = opened.document
    return {
        "doc": document.name,
        "path": document.path,
        "sha256": document.sha256,
        "pages": len(document.pages),
        "unit": document.unit,
        "tokens": len(opened.text.ids),
        "model": {**model_json(model), "attention": "cca"},
        "cache": opened.cache_json(),
        "timing_s": {**opened.timing_s, "total": seconds},
        "warnings": warnings,
        "error": None,
    }


def _say(console: Console, record: dict[str, Any]) -> None:
    hit = record["cache"]["hit"]
    what = "already in the library" if hit else f"read in {record['timing_s']['total']:.1f} s"
    size = format_bytes(record["cache"]["bytes"])
    count = f"{record['pages']:,} {record['unit']}{'' if record['pages'] == 1 else 's'}"
    console.result(
        f"{one_line(record['doc'])}: {what} ({count}, {record['tokens']:,} tokens, {size} on disk)"
    )
