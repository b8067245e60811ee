"""Cases and the error budget that the kernel tests share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cca_kernels import raw_start, visible_cores


@dataclass(frozen=True, kw_only=True)
class Case:
    """One chunk of L queries at `position` against its memory."""

    B: int = 1
    H: int = 4
    KV: int = 2
    L: int = 63
    D: int = 48
    G: int = 16
    W: int = 32
    position: int = 0
    spare: int = 0  # raw keys and core tokens beyond what is needed
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        shape = "-".join(f"{n}{getattr(self, n)}" for n in ("B", "H", "KV", "L", "D", "G", "W"))
        return f"{shape}-p{self.position}-s{self.spare}-{name}"

    @property
    def options(self) -> dict[str, int]:
        return {"position": self.position, "group_size": self.G, "window": self.W}

    def tensors(self, seed: int = 0, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
        """Draw q, k, v, core_k, core_v."""
        random = torch.Generator().manual_seed(seed)
        first = max(0, raw_start(self.position, group_size=self.G, window=self.W) - self.spare)
        S = self.position + self.L - first
        last = self.position + self.L - 1
        M = visible_cores(last, group_size=self.G, window=self.W) + self.spare
        shapes = [(self.H, self.L), (self.KV, S), (self.KV, S), (self.KV, M), (self.KV, M)]
        return tuple(
            torch.randn(self.B, heads, n, self.D, generator=random, dtype=torch.float64).to(
                dtype or self.dtype
            )
            for heads, n in shapes
        )


def assert_within_budget(actual: Tensor, *, low: Tensor, exact: Tensor) -> None:
    """Allow twice the error of the reference in the same dtype, and two units in the last place."""
    assert torch.isfinite(actual).all()
    allowed = 2 * (low.double() - exact).abs().max()
    allowed += 2 * torch.finfo(actual.dtype).eps * exact.abs().max()
    assert (actual.double() - exact).abs().max() <= allowed
