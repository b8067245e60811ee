"""LongBench-E (Bai et al., 2023), from its published files in a folder that the user names.

Files and data sets: longbench_files. Prompts: longbench_prompts, longbench_answers. Scores:
longbench_metrics. Means: longbench_categories.
"""

import random
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from cca_models.evaluation.longbench_answers import Answerer
from cca_models.evaluation.longbench_categories import (
    BUCKETS,
    Figures,
    Scored,
    bucket,
    figures,
)
from cca_models.evaluation.longbench_files import (
    CATEGORIES,
    DATASETS,
    Instance,
    file_of,
    read_folder,
)
from cca_models.evaluation.longbench_metrics import score
from cca_models.evaluation.results import grouped
from cca_models.evaluation.types import (
    Cell,
    EvaluationError,
    Method,
    Row,
    Table,
    TaskOptions,
    Unit,
)


class LongBench:
    """All data sets of LongBench-E that the folder has.

    Args:
        options: As asked for; `data` is the folder, `limit` counts instances of a data set.

    Raises:
        EvaluationError: If no folder was named, it has none of the files, or one is not as
            published.
    """

    name = "longbench"

    def __init__(self, options: TaskOptions) -> None:
        if options.data is None or options.data_file is not None:
            raise EvaluationError(
                "longbench needs the folder with LongBench-E's files",
                hint="--data DIR, with qasper_e.jsonl and the others",
            )
        self._options = options
        self._instances = read_folder(options.data)
        names = dict.fromkeys(instance.dataset.name for instance in self._instances)
        self.files: list[Path] = [file_of(options.data, DATASETS[name]) for name in names]
        self._answerer = Answerer(options.tokenizer, max_new_tokens=options.max_new_tokens)

    def settings(self) -> Mapping[str, Any]:
        """Give what changes answers to equal instances."""
        return {"max_new_tokens": self._options.max_new_tokens}

    def methods(self, asked: Sequence[str]) -> Sequence[str]:
        """Run all that were asked for."""
        return asked

    def units(self) -> Sequence[Unit]:
        """Take instance by instance, in the published order of the data sets."""
        by_dataset: dict[str, list[Instance]] = {}
        for instance in self._instances:
            by_dataset.setdefault(instance.dataset.name, []).append(instance)
        chosen = [
            instance
            for instances in by_dataset.values()
            for instance in _choose(instances, self._options.limit, self._options.seed)
        ]
        # English has some four characters to the token, code three: near enough for a forecast.
        return [
            Unit(key=_key(instance), tokens=len(instance.context) // 4, data=instance)
            for instance in chosen
        ]

    def run(self, unit: Unit, method: Method) -> list[Row]:
        """Answer one instance."""
        instance: Instance = unit.data
        answered = self._answerer.answer(instance, method)
        points = score(
            answered.text, instance.answers, dataset=instance.dataset, classes=instance.classes
        )
        return [
            {
                "key": _key(instance),
                "dataset": instance.dataset.name,
                "category": instance.dataset.category,
                "words": instance.words,
                "bucket": bucket(instance.words),
                "left_out": answered.left_out,
                "answers": list(instance.answers),
                "reply": answered.text,
                "metrics": {"score": points},
            }
        ]

    def table(self, rows: Sequence[Row]) -> Table:
        """Sum up as the paper prints it: a line for all lengths, then one for each range."""
        lines: list[tuple[Cell, ...]] = []
        notes: list[str] = []
        for (method,), members in grouped(rows, "method").items():
            scores = [Scored(r["dataset"], r["words"], r["metrics"]["score"]) for r in members]
            whole = figures(scores)
            lines.append(_line("all", method, whole))
            for name in BUCKETS:
                inside = [scored for scored in scores if bucket(scored.words) == name]
                if inside:
                    lines.append(_line(name, method, figures(inside)))
            notes.append(f"{method}: {_by_dataset(whole)}")
            if cut := sum(row["left_out"] > 0 for row in members):
                notes.append(f"{method}: {cut} of {len(members)} contexts were cut in the middle")
        missing = [name for name in DATASETS if all(row["dataset"] != name for row in rows)]
        if missing:
            notes.append(
                f"without {', '.join(missing)}: no figure for their categories, and no average"
            )
        return Table(
            task=self.name,
            title="LongBench-E, by words of the instance; per cent of each data set's own measure",
            columns=("length", "method", *CATEGORIES, "Avg"),
            lines=tuple(lines),
            notes=tuple(notes),
        )


def _line(length: str, method: str, means: Figures) -> tuple[Cell, ...]:
    categories = (means.categories.get(category) for category in CATEGORIES)
    return (length, method, *categories, means.average)


def _by_dataset(means: Figures) -> str:
    return ", ".join(
        f"{name} {100 * figure.mean:.2f} (n {figure.n})" for name, figure in means.datasets.items()
    )


def _key(instance: Instance) -> str:
    return f"{instance.dataset.name}/{instance.key}"


def _choose(instances: Sequence[Instance], limit: int | None, seed: int) -> list[Instance]:
    """Choose as many of each range of lengths, by the seed; in the order of the file."""
    if limit is None or limit >= len(instances):
        return list(instances)
    places = list(range(len(instances)))
    random.Random(seed).shuffle(places)
    ranges = [[p for p in places if bucket(instances[p].words) == name] for name in BUCKETS]
    turns = [p for p in chain.from_iterable(zip_longest(*ranges)) if p is not None]
    return [instances[p] for p in sorted(turns[:limit])]
