"""What `cca adapt` does: prepare the data, check it, train, pack the adapter, say how it went."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_cli.console import Console
from cca_cli.errors import UsageError
from cca_cli.extras import expect_packages
from cca_cli.formatting import format_bytes, format_duration
from cca_cli.model_loading import expect_window

if TYPE_CHECKING:
    from cca_models.adaptation.trainer import Step, Training
    from cca_models.adapters import Adapter
    from cca_models.checkpoints import Checkpoint

__all__ = ["AdaptRequest", "run_adapt"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdaptRequest:
    """The options of `cca adapt`, under their names; seconds for stop_after."""

    data: Path
    out: Path
    model: str
    steps: int
    tokens: int
    recipe: str
    longest: int
    batches: int
    learning_rate: float
    ratio: float
    rank: int
    group_size: int
    window: int
    theta: float
    locate: str
    pointing: float
    attention: str
    without: tuple[str, ...]
    exchanged: float | None
    raw_small: float | None
    from_adapter: Path | None
    seed: int
    stop_after: float | None
    checkpoint_every: int
    recompute_from: int | None
    compile_layers: bool
    eval_data: Path | None
    workers: int
    offline: bool


def run_adapt(console: Console, request: AdaptRequest) -> None:
    """Adapt a checkpoint as asked.

    Raises:
        UsageError: If options contradict each other.
        ModelError: If the checkpoint or the data cannot be used.
        ResourceError: If a package that training needs is missing.
    """
    expect_packages("adapting", ("peft", "accelerate"), extra="adapt")
    from cca_models.adaptation.corpus import prepare
    from cca_models.adaptation.mixtures import MIXTURES
    from cca_models.adaptation.recipe import Recipe
    from cca_models.adaptation.trainer import Training, train
    from cca_models.checkpoints import resolve_checkpoint
    from cca_models.config import CCAConfig
    from cca_models.paths import cache_dir

    with console.progress(request.model) as progress:
        checkpoint = resolve_checkpoint(
            request.model, adapter="none", offline=request.offline, progress=progress
        )
    heads = _heads(request.locate, checkpoint.config)
    expect_window(request.group_size, request.window)
    if request.eval_data is not None:
        _check_apart(console, request.data, request.eval_data)
    mixture = MIXTURES[request.recipe]
    recipe = replace(
        Recipe.of(mixture, without=request.without, exchanged=request.exchanged),
        tokens=request.tokens, longest=request.longest, seed=request.seed,
    )  # fmt: skip
    try:
        recipe.fitting()
    except ValueError as error:
        raise UsageError(
            f"--recipe {request.recipe}: {error}", hint="--longest says how long rows may be"
        ) from error
    training = Training(
        steps=request.steps, batches=request.batches, attention=request.attention,
        cca=CCAConfig(group_size=request.group_size, window=request.window),
        raw_small=mixture.raw_small if request.raw_small is None else request.raw_small,
        theta=request.theta, rank=request.rank, alpha=float(request.rank),
        learning_rate=request.learning_rate,
        ratio=request.ratio, heads=heads, pointing=request.pointing,
        recompute_from=request.recompute_from, compile=request.compile_layers,
        checkpoint_every=request.checkpoint_every, seed=request.seed,
    )  # fmt: skip
    main = int(os.environ.get("RANK", "0")) == 0
    begin_from, others = _adapter(request.from_adapter, checkpoint, training)
    for other in others if main else ():
        console.warn(other)
    corpus = prepare(
        request.data, checkpoint.path, cache_dir() / "corpora",
        on_source=(lambda name: console.detail(f"preparing {name}")) if main else None,
    )  # fmt: skip
    last: list[Step] = []

    def tell(step: Step) -> None:
        last[:] = [step]
        console.note(_line(step, request.steps))

    finished = train(
        checkpoint, corpus, recipe, training, request.out,
        begin_from=begin_from, stop_after=request.stop_after, on_step=tell,
        workers=request.workers,
    )  # fmt: skip
    if main:
        _report(console, request.out, last[-1] if last else None, finished=finished)


def _report(console: Console, out: Path, step: Step | None, *, finished: bool) -> None:
    from cca_models.adaptation.unseen import best_step
    from cca_models.adapters.adapter_files import WEIGHTS_FILE

    adapter, best = out / "adapter", best_step(out)
    size = (adapter / WEIGHTS_FILE).stat().st_size
    if not console.human:
        facts: dict[str, Any] = {"adapter": str(adapter), "finished": finished, "bytes": size}
        if step is not None:
            facts |= {"steps": step.number, "tokens": step.tokens, "losses": dict(step.losses)}
        if best is not None:
            facts["best"] = {"adapter": str(out / "best"), "steps": best}
        console.json(facts)
        return
    how = "adapted" if finished else "paused; the same command goes on"
    console.result(f"{how}: {adapter} ({format_bytes(size)})")
    if best is not None and step is not None and best < step.number:
        console.note(f"unseen questions were answered best after step {best}: {out / 'best'}")
    if finished:
        console.note(f'cca ask FILE "question" --adapter {adapter}')


def _line(step: Step, steps: int) -> str:
    names = {"questions": "answers", "few": "passages", "cloze": "blanks", "pointed": "located"}
    losses = "  ".join(
        f"{names.get(name, name)} {value:.3f}"
        for name, value in step.losses.items()
        if name not in ("gradient", "rate")
    )
    return (
        f"step {step.number}/{steps}  {step.tokens / 1e6:.1f}M tokens  {losses}  "
        f"{step.tokens_per_second / 1e3:.0f}k tokens/s  {format_duration(step.seconds)}"
    )


def _heads(text: str, config: Any) -> tuple[tuple[int, int], ...] | None:
    """Read "15.6,18.8"; None for "auto"."""
    if text.strip().lower() == "auto":
        return None
    if text.strip().lower() in ("", "none"):
        return ()
    layers, heads = int(config["num_hidden_layers"]), int(config["num_attention_heads"])
    found = []
    for part in text.split(","):
        try:
            layer, head = (int(number) for number in part.strip().split("."))
        except ValueError:
            raise UsageError(
                f"--locate {part.strip()!r} is no layer and head", hint="15.6,18.8 or none"
            ) from None
        if not (0 <= layer < layers and 0 <= head < heads):
            raise UsageError(
                f"--locate {part.strip()}: the model has layers 0-{layers - 1} and heads "
                f"0-{heads - 1}",
                hint="--locate none trains none",
            )
        found.append((layer, head))
    return tuple(found)


def _adapter(
    folder: Path | None, checkpoint: Checkpoint, training: Training
) -> tuple[Adapter | None, Sequence[str]]:
    """Read the adapter to begin from; and say what it was trained with that now is otherwise.

    Raises:
        UsageError: If it is not there.
        AdapterError: If it is damaged or does not fit.
    """
    if folder is None:
        return None, ()
    if not folder.is_dir():
        raise UsageError(
            f"--from {folder}: no adapter is there",
            hint="it takes a folder that cca adapt made, OUT/adapter",
        )
    from cca_models.adaptation.begin_from import expect_fit
    from cca_models.adapters import read_adapter

    adapter = read_adapter(folder)
    return adapter, expect_fit(adapter, checkpoint, training)


def _check_apart(console: Console, data: Path, evaluation: Path) -> None:
    """Stop if the training data holds text of the evaluation data."""
    from cca_models.adaptation.overlap import find_overlap

    found = find_overlap(data, evaluation, on_file=lambda name: console.detail(f"checking {name}"))
    if found:
        worst = max(found, key=lambda o: o.share)
        raise UsageError(
            f"{len(found)} training records hold evaluation text; {worst.record} of "
            f"{worst.source} holds {worst.share:.0%} of {worst.evaluation}",
            hint="--without SOURCE leaves a source out",
        )
    console.note("no evaluation text in the training data (word 13-grams)")
