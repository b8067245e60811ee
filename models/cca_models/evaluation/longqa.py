"""Questions about whole documents: papers, tales, meetings, contracts, as they are.

A document is read once and all its questions are asked. Answers are scored by substring and exact
match, F1 and ROUGE-L; where options are offered, `em` is the share of right choices; where the
document does not say, only whether that is said.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cca_models.evaluation import data
from cca_models.evaluation.contexts import TextCache, cut_pages
from cca_models.evaluation.longqa_records import Question, read_questions, right_choice
from cca_models.evaluation.metrics import exact_match, rouge, substring_match, token_f1
from cca_models.evaluation.results import metric_lines
from cca_models.evaluation.types import Method, Reply, Row, Table, TaskOptions, Unit

FILES = (
    "qa_covidqa",
    "qa_fairytaleqa_test",
    "qa_leval",
    "qa_bamboo_altqa_4k",
    "qa_bamboo_meetingqa_4k",
    "qa_bamboo_paperqa_4k",
    "qa_bamboo_paperqa_16k",
    "qa_quac",
    "qa_hotpotqa_dev_sample",
    "qa_narrativeqa_summaries_test_tiny",
)
_LIMIT = 100
_MAX_NEW_TOKENS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class _Document:
    set: str
    pages: tuple[str, ...]
    questions: tuple[Question, ...]


class LongQuestions:
    """Questions about whole documents.

    Args:
        options: As asked for; the limit is the questions of each file, document by document.
    """

    name = "longqa"

    def __init__(self, options: TaskOptions) -> None:
        self._options = options
        self._tokens = options.max_new_tokens or _MAX_NEW_TOKENS
        self._texts = TextCache(options.tokenizer)
        own = options.data_file
        self.files: list[Path] = (
            [own] if own is not None else data.find_all(options.data, FILES, task=self.name)
        )
        self._documents = [d for path in self.files for d in _documents(path, options)]

    def settings(self) -> Mapping[str, Any]:
        """Give what changes answers to equal questions."""
        return {"max_new_tokens": self._tokens}

    def methods(self, asked: Sequence[str]) -> Sequence[str]:
        """Run all that were asked for."""
        return asked

    def units(self) -> Sequence[Unit]:
        """Make a unit of each document."""
        units = []
        for document in self._documents:
            says = "\n".join([*document.pages, *(q.id for q in document.questions)])
            digest = hashlib.sha256(says.encode()).hexdigest()[:12]
            # English has some four characters to the token.
            tokens = sum(map(len, document.pages)) // 4
            units.append(Unit(key=f"{document.set}/{digest}", tokens=tokens, data=document))
        return units

    def run(self, unit: Unit, method: Method) -> list[Row]:
        """Read the document and ask its questions."""
        document: _Document = unit.data
        asked = [question.question for question in document.questions]
        reading = method.read(document.pages, room=self._texts.room(asked, self._tokens))
        rows = []
        for question in document.questions:
            reply = reading.ask(question.question, max_new_tokens=self._tokens)
            rows.append(
                {
                    "key": f"{document.set}/{question.id}",
                    "set": document.set,
                    "tokens": reading.tokens,
                    "question": question.question,
                    "answers": list(question.answers),
                    "reply": reply.text,
                    "metrics": score(reply, question),
                }
            )
        return rows

    def table(self, rows: Sequence[Row]) -> Table:
        """Sum up by file and method."""
        names = ["em", "strict", "f1", "rougeL", "refused"]
        if any("not found" in row["metrics"] for row in rows):
            names.append("not found")
        ordered = sorted(rows, key=lambda row: self._place(row["set"]))
        longest: dict[str, int] = {}
        for row in rows:
            longest[row["set"]] = max(longest.get(row["set"], 0), row["tokens"])
        return Table(
            task=self.name,
            title="longqa: questions about whole documents",
            columns=("set", "method", *names),
            lines=metric_lines(ordered, ("set", "method"), names),
            notes=(
                "em: an answer stands in the reply's first line, or the right option is chosen; "
                "refused: answerable, yet answered 'not found'",
                "longest document, tokens: "
                + ", ".join(f"{name} {tokens:,}" for name, tokens in longest.items()),
            ),
        )

    def _place(self, name: str) -> int:
        return [_set_name(path) for path in self.files].index(name)


def score(reply: Reply, question: Question) -> dict[str, float]:
    """Score an answer."""
    denied = float(reply.found is False)
    answers = question.answers
    if not answers:
        return {"not found": denied}
    if question.options:
        return {"em": right_choice(reply.text, question), "refused": denied}
    return {
        "em": substring_match(reply.text, answers),
        "strict": exact_match(reply.text, answers),
        "f1": token_f1(reply.text, answers),
        "rougeL": rouge(reply.text, answers)["rougeL"],
        "refused": denied,
    }


def _set_name(path: Path) -> str:
    return data.stem(path).removeprefix("qa_")


def _documents(path: Path, options: TaskOptions) -> list[_Document]:
    """Group a file's questions by document; choose documents by the seed."""
    by_context: dict[str, list[Question]] = {}
    for question in read_questions(path):
        by_context.setdefault(question.context, []).append(question)
    contexts = [context for context in by_context if context.strip()]
    random.Random(f"{options.seed} {path.name}").shuffle(contexts)
    documents, left = [], options.limit or _LIMIT
    for context in contexts:
        if left <= 0:
            break
        some = tuple(by_context[context][:left])
        left -= len(some)
        documents.append(
            _Document(set=_set_name(path), pages=tuple(cut_pages(context)), questions=some)
        )
    return documents
