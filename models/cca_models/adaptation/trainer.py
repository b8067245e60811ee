"""The steps: accelerate's loop over batches, with checkpoints that go on exactly."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from numpy.random import default_rng
from torch.utils.data import DataLoader

from cca_models.adaptation.adapter_export import export_adapter
from cca_models.adaptation.begin_from import load_beginning
from cca_models.adaptation.corpus import Corpus
from cca_models.adaptation.folded_lora import build_model, decoder_of
from cca_models.adaptation.head_choice import measure_heads
from cca_models.adaptation.loss_means import LossMeans
from cca_models.adaptation.objective import Objective
from cca_models.adaptation.pointing import Head
from cca_models.adaptation.recipe import Batch, Batches, Recipe
from cca_models.adaptation.training_state import identity_of, resume, save_state
from cca_models.adaptation.unseen import Unseen
from cca_models.adaptation.windows import row_window
from cca_models.adaptation.wording import Wording
from cca_models.adapters import Adapter
from cca_models.checkpoints import Checkpoint
from cca_models.config import CCAConfig
from cca_models.tokenizer import load_tokenizer

# Heads that locate: how many, and what they are measured on, batches of rows up to so many tokens.
_HEADS, _BEST, _MEASURED_BATCHES, _MEASURED_ON = "heads.json", 6, 8, 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How a checkpoint is adapted.

    Attributes:
        steps: Optimizer steps in all; they fix the learning rate's curve.
        batches: Batches of one device that make a step.
        attention: "cca", or "dense" for a baseline that saw the same.
        cca: Group size and window.
        raw_small: Share of the rows of up to two windows that are read with the whole window;
            see cca_models.adaptation.windows for the others.
        theta: Base of the rotary positions, for all lengths.
        max_tokens: Longest text that the adapter claims to read.
        rank: Of the low-rank products.
        alpha: Their scale is alpha / rank.
        learning_rate: At its highest.
        ratio: How many times faster the B matrices learn, which begin at zero (LoRA+, ICML 2024).
        warmup: Share of the steps in which it rises.
        final: Share of it that is left at the end.
        norms: Whether norms are trained.
        heads: Layer and head of those that shall locate; None to measure which do, and take
            the best six.
        pointing: Weight of their loss.
        clip: Longest gradient.
        recompute_from: Batches with so many tokens or more trade a third more time for most of
            their activations' memory; None if none does.
        compile: Compile the layers (some minutes at first).
        checkpoint_every: Steps from one checkpoint to the next.
        seed: Of the first weights.

    Raises:
        ValueError: If `raw_small` is no share.
    """

    steps: int
    batches: int = 1
    attention: str = "cca"
    cca: CCAConfig = field(default_factory=CCAConfig)
    raw_small: float = 0.35
    theta: float = 8e6
    max_tokens: int = 524_288
    rank: int = 64
    alpha: float = 64.0
    learning_rate: float = 1e-3
    ratio: float = 1.0
    warmup: float = 0.03
    final: float = 0.03
    norms: bool = True
    heads: Sequence[Head] | None = None
    pointing: float = 0.3
    clip: float = 1.0
    recompute_from: int | None = None
    compile: bool = False
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.raw_small <= 1:
            raise ValueError(f"expected raw_small from 0 to 1, got {self.raw_small}")

    def rate(self, step: int) -> float:
        """Give the share of the learning rate at a step: a rise, then a half cosine."""
        rise = max(1, int(self.steps * self.warmup))
        if step < rise:
            return (step + 1) / rise
        done = (step - rise) / max(1, self.steps - rise)
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True, slots=True)
class Step:
    """What one step came to, averaged over the devices.

    Attributes:
        number: Counted from 1.
        tokens: Read so far, by all devices.
        losses: By kind of row, and "pointing", "pointed", "gradient", "rate"; with a checkpoint
            also of rows that are never trained on, "unseen questions" and "unseen few".
        seconds: Since the training began in this process.
        tokens_per_second: Of the last steps, all devices together.
    """

    number: int
    tokens: int
    losses: Mapping[str, float]
    seconds: float
    tokens_per_second: float


def train(
    checkpoint: Checkpoint,
    corpus: Corpus,
    recipe: Recipe,
    training: Training,
    out: Path,
    *,
    begin_from: Adapter | None = None,
    stop_after: float | None = None,
    on_step: Callable[[Step], None] | None = None,
    report_every: int = 10,
    workers: int = 4,
) -> bool:
    """Adapt a checkpoint; go on where `out` has a checkpoint of the same training.

    With each checkpoint questions are asked that are never trained on. What was trained when they
    were answered best lies in `out/best`, what was trained last in `out/adapter`.

    Args:
        checkpoint: What is adapted.
        corpus: What it reads.
        recipe: How it is drawn.
        training: How it is taught.
        out: Folder for checkpoints, logs and, at the end, the adapter.
        begin_from: Adapter to begin with; the optimizer begins afresh.
        stop_after: Seconds after which it pauses with a checkpoint.
        on_step: Told of every `report_every`-th step, in the main process alone.
        report_every: See on_step.
        workers: Processes that make batches, for each device.

    Returns:
        Whether it is finished; False if it paused.

    Raises:
        ModelError: If `out` holds another training.
        AdapterError: If `begin_from` is damaged or does not fit; expect_fit checks more.
        ValueError: If batches are too small for any row.
    """
    began = time.monotonic()
    set_seed(training.seed)
    accelerator = Accelerator(log_with=_loggers(), project_dir=str(out))
    dtype = torch.float32 if accelerator.device.type == "cpu" else torch.bfloat16
    tokenizer = load_tokenizer(checkpoint.path)
    cca = training.cca if training.attention == "cca" else None
    model = build_model(
        checkpoint.path, cca=cca,
        theta=training.theta, rank=training.rank, alpha=training.alpha, dtype=dtype,
        device=accelerator.device, norms=training.norms, seed=training.seed,
    )  # fmt: skip
    begun = load_beginning(model, begin_from, training) if begin_from is not None else None
    if training.compile:
        for layer in decoder_of(model).model.layers:
            layer.compile(dynamic=False)
    wording = Wording.of(tokenizer)
    heads = _heads(accelerator, model, corpus, wording, recipe, training, out)
    objective: Any = Objective(
        model, heads=heads,
        group_size=training.cca.group_size, weight=training.pointing,
        recompute_from=training.recompute_from,
    )  # fmt: skip
    optimizer: Any = torch.optim.AdamW(
        _groups(objective, training), lr=training.learning_rate, betas=(0.9, 0.98),
        weight_decay=0.0, fused=accelerator.device.type == "cuda",
    )  # fmt: skip
    objective, optimizer = accelerator.prepare(objective, optimizer)
    identity = identity_of(recipe, training, begun)
    first = resume(accelerator, out, identity)
    accelerator.init_trackers("logs")
    devices, pad = accelerator.num_processes, min(tokenizer.eos_ids)
    batches = Batches(
        corpus, wording, recipe, devices=devices,
        count=training.steps * training.batches * devices, pad=pad,
    )  # fmt: skip
    source = _stream(batches, first * training.batches, accelerator, workers)
    unseen = Unseen(corpus, wording, recipe, accelerator=accelerator, cca=cca, out=out, pad=pad)
    means = LossMeans(accelerator)
    step_tokens = training.batches * devices * recipe.mean_tokens()
    done = first

    def export(name: str) -> None:
        """Write the adapter as it is by now; for the main process."""
        export_adapter(
            accelerator.unwrap_model(objective).model, out / name, checkpoint=checkpoint,
            training=replace(training, heads=heads), recipe=recipe, sources=corpus.sources,
            finished=done == training.steps, steps=done, tokens=int(done * step_tokens),
            begun_from=begun,
        )  # fmt: skip

    for step in range(first, training.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * training.rate(step)
        for number in range(training.batches):
            batch = next(source).to(accelerator.device)
            last = number == training.batches - 1
            window = _window(batch, recipe, training, step * training.batches + number)
            with nullcontext() if last else accelerator.no_sync(objective):
                losses = objective(batch, window)
                accelerator.backward(losses.total / training.batches)
            means.add(batch, losses, devices)
        gradient = accelerator.clip_grad_norm_(objective.parameters(), training.clip)
        optimizer.step()
        optimizer.zero_grad()
        done = step + 1
        checking = done % training.checkpoint_every == 0 or done == training.steps
        asked, best = unseen.measure(objective, done) if checking else ({}, False)
        if best and accelerator.is_main_process:
            export("best")
        if done % report_every == 0 or checking:
            found = means.take() | asked
            found |= {"gradient": float(gradient), "rate": training.rate(step)}
            seconds = time.monotonic() - began
            accelerator.log(found, step=done)
            if on_step and accelerator.is_main_process:
                speed = means.speed()
                on_step(Step(done, int(done * step_tokens), found, seconds, speed))
        late = stop_after is not None and time.monotonic() - began > stop_after
        # All processes must agree on when to stop; each has its own clock.
        if stop_after is not None and devices > 1 and done % report_every == 0:
            late = bool(accelerator.gather(torch.tensor([late], device=accelerator.device)).any())
        elif devices > 1:
            late = False
        if checking or late:
            save_state(accelerator, out, done, identity)
        if late:
            break
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        export("adapter")
    accelerator.end_training()
    return done == training.steps


def _heads(
    accelerator: Accelerator,
    model: Any,
    corpus: Corpus,
    wording: Wording,
    recipe: Recipe,
    training: Training,
    out: Path,
) -> Sequence[Head]:
    """Give the heads that shall locate: as asked, or as measured once and kept beside the rest."""
    asked = [
        replace(portion, kinds={"questions": 1.0})
        for portion in recipe.fitting()
        if "questions" in portion.kinds
    ]
    if training.attention != "cca" or not asked:
        # Only questions among many passages have a place to point at.
        return ()
    if training.heads is not None:
        return training.heads
    asked = [portion for portion in asked if portion.length <= _MEASURED_ON]
    if not asked:
        return ()
    file = out / _HEADS
    if accelerator.is_main_process and not file.is_file():
        batches = Batches(
            corpus, wording, replace(recipe, portions=asked), devices=1, count=_MEASURED_BATCHES
        )
        found = measure_heads(
            model, (batches[i] for i in range(len(batches))), group_size=training.cca.group_size
        )
        best = [[*head, round(mass, 4)] for head, mass in list(found.items())[:_BEST]]
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(best) + "\n")
    accelerator.wait_for_everyone()
    return tuple((layer, head) for layer, head, _ in json.loads(file.read_text()))


def _window(batch: Batch, recipe: Recipe, training: Training, number: int) -> int | None:
    """Choose the window of a batch: one for all devices, and the same in a resumed training."""
    if training.attention != "cca":
        return None
    # The last number tells this stream from those of Batches.
    rng = default_rng((recipe.seed, number, 2))
    return row_window(batch.ids.shape[1], training.cca, raw_small=training.raw_small, rng=rng)


def _groups(objective: Objective, training: Training) -> list[dict[str, Any]]:
    """Divide what is learnt by how fast it learns."""
    learnt = [(n, p) for n, p in objective.named_parameters() if p.requires_grad]
    rates = {False: training.learning_rate, True: training.learning_rate * training.ratio}
    return [
        {"params": [p for n, p in learnt if (".lora_B." in n) == fast], "highest": rate}
        for fast, rate in rates.items()
    ]


def _loggers() -> list[str]:
    """TensorBoard, where it is installed."""
    from accelerate.utils import is_tensorboard_available

    return ["tensorboard"] if is_tensorboard_available() else []


def _stream(batches: Batches, skip: int, accelerator: Accelerator, workers: int) -> Iterator[Batch]:
    """Give this process's batches, from batch `skip` of its own on."""
    devices, rank = accelerator.num_processes, accelerator.process_index
    mine = range(skip * devices + rank, len(batches), devices)
    loader: DataLoader[Batch] = DataLoader(
        batches, batch_size=None, sampler=list(mine), num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="spawn" if workers else None,
    )  # fmt: skip
    return iter(loader)
