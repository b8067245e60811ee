"""Scores of answers and summaries, against values worked out by hand."""

import pytest

from cca_models.evaluation import metrics


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 1.0),
        ("It is the Eiffel Tower.", ["eiffel tower"], 0.0),
        ("Paris", ["Rome", "Paris"], 1.0),
        ("", ["Paris"], 0.0),
    ],
)
def test_exact_match_normalises_and_takes_any_answer(
    prediction: str, answers: list[str], expected: float
) -> None:
    assert metrics.exact_match(prediction, answers) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("It is the Eiffel Tower.", ["Eiffel Tower"], 1.0),
        ("the eiffel, tower", ["The Eiffel Tower"], 1.0),
        ("I do not know.\nEiffel Tower", ["Eiffel Tower"], 0.0),
        ("\n Eiffel Tower", ["Eiffel Tower"], 1.0),
        # Letters count, not words: so it is published.
        ("in 1914", ["191"], 1.0),
        ("Rome", ["Paris", "Berlin"], 0.0),
        ("anything at all", ["The"], 0.0),
        ("", ["Paris"], 0.0),
    ],
)
def test_substring_match_looks_in_the_first_line(
    prediction: str, answers: list[str], expected: float
) -> None:
    assert metrics.substring_match(prediction, answers) == expected


def test_token_f1_is_that_of_the_closest_answer() -> None:
    # "red house" of "big red house": precision 1, recall 2/3.
    assert metrics.token_f1("a red house", ["garden", "the big red house"]) == pytest.approx(0.8)
    assert metrics.token_f1("blue", ["red"]) == 0.0
    assert metrics.token_f1("", ["red"]) == 0.0
    # Words count as often as they stand.
    assert metrics.token_f1("no no no", ["no"]) == pytest.approx(0.5)


def test_rouge_counts_words_pairs_and_order() -> None:
    scores = metrics.rouge("police killed the gunman", ["Police kill the gunman."])
    assert scores["rouge1"] == pytest.approx(3 / 4)
    assert scores["rouge2"] == pytest.approx(1 / 3)
    assert scores["rougeL"] == pytest.approx(3 / 4)
    turned = metrics.rouge("the gunman killed police", ["police kill the gunman"])
    assert turned["rouge1"] == pytest.approx(3 / 4)
    assert turned["rougeL"] == pytest.approx(2 / 4)


def test_rouge_takes_the_best_reference_and_bears_nothing() -> None:
    best = metrics.rouge("the cat sat", ["a dog ran away", "the cat sat"])
    assert best == {"rouge1": 1.0, "rouge2": 1.0, "rougeL": 1.0}
    assert metrics.rouge("", ["the cat"]) == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}


def test_confidence_interval_holds_the_mean_and_repeats() -> None:
    values = [0.0, 1.0] * 50
    low, high = metrics.confidence_interval(values)
    # The standard error of the mean is 0.05.
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.02)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.02)
    assert metrics.confidence_interval(values) == (low, high)
    uneven = [i / 97 for i in range(97)]
    assert metrics.confidence_interval(uneven) != metrics.confidence_interval(uneven, seed=1)
    assert metrics.confidence_interval([0.25]) == (0.25, 0.25)


def test_nothing_to_compare_with_is_refused() -> None:
    for score in (metrics.exact_match, metrics.token_f1, metrics.substring_match):
        with pytest.raises(ValueError, match="at least one answer"):
            score("Paris", [])
        with pytest.raises(ValueError, match="at least one answer"):
            score("Paris", "Paris")
    with pytest.raises(ValueError, match="at least one reference"):
        metrics.rouge("Paris", [])
    with pytest.raises(ValueError, match="at least one value"):
        metrics.confidence_interval([])
