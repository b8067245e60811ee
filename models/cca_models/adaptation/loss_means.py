"""Losses averaged over steps and devices, for the log."""

import time
from typing import Any

import torch
from accelerate import Accelerator

from cca_models.adaptation.mixtures import KINDS
from cca_models.adaptation.objective import Losses
from cca_models.adaptation.recipe import Batch


class LossMeans:
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
        names = (*KINDS, "pointing", "pointed")
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
