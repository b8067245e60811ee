"""``cca count``: what reading documents would take, without reading them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cca_cli.console import Console
from cca_cli.errors import PartialFailureError, UsageError
from cca_cli.failures import concerns_document, explain
from cca_cli.formatting import format_duration
from cca_cli.model_loading import DEFAULT_ADAPTER, DEFAULT_MODEL, asked_model
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

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel

_COLUMNS = ("doc", "pages", "words", "tokens", "used", "reading", "disk_bytes", "library")


def count(
    ctx: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Documents, directories of them, patterns; - is stdin."
        ),
    ],
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
    """Say what reading documents takes: tokens, memory, disk, time.

    Several documents are a table. One bad file does not stop the others (exit 9).

    \b
    Examples:
      cca count book.pdf
      cca count shelf
      cca count book.pdf --json | jq .tokens
    """
    # Listing the commands must not wait for what only reading needs.
    from cca_cli.collecting import collect_documents
    from cca_cli.document_text import ReadOptions
    from cca_cli.dry_run import measured, say

    console = Console.of(ctx)
    files = collect_documents(console, files)
    if files.count("-") > 1:
        raise UsageError("standard input (-) can be read once only", hint="name it once")
    alone = len(files) == 1
    loaded: LanguageModel | None = None
    records: list[dict[str, Any]] = []
    for file in files:
        options = ReadOptions.asked(console, file, ctx.params)
        first_warning = len(console.warnings)
        try:
            options.check(file)
            loaded = loaded or asked_model(console, ctx.params)
            text, facts = measured(console, loaded, file, options)
        except Exception as error:
            if alone or not concerns_document(error):
                raise
            failure = explain(error)
            records.append({"path": file, "error": failure.to_json()})
            if console.mode != "jsonl":
                console.error(failure)
        else:
            records.append({**facts, "warnings": console.warnings[first_warning:], "error": None})
            if alone and console.human:
                say(console, text, facts)
        if console.mode == "jsonl":
            console.json(records[-1])
    counted = [record for record in records if record["error"] is None]
    if console.mode == "json":
        console.json(records[0] if alone else {"documents": records})
    elif console.human and not alone:
        rows = [{**record, **_short(record)} for record in counted]
        console.listing("documents", rows, _COLUMNS, spare=("words", "used", "library"))
    if len(counted) < len(files):
        raise PartialFailureError(
            f"{len(files) - len(counted)} of {len(files)} documents could not be read"
        )


def _short(record: Mapping[str, Any]) -> dict[str, str]:
    """Say in few words what JSON has as numbers."""
    reason = str(record["cache"]["reason"])
    return {
        "used": f"{100 * record['share']:.0f} %{'' if record['fits'] else ', too long'}",
        "reading": format_duration(record["prefill_seconds"]),
        "library": "there already" if record["cache"]["hit"] else reason.split(":")[0],
    }
