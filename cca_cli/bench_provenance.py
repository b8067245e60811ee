"""Where, with what and when the figures of ``cca bench`` were made."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Provenance"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Without which a figure is not worth quoting; JSON prints it as it is."""

    version: str
    torch: str
    transformers: str
    python: str
    device: str
    device_name: str
    dtype: str
    threads: int
    cuda: str
    driver: str
    system: str
    model: str
    weights: str
    group_size: int
    window: int
    new_tokens: int
    batch: int
    repeat: int
    budget_s: float
    seed: int
    lengths: tuple[int, ...]
    methods: tuple[str, ...]
    time: str
    command: str

    def line(self) -> str:
        """Sum it up in one line."""
        place = f"{self.device_name} ({self.device}"
        place += f", {self.threads} threads)" if self.device == "cpu" else ")"
        rows = (f"batch {self.batch}",) if self.batch > 1 else ()
        return " · ".join(
            (
                f"cca {self.version}",
                f"torch {self.torch}" + (f" (CUDA {self.cuda})" if self.cuda else ""),
                f"transformers {self.transformers}",
                f"python {self.python}",
                place + (f", driver {self.driver}" if self.driver else ""),
                self.dtype,
                f"{self.model} ({self.weights})",
                f"G {self.group_size} W {self.window:,}",
                *rows,
                f"{self.new_tokens} new tokens",
                f"repeat {self.repeat}",
                f"budget {self.budget_s:g} s",
                f"seed {self.seed}",
                self.time,
                self.command,
            )
        )
