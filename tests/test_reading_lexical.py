"""BM25 over passages, and how much of a question they cover."""

import pytest

from cca_models.reading.lexical import LexicalIndex, Words

PASSAGES = [
    "The keeper of the lighthouse wrote down the weather every evening.",
    "The nephew inherits the estate, and the sister keeps the garden.",
    "The bridge was closed in 1987 and opened again in 1990.",
    "",
    "Die Brücke über den Fluß. 灯台守は毎晩天気を書き留めた。",
]


@pytest.fixture(scope="module")
def index() -> LexicalIndex:
    return LexicalIndex(PASSAGES)


@pytest.mark.parametrize(
    ("question", "best"),
    [
        ("Who inherited the estates?", 1),
        ("What did the KEEPER write?", 0),
        ("When was the bridge closed?", 2),
        ("What happened in 1990?", 2),
        ("Wo ist die Brücke?", 4),
        ("天気は？", 4),
        ("Which weather, which garden, and whose garden?", 1),
    ],
)
def test_the_passage_with_the_words_wins(index: LexicalIndex, question: str, best: int) -> None:
    scores = index.scores(question)
    assert len(scores) == len(PASSAGES)
    assert scores.index(max(scores)) == best and scores[best] > 0


def test_no_shared_word_scores_nothing(index: LexicalIndex) -> None:
    for question in ("Which submarine exploded?", "What is it about?", "", "?!"):
        assert index.scores(question) == [0.0] * len(PASSAGES)
    assert all(score == 0 for score in (index.scores("garden")[i] for i in (0, 2, 3, 4)))


def test_coverage(index: LexicalIndex) -> None:
    everything = range(len(PASSAGES))
    assert index.coverage("Who inherits the estate?", [1]) == pytest.approx(1)
    assert index.coverage("Who inherits the estate?", [0, 2]) == 0
    assert index.coverage("Which submarine exploded?", everything) == 0
    assert index.coverage("What is it about?", []) == 1
    half = index.coverage("Did the nephew explode?", everything)
    assert 0 < half < 0.5, "a word that is nowhere says more than one that is there"
    assert index.coverage("nephew and bridge", [1]) < index.coverage("nephew and bridge", [1, 2])


def test_documents_without_words() -> None:
    for texts in ([], ["", " \n"], ["---", "***"]):
        empty = LexicalIndex(texts)
        assert empty.scores("Who inherits?") == [0.0] * len(texts)
        assert empty.coverage("Who inherits?", range(len(texts))) == 0


def test_stems() -> None:
    words = Words()
    assert words.stems("The Keepers keeping KEEPS") == words.stems("keeper keep keep")
    assert words.stems("What is the text about?") == []
    assert words.stems("snake_case") == words.stems("snake case")
    assert words.stems("天気予報") == ["天気", "気予", "予報"] and words.stems("中") == ["中"]
