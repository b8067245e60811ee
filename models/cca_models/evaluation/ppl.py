"""Perplexity of whole texts by position: how well a method uses what stands far back.

Each text is read in one pass from its beginning, as long as it is or as the longest length asked
for; every token counts for the stretch of positions that it stands in. `ratio` compares a stretch
with 4K-8K of the same texts, so that a text that ends early does not change what is compared.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np

from cca_models.evaluation import data
from cca_models.evaluation.metrics import confidence_interval
from cca_models.evaluation.results import grouped, length_name
from cca_models.evaluation.types import (
    Cell,
    EvaluationError,
    Figure,
    Method,
    Row,
    ScoringMethod,
    Table,
    TaskOptions,
    Unit,
)

_DEFAULT = "whole_books"
_EDGES = (0, 1024, 4096, 8192, 16384, 32768, 65536, 131072, 262144, 524288)
_LONGEST = 131072
_REFERENCE = 4096
# The interval is drawn from runs of so many tokens: neighbours are not independent.
_BLOCK = 512
# A token has some four characters; this many are surely enough for one.
_CHARACTERS_PER_TOKEN = 12


class Perplexity:
    """Perplexity by position; data are records with `text`.

    Args:
        options: As asked for; the longest of the lengths is where texts are cut.
    """

    name = "ppl"

    def __init__(self, options: TaskOptions) -> None:
        self._options = options
        path = options.data_file or data.find(options.data, _DEFAULT, task=self.name)
        self.files = [path]
        self._longest = max(options.lengths, default=_LONGEST)
        self._records = data.load(path, fields=("text",))
        self._left_out: list[str] = []

    def settings(self) -> Mapping[str, Any]:
        """Give what changes the losses of equal texts: positions are stretched by the length."""
        return {"longest": self._longest}

    def methods(self, asked: Sequence[str]) -> Sequence[str]:
        """Run those that have a probability for every token."""
        from cca_models.evaluation.methods import is_scoring

        scoring = [name for name in asked if is_scoring(name)]
        self._left_out += [n for n in asked if n not in (*scoring, *self._left_out)]
        return scoring or ("core",)

    def units(self) -> Sequence[Unit]:
        """Make a unit of each text."""
        units = []
        for number, record in enumerate(self._records[: self._options.limit]):
            text = str(record["text"])[: self._longest * _CHARACTERS_PER_TOKEN]
            ids = self._options.tokenizer.encode(text)[: self._longest]
            if len(ids) < 2:
                continue
            name = str(record.get("title") or record.get("id") or number)
            units.append(Unit(key=str(record.get("id", number)), tokens=len(ids), data=(name, ids)))
        if not units:
            raise EvaluationError(f"{self.files[0]}: there is no text in it")
        return units

    def run(self, unit: Unit, method: Method) -> list[Row]:
        """Read a text once and sum its losses up by position."""
        name, ids = unit.data
        # The loss at i is that of token i + 1.
        losses = cast(ScoringMethod, method).losses(ids).double().numpy()
        rows = []
        for low, high in _stretches(len(ids)):
            part = losses[max(low, 1) - 1 : high - 1]
            if not len(part):
                continue
            blocks = [part[a : a + _BLOCK] for a in range(0, len(part), _BLOCK)]
            rows.append(
                {
                    "key": f"{unit.key}/{low}-{high}",
                    "text": name,
                    "from": low,
                    "to": high,
                    "length": unit.tokens,
                    "tokens": len(part),
                    "blocks": [[round(float(b.mean()), 5), len(b)] for b in blocks],
                    "metrics": {"nll": float(part.mean())},
                }
            )
        return rows

    def table(self, rows: Sequence[Row]) -> Table:
        """Sum up by position, methods side by side."""
        names = list(dict.fromkeys(row["method"] for row in rows))
        header = ["position", "tokens"]
        for name in names:
            header += [name, f"{name} ratio"]
        if "full" in names:
            header += [f"{name} / full" for name in names if name != "full"]
        notes = ["ratio: to 4K-8K of the same texts; n counts runs of 512 tokens"]
        if self._left_out:
            notes.append(f"without {', '.join(self._left_out)}: no probability for every token")
        by = grouped(rows, "from", "method")
        lines = []
        for low in sorted({row["from"] for row in rows}):
            of = {name: by.get((low, name), []) for name in names}
            count = max(sum(row["tokens"] for row in members) for members in of.values())
            line: list[Cell] = [stretch_name(low), count]
            for name in names:
                reference = by.get((_REFERENCE, name), [])
                line += [perplexity(of[name]), _ratio(of[name], reference)]
            if "full" in names:
                line += [_ratio(of[name], of["full"]) for name in names if name != "full"]
            lines.append(tuple(line))
        return Table(
            task=self.name,
            title="ppl: perplexity by position in the text, each text read in one pass",
            columns=tuple(header),
            lines=tuple(lines),
            notes=tuple(notes),
        )


def _stretches(tokens: int) -> Iterator[tuple[int, int]]:
    """Cut positions at the edges: first position and one past the last."""
    for low, high in pairwise((*_EDGES, max(_EDGES[-1] + 1, tokens))):
        if low < tokens:
            yield low, min(high, tokens)


def stretch_name(low: int) -> str:
    """Name the stretch that begins at a position: 4K-8K."""
    after = [edge for edge in _EDGES if edge > low]
    return f"{_short(low)}-{_short(after[0])}" if after else f"from {_short(low)}"


def _short(tokens: int) -> str:
    return "0" if tokens == 0 else length_name(tokens).upper()


def perplexity(rows: Sequence[Row]) -> Figure | None:
    """Give e to the mean loss over all tokens, with an interval from the blocks."""
    blocks = [block for row in rows for block in row["blocks"]]
    if not blocks:
        return None
    means = [mean for mean, _ in blocks]
    nll = _nll(rows)
    low, high = confidence_interval(means)
    # The last block of a text is shorter: the interval is moved by what that does to the mean.
    shift = nll - float(np.mean(means))
    return Figure(
        mean=math.exp(nll), low=math.exp(low + shift), high=math.exp(high + shift),
        n=len(blocks), percent=False,
    )  # fmt: skip


def _ratio(rows: Sequence[Row], reference: Sequence[Row]) -> float | None:
    """Divide perplexities over the texts that both have."""
    both = {row["text"] for row in rows} & {row["text"] for row in reference}
    if not both:
        return None
    above, below = (_nll([r for r in side if r["text"] in both]) for side in (rows, reference))
    return math.exp(above - below)


def _nll(rows: Sequence[Row]) -> float:
    tokens = float(sum(row["tokens"] for row in rows))
    summed: float = sum(row["metrics"]["nll"] * row["tokens"] for row in rows)
    return summed / tokens
