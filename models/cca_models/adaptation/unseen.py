"""What questions cost that are never trained on: is reading learnt, or are answers by heart?

The loss of trained questions falls either way. One context in forty is held out of all training
(`Corpus.flat["held_out"]`); rows made of these alone, the same ones at every time of asking, tell.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from cca_models.adaptation.corpus import Corpus
from cca_models.adaptation.loss_means import LossMeans
from cca_models.adaptation.mixtures import RowKind
from cca_models.adaptation.recipe import MADE, Batch, Batches, Recipe
from cca_models.adaptation.sources import SOURCES
from cca_models.adaptation.wording import Wording
from cca_models.config import CCAConfig
from cca_models.paths import replace_file

# Kinds of rows that ask, batches of each on one device, and the longest of their rows.
_KINDS: tuple[RowKind, ...] = ("questions", "few")
_COUNT, _LONGEST = 4, 8192
_FILE = "unseen.json"


class Unseen:
    """The questions, and what they came to so far.

    Args:
        corpus: Tokens.
        wording: Around them.
        recipe: How the training draws; here nothing is exchanged, nothing made by rule.
        accelerator: The devices; each has questions of its own.
        cca: The window that they are read with; None for dense attention.
        out: Folder of the training; `unseen.json` in it keeps what was measured.
        pad: Token that fills rows up.
    """

    def __init__(
        self,
        corpus: Corpus,
        wording: Wording,
        recipe: Recipe,
        *,
        accelerator: Accelerator,
        cca: CCAConfig | None,
        out: Path,
        pad: int,
    ) -> None:
        self._accelerator, self._window = accelerator, None if cca is None else cca.window
        self._file = out / _FILE
        self._batches = _batches(corpus, wording, recipe, accelerator, pad)

    @torch.no_grad()
    def measure(self, objective: Any, step: int) -> tuple[dict[str, float], bool]:
        """Ask.

        Args:
            objective: As accelerate prepared it.
            step: Steps done.

        Returns:
            Mean negative log-likelihood of the answers by kind of row, as "unseen questions", of
            all devices; empty if no question is held out. And whether their mean is the lowest
            so far.
        """
        means = LossMeans(self._accelerator)
        for batch in self._batches:
            # All devices go through all of theirs: some wrappers wait for each other.
            losses = objective(batch.to(self._accelerator.device), self._window)
            if len(batch.taught):
                means.add(batch, losses, self._accelerator.num_processes)
        found = {f"unseen {kind}": mean for kind, mean in means.take().items() if kind in _KINDS}
        if not found:
            return {}, False
        before = [one for one in _read(self._file) if one["step"] < step]
        # Nobody writes before all have read.
        self._accelerator.wait_for_everyone()
        past = [*before, {"step": step, "losses": found}]
        if self._accelerator.is_main_process:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._file, f"{json.dumps(past)}\n".encode())
        return found, _best(past) == step


def best_step(out: Path) -> int | None:
    """Give the step after which a training's unseen questions were answered best; None if unknown.

    Args:
        out: Folder of the training; the adapter of that step is `best` in it.
    """
    past = _read(out / _FILE)
    return _best(past) if past else None


def _read(file: Path) -> list[Any]:
    past: list[Any] = json.loads(file.read_text()) if file.is_file() else []
    return past


def _best(past: Sequence[Any]) -> int:
    """Give the step with the lowest mean of all kinds; of equal ones the first."""
    return int(min(past, key=lambda one: fmean(one["losses"].values()))["step"])


def _batches(
    corpus: Corpus, wording: Wording, recipe: Recipe, accelerator: Accelerator, pad: int
) -> list[Batch]:
    devices, own = accelerator.num_processes, accelerator.process_index
    found: list[Batch] = []
    for kind in _KINDS:
        portions = [
            replace(portion, kinds={kind: 1.0})
            for portion in recipe.fitting()
            if kind in portion.kinds and portion.length <= _LONGEST
        ]
        if not portions or not _can_ask(corpus, recipe, kind):
            continue
        asking = replace(recipe, portions=portions, exchanged=0.0, without=(*recipe.without, *MADE))
        batches = Batches(
            corpus, wording, asking, devices=devices, count=_COUNT * devices, pad=pad,
            held_out=True,
        )  # fmt: skip
        found += [batches[i] for i in range(own, len(batches), devices)]
    return found


def _can_ask(corpus: Corpus, recipe: Recipe, kind: RowKind) -> bool:
    """Tell whether any question that is held out may stand in rows of a kind."""
    contexts = corpus.flat["question_context"]
    usable = corpus.flat["held_out"][contexts]
    if kind == "questions":
        # Among many passages a question must say which of them it means.
        usable = usable & corpus.flat["named"]
    asked = {s.name for s in SOURCES if s.kind == "questions"} - set(recipe.without)
    there = np.unique(corpus.flat["context_source"][contexts[usable]])
    return any(corpus.sources[int(place)] in asked for place in there)
