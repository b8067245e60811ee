"""``cca bench``: CCA beside standard attention, in time and in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cca_cli.console import Console
from cca_cli.errors import UsageError
from cca_cli.model_loading import DEFAULT_GROUP_SIZE, DEFAULT_MODEL, DEFAULT_WINDOW
from cca_cli.options import (
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


def bench(
    ctx: typer.Context,
    lengths: Annotated[
        str,
        typer.Option(
            "--len", metavar="LIST", help="Tokens to read; k is 1,024: 4k,32k or 4k..128k."
        ),
    ] = "1k,4k,16k",
    methods: Annotated[
        str,
        typer.Option(
            "--attn",
            metavar="LIST",
            help="full: transformers' LLaMA with SDPA; cca; others by name; or all.",
        ),
    ] = "full,cca",
    model: ModelOpt = DEFAULT_MODEL,
    shape: Annotated[
        Literal["smollm2-135m", "llama2-7b", "llama3-8b"] | None,
        typer.Option("--shape", help="Random weights of this shape; nothing is downloaded."),
    ] = None,
    device: DeviceOpt = "auto",
    dtype: DtypeOpt = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="CPU threads; torch's own choice if not set."),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Rows of that length to read and write together.")
    ] = 1,
    new_tokens: Annotated[
        int, typer.Option("--new-tokens", min=1, help="Tokens to write after each reading.")
    ] = 32,
    repeat: Annotated[
        int | None,
        typer.Option(
            min=1,
            show_default=False,
            help="Runs of each cell, in turns; 3 on a GPU, else 1; 5 for --ops and --tune.",
        ),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(
            min=0.0, metavar="SECONDS", help="A reading that would take longer is sampled."
        ),
    ] = 60.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of token ids and random weights.")] = 0,
    group_size: GroupSizeOpt = None,
    window: WindowOpt = None,
    form: Annotated[
        Literal["md", "csv", "json", "jsonl"] | None,
        typer.Option(
            "--format", show_default=False, help="Form of the results on stdout; md if not set."
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the rows as CSV.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw them (.png, .svg, .pdf; needs cca[plot])."),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Set the figures beside those of an earlier --json."),
    ] = None,
    max_regress: Annotated[
        str | None,
        typer.Option(
            "--max-regress",
            metavar="PERCENT",
            show_default=False,
            help="With --compare: exit code 9 if a figure is worse by more than this.",
        ),
    ] = None,
    ops: Annotated[
        bool,
        typer.Option("--ops", help="Measure single operations instead; needs a CUDA GPU."),
    ] = False,
    no_flex: Annotated[
        bool, typer.Option("--no-flex", help="With --ops: leave FlexAttention out; it compiles.")
    ] = False,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="Try tile sizes of the kernels instead; needs a CUDA GPU."),
    ] = False,
    offline: OfflineOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Measure CCA beside standard attention: time, memory, energy.

    Both run the checkpoint's weights without an adapter: what they cost does not depend on it.

    Others are StreamingLLM, LM-Infinite, MInference, XAttention, LongLoRA, Longformer, BigBird,
    NSA, MoBA, Quest and SnapKV, all with the same weights; docs/peers.md has what each is.

    A row is marked measured, sampled (it would have taken longer than --budget), oom (it does
    not fit) or failed. docs/benchmarks.md says how the figures are made. Joules need an NVIDIA GPU
    and cca[energy].

    --ops measures prefill, forward + backward and decode as single operations beside cuDNN's dense
    attention and FlexAttention, each checked against the float64 reference. --tune times tile
    sizes on this card, best first, and writes nothing down.

    \b
    Examples:
      cca bench --len 4k,32k,128k
      cca bench --len 16k --attn all --json > bench.json
      cca bench --len 4k..64k --attn full,cca,quest --batch 4 --format csv
      cca bench --len 128k --shape llama2-7b --device cuda --plot bench.png
      cca bench --len 1k --json | jq '.rows[].kv_bytes'
      cca bench --len 4k --compare bench.json --max-regress 5%
      cca bench --ops --no-flex
      cca bench --tune --json > tiles.json
    """
    # Listing the commands must not wait for what only measuring needs.
    from dataclasses import asdict

    from cca_cli.bench_compare import (
        changes_of,
        comparison_table,
        fail_if_worse,
        load_earlier,
        parse_limit,
    )
    from cca_cli.bench_formats import csv_text, json_lines, json_value
    from cca_cli.bench_options import check_output, choose_format, parse_lengths, parse_methods
    from cca_cli.bench_output import attention_table, check_line, table
    from cca_cli.bench_plot import check_plot, save_plot
    from cca_cli.bench_run import (
        describe,
        fail_if_any_failed,
        look_at_machine,
        prepare_workload,
        run_cells,
    )
    from cca_models.benchmarks import describe_attentions
    from cca_models.benchmarks_forking import forked_tasks

    console = Console.of(ctx)
    form = choose_format(console, form, json=json, operations=ops or tune)
    group_size, window = group_size or DEFAULT_GROUP_SIZE, window or DEFAULT_WINDOW
    if ops or tune:
        from cca_cli.bench_operations import bench_operations, check_options

        check_options(
            ops=ops, tune=tune, shape=shape, plot=plot, group_size=group_size, window=window
        )
        if batch > 1:
            raise UsageError("--batch is for whole models", hint="leave --ops and --tune out")
        if csv is not None:
            check_output(csv, "--csv")
        bench_operations(
            console, tune=tune, flex=not no_flex, device=device, dtype=dtype, repeat=repeat,
            group_size=group_size, window=window, seed=seed, csv=csv,
        )  # fmt: skip
        return
    tokens, chosen = parse_lengths(lengths), parse_methods(methods)
    earlier = load_earlier(compare) if compare is not None else None
    if max_regress is not None and earlier is None:
        raise UsageError("--max-regress needs --compare", hint="--compare bench.json")
    limit = parse_limit(max_regress) if max_regress is not None else None
    if plot is not None:
        check_plot(plot)
        check_output(plot, "--plot")
    if csv is not None:
        check_output(csv, "--csv")
    work = prepare_workload(
        console, model, shape, tokens=max(tokens) + new_tokens, group_size=group_size,
        window=window, offline=offline, device=device, dtype=dtype, threads=threads,
        new_tokens=new_tokens, budget=budget, batch=batch, seed=seed,
    )  # fmt: skip
    # Until the command ends, whichever way.
    ctx.with_resource(forked_tasks())
    machine = look_at_machine(console, work, longest=max(tokens))
    turns = repeat or (3 if machine.device.startswith("cuda") else 1)
    provenance = describe(work, machine, lengths=tokens, methods=chosen, repeat=turns)
    # It takes a process of its own: not for what nobody is shown.
    compared = bool(set(chosen) - {"full", "cca"})
    attentions = describe_attentions(work, chosen) if compared or form in ("json", "jsonl") else []
    rows, check = run_cells(console, work, machine, provenance)
    changes = changes_of(rows, earlier) if earlier is not None else []
    if csv is not None:
        csv.write_text(csv_text(rows, provenance), encoding="utf-8")
    if plot is not None:
        title = f"{work.name}, {machine.device_name}, {machine.dtype}"
        rows_read = f", {batch} rows" if batch > 1 else ""
        save_plot(rows, plot, title=f"{title}, G {group_size}, W {window:,}{rows_read}")
    if form == "csv":
        console.write(csv_text(rows, provenance))
    elif form == "jsonl":
        for part in json_lines(rows, check, provenance, attentions):
            console.json(part)
    elif form == "json":
        console.json(json_value(rows, check, provenance, attentions))
    else:
        console.result(provenance.line() + "\n")
        console.result(table(rows) + "\n")
        console.result(check_line(check, machine.dtype))
        if compared:
            console.result("\n" + attention_table(attentions))
        if earlier is not None:
            console.result("\n" + comparison_table(changes, earlier, asdict(provenance)))
    fail_if_any_failed(rows)
    if earlier is not None and limit is not None:
        fail_if_worse(changes, earlier, limit=limit)
