"""The steps: accelerate's loop over batches, with checkpoints that go on exactly."""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader

from cca_models.adaptation.adapter_export import export_adapter
from cca_models.adaptation.corpus import Corpus
from cca_models.adaptation.folded_lora import build_model, decoder_of, load_weights_into
from cca_models.adaptation.head_choice import measure_heads
from cca_models.adaptation.objective import Losses, Objective
from cca_models.adaptation.pointing import Head
from cca_models.adaptation.recipe import Batch, Batches, Recipe
from cca_models.adaptation.wording import Wording
from cca_models.checkpoints import Checkpoint
from cca_models.config import CCAConfig
from cca_models.errors import ModelError
from cca_models.tokenizer import load_tokenizer

_STATE = "state.json"
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
    """

    steps: int
    batches: int = 1
    attention: str = "cca"
    cca: CCAConfig = field(default_factory=CCAConfig)
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
        losses: By kind of row, and "pointing", "pointed", "gradient", "rate".
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
    begin_from: Mapping[str, torch.Tensor] | None = None,
    stop_after: float | None = None,
    on_step: Callable[[Step], None] | None = None,
    report_every: int = 10,
    workers: int = 4,
) -> bool:
    """Adapt a checkpoint; go on where `out` has a checkpoint of the same training.

    Args:
        checkpoint: What is adapted.
        corpus: What it reads.
        recipe: How it is drawn.
        training: How it is taught.
        out: Folder for checkpoints, logs and, at the end, the adapter.
        begin_from: Weights of an adapter to begin with, by their saved names.
        stop_after: Seconds after which it pauses with a checkpoint.
        on_step: Told of every `report_every`-th step, in the main process alone.
        report_every: See on_step.
        workers: Processes that make batches, for each device.

    Returns:
        Whether it is finished; False if it paused.

    Raises:
        ModelError: If `out` holds another training.
        ValueError: If batches are too small for any row.
    """
    began = time.monotonic()
    set_seed(training.seed)
    accelerator = Accelerator(log_with=_loggers(), project_dir=str(out))
    dtype = torch.float32 if accelerator.device.type == "cpu" else torch.bfloat16
    tokenizer = load_tokenizer(checkpoint.path)
    model = build_model(
        checkpoint.path, cca=training.cca if training.attention == "cca" else None,
        theta=training.theta, rank=training.rank, alpha=training.alpha, dtype=dtype,
        device=accelerator.device, norms=training.norms, seed=training.seed,
    )  # fmt: skip
    if begin_from is not None:
        load_weights_into(model, begin_from)
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
    first = _resume(accelerator, out, recipe, training)
    accelerator.init_trackers("logs")
    devices = accelerator.num_processes
    batches = Batches(
        corpus, wording, recipe, devices=devices,
        count=training.steps * training.batches * devices, pad=min(tokenizer.eos_ids),
    )  # fmt: skip
    source = _stream(batches, first * training.batches, accelerator, workers)
    means = _Means(accelerator)
    step_tokens = training.batches * devices * recipe.mean_tokens()
    done = first
    for step in range(first, training.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * training.rate(step)
        for last in (False,) * (training.batches - 1) + (True,):
            batch = next(source).to(accelerator.device)
            with nullcontext() if last else accelerator.no_sync(objective):
                losses = objective(batch)
                accelerator.backward(losses.total / training.batches)
            means.add(batch, losses, devices)
        gradient = accelerator.clip_grad_norm_(objective.parameters(), training.clip)
        optimizer.step()
        optimizer.zero_grad()
        done = step + 1
        if done % report_every == 0 or done == training.steps:
            found = means.take()
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
        if done % training.checkpoint_every == 0 or late or done == training.steps:
            _save(accelerator, out, done, recipe, training)
        if late:
            break
    finished = done == training.steps
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        export_adapter(
            accelerator.unwrap_model(objective).model, out / "adapter", checkpoint=checkpoint,
            training=replace(training, heads=heads), recipe=recipe, sources=corpus.sources,
            finished=finished, steps=done, tokens=int(done * step_tokens),
        )  # fmt: skip
    accelerator.end_training()
    return finished


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
    if training.attention != "cca":
        return ()
    if training.heads is not None:
        return training.heads
    file = out / _HEADS
    if accelerator.is_main_process and not file.is_file():
        asked = [
            replace(portion, kinds={"questions": 1.0})
            for portion in recipe.fitting()
            if "questions" in portion.kinds and portion.length <= _MEASURED_ON
        ]
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


def _save(
    accelerator: Accelerator, out: Path, step: int, recipe: Recipe, training: Training
) -> None:
    """Write a checkpoint beside the last one, then let it take its place."""
    aside, target = out / "checkpoint.new", out / "checkpoint"
    accelerator.save_state(str(aside))
    if accelerator.is_main_process:
        about = {"step": step, **_identity(recipe, training)}
        (aside / _STATE).write_text(json.dumps(about, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
    accelerator.wait_for_everyone()


def _resume(accelerator: Accelerator, out: Path, recipe: Recipe, training: Training) -> int:
    """Load the checkpoint that is there; gives the steps that it had done.

    Raises:
        ModelError: If it is of another training.
    """
    file = out / "checkpoint" / _STATE
    if not file.is_file():
        return 0
    state = json.loads(file.read_text())
    wanted = json.loads(json.dumps(_identity(recipe, training)))
    odd = [name for name in wanted if state.get(name) != wanted[name]]
    if odd:
        raise ModelError(
            f"{out} holds a training with another {odd[0]}",
            hint="another --out begins afresh; the same settings go on",
        )
    accelerator.load_state(str(out / "checkpoint"))
    return int(state["step"])


def _identity(recipe: Recipe, training: Training) -> dict[str, Any]:
    """Give all that a resumed training must share; how often it is saved may differ."""
    free = ("checkpoint_every", "compile", "recompute_from")
    return {
        "recipe": recipe.facts(),
        "training": {k: v for k, v in asdict(training).items() if k not in free},
    }


class _Means:
    """Averages losses over steps and devices, without waiting for the device at each."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}
        self._since, self._tokens = time.monotonic(), 0

    def add(self, batch: Batch, losses: Losses, devices: int) -> None:
        """Take note of a batch; all devices have batches of one size."""
        self._tokens += batch.ids.numel() * devices
        self._put(batch.kind, losses.words)
        if batch.kind == "questions":
            self._put("pointing", losses.pointing)
            self._put("pointed", losses.pointed)

    def _put(self, name: str, value: Any) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value
        self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """Give the averages since the last call, of all devices."""
        names = ("text", "questions", "few", "summary", "pointing", "pointed")
        table = torch.zeros(2, len(names), device=self._accelerator.device)
        for i, name in enumerate(names):
            if name in self._sums:
                table[0, i] = self._sums[name]
                table[1, i] = self._counts[name]
        table = self._accelerator.reduce(table, reduction="sum")
        self._sums.clear()
        self._counts.clear()
        return {
            name: float(table[0, i] / table[1, i]) for i, name in enumerate(names) if table[1, i]
        }

    def speed(self) -> float:
        """Give tokens a second since the last call."""
        now = time.monotonic()
        rate = self._tokens / (now - self._since)
        self._since, self._tokens = now, 0
        return rate
