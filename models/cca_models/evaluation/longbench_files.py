"""LongBench-E as published: its data sets and the files of them that the user has.

Names, categories, measures and limits are those of github.com/THUDM/LongBench (Bai et al., 2023).
A folder holds one file per data set, <name>_e.jsonl, one instance per line with the fields input,
context, answers, length (words, not tokens), dataset, language, all_classes and _id.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cca_models.evaluation import data
from cca_models.evaluation.types import EvaluationError

Category = Literal["S.QA", "M.QA", "Sum.", "FS.", "Synth.", "Code"]
CATEGORIES: tuple[Category, ...] = get_args(Category)

Measure = Literal["qa_f1", "rouge_l", "classification", "retrieval", "count", "code_similarity"]

_FIELDS = ("input", "context", "answers", "length")


@dataclass(frozen=True, slots=True)
class Dataset:
    """One of LongBench-E's data sets.

    Attributes:
        name: As published, without the _e of the file.
        category: As the paper's tables name it.
        measure: How its answers are scored.
        max_new_tokens: Longest answer.
        chat: Whether it is asked as a chat. Few-shot tasks and code are continued as plain text.
        first_line: Whether only the first line of the answer counts.
    """

    name: str
    category: Category
    measure: Measure
    max_new_tokens: int
    chat: bool = True
    first_line: bool = False


DATASETS: Mapping[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset("qasper", "S.QA", "qa_f1", 128),
        Dataset("multifieldqa_en", "S.QA", "qa_f1", 64),
        Dataset("hotpotqa", "M.QA", "qa_f1", 32),
        Dataset("2wikimqa", "M.QA", "qa_f1", 32),
        Dataset("gov_report", "Sum.", "rouge_l", 512),
        Dataset("multi_news", "Sum.", "rouge_l", 512),
        Dataset("trec", "FS.", "classification", 64, chat=False, first_line=True),
        Dataset("triviaqa", "FS.", "qa_f1", 32, chat=False, first_line=True),
        Dataset("samsum", "FS.", "rouge_l", 128, chat=False, first_line=True),
        Dataset("passage_count", "Synth.", "count", 32),
        Dataset("passage_retrieval_en", "Synth.", "retrieval", 32),
        Dataset("lcc", "Code", "code_similarity", 64, chat=False),
        Dataset("repobench-p", "Code", "code_similarity", 64, chat=False),
    )
}


@dataclass(frozen=True, slots=True)
class Instance:
    """One question of a data set.

    Attributes:
        dataset: Which one.
        key: Its published id, or its place in the file, from 1, if it has none.
        context: What is read.
        input: The question, the last example, or code that follows the context; may be empty.
        answers: The right ones; any will do.
        words: Length of the context and the rest, which decides the bucket.
        classes: Names to choose from, for classification; else empty.
    """

    dataset: Dataset
    key: str
    context: str
    input: str
    answers: tuple[str, ...]
    words: int
    classes: tuple[str, ...]


def file_of(folder: Path, dataset: Dataset) -> Path:
    """Give the place of a data set's file."""
    return folder / f"{dataset.name}_e.jsonl"


def read_folder(folder: Path) -> list[Instance]:
    """Read the data sets that a folder has, in the published order.

    Raises:
        EvaluationError: If the folder has none of the files, or a record is not as published.
    """
    there = [d for d in DATASETS.values() if file_of(folder, d).is_file()]
    if not there:
        raise EvaluationError(
            f"{folder}: there is no file of LongBench-E in it",
            hint="name the folder with qasper_e.jsonl and the others, unpacked from its data.zip",
        )
    return [instance for dataset in there for instance in _read(file_of(folder, dataset), dataset)]


def _read(path: Path, dataset: Dataset) -> list[Instance]:
    instances: dict[str, Instance] = {}
    for number, record in enumerate(data.load(path, fields=_FIELDS), start=1):
        try:
            instance = _instance(record, dataset, number)
            if instance.key in instances:
                raise ValueError(f"_id {instance.key} was there before")
        except (ValueError, TypeError) as error:
            raise EvaluationError(
                f"{path}, record {number}: {error}", hint="take LongBench-E's file as published"
            ) from error
        instances[instance.key] = instance
    return list(instances.values())


def _instance(record: data.Record, dataset: Dataset, number: int) -> Instance:
    for name in ("context", "input"):
        if not isinstance(record[name], str):
            raise TypeError(f"{name} is not a text")
    answers = _texts(record["answers"], "answers")
    if not answers:
        raise ValueError("answers is empty")
    classes = _texts(record.get("all_classes") or [], "all_classes")
    if dataset.measure == "classification" and not classes:
        raise ValueError("all_classes is empty")
    if isinstance(record["length"], bool) or not isinstance(record["length"], int):
        raise TypeError("length is not a whole number")
    return Instance(
        dataset=dataset,
        key=str(record.get("_id") or number),
        context=record["context"],
        input=record["input"],
        answers=answers,
        words=record["length"],
        classes=classes,
    )


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise TypeError(f"{name} is not a list of texts")
    return tuple(value)
