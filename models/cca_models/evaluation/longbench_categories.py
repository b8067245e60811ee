"""LongBench-E's figures from single scores: per data set, length, category, and the average.

A data set's figure is the mean over its instances; a category's the mean of its data sets'; the
average the plain mean of the six categories', as the paper prints it (its Table 1: the row of
LLaMA2-7B-32K is 132.64 / 6 = 22.11). All are fractions here, and per cent when printed.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cca_models.evaluation import metrics
from cca_models.evaluation.longbench_files import CATEGORIES, DATASETS, Category
from cca_models.evaluation.types import Figure

Bucket = Literal["0-4k", "4-8k", "8k+"]
BUCKETS: tuple[Bucket, ...] = get_args(Bucket)


@dataclass(frozen=True, slots=True)
class Scored:
    """One instance's score, 0 to 1, with what it is counted under; words decide the bucket."""

    dataset: str
    words: int
    score: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What is printed for one method over one range of lengths.

    Attributes:
        datasets: Those that have instances here.
        categories: Those with all their data sets.
        average: Over the six categories; None unless all are there.
    """

    datasets: Mapping[str, Figure]
    categories: Mapping[Category, Figure]
    average: Figure | None


def bucket(words: int) -> Bucket:
    """Give the published range of lengths that so many words fall into."""
    return "0-4k" if words < 4000 else "4-8k" if words < 8000 else "8k+"


def figures(scores: Iterable[Scored]) -> Figures:
    """Average over data sets and categories.

    A category stands only if all its data sets are there, and the average only if all categories
    are: else it would be compared with figures of other make.
    """
    values: dict[str, list[float]] = defaultdict(list)
    for scored in scores:
        values[scored.dataset].append(scored.score)
    parts = {
        name: _Part.of(values[name], seed) for seed, name in enumerate(DATASETS) if name in values
    }
    categories: dict[Category, _Part] = {}
    for category in CATEGORIES:
        names = [d.name for d in DATASETS.values() if d.category == category]
        if all(name in parts for name in names):
            categories[category] = _Part.mean_of([parts[name] for name in names])
    complete = len(categories) == len(CATEGORIES)
    average = _Part.mean_of(list(categories.values())) if complete else None
    return Figures(
        datasets={name: part.figure() for name, part in parts.items()},
        categories={name: part.figure() for name, part in categories.items()},
        average=None if average is None else average.figure(),
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """A mean with its resampled values, [2000], so that means of means get an interval too."""

    mean: float
    draws: NDArray[np.float64]
    n: int

    @classmethod
    def of(cls, values: list[float], seed: int) -> "_Part":
        draws = metrics.resampled_means(values, seed=seed)
        return cls(sum(values) / len(values), draws, len(values))

    @classmethod
    def mean_of(cls, parts: list["_Part"]) -> "_Part":
        draws = np.mean([part.draws for part in parts], axis=0)
        return cls(sum(p.mean for p in parts) / len(parts), draws, sum(p.n for p in parts))

    def figure(self) -> Figure:
        low, high = metrics.interval_of(self.draws)
        return Figure(mean=self.mean, low=low, high=high, n=self.n)
