"""Rows about their own text, and answers exchanged among many passages."""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adaptation_data import make_data
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_models.adaptation import corpus as corpora
from cca_models.adaptation import token_shapes
from cca_models.adaptation.corpus import Corpus, prepare
from cca_models.adaptation.exchanges import Exchanged, Quiz, count_words, exchange_answers
from cca_models.adaptation.mixtures import KINDS, MIXTURES, Portion
from cca_models.adaptation.recipe import Batches, Recipe
from cca_models.adaptation.row import Row
from cca_models.adaptation.token_shapes import Shape
from cca_models.adaptation.wording import Wording
from cca_models.tokenizer import Tokenizer, load_tokenizer

RECIPE = Recipe(
    tokens=1024,
    longest=1024,
    exchanged=1.0,
    portions=(
        Portion(
            length=1024, share=1.0, kinds={"questions": 0.4, "cloze": 0.3, "quotes": 0.3}
        ),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(scope="module", autouse=True)
def surroundings(place: Path) -> Iterator[None]:
    with tiny_surroundings(place / "home"):
        yield


@pytest.fixture(scope="module")
def tokenizer(place: Path) -> Tokenizer:
    return load_tokenizer(make_tiny_checkpoint(place / "tiny", vocab_size=300))


@pytest.fixture(scope="module")
def wording(tokenizer: Tokenizer) -> Wording:
    return Wording.of(tokenizer)


@pytest.fixture(scope="module")
def corpus(place: Path, tokenizer: Tokenizer) -> Corpus:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "_BLANKS", 0)
        patch.setattr(corpora, "_FACTS", 0)
        return prepare(make_data(place / "data"), place / "tiny", place / "corpora", workers=1)


def rows(corpus: Corpus, wording: Wording, kind: str, count: int) -> Iterator[Row]:
    arranger = RECIPE.arranger(corpus, wording)
    for seed in range(count):
        yield getattr(arranger, kind)(np.random.default_rng(seed), 1024)


def turns(row: Row, wording: Wording) -> Iterator[tuple[str, str, list[int]]]:
    """Give what stands before the first question, and each question with the answer's tokens."""
    ids = np.concatenate(row.ids).tolist()
    spell = wording.shapes.text
    asked = spell(ids).index("Question:")
    body = spell(ids)[:asked]
    before = 0
    for start, end in row.taught:
        question = spell(ids[before:start]).rpartition("Question: ")[2]
        question = question.removesuffix(spell(wording.cue))
        assert ids[start:end][-len(wording.end) :] == wording.end
        yield body, question, ids[start : end - len(wording.end)]
        before = end


# Names and numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sold by Anna Berg of Ulm to", [" Anna Berg", " Ulm"]),
        ("it cost 1,250.75 in 1987, and", [" 1,250.75", " 1987"]),
        # Only a capital behind a small letter tells a name from a sentence's first word.
        ("He left. Then it rained on the 3 of", [" 3"]),
        ("so I told Mr Bo", [" Bo"]),
        ("and the don't of", []),
        ("with ANameThatIsMuchTooLongToBeLeftOutOfASentence in", []),
    ],
)
def test_names_and_numbers_inside_sentences_are_found(
    tokenizer: Tokenizer,
    wording: Wording,
    text: str,
    found: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The tiny vocabulary spells names letter by letter.
    monkeypatch.setattr(token_shapes, "_LONGEST", 30)
    ids = np.asarray(tokenizer.encode(text))
    runs = wording.shapes.names_and_numbers(ids)
    assert [wording.shapes.text(ids[a:b]) for a, b in runs] == found


def test_the_shape_of_an_answer_is_that_of_its_first_word(
    tokenizer: Tokenizer, wording: Wording
) -> None:
    shapes = {
        text: wording.shapes.shape_of(np.asarray(tokenizer.encode(text)))
        for text in (" 42", " Berg", " berg", " (berg", " ")
    }
    assert list(shapes.values()) == [
        Shape.NUMBER, Shape.NAME, Shape.WORD, Shape.OTHER, Shape.OTHER,
    ]  # fmt: skip


# Rows about their own text


def test_a_blank_hides_what_the_text_says_in_its_place(corpus: Corpus, wording: Wording) -> None:
    asked = 0
    for row in rows(corpus, wording, "cloze", 20):
        assert row.length <= 1024
        for body, question, answer in turns(row, wording):
            hidden = wording.shapes.text(answer)
            sentence = question.removeprefix("Fill in the blank:")
            assert sentence.count(" ____") == 1
            assert sentence.replace(" ____", hidden) in body
            first = hidden.strip()[0]
            assert first.isupper() or first.isdigit()
            asked += 1
    assert asked > 40


def test_a_quotation_goes_on_as_the_text_does(corpus: Corpus, wording: Wording) -> None:
    lengths = []
    for row in rows(corpus, wording, "quotes", 20):
        assert row.length <= 1024
        for body, question, answer in turns(row, wording):
            given = question.removeprefix(wording.shapes.text(wording.what_follows)[12:])
            assert given and given + wording.shapes.text(answer) in body
            lengths.append(len(answer))
    assert min(lengths) >= 12 and 32 < max(lengths) <= 64


def test_their_batches_are_the_same_again(corpus: Corpus, wording: Wording) -> None:
    one, two = (Batches(corpus, wording, RECIPE, devices=1, count=30, pad=2) for _ in range(2))
    seen = set()
    for index in reversed(range(12)):
        first, second = one[index], two[index]
        for name in ("ids", "taught", "weights", "looks", "gold"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name
        seen.add(first.kind)
    assert seen == {"questions", "cloze", "quotes"}
    other = Batches(corpus, wording, replace(RECIPE, seed=1), devices=1, count=30, pad=2)
    assert not all(torch.equal(one[i].ids, other[i].ids) for i in range(3))


def test_all_tokens_of_a_quotation_count_alike_and_the_first_of_a_blank_most(
    corpus: Corpus, wording: Wording
) -> None:
    source = Batches(corpus, wording, RECIPE, devices=1, count=30, pad=2)
    for kind, alike in (("quotes", True), ("cloze", False)):
        batch = next(b for b in (source[i] for i in range(30)) if b.kind == kind)
        assert (batch.weights.unique().numel() == 1) == alike
        assert batch.weights.mean() == pytest.approx(1.0, abs=1e-4)
    first, second = batch.weights[:2]
    assert first == pytest.approx(2 * float(second), rel=1e-5)


def test_mixtures_know_their_kinds(corpus: Corpus, wording: Wording) -> None:
    arranger = Recipe().arranger(corpus, wording)
    assert all(callable(getattr(arranger, kind)) for kind in KINDS)
    portions = {name: mixture.portions for name, mixture in MIXTURES.items()}
    assert {kind for portion in portions["mixed"] for kind in portion.kinds} == set(KINDS)
    for name, several in portions.items():
        assert sum(portion.share for portion in several) == pytest.approx(1.0), name
        for portion in several:
            assert sum(portion.kinds.values()) == pytest.approx(1.0), (name, portion.length)
    assert not {"questions", "few"} & {k for p in portions["text"] for k in p.kinds}


def test_a_mixture_brings_its_settings() -> None:
    mixed, reading = (Recipe.of(MIXTURES[name]).facts() for name in ("mixed", "reading"))
    assert mixed == Recipe().facts() and mixed["exchanged"] == 0.5
    assert reading["exchanged"] == 0 and reading["without"] == ["blanks", "facts"]
    asked = replace(Recipe.of(MIXTURES["reading"], without=("quac.train",), exchanged=0.1), seed=3)
    assert (asked.exchanged, asked.seed) == (0.1, 3)
    assert asked.without == ("quac.train", "blanks", "facts")
    with pytest.raises(ValueError, match="exchanged"):
        Recipe(exchanged=1.5)


# Exchanged answers


class Passages:
    """Two passages with questions about them, and the exchange of their answers."""

    PARTS = (
        ("The mill of Ulm was sold for 450 crowns.", " It had cost 450 crowns in the end."),
        ("Others paid 45, 1450 or 4501, or even 450 crowns.",),
    )

    def __init__(self, tokenizer: Tokenizer, wording: Wording) -> None:
        self._encode, self.shapes = tokenizer.encode, wording.shapes
        self.parts = [[self.ids(part) for part in parts] for parts in self.PARTS]

    def ids(self, text: str) -> np.ndarray:
        return np.asarray(self._encode(text), np.uint16)

    def quiz(self, words: str, *answers: str, gold: tuple[int, ...] = (0,)) -> Quiz:
        return Quiz(len(words), self.ids(words), [self.ids(a) for a in answers], 0, gold)

    def exchange(self, *quiz: Quiz, new: str = " 7310", share: float = 1.0) -> Exchanged:
        return exchange_answers(
            np.random.default_rng(0), self.parts, quiz, self.shapes,
            share=share, draw=lambda _: self.ids(new),
        )  # fmt: skip

    def text(self, made: Exchanged) -> list[str]:
        return ["".join(map(self.shapes.text, parts)) for parts in made.passages]


@pytest.fixture(scope="module")
def passages(tokenizer: Tokenizer, wording: Wording) -> Passages:
    return Passages(tokenizer, wording)


def test_an_answer_is_exchanged_wherever_it_stands(passages: Passages) -> None:
    made = passages.exchange(q := passages.quiz(" What did it cost?", " 450"))
    assert made.labels[q.question].tolist() == passages.ids(" 7310").tolist()
    assert passages.text(made) == [
        "The mill of Ulm was sold for 7310 crowns. It had cost 7310 crowns in the end.",
        # Other numbers that hold it are other numbers.
        "Others paid 45, 1450 or 4501, or even 7310 crowns.",
    ]


def test_a_question_whose_answer_was_taken_away_is_not_asked(passages: Passages) -> None:
    first = passages.quiz(" What did it cost?", " 450")
    second = passages.quiz(" And what was paid?", " 450 crowns")
    third = passages.quiz(" Where was the mill?", " Ulm")
    made = passages.exchange(first, second, third)
    assert made.labels.keys() == {first.question}
    assert made.spoilt == {second.question}


@pytest.mark.parametrize(
    ("words", "answer", "new"),
    [
        (" Who paid 450 crowns?", " 450", " 7310"),  # asks by what would be gone
        (" Where?", " (450)", " 7310"),  # is not there
        (" How?", " the", " that"),  # a common word
        (" What was sold?", " The mill", " Two inns"),  # the first words have no space
        (" What did it cost?", " 450", " Berg"),  # no number
        (" What did it cost?", " 450", " 4000000"),  # much longer
        (" What did it cost?", " 450", " 450"),  # the same
    ],
)
def test_what_cannot_be_exchanged_cleanly_is_left(
    passages: Passages, words: str, answer: str, new: str
) -> None:
    made = passages.exchange(passages.quiz(words, answer, gold=(0, 1)), new=new)
    assert not made.labels and not made.spoilt
    assert passages.text(made) == ["".join(parts) for parts in passages.PARTS]


def test_an_answer_out_of_reach_or_everywhere_is_left(passages: Passages) -> None:
    quiz = passages.quiz(" What did it cost?", " 450")
    for more in (" (450)", " 450" * 20):
        bag = copy(passages)
        bag.parts = [*passages.parts, [passages.ids(more)]]
        assert not bag.exchange(quiz).labels
        assert bag.text(bag.exchange(quiz))[2] == more


def test_exchanges_do_not_meet(passages: Passages) -> None:
    parts = [[passages.ids("So 7 of 9 were paid.")]]
    quiz = [passages.quiz(" How many?", " 7"), passages.quiz(" And of how many?", " 7 of 9")]
    new = dict(zip((q.question for q in quiz), (" 5", " 2 of 8"), strict=True))
    for order in (quiz, quiz[::-1]):
        made = exchange_answers(
            np.random.default_rng(0), parts, order, passages.shapes,
            share=1.0, draw=lambda question: passages.ids(new[question]),
        )  # fmt: skip
        first, second = (q.question for q in order)
        assert made.labels.keys() == {first} and made.spoilt == {second}
        text = passages.text(made)[0]
        assert text == f"So{new[first]}{' of 9' if first == quiz[0].question else ''} were paid."


def test_no_share_exchanges_nothing_and_half_of_it_half(passages: Passages) -> None:
    quiz = passages.quiz(" What did it cost?", " 450")
    rng = np.random.default_rng(0)
    made = [
        exchange_answers(
            rng, passages.parts, [quiz], passages.shapes,
            share=share, draw=lambda _: passages.ids(" 7310"),
        ).labels
        for share in (0.0,) * 20 + (0.5,) * 200
    ]  # fmt: skip
    assert not any(made[:20])
    assert sum(map(bool, made[20:])) == pytest.approx(100, abs=25)


def test_rows_hold_the_new_answers_and_no_old_ones(
    corpus: Corpus, tokenizer: Tokenizer, wording: Wording
) -> None:
    a = corpus.arrays
    accepted = {
        tokenizer.decode(a[kind][q].tolist()).strip(): [
            tokenizer.decode(a["answers"][int(i)].tolist()).strip()
            for i in a["question_answers"][q]
        ]
        for q in range(len(a["questions"]))
        for kind in ("questions", "bare_questions")
    }
    asked = exchanged = 0
    for row in rows(corpus, wording, "questions", 20):
        ids = np.concatenate(row.ids)
        labels = {end: stop for end, stop in row.taught}
        first = min((look.start for look in row.looks), default=0)
        body = wording.shapes.text(ids[: min(first, row.taught[0][0])])
        for look in row.looks:
            words = wording.shapes.text(ids[look.start : look.end - len(wording.cue)]).strip()
            end = labels[look.end] - len(wording.end)
            label = wording.shapes.text(ids[look.end : end]).strip()
            gold = [wording.shapes.text(ids[start:stop]) for start, stop in look.gold]
            asked += 1
            assert any(count_words(text, label) for text in gold)
            if label in accepted[words]:
                continue
            exchanged += 1
            assert label.isdigit()
            assert not count_words(body, accepted[words][0])
    assert asked > 40 and exchanged > 0.5 * asked


def test_without_exchange_labels_are_accepted_answers(corpus: Corpus, wording: Wording) -> None:
    arranger = replace(RECIPE, exchanged=0.0).arranger(corpus, wording)
    answers = {wording.shapes.text(a) for a in map(corpus.arrays["answers"].__getitem__, range(80))}
    for seed in range(5):
        row = arranger.questions(np.random.default_rng(seed), 1024)
        for _, _, answer in turns(row, wording):
            text = wording.shapes.text(answer)
            assert text in answers or "Not found" in text
