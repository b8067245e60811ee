"""Questions among many passages, and the same for one paragraph among others (SQuAD's form).

The data is lost-in-the-middle's (Liu et al., TACL 2024): questions of NaturalQuestions, each with
the passage that answers it and passages like it. `em` is that paper's measure, which the paper on
CCA prints as exact match: an answer stands in the reply. `strict` is SQuAD's exact match.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cca_models.evaluation import data
from cca_models.evaluation.contexts import TextCache
from cca_models.evaluation.haystack import Asked, Haystack, Item, Pool, Stacker
from cca_models.evaluation.metrics import exact_match, substring_match, token_f1
from cca_models.evaluation.results import length_name, metric_lines
from cca_models.evaluation.types import (
    EvaluationError,
    Method,
    Reply,
    Row,
    Table,
    TaskOptions,
    Unit,
)

QUESTIONS = "lost_in_the_middle_questions"
PASSAGES = "lost_in_the_middle_passages"
SQUAD = "qa_squad1_dev_xquad_en"
LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)
_SQUAD_LENGTHS = (32768,)
_MAX_NEW_TOKENS = 32


class MultiDocument:
    """Questions, each answered by one of the passages of a long context.

    Args:
        options: As asked for.
        name: "multidoc", or "squad" for paragraphs that are context and gold in one.
    """

    def __init__(self, options: TaskOptions, *, name: str = "multidoc") -> None:
        self.name = name
        self._options = options
        self._tokens = options.max_new_tokens or _MAX_NEW_TOKENS
        self._lengths = options.lengths or (_SQUAD_LENGTHS if name == "squad" else LENGTHS)
        self.files, self._pool = load_pool(options, task=name, squad=name == "squad")

    def settings(self) -> Mapping[str, Any]:
        """Give what changes answers to equal questions."""
        return {"max_new_tokens": self._tokens, "unanswerable": self._options.unanswerable}

    def methods(self, asked: Sequence[str]) -> Sequence[str]:
        """Run all that were asked for."""
        return asked

    def units(self) -> Sequence[Unit]:
        """Make the contexts."""
        stacker = Stacker(
            self._pool, TextCache(self._options.tokenizer), seed=self._options.seed,
            max_new_tokens=self._tokens, unanswerable=self._options.unanswerable,
        )  # fmt: skip
        return list(stacker.units(self._lengths, self._options.limit))

    def run(self, unit: Unit, method: Method) -> list[Row]:
        """Read the context once and ask all its questions."""
        haystack: Haystack = unit.data
        reading = method.read(haystack.passages, room=haystack.room)
        rows = []
        for asked in haystack.asked:
            reply = reading.ask(asked.item.question, max_new_tokens=self._tokens)
            rows.append(
                {
                    "key": f"{haystack.length}/{asked.item.id}",
                    "length": haystack.length,
                    "tokens": reading.tokens,
                    "depth": None if asked.depth is None else round(asked.depth, 4),
                    "question": asked.item.question,
                    "answers": list(asked.item.answers),
                    "reply": reply.text,
                    "metrics": score(reply, asked),
                }
            )
        return rows

    def table(self, rows: Sequence[Row]) -> Table:
        """Sum up by length and method."""
        names = ["em", "strict", "f1", "refused"]
        if any("not found" in row["metrics"] for row in rows):
            names.append("not found")
        what = "a paragraph" if self.name == "squad" else "the gold passage"
        return Table(
            task=self.name,
            title=f"{self.name}: questions, {what} among others, by tokens of context",
            columns=("length", "method", *names),
            lines=metric_lines(rows, ("length", "method"), names, show={"length": length_name}),
            notes=(
                "em: an answer stands in the reply's first line; strict: the reply is one; refused:"
                " answerable, yet answered 'not found'"
                + ("; not found: the answer was taken out, and so was said" * (len(names) > 4)),
            ),
        )


def score(reply: Reply, asked: Asked) -> dict[str, float]:
    """Score an answer: of a question that the context answers, or that it does not."""
    denied = float(reply.found is False)
    if asked.place is None:
        return {"not found": denied}
    answers = asked.item.answers
    return {
        "em": substring_match(reply.text, answers),
        "strict": exact_match(reply.text, answers),
        "f1": token_f1(reply.text, answers),
        "refused": denied,
    }


def load_pool(options: TaskOptions, *, task: str, squad: bool = False) -> tuple[list[Path], Pool]:
    """Load questions and passages: the usual files, or one whose records hold their context.

    Raises:
        EvaluationError: If there is no data, or not of this form.
    """
    if options.data_file is not None:
        return [options.data_file], _own_contexts(options.data_file)
    if squad:
        path = data.find(options.data, SQUAD, task=task)
        return [path], _own_contexts(path)
    questions = data.find(options.data, QUESTIONS, task=task)
    passages = data.find(options.data, PASSAGES, task=task)
    return [questions, passages], _listed(questions, passages)


def _listed(questions: Path, passages: Path) -> Pool:
    """Load questions that name their passages."""
    place: dict[Any, int] = {}
    texts: list[str] = []
    for record in data.load(passages, fields=("id", "title", "text")):
        place[record["id"]] = len(texts)
        texts.append(f"{record['title']}\n{record['text']}".strip())
    items = []
    for record in data.load(questions, fields=("id", "question", "answers", "gold", "distractors")):
        named = [record["gold"], *record["distractors"]]
        if unknown := [name for name in named if name not in place]:
            raise EvaluationError(
                f"{questions}: question {record['id']} names passage {unknown[0]}, "
                f"which {passages.name} lacks",
                hint="both files must be of one download",
            )
        gold, *near = (place[name] for name in named)
        answers = tuple(data.as_list(record["answers"]))
        items.append(
            Item(id=str(record["id"]), question=record["question"], answers=answers, gold=gold,
                 near=tuple(near))
        )  # fmt: skip
    return _checked(questions, items, texts)


def _own_contexts(path: Path) -> Pool:
    """Load questions that carry their paragraph; the paragraphs of all are the pool."""
    place: dict[str, int] = {}
    items = []
    for number, record in enumerate(data.load(path, fields=("context", "question", "answers"))):
        context = record["context"].strip()
        answers = tuple(a for a in data.as_list(record["answers"]) if a != "unanswerable")
        if not answers or not context:
            continue
        gold = place.setdefault(context, len(place))
        items.append(
            Item(id=str(record.get("id", number)), question=record["question"], answers=answers,
                 gold=gold)
        )  # fmt: skip
    return _checked(path, items, list(place))


def _checked(path: Path, items: Sequence[Item], texts: Sequence[str]) -> Pool:
    if not items:
        raise EvaluationError(f"{path}: there is no question with an answer in it")
    if len({item.id for item in items}) < len(items):
        raise EvaluationError(f"{path}: two questions have the same id", hint="make ids unique")
    return Pool(items=tuple(items), passages=tuple(texts))


def squad(options: TaskOptions) -> MultiDocument:
    """Make the task `squad`."""
    return MultiDocument(options, name="squad")
