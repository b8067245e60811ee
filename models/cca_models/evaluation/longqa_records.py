"""Questions about whole documents, from the forms that data sets come in.

context + question + answers (and options, history); contexts, several documents; L-Eval: lists of
questions and answers to one context; BAMBOO: content, question, options and the letter of one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cca_models.evaluation import data
from cca_models.evaluation.types import EvaluationError

UNANSWERABLE = "unanswerable"
_LETTERS = "ABCDEFGH"
_OPTION = re.compile(r"^\s*\(?([A-H])[).:]\s*(.*)$", re.MULTILINE)
# What BAMBOO's questions about altered numbers are wrapped in.
_WRAPPED = (
    re.compile(r"Document:\s*(?P<context>.*)\n\s*Question:\s*(?P<question>.+)", re.DOTALL),
    re.compile(r"Question:\s*(?P<question>.+?)\n\s*Document:\s*(?P<context>.+)", re.DOTALL),
)
# Measures of L-Eval that need a person, a model or a summary to compare with.
_LEVAL_LEFT_OUT = frozenset({"human", "LLM", "rouge"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question about a document.

    Attributes:
        id: Unique in its file.
        context: The document.
        question: As asked, options and earlier turns included.
        answers: Any is right; empty if the document does not say.
        options: What may be chosen from, by letter; empty if nothing is offered.
    """

    id: str
    context: str
    question: str
    answers: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()


def read_questions(path: Path) -> list[Question]:
    """Read the questions of a file.

    Raises:
        EvaluationError: If a record is of no known form, or none is of use.
    """
    questions = []
    for number, record in enumerate(data.load(path), start=1):
        try:
            found = list(_questions(record, str(record.get("id", number))))
        except (KeyError, TypeError, AttributeError) as error:
            raise EvaluationError(
                f"{path}, record {number}: of no known form ({error})",
                hint="every record needs context, question and answers",
            ) from error
        questions += found
    if not questions:
        raise EvaluationError(f"{path}: there is no question in it that can be scored")
    if len({q.id for q in questions}) < len(questions):
        raise EvaluationError(f"{path}: two questions have the same id", hint="make ids unique")
    return questions


def _questions(record: dict[str, Any], name: str) -> Iterator[Question]:
    if "content" in record:
        yield _bamboo(record, name)
    elif "questions" in record:
        if record.get("metric") in _LEVAL_LEFT_OUT:
            return
        pairs = zip(record["questions"], record["answers"], strict=True)
        for place, (question, answer) in enumerate(pairs):
            yield _plain(f"{name}/{place}", record["context"], question, data.as_list(answer))
    else:
        context = record["context"] if "context" in record else "\n\n".join(record["contexts"])
        question = str(record["question"])
        turns = [f"{asked} {said}" for asked, said in record.get("history") or ()]
        if turns:
            question = f"{' '.join(turns)} {question}"
        answers = data.as_list(record["answers"])
        options = _lettered(data.as_list(record.get("options") or []))
        yield _plain(name, context, question, answers, options)


def _plain(
    name: str,
    context: str,
    question: str,
    answers: list[str],
    options: tuple[tuple[str, str], ...] = (),
) -> Question:
    if not answers:
        raise KeyError("answers")
    if options:
        question = question + "".join(f"\n{letter}. {text}" for letter, text in options)
    else:
        options = tuple((m[1], m[2].strip()) for m in _OPTION.finditer(question))
        options = options if len(options) > 1 else ()
    unsaid = all(answer.strip().lower() == UNANSWERABLE for answer in answers)
    return Question(
        id=name, context=str(context), question=question.strip(),
        answers=() if unsaid else tuple(a for a in answers if a.lower() != UNANSWERABLE),
        options=options,
    )  # fmt: skip


def _bamboo(record: dict[str, Any], name: str) -> Question:
    context, question = str(record["content"]), record.get("question")
    if question is None:
        match = next((m for form in _WRAPPED if (m := form.search(context))), None)
        if match is None:
            raise KeyError("question")
        context, question = match["context"], match["question"]
    options = _lettered(data.as_list(record.get("options") or []))
    return _plain(name, context, str(question), data.as_list(record["answer"]), options)


def _lettered(options: list[str]) -> tuple[tuple[str, str], ...]:
    """Give options their letters, those that they bear or A, B, C ..."""
    lettered = []
    for letter, option in zip(_LETTERS, options, strict=False):
        match = _OPTION.match(option)
        lettered.append((match[1], match[2].strip()) if match else (letter, option.strip()))
    return tuple(lettered)


def right_choice(reply: str, question: Question) -> float:
    """Say whether a reply chooses the right option, by its letter or in its words: 0 or 1."""
    from cca_models.evaluation.metrics import normalise

    right = {_letter(answer, question) for answer in question.answers}
    said = re.match(r"\W*([A-H])\b(?!['’])", reply)
    # "A man" begins with a letter, too, but chooses nothing.
    if said and (len(reply.split()) == 1 or re.match(r"\W*[A-H]\s*[).:]", reply)):
        return float(said[1] in right)
    words = normalise(reply)
    held = {
        letter for letter, text in question.options if normalise(text) and normalise(text) in words
    }
    return float(len(held) == 1 and held <= right)


def _letter(answer: str, question: Question) -> str | None:
    """Find the letter of an answer, which is given as letter, text or both."""
    from cca_models.evaluation.metrics import normalise

    if match := re.match(r"\s*\(?([A-H])(?:[).:\s]|$)", answer):
        return match[1]
    return next((c for c, text in question.options if normalise(text) == normalise(answer)), None)
