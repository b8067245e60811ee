"""`cca adapt`: teach a checkpoint to read through core tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cca_cli.console import Console
from cca_cli.model_loading import DEFAULT_GROUP_SIZE, DEFAULT_MODEL, DEFAULT_WINDOW
from cca_cli.options import DebugOpt, JsonOpt, ModelOpt, OfflineOpt, QuietOpt, VerboseOpt

__all__ = ["adapt"]


def adapt(
    ctx: typer.Context,
    data: Annotated[
        Path,
        typer.Option("--data", help="Folder with pretrain/, qa/ and summarise/ (JSON Lines)."),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for checkpoints, logs and the adapter.")
    ],
    model: ModelOpt = DEFAULT_MODEL,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps in all.")] = 1000,
    tokens: Annotated[
        int,
        typer.Option("--tokens", min=1024, help="Tokens of a batch; a longer row is one itself."),
    ] = 32768,
    recipe: Annotated[
        Literal["mixed", "text", "reading"],
        typer.Option(
            "--recipe",
            help="mixed: everything in one training. text: books, blanks and quotations, a first "
            "stage. reading: mostly questions on few passages, a short second one.",
        ),
    ] = "mixed",
    longest: Annotated[
        int, typer.Option("--longest", min=1024, help="Longest rows, in tokens.")
    ] = 131072,
    batches: Annotated[
        int, typer.Option("--batches", min=1, help="Batches of one device that make a step.")
    ] = 1,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="At its highest.")] = 1e-3,
    ratio: Annotated[
        float, typer.Option("--ratio", help="How many times faster the B matrices learn.")
    ] = 1.0,
    rank: Annotated[int, typer.Option("--rank", min=1, help="Rank of the LoRA products.")] = 64,
    group_size: Annotated[
        int, typer.Option("--group-size", min=1, help="Tokens per core token.")
    ] = DEFAULT_GROUP_SIZE,
    window: Annotated[
        int, typer.Option("--window", min=1, help="Raw tokens that every token sees.")
    ] = DEFAULT_WINDOW,
    theta: Annotated[
        float, typer.Option("--theta", help="Base of the rotary positions, at every length.")
    ] = 8e6,
    locate: Annotated[
        str,
        typer.Option(
            "--locate",
            help="Heads that learn to point at the answer: layer.head with commas, none, or "
            "auto, which measures which already do.",
        ),
    ] = "auto",
    pointing: Annotated[
        float, typer.Option("--pointing", min=0, help="Weight of their loss.")
    ] = 0.3,
    attention: Annotated[
        Literal["cca", "dense"],
        typer.Option("--attention", help="dense trains a baseline on the same rows."),
    ] = "cca",
    without: Annotated[
        list[str] | None,
        typer.Option("--without", help="Leave out a source; may be repeated."),
    ] = None,
    exchanged: Annotated[
        float | None,
        typer.Option(
            "--exchanged",
            min=0,
            max=1,
            help="Share of questions whose answer is exchanged for another in the passages.",
            show_default="0.5 for mixed, else 0",
        ),
    ] = None,
    raw_small: Annotated[
        float | None,
        typer.Option(
            "--raw-small",
            min=0,
            max=1,
            help="Share of rows of up to two windows that are read with the whole window.",
            show_default="0.8 for reading, else 0.35",
        ),
    ] = None,
    from_adapter: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="ADAPTER",
            help="Begin with the weights of the adapter in this folder.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of rows and first weights.")] = 0,
    stop_after: Annotated[
        float | None,
        typer.Option(
            "--stop-after", help="Pause with a checkpoint after so many minutes.", min=0.0
        ),
    ] = None,
    checkpoint_every: Annotated[
        int, typer.Option("--checkpoint-every", min=1, help="Steps between checkpoints.")
    ] = 200,
    recompute_from: Annotated[
        int | None,
        typer.Option(
            "--recompute-from",
            min=0,
            show_default=False,
            help="Compute layers twice, and keep less, in batches of so many tokens or more.",
        ),
    ] = None,
    compile_layers: Annotated[
        bool, typer.Option("--compile", help="Compile the layers with torch.compile.")
    ] = False,
    eval_data: Annotated[
        Path | None,
        typer.Option(
            "--eval-data",
            help="Folder with evaluation data: stop if the training data holds any of it.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that make batches, a device.")
    ] = 4,
    offline: OfflineOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Teach a LLaMA checkpoint to read through core tokens (LoRA).

    Checkpoints, TensorBoard logs and the adapter go to --out; the same command goes on where it
    was broken off. With each checkpoint questions are asked that are never trained on: OUT/best
    is the adapter that answered them best, OUT/adapter the last. The recipe text asks none.

    \b
    Examples:
      cca adapt --data data --out adapted --steps 1000
      cca adapt --data data --out text --recipe text
      cca adapt --data data --out read --recipe reading --from text/adapter --tokens 8192
      torchrun --nproc-per-node 4 -m cca_cli adapt --data data --out adapted
    """
    # It imports torch and transformers.
    from cca_cli.adapt_run import AdaptRequest, run_adapt

    request = AdaptRequest(
        data=data, out=out, model=model, steps=steps, tokens=tokens, recipe=recipe,
        longest=longest, batches=batches,
        learning_rate=learning_rate, ratio=ratio, rank=rank, group_size=group_size, window=window,
        theta=theta, locate=locate, pointing=pointing, attention=attention,
        without=tuple(without or ()), exchanged=exchanged, raw_small=raw_small,
        from_adapter=from_adapter, seed=seed,
        stop_after=None if stop_after is None else stop_after * 60,
        checkpoint_every=checkpoint_every, recompute_from=recompute_from,
        compile_layers=compile_layers,
        eval_data=eval_data, workers=workers, offline=offline,
    )  # fmt: skip
    run_adapt(Console.of(ctx), request)
