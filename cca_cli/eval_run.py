"""Running ``cca eval``: what is asked for, checked; provenance; the tasks one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_cli.console import Console
from cca_cli.errors import UsageError
from cca_cli.extras import expect_packages

if TYPE_CHECKING:
    from cca_models.engine import LanguageModel
    from cca_models.evaluation.types import Table, TaskResult

__all__ = ["Chosen", "check_plot", "check_request", "compare", "describe", "run_tasks", "save_plot"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What is to run.

    Attributes:
        tasks: Names, each once.
        methods: Names, each once.
        data: Folder with the data files.
        data_file: One file instead.
    """

    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    data: Path | None
    data_file: Path | None


def check_request(
    tasks: Sequence[str],
    methods: str,
    *,
    data: Path | None,
    data_file: Path | None,
    untuned: bool = False,
) -> Chosen:
    """Check names and files before a model is loaded.

    Raises:
        UsageError: If a name is unknown, or there is no data to work on.
        ResourceError: If a package that measures is missing.
    """
    from cca_models.evaluation.methods import method_names
    from cca_models.evaluation.tasks import task_names

    names = tuple(dict.fromkeys(tasks))
    for name in names:
        if name not in task_names():
            raise UsageError(f"task {name!r} is unknown", hint=f"one of {', '.join(task_names())}")
    chosen = tuple(dict.fromkeys(part.strip() for part in methods.split(",")))
    if "all" in chosen:
        chosen = tuple(name for name in method_names() if untuned or name not in _untuned())
    for name in chosen:
        if name not in method_names():
            raise UsageError(
                f"--method {methods}: {name!r} is unknown",
                hint=f"--method {','.join(method_names())}, or all",
            )
        if name in _untuned() and not untuned:
            raise UsageError(
                f"--method {name}: a checkpoint must be trained for it, and none is",
                hint="--untuned evaluates it all the same; its answers mean little",
            )
    if data_file is not None and (data is not None or len(names) > 1):
        raise UsageError(
            "--data-file serves one task and excludes --data",
            hint="cca eval TASK --data-file FILE",
        )
    if data is None and data_file is None:
        raise UsageError(
            f"{names[0]} needs data", hint=f"cca eval {names[0]} --data DIR, or --data-file FILE"
        )
    needed = ("torchmetrics", "rapidfuzz", "rouge") if "longbench" in names else ("torchmetrics",)
    expect_packages("evaluating", needed, extra="eval")
    return Chosen(tasks=names, methods=chosen, data=data, data_file=data_file)


def _untuned() -> frozenset[str]:
    """Give the attentions that nobody trained a checkpoint for."""
    from cca_models.attention_names import PEERS

    return frozenset(name for name, outline in PEERS.items() if outline.needs_tuning)


def check_plot(path: Path, tasks: Sequence[str]) -> None:
    """Check, before anything runs, that there is something to draw and that it can be drawn.

    Raises:
        UsageError: If no task with a picture is asked for, matplotlib is missing, or the file is
            no picture.
    """
    from cca_cli import bench_plot
    from cca_models.evaluation.comparison import COMPARED

    if not set(tasks) & set(COMPARED):
        raise UsageError(
            f"--plot draws {', '.join(COMPARED)}, not {', '.join(tasks)}",
            hint="cca eval ppl multidoc needle --plot FILE",
        )
    bench_plot.check_plot(path)


def save_plot(results: Sequence[TaskResult], path: Path, *, title: str) -> None:
    """Draw all methods over their lengths; of the task needle alone its heat map."""
    from cca_models.evaluation.comparison import panels
    from cca_models.evaluation.plots import save_comparison, save_heat_map

    shown = panels(results)
    if [panel.task for panel in shown] != ["needle"]:
        if shown:
            save_comparison(shown, path, title=title)
        return
    rows = [r for result in results if result.table.task == "needle" for r in result.rows]
    save_heat_map([row for row in rows if "error" not in row], path, title=title)


def compare(results: Sequence[TaskResult]) -> Table | None:
    """Set the methods beside each other; None where there is nothing to compare."""
    from cca_models.evaluation.comparison import comparison_table

    return comparison_table(results, untrained=_untuned())


def describe(
    model: LanguageModel,
    chosen: Chosen,
    *,
    lengths: Sequence[int],
    limit: int | None,
    seed: int,
) -> dict[str, Any]:
    """Note down what the figures cannot be quoted without."""
    import platform
    import shlex
    import sys
    from datetime import UTC, datetime
    from importlib.metadata import version

    from cca_cli import __version__
    from cca_models.evaluation.methods import trained_tokens

    adapter = model.checkpoint.adapter
    return {
        "version": __version__,
        "torch": version("torch"),
        "python": platform.python_version(),
        "device": str(model.device),
        "device_name": _device_name(str(model.device)),
        "dtype": str(model.dtype).removeprefix("torch."),
        "model": model.checkpoint.name,
        "fingerprint": model.fingerprint,
        "adapter": adapter.name if adapter else "none",
        "group_size": model.cca.group_size,
        "window": model.cca.window,
        "trained_tokens": trained_tokens(model),
        "tasks": list(chosen.tasks),
        "methods": list(chosen.methods),
        "lengths": list(lengths),
        "limit": limit,
        "seed": seed,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["cca", *sys.argv[1:]]),
    }


def run_tasks(
    console: Console,
    model: LanguageModel,
    chosen: Chosen,
    provenance: Mapping[str, Any],
    *,
    lengths: tuple[int, ...],
    limit: int | None,
    seed: int,
    unanswerable: float,
    max_new_tokens: int | None,
    out: Path | None,
) -> list[TaskResult]:
    """Run the tasks, and say on stderr when each is done.

    Raises:
        EvaluationError: If data cannot be used, or `out` holds results of other settings.
    """
    from cca_models.evaluation.methods import make_methods
    from cca_models.evaluation.record import Record
    from cca_models.evaluation.runner import run_task, task_settings
    from cca_models.evaluation.tasks import make_task
    from cca_models.evaluation.types import TaskOptions

    options = TaskOptions(
        tokenizer=model.tokenizer, data=chosen.data, data_file=chosen.data_file, lengths=lengths,
        limit=limit, seed=seed, unanswerable=unanswerable, max_new_tokens=max_new_tokens,
    )  # fmt: skip
    # All data first: an hour's work must not end in a missing file.
    tasks = [make_task(name, options) for name in chosen.tasks]
    names = dict.fromkeys(name for task in tasks for name in task.methods(chosen.methods))
    methods = make_methods(model, tuple(names))
    kept = ("model", "fingerprint", "adapter", "dtype", "group_size", "window", "seed")
    settings = {name: provenance[name] for name in kept}
    for task in tasks:
        settings.update(task_settings(task))
    results = []
    with Record(out, settings=settings, provenance=provenance) as record:
        for task in tasks:
            asked = {name: methods[name] for name in task.methods(chosen.methods)}
            with console.progress(task.name) as progress:
                results.append(
                    run_task(
                        task, asked, record,
                        progress=lambda name, done, total: progress("units", done, total),
                    )
                )  # fmt: skip
    return results


def _device_name(device: str) -> str:
    import platform

    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
