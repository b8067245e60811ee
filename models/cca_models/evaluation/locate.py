"""Where the answer stands: how often the gold passage is among the best few.

Passages are ordered by the attention that the question pays to the memory, by BM25, and by both
fused as the `focus` method fuses them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cca_models.evaluation.contexts import TextCache
from cca_models.evaluation.haystack import Haystack, Stacker
from cca_models.evaluation.multidoc import LENGTHS, load_pool
from cca_models.evaluation.results import length_name, metric_lines
from cca_models.evaluation.types import By, Method, Row, Table, TaskOptions, Unit

_WAYS: tuple[By, ...] = ("attention", "bm25", "fused")
_BEST = (1, 5, 10)


class Locate:
    """Recall of the gold passage, on the contexts of `multidoc`."""

    name = "locate"

    def __init__(self, options: TaskOptions) -> None:
        self._options = options
        self._lengths = options.lengths or LENGTHS
        self.files, self._pool = load_pool(options, task=self.name)

    def settings(self) -> Mapping[str, Any]:
        """Nothing but the data and the seed."""
        return {}

    def methods(self, asked: Sequence[str]) -> Sequence[str]:
        """Look through the reader of `focus`, whatever was asked for."""
        return ("focus",)

    def units(self) -> Sequence[Unit]:
        """Make the contexts."""
        texts = TextCache(self._options.tokenizer)
        stacker = Stacker(self._pool, texts, seed=self._options.seed, max_new_tokens=32)
        return list(stacker.units(self._lengths, self._options.limit))

    def run(self, unit: Unit, method: Method) -> list[Row]:
        """Read the context once and order its passages for every question."""
        haystack: Haystack = unit.data
        reading = method.read(haystack.passages, room=haystack.room)
        rows = []
        for asked in haystack.asked:
            for way in _WAYS:
                order = reading.rank(asked.item.question, by=way)
                if not order or asked.place is None:
                    continue
                rank = order.index(asked.place) + 1
                rows.append(
                    {
                        "key": f"{haystack.length}/{asked.item.id}/{way}",
                        "by": way,
                        "length": haystack.length,
                        "tokens": reading.tokens,
                        "passages": len(haystack.passages),
                        "depth": None if asked.depth is None else round(asked.depth, 4),
                        "rank": rank,
                        "metrics": {f"recall@{k}": float(rank <= k) for k in _BEST},
                    }
                )
        return rows

    def table(self, rows: Sequence[Row]) -> Table:
        """Sum up by length and way."""
        names = [f"recall@{k}" for k in _BEST]
        notes = []
        if not any(row["by"] == "attention" for row in rows):
            notes.append("attention: no head of this model is known to locate")
        return Table(
            task=self.name,
            title="locate: the gold passage among the best k, by tokens of context",
            columns=("length", "by", *names),
            lines=metric_lines(rows, ("length", "by"), names, show={"length": length_name}),
            notes=tuple(notes),
        )
