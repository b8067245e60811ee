"""``cca eval``: what CCA keeps of dense attention's quality."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cca_cli.console import Console
from cca_cli.model_loading import DEFAULT_ADAPTER, DEFAULT_MODEL, asked_model
from cca_cli.options import (
    AdapterOpt,
    DebugOpt,
    DeviceOpt,
    DtypeOpt,
    GroupSizeOpt,
    JsonOpt,
    ModelOpt,
    OfflineOpt,
    QuietOpt,
    VerboseOpt,
    WindowOpt,
)


def evaluate(
    ctx: typer.Context,
    tasks: Annotated[
        list[str],
        typer.Argument(
            metavar="TASK...",
            help="ppl, multidoc, squad, locate, needle, longqa, summary, longbench.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with the data files, .jsonl or .jsonl.xz."),
    ] = None,
    data_file: Annotated[
        Path | None,
        typer.Option(
            "--data-file", metavar="FILE", help="One file of your own instead; one task only."
        ),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="LIST",
            help="focus, core: CCA; full: dense; lexical: BM25; window: CCA without core tokens; "
            "an attention of `cca bench`; or all.",
        ),
    ] = "focus,core,full",
    untuned: Annotated[
        bool,
        typer.Option("--untuned", help="Evaluate attentions that nobody trained the model for."),
    ] = False,
    lengths: Annotated[
        str | None,
        typer.Option(
            "--len",
            metavar="LIST",
            show_default=False,
            help="Tokens of context, k is 1,024: 4k,8k,32k; each task has its own default.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, show_default=False, help="Most questions, documents or needles of a kind."
        ),
    ] = None,
    unanswerable: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, metavar="SHARE", help="Take the answer out of this share of contexts."
        ),
    ] = 0.0,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-new-tokens", min=1, show_default=False, help="Most tokens of an answer."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write every result here as it comes; goes on with it."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw ppl, multidoc, squad and needle, all methods side by side; needle alone as "
            "a heat map (.png, .svg, .pdf; needs cca[plot]).",
        ),
    ] = None,
    model: ModelOpt = DEFAULT_MODEL,
    adapter: AdapterOpt = DEFAULT_ADAPTER,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    group_size: GroupSizeOpt = None,
    window: WindowOpt = None,
    offline: OfflineOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Evaluate a model: what CCA keeps of dense attention's quality.

    Prints a table per task with means, 95 % intervals and counts, and, of ppl, multidoc, squad and
    needle together, one of all methods side by side. With --out every result is written as it
    comes, and a run that was stopped goes on from there. docs/quality.md explains tasks, measures
    and data.

    \b
    Examples:
      cca eval multidoc locate --data DIR --len 4k,8k,32k --out results.jsonl
      cca eval ppl --data DIR --method full,core,window
      cca eval ppl multidoc needle --data DIR --len 4k..32k --method all --plot all.png
      cca eval longqa --data-file mine.jsonl --limit 50 --json | jq '.tasks[0].lines'
    """
    # Listing the commands must not wait for what only evaluating needs.
    from cca_cli.bench_options import check_output, parse_lengths
    from cca_cli.eval_output import json_value, provenance_line, table_text
    from cca_cli.eval_run import (
        check_plot,
        check_request,
        compare,
        describe,
        run_tasks,
        save_plot,
    )

    console = Console.of(ctx)
    chosen = check_request(tasks, methods, data=data, data_file=data_file, untuned=untuned)
    tokens = parse_lengths(lengths) if lengths is not None else ()
    for path, option in ((out, "--out"), (plot, "--plot")):
        if path is not None:
            check_output(path, option)
    if plot is not None:
        check_plot(plot, chosen.tasks)
    loaded = asked_model(console, ctx.params)
    provenance = describe(loaded, chosen, lengths=tokens, limit=limit, seed=seed)
    results = run_tasks(
        console, loaded, chosen, provenance, lengths=tokens, limit=limit, seed=seed,
        unanswerable=unanswerable, max_new_tokens=max_new_tokens, out=out,
    )  # fmt: skip
    if plot is not None:
        save_plot(results, plot, title=provenance_line(provenance))
    comparison = compare(results)
    if console.human:
        console.result(provenance_line(provenance))
        for result in results:
            console.result("\n" + table_text(result.table))
        if comparison is not None:
            console.result("\n" + table_text(comparison))
    else:
        console.json(json_value(results, provenance, comparison))
