"""Running the cells of ``cca bench``: what is asked for, plans and progress, and the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cca_cli.bench_output import finished_line, plan_line
from cca_cli.bench_provenance import Provenance
from cca_cli.console import Console
from cca_cli.errors import PartialFailureError, TooLongError, UsageError
from cca_cli.model_loading import DEFAULT_MODEL, DEFAULT_WINDOW

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cca_models.benchmarks import LogitCheck, Machine, Workload
    from cca_models.benchmarks_results import Measurement, Row

__all__ = [
    "describe",
    "fail_if_any_failed",
    "look_at_machine",
    "prepare_workload",
    "run_cells",
]

# Untimed tokens are written before the timed ones, and after them.
_SPARE_TOKENS = 16


def prepare_workload(
    console: Console,
    model: str,
    shape: str | None,
    *,
    tokens: int,
    group_size: int,
    window: int,
    offline: bool,
    device: str,
    dtype: str,
    threads: int | None,
    new_tokens: int,
    budget: float,
    batch: int,
    seed: int,
) -> Workload:
    """Say what is to run; gets the model if it is not there.

    Raises:
        UsageError: If options contradict each other.
        ModelError: If the model is missing, damaged or of another kind.
    """
    from cca_models.benchmarks import Workload
    from cca_models.benchmarks_sizes import shape_config
    from cca_models.checkpoints import resolve_checkpoint
    from cca_models.config import CCAConfig

    if window < group_size:
        raise UsageError(
            f"--window {window} is smaller than --group-size {group_size}",
            hint=f"--window {group_size} at least; {DEFAULT_WINDOW} is the default",
        )
    if shape is not None and model != DEFAULT_MODEL:
        raise UsageError(
            f"--shape {shape} and --model {model} exclude each other",
            hint="--shape takes random weights, --model a checkpoint's",
        )
    if shape is not None:
        name, path, config = shape, None, shape_config(shape, tokens=2 * tokens)
    else:
        with console.progress(model) as progress:
            # What an adapter says of group size and positions must not bind a measurement.
            checkpoint = resolve_checkpoint(
                model, adapter="none", offline=offline, progress=progress
            )
        name, path, config = checkpoint.name, checkpoint.path, dict(checkpoint.config)
    return Workload(
        name=name, path=path, config=config, device=device, dtype=dtype, threads=threads,
        cca=CCAConfig(group_size=group_size, window=window), new_tokens=new_tokens,
        budget=budget, batch=batch, seed=seed,
    )  # fmt: skip


def look_at_machine(console: Console, work: Workload, *, longest: int) -> Machine:
    """Look at the device, and check that the model reaches the longest length.

    Raises:
        ModelError: If device or dtype cannot be used.
        TooLongError: If it does not.
    """
    from cca_models.benchmarks import inspect_machine

    with console.progress("bench") as progress:
        progress("look at the device", 0, 0)
        machine = inspect_machine(work)
    needed = longest + work.new_tokens + _SPARE_TOKENS
    if needed > machine.max_tokens:
        raise TooLongError(
            f"--len {longest:,}: needs {needed:,} tokens with those written, {work.name} reaches "
            f"{machine.max_tokens:,} ({needed - machine.max_tokens:,} over)",
            hint="a shorter --len, or --shape, whose positions reach any length",
        )
    if machine.energy:
        console.note(f"energy is not measured: {machine.energy}")
    return machine


def describe(
    work: Workload,
    machine: Machine,
    *,
    lengths: tuple[int, ...],
    methods: tuple[str, ...],
    repeat: int,
) -> Provenance:
    """Note down what the figures cannot be quoted without."""
    import platform
    import shlex
    import sys
    from datetime import UTC, datetime

    from cca_cli import __version__

    return Provenance(
        version=__version__,
        torch=machine.torch,
        transformers=machine.transformers,
        python=platform.python_version(),
        device=machine.device,
        device_name=machine.device_name,
        dtype=machine.dtype,
        threads=machine.threads,
        cuda=machine.cuda,
        driver=machine.driver,
        system=machine.system,
        model=work.name,
        weights="its own weights" if work.path else "random weights",
        group_size=work.cca.group_size,
        window=work.cca.window,
        new_tokens=work.new_tokens,
        batch=work.batch,
        repeat=repeat,
        budget_s=work.budget,
        seed=work.seed,
        lengths=lengths,
        methods=methods,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["cca", *sys.argv[1:]]),
    )


def run_cells(
    console: Console, work: Workload, machine: Machine, provenance: Provenance
) -> tuple[list[Row], LogitCheck]:
    """Check engine against baseline, then run every cell, methods in turns.

    Returns:
        The rows, by length and method, and the check.
    """
    from cca_models.benchmarks import check_logits, plan_case, rounds, run_case
    from cca_models.benchmarks_results import add_ratios, make_row

    for length in provenance.lengths:
        for method in provenance.methods:
            console.note(plan_line(plan_case(work, machine, method, length)))
    with console.progress("bench") as progress:
        progress("check the logits", 0, 0)
        check = check_logits(work, machine)
    found: dict[tuple[int, str], list[Measurement]] = {}
    for length, method, turn in rounds(provenance.lengths, provenance.methods, provenance.repeat):
        before = found.setdefault((length, method), [])
        if turn and not before[-1].has_figures:
            continue
        # Anew each time: what is free changes.
        case = plan_case(work, machine, method, length)
        with console.progress(f"{method} {length:,}") as progress:
            before.append(run_case(work, case, report=progress))
        console.note(finished_line(method, length, before[-1]))
        if before[-1].reason:
            console.detail(before[-1].reason)
    rows = [
        make_row(method, length, runs, batch=work.batch) for (length, method), runs in found.items()
    ]
    return add_ratios(rows), check


def fail_if_any_failed(rows: Sequence[Row]) -> None:
    """Let the exit code say that a cell failed; one that did not fit is a result.

    Raises:
        PartialFailureError: If one did.
    """
    failed = [row for row in rows if row.mark.startswith("failed")]
    if failed:
        first = failed[0]
        raise PartialFailureError(
            f"{len(failed)} of {len(rows)} cells failed, first {first.method} at "
            f"{first.length:,}: {first.mark.removeprefix('failed: ')}",
            hint="cca bench --verbose shows the traceback",
        )
