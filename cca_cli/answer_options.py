"""Options of the commands that answer questions, so that they read and behave alike."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

__all__ = [
    "ContinueOpt",
    "MaxNewTokensOpt",
    "NoLogOpt",
    "PassagesOpt",
    "QuotesOpt",
    "ReadOpt",
    "SeedOpt",
    "TemperatureOpt",
    "TopPOpt",
]

ReadOpt = Annotated[
    Literal["focus", "core", "lexical"],
    typer.Option(
        "--read",
        help="focus: the model's attention and BM25 find the passages, which are read in "
        "full; core: straight from the memory; lexical: BM25 alone, no memory needed.",
    ),
]
PassagesOpt = Annotated[
    int, typer.Option("--passages", min=1, max=20, help="Passages read for one answer.")
]
MaxNewTokensOpt = Annotated[
    int, typer.Option("--max-new-tokens", min=1, max=512, help="Longest answer, in tokens.")
]
TemperatureOpt = Annotated[
    float, typer.Option("--temperature", min=0.0, max=100.0, help="0 writes the likeliest answer.")
]
TopPOpt = Annotated[float, typer.Option("--top-p", min=0.01, max=1.0, help="Nucleus for sampling.")]
SeedOpt = Annotated[int, typer.Option("--seed", help="Seed for sampling.")]
QuotesOpt = Annotated[
    bool, typer.Option("--quotes/--no-quotes", help="Show the sentences that are cited.")
]
ContinueOpt = Annotated[
    bool,
    typer.Option(
        "--continue",
        "-c",
        help="Follow on from the last question in the log: its documents, unless others are "
        "named, and what was said.",
    ),
]
NoLogOpt = Annotated[
    bool,
    typer.Option("--no-log", help="Keep this out of the log of questions (CCA_LOG=off: always)."),
]
