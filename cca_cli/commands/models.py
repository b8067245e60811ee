"""``cca models``: the checkpoints on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cca_cli.completion import complete_models
from cca_cli.console import Console
from cca_cli.formatting import format_bytes
from cca_cli.model_loading import DEFAULT_ADAPTER, DEFAULT_MODEL
from cca_cli.options import (
    AdapterOpt,
    DebugOpt,
    JsonlOpt,
    JsonOpt,
    OfflineOpt,
    QuietOpt,
    VerboseOpt,
)
from cca_cli.paths import models_dir

if TYPE_CHECKING:
    from cca_models.adapters import Adapter

app = typer.Typer(
    help="Obtain, list and remove models.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

NameArg = Annotated[
    str,
    typer.Argument(metavar="NAME", autocompletion=complete_models, help="A model's name."),
]


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
            "adapter": checkpoint.adapter.name if checkpoint.adapter else None,
            "path": str(checkpoint.path),
        }
        for checkpoint in list_checkpoints()
    ]
    if not rows and console.human:
        console.note("no models here yet; cca models pull obtains the default one")
        return
    columns = ("name", "bytes", "trained_tokens", "adapter", "path")
    console.listing("models", rows, columns, spare=("adapter",))


@app.command("show")
def show(
    ctx: typer.Context,
    name: NameArg = DEFAULT_MODEL,
    adapter: AdapterOpt = DEFAULT_ADAPTER,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Show a model, and the adapter that is applied to it.

    \b
    Examples:
      cca models show
      cca models show ./llama --adapter ./my-adapter --json
    """
    console = Console.of(ctx)
    from cca_models.checkpoints import resolve_checkpoint

    # Asking about a model must not start a download.
    checkpoint = resolve_checkpoint(name, adapter=adapter, offline=True)
    facts: dict[str, Any] = {
        "name": checkpoint.name,
        "path": str(checkpoint.path),
        "bytes": _size(checkpoint.path),
        "trained_tokens": checkpoint.trained_tokens,
        "group_size": checkpoint.cca.group_size,
        "window": checkpoint.cca.window,
        "adapter": _adapter_facts(checkpoint.adapter) if checkpoint.adapter else None,
    }
    if not console.human:
        console.json(facts)
        return
    own = facts.pop("adapter")
    facts["bytes"] = format_bytes(facts["bytes"])
    facts["adapter"] = own.pop("name") if own else "none"
    facts |= {f"adapter {key}": value for key, value in (own or {}).items() if value is not None}
    console.facts([(key.replace("_", " "), value) for key, value in facts.items()])


def _adapter_facts(adapter: Adapter) -> dict[str, Any]:
    """Tell what an adapter is; None stands where a plain PEFT adapter does not say."""
    settings = adapter.settings
    return {
        "name": adapter.name,
        "path": str(adapter.path),
        "digest": adapter.digest,
        "rank": adapter.lora.rank,
        "trained_tokens": settings.rope.trained_tokens if settings else None,
        "max_tokens": settings.rope.max_tokens if settings else None,
        "rope": settings.rope.rule if settings else None,
        "rope_theta": settings.rope.theta if settings else None,
    }


@app.command("path")
def path(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=complete_models,
            help="A model's name; without it, their root.",
        ),
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
    """Remove a model; documents read with it stay in the library.

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


@app.command("average")
def average(
    ctx: typer.Context,
    adapters: Annotated[
        list[Path],
        typer.Argument(metavar="ADAPTER...", help="Folders of adapters of one model, two or more."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder to write.")],
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            metavar="LIST",
            show_default=False,
            help="What each counts, summing to 1: 0.7,0.3; equal if not set.",
        ),
    ] = None,
    # Not --dtype: what a file of settings says of that one is what all commands compute in.
    save_dtype: Annotated[
        Literal["fp32", "bf16", "fp8"],
        typer.Option("--save-dtype", help="Number format of the weights' file."),
    ] = "fp32",
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Average adapters of one model into one adapter.

    The mean of trainings that differ often reads better than each of them. Rank, heads that
    locate and the thresholds of "not found" are those of the first.

    \b
    Examples:
      cca models average long/adapter short/adapter --out mean
      cca models average long/best short/best --weights 0.7,0.3 --save-dtype fp8 --out mean
    """
    # It imports torch.
    from cca_cli.average_run import run_average

    run_average(Console.of(ctx), adapters, out, weights, save_dtype)


def _size(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
