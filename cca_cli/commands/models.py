"""``cca models``: the checkpoints on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cca_cli.console import Console
from cca_cli.formatting import format_bytes
from cca_cli.model_loading import DEFAULT_MODEL
from cca_cli.options import DebugOpt, JsonlOpt, JsonOpt, OfflineOpt, QuietOpt, VerboseOpt
from cca_cli.paths import models_dir

app = typer.Typer(
    help="Obtain, list and remove models.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NameArg = Annotated[str, typer.Argument(metavar="NAME", help="A model's name.")]


@app.command("pull")
def pull(
    ctx: typer.Context,
    name: NameArg = DEFAULT_MODEL,
    offline: OfflineOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Obtain a model, if it is not there yet, and check it.

    \b
    Examples:
      cca models pull
      cca models pull HuggingFaceTB/SmolLM2-360M-Instruct
    """
    console = Console.of(ctx)
    # It may import what reads and converts checkpoints.
    from cca_models.checkpoints import resolve_checkpoint

    with console.progress(name) as progress:
        checkpoint = resolve_checkpoint(name, offline=offline, progress=progress)
    if console.human:
        console.result(str(checkpoint.path))
    else:
        console.json(
            {
                "name": checkpoint.name,
                "path": str(checkpoint.path),
                "bytes": _size(checkpoint.path),
                "fingerprint": checkpoint.fingerprint,
            }
        )


@app.command("ls")
def ls(
    ctx: typer.Context,
    json: JsonOpt = False,
    jsonl: JsonlOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """List the models on this machine.

    \b
    Examples:
      cca models ls
      cca models ls --json | jq -r '.models[].name'
    """
    console = Console.of(ctx)
    from cca_models.checkpoints import list_checkpoints

    rows = [
        {
            "name": checkpoint.name,
            "bytes": _size(checkpoint.path),
            "trained_tokens": checkpoint.trained_tokens,
            "adapted": checkpoint.adapted,
            "path": str(checkpoint.path),
        }
        for checkpoint in list_checkpoints()
    ]
    if not rows and console.human:
        console.note("no models here yet; cca models pull obtains the default one")
        return
    console.listing("models", rows, ("name", "bytes", "trained_tokens", "path"))


@app.command("path")
def path(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A model's name; without it, their root.")
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Print the directory of a model, or of all models.

    \b
    Examples:
      cca models path
      du -sh "$(cca models path smollm2-135m-instruct)"
    """
    console = Console.of(ctx)
    where = models_dir()
    if name is not None:
        from cca_models.checkpoints import resolve_checkpoint

        # Asking for a path must not start a download.
        where = resolve_checkpoint(name, offline=True).path
    if console.human:
        console.result(str(where))
    else:
        console.json({"name": name, "path": str(where)})


@app.command("rm")
def rm(
    ctx: typer.Context,
    name: NameArg,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Remove a model from this machine; documents read with it stay in the library.

    \b
    Examples:
      cca models rm smollm2-135m-instruct
      cca models ls --json | jq -r '.models[].name' | xargs -n1 cca models rm
    """
    console = Console.of(ctx)
    from cca_models.checkpoints import remove_checkpoint

    freed = remove_checkpoint(name)
    if console.human:
        console.note(f"removed {name}, {format_bytes(freed)}")
    else:
        console.json({"removed": name, "bytes": freed})


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
