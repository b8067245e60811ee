"""Option types that several commands share, so that they read and behave alike everywhere.

A command declares the output options (--json, --quiet, ...) under these names and leaves them to
`Console.of(ctx)`, which reads them; so do `ReadOptions.asked` and `asked_model` with those on
files and on the model. Callbacks would do it too, but Typer takes a millisecond for each when the
program starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cca_cli.completion import complete_adapters, complete_devices, complete_models
from cca_cli.errors import UsageError

__all__ = [
    "AdapterOpt",
    "CacheOpt",
    "CachePolicy",
    "DebugOpt",
    "DeviceOpt",
    "DtypeOpt",
    "EncodingOpt",
    "FormatOpt",
    "GroupSizeOpt",
    "JsonOpt",
    "JsonlOpt",
    "ModelOpt",
    "NoSaveOpt",
    "OfflineOpt",
    "PagesOpt",
    "PasswordFileOpt",
    "PdfBackendOpt",
    "QuietOpt",
    "StrictOpt",
    "VerboseOpt",
    "WindowOpt",
]


CachePolicy = Literal["use", "refresh", "off", "require"]

JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
JsonlOpt = Annotated[bool, typer.Option("--jsonl", help="Print one JSON object per line.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Errors only on stderr.")]
VerboseOpt = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        help="Say more on stderr; twice for the libraries' own messages.",
    ),
]
DebugOpt = Annotated[
    bool,
    typer.Option("--debug", help="Show tracebacks (also CCA_DEBUG=1)."),
]
ModelOpt = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="CCA_MODEL",
        show_envvar=True,
        metavar="NAME|DIR",
        autocompletion=complete_models,
        help="Default model by name, a LLaMA-family directory, or a hub id.",
    ),
]
AdapterOpt = Annotated[
    str,
    typer.Option(
        "--adapter",
        envvar="CCA_ADAPTER",
        show_envvar=True,
        metavar="default|none|DIR",
        autocompletion=complete_adapters,
        help="default: what ships with cca for its default model; none; or a PEFT LoRA folder.",
    ),
]
DeviceOpt = Annotated[
    str,
    typer.Option(
        "--device",
        envvar="CCA_DEVICE",
        show_envvar=True,
        autocompletion=complete_devices,
        help="auto, cpu, cuda, cuda:N or mps.",
    ),
]
DtypeOpt = Annotated[
    Literal["auto", "fp32", "bf16", "fp16"],
    typer.Option("--dtype", envvar="CCA_DTYPE", show_envvar=True, help="Number format."),
]
GroupSizeOpt = Annotated[
    int | None,
    typer.Option(
        "--group-size",
        min=1,
        show_default=False,
        help="Tokens folded into one core token, G; the adapter's own if not set, else 16.",
    ),
]
WindowOpt = Annotated[
    int | None,
    typer.Option(
        "--window",
        min=1,
        show_default=False,
        help="Raw tokens that every token still sees, W; the adapter's own if not set, else 1024.",
    ),
]
PagesOpt = Annotated[
    str | None,
    typer.Option(
        "--pages", metavar="RANGES", help="Pages to read: 1-20,35,40- or label:iv-xii for printed."
    ),
]
PasswordFileOpt = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        envvar="CCA_PDF_PASSWORD_FILE",
        show_envvar=True,
        metavar="FILE",
        help="File whose first line is the PDF's password.",
    ),
]
PdfBackendOpt = Annotated[
    Literal["auto", "pypdf", "pdfium"],
    typer.Option("--pdf-backend", help="PDF reader; pdfium needs the extra cca[fast]."),
]
FormatOpt = Annotated[
    Literal["pdf", "epub", "html", "docx", "odt", "pptx", "markdown", "code", "text"] | None,
    typer.Option("--type", help="Format of the input where its content does not tell."),
]
StrictOpt = Annotated[
    bool,
    typer.Option("--strict", help="Fail (exit 4) if a page has no text, instead of naming it."),
]
EncodingOpt = Annotated[
    str | None,
    typer.Option("--encoding", metavar="CODEC", help="Codec of a text file, if the guess errs."),
]


def _policy(ctx: typer.Context, value: str) -> str:
    """Let --no-save, which is read first, decide over --cache."""
    if not ctx.params.get("no_save") or value == "off":
        return value
    if value != "use":
        raise UsageError(
            f"--no-save and --cache {value} exclude each other", hint="leave one of them out"
        )
    return "off"


NoSaveOpt = Annotated[
    bool,
    typer.Option(
        "--no-save",
        is_eager=True,
        help="Leave nothing behind: no memory, no text, no log; the same as --cache off.",
    ),
]
CacheOpt = Annotated[
    CachePolicy,
    typer.Option(
        "--cache",
        callback=_policy,
        help="use: the library if it has the document; refresh: read anew; off: leave nothing "
        "behind; require: fail (exit 8) if it must be read.",
    ),
]
OfflineOpt = Annotated[
    bool,
    typer.Option(
        "--offline",
        envvar="CCA_OFFLINE",
        show_envvar=True,
        help="Never use the network.",
    ),
]
