"""How LongBench scores an answer: its published measures, each 0 to 1, the best over the answers.

Facts from metrics.py and eval.py of github.com/THUDM/LongBench (MIT); the text is ours. ROUGE-L is
that of the `rouge` package, as published: it counts distinct words over all sentences and minds
their case, so it stands some points off the ROUGE of `metrics.rouge`. The similarity of code is
RapidFuzz's ratio in whole per cent (MIT; the published code takes it from FuzzyWuzzy, GPL).
"""

import re
from collections.abc import Callable, Mapping, Sequence

from cca_models.evaluation import metrics
from cca_models.evaluation.longbench_files import Dataset, Measure

# A line of code is looked for behind a fence, comments and headings that the model may begin with.
_NO_CODE = ("`", "#", "//")


def score(
    prediction: str, answers: Sequence[str], *, dataset: Dataset, classes: Sequence[str] = ()
) -> float:
    """Score an answer by its data set's measure, 0 to 1.

    Args:
        prediction: What the model wrote.
        answers: The right ones; the best score counts.
        dataset: Decides the measure, and whether only the first line counts.
        classes: Names to choose from, for classification.

    Raises:
        ValueError: If an answer of passage_retrieval_en names no paragraph.
    """
    if dataset.first_line:
        prediction = prediction.lstrip("\n").split("\n")[0]
    if dataset.measure == "classification":
        return max(_classification(prediction, answer, classes) for answer in answers)
    return max(_MEASURES[dataset.measure](prediction, answer) for answer in answers)


def _qa_f1(prediction: str, answer: str) -> float:
    return metrics.token_f1(prediction, [answer])


def _rouge_l(prediction: str, answer: str) -> float:
    from rouge import Rouge

    try:
        scores = Rouge(metrics=["rouge-l"], stats=["f"]).get_scores([prediction], [answer])
    except (ValueError, RecursionError):
        # Nothing written, or a sentence of a thousand words: none, as published.
        return 0.0
    return float(scores[0]["rouge-l"]["f"])


def _classification(prediction: str, answer: str, classes: Sequence[str]) -> float:
    """Share the point among the classes that are named; parts of the right name do not count."""
    named = [name for name in classes if name in prediction]
    named = [name for name in named if name == answer or name not in answer]
    return 1 / len(named) if answer in named else 0.0


def _retrieval(prediction: str, answer: str) -> float:
    """Give the share of the numbers that are the right paragraph's."""
    match = re.search(r"Paragraph (\d+)", answer)
    if match is None:
        raise ValueError(f"expected an answer like 'Paragraph 7', got {answer!r}")
    return _count(prediction, match[1])


def _count(prediction: str, answer: str) -> float:
    """Give the share of the numbers that are the right one."""
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(answer) / len(numbers) if numbers else 0.0


def _code_similarity(prediction: str, answer: str) -> float:
    """Compare the first line that is code."""
    from rapidfuzz import fuzz

    lines = prediction.lstrip("\n").split("\n")
    line = next((a for a in lines if not any(mark in a for mark in _NO_CODE)), "")
    return round(fuzz.ratio(line, answer)) / 100 if line and answer else 0.0


_MEASURES: Mapping[Measure, Callable[[str, str], float]] = {
    "qa_f1": _qa_f1,
    "rouge_l": _rouge_l,
    "retrieval": _retrieval,
    "count": _count,
    "code_similarity": _code_similarity,
}
