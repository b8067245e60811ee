"""How answers and summaries are scored, and how sure a mean is.

SQuAD's exact match and F1, and ROUGE, are torchmetrics' (Apache-2.0). The substring match is the
one of lost-in-the-middle (`best_subspan_em` of github.com/nelson-liu/lost-in-the-middle), which the
paper calls exact match. All scores are shares, 0 to 1.
"""

import re
import string
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000
_ROUGE_KEYS = ("rouge1", "rouge2", "rougeL")


def normalise(text: str) -> str:
    """Lower the case, take out punctuation and articles, and join by single spaces (SQuAD's)."""
    kept = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """Say whether the prediction is one of the answers, both normalised: 0 or 1.

    Raises:
        ValueError: If there is no answer to compare with.
    """
    return _squad(prediction, answers, "exact_match")


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Give the F1 of the words in common with the closest answer, 0 to 1.

    Raises:
        ValueError: If there is no answer to compare with.
    """
    return _squad(prediction, answers, "f1")


def substring_match(prediction: str, answers: Sequence[str]) -> float:
    """Say whether an answer stands in the prediction's first line, both normalised: 0 or 1.

    Only the first line counts: a model that copies its context would otherwise always be right.

    Raises:
        ValueError: If there is no answer to compare with.
    """
    _expect(answers, "answer")
    said = normalise(prediction.strip().split("\n")[0])
    # An answer of nothing but articles and punctuation stands in everything: it has to be equal.
    return float(any(said == a or (a and a in said) for a in map(normalise, answers)))


def rouge(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """Give the F measures of ROUGE-1, ROUGE-2 and ROUGE-L, each of the best reference, 0 to 1.

    Words are runs of letters a-z and digits, in lower case and not stemmed.

    Returns:
        "rouge1", "rouge2" and "rougeL".

    Raises:
        ValueError: If there is no reference to compare with.
    """
    # The whole of torchmetrics comes with any part of it: seconds, paid once the scoring begins.
    from torchmetrics.functional.text.rouge import rouge_score

    _expect(references, "reference")
    scores = rouge_score(
        [prediction], [list(references)], accumulate="best", rouge_keys=_ROUGE_KEYS
    )
    return {key: float(scores[f"{key}_fmeasure"]) for key in _ROUGE_KEYS}


def confidence_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Give the 95 % interval of the mean: the percentile bootstrap over 2,000 resamples.

    For a paired comparison, pass the differences.

    Raises:
        ValueError: If there are no values.
    """
    return interval_of(resampled_means(values, seed=seed))


def resampled_means(values: Sequence[float], *, seed: int = 0) -> NDArray[np.float64]:
    """Give the means of 2,000 samples drawn from the values with replacement, [2000].

    Means of means get their interval from these: draw for each part, with a seed of its own, and
    combine the draws as the parts are combined.

    Raises:
        ValueError: If there are no values.
    """
    if not len(values):
        raise ValueError("expected at least one value, got none")
    numbers = np.asarray(values, dtype=np.float64)
    draw = np.random.default_rng(seed)
    # Sample by sample: all at once would need gigabytes for long lists.
    samples = (draw.choice(numbers, size=len(numbers)) for _ in range(_RESAMPLES))
    return np.fromiter((sample.mean() for sample in samples), np.float64, _RESAMPLES)


def interval_of(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Give the middle 95 % of resampled figures."""
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def _squad(prediction: str, answers: Sequence[str], measure: str) -> float:
    from torchmetrics.functional.text.squad import squad

    _expect(answers, "answer")
    said = {"prediction_text": prediction, "id": ""}
    # SQuAD's layout has places too, which nothing looks at.
    texts: dict[str, list[str] | list[int]] = {"text": list(answers), "answer_start": []}
    return float(squad([said], [{"answers": texts, "id": ""}])[measure]) / 100


def _expect(texts: Sequence[str], what: str) -> None:
    """Refuse what cannot be compared with; a plain string would be taken letter by letter."""
    if isinstance(texts, str) or not texts:
        raise ValueError(f"expected at least one {what} in a list, got {texts!r}")
