"""Many token sequences in two flat arrays, mapped from disk so that processes share them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[Any]


class Ragged:
    """Rows of different lengths.

    Args:
        values: All rows one after the other.
        starts: Where each row starts, and one past the last: int64 [rows + 1].
    """

    def __init__(self, values: Ids, starts: Ids) -> None:
        self.values = values
        self.starts = starts

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | Ids], dtype: Any) -> "Ragged":
        """Build from rows of integers."""
        lengths, parts = [0], []
        for row in rows:
            parts.append(np.asarray(row, dtype=dtype))
            lengths.append(len(row))
        values = np.concatenate(parts) if parts else np.zeros(0, dtype)
        return cls(values, np.cumsum(np.asarray(lengths, dtype=np.int64)))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> Ids:
        return self.values[self.starts[row] : self.starts[row + 1]]

    def lengths(self) -> Ids:
        """Give the length of every row, int64 [rows]."""
        return np.diff(self.starts)

    def save(self, stem: Path) -> None:
        """Write two files beside each other."""
        np.save(stem.with_name(f"{stem.name}.values.npy"), self.values, allow_pickle=False)
        np.save(stem.with_name(f"{stem.name}.starts.npy"), self.starts, allow_pickle=False)

    @classmethod
    def load(cls, stem: Path) -> "Ragged":
        """Map what `save` wrote."""
        values, starts = (
            np.load(stem.with_name(f"{stem.name}.{part}.npy"), mmap_mode="r", allow_pickle=False)
            for part in ("values", "starts")
        )
        return cls(values, starts)
