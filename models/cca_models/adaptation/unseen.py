"""What questions cost that are never trained on: is reading learnt, or are answers by heart?

The loss of trained questions falls either way. One context in forty is held out of all training
(`Corpus.flat["held_out"]`); rows made of these alone, the same ones at every time of asking, tell.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from cca_models.adaptation.corpus import Corpus
from cca_models.adaptation.recipe import MADE, Batch, Batches, Recipe, RowKind
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
        table = torch.zeros(2, len(_KINDS), device=self._accelerator.device)
        for batch in self._batches:
            # All devices go through all of theirs: some wrappers wait for each other.
            losses = objective(batch.to(self._accelerator.device), self._window)
            if len(batch.taught):
                table[0, _KINDS.index(batch.kind)] += losses.words
                table[1, _KINDS.index(batch.kind)] += 1
        table = self._accelerator.reduce(table, reduction="sum")
        found = {
            f"unseen {kind}": float(table[0, i] / table[1, i])
            for i, kind in enumerate(_KINDS)
            if table[1, i]
        }
        if not found:
            return {}, False
        before = [past for past in self._past() if past["step"] < step]
        best = all(_mean(found) < _mean(past["losses"]) for past in before)
        if self._accelerator.is_main_process:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            past = [*before, {"step": step, "losses": found}]
            replace_file(self._file, f"{json.dumps(past)}\n".encode())
        return found, best

    def _past(self) -> list[Any]:
        past: list[Any] = json.loads(self._file.read_text()) if self._file.is_file() else []
        # Nobody writes before all have read.
        self._accelerator.wait_for_everyone()
        return past


def best_step(out: Path) -> int | None:
    """Give the step after which a training's unseen questions were answered best; None if unknown.

    Args:
        out: Folder of the training; the adapter of that step is `best` in it.
    """
    file = out / _FILE
    if not file.is_file():
        return None
    past = json.loads(file.read_text())
    return int(min(past, key=lambda one: _mean(one["losses"]))["step"]) if past else None


def _mean(losses: Mapping[str, float]) -> float:
    return sum(losses.values()) / len(losses)


def _batches(
    corpus: Corpus, wording: Wording, recipe: Recipe, accelerator: Accelerator, pad: int
) -> list[Batch]:
    contexts = corpus.flat["question_context"]
    asked = corpus.flat["context_source"][contexts[corpus.flat["held_out"][contexts]]]
    kinds = {s.name: s.kind for s in SOURCES if s.name not in recipe.without}
    there = {corpus.sources[int(place)] for place in np.unique(asked)}
    if not any(kinds.get(name) == "questions" for name in there):
        return []
    devices, own = accelerator.num_processes, accelerator.process_index
    found: list[Batch] = []
    for kind in _KINDS:
        portions = [
            replace(portion, kinds={kind: 1.0})
            for portion in recipe.fitting()
            if kind in portion.kinds and portion.length <= _LONGEST
        ]
        if not portions:
            continue
        asking = replace(recipe, portions=portions, exchanged=0.0, without=(*recipe.without, *MADE))
        batches = Batches(
            corpus, wording, asking, devices=devices, count=_COUNT * devices, pad=pad,
            held_out=True,
        )  # fmt: skip
        found += [batches[i] for i in range(own, len(batches), devices)]
    return found
