"""Rows over many passages are full: of passages, and of all that can be asked about them."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from adaptation_data import make_data
from numpy.random import default_rng
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import tiny_surroundings

from cca_models.adaptation import corpus as corpora
from cca_models.adaptation import packing
from cca_models.adaptation.corpus import Corpus, prepare
from cca_models.adaptation.mixtures import READING
from cca_models.adaptation.recipe import Recipe
from cca_models.adaptation.row import Row
from cca_models.adaptation.rows import Arranger
from cca_models.adaptation.wording import Wording
from cca_models.tokenizer import Tokenizer, load_tokenizer

# Shops with five questions on a line, and wells with one behind a long tale.
SHOPS, WELLS = 60, 60
THINGS = ("lamps", "ropes", "crates", "bells", "kegs")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("packing")
    with tiny_surroundings(folder / "home"):
        yield folder


@pytest.fixture(scope="module")
def tokenizer(place: Path) -> Tokenizer:
    return load_tokenizer(make_tiny_checkpoint(place / "tiny", vocab_size=300))


@pytest.fixture(scope="module")
def corpus(place: Path, tokenizer: Tokenizer) -> Corpus:
    data = make_data(place / "data")
    records = []
    for i in range(SHOPS):
        owns = {thing: str(100 + 7 * i + at) for at, thing in enumerate(THINGS)}
        context = f"Shop{i}x: " + ", ".join(f"{n} {thing}" for thing, n in owns.items()) + "."
        records += [
            {"context": context, "question": f"How many {thing} in Shop{i}x?", "answers": [n]}
            for thing, n in owns.items()
        ]
    for i in range(WELLS):
        tale = "It rained on the hill and nobody came by all day long. " * 14
        records.append(
            {
                "context": f"Well{i}y is {40 + i} feet deep. {tale}",
                "question": f"How deep is Well{i}y?",
                "answers": [f"{40 + i} feet"],
            }
        )
    lines = (json.dumps({"id": str(i), **r}) + "\n" for i, r in enumerate(records))
    (data / "qa" / "squadshifts_new_wiki.train.jsonl").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "_BLANKS", 20)
        patch.setattr(corpora, "_FACTS", 20)
        return prepare(data, place / "tiny", place / "corpora", workers=1)


@pytest.fixture(scope="module")
def arranger(corpus: Corpus, tokenizer: Tokenizer) -> Arranger:
    return Recipe.of(READING).arranger(corpus, Wording.of(tokenizer))


def plain(text: str) -> str:
    """Give it as a search box has it: some questions are asked so."""
    return text.lower().replace("?", "")


def text_of(row: Row, tokenizer: Tokenizer) -> str:
    return tokenizer.decode(np.concatenate(row.ids).tolist())


@pytest.mark.parametrize("length", [1024, 4096])
def test_rows_are_full(arranger: Arranger, length: int) -> None:
    for seed in range(20):
        row = arranger.questions(default_rng(seed), length)
        assert 0.85 * length < row.length <= length
        # Passages and questions, not the one or the other.
        assert 0.1 * length < row.taught[0][0] < 0.9 * length


def test_long_rows_ask_no_more_than_heads_can_look_from(
    arranger: Arranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [len(arranger.questions(default_rng(seed), 16384).taught) for seed in range(8)]
    assert max(asked) <= packing._MOST and max(asked) > 64
    monkeypatch.setattr(packing, "_MOST", 10)
    assert all(len(arranger.questions(default_rng(s), 16384).taught) <= 10 for s in range(8))


def test_passages_of_a_source_that_is_left_out_stand_nowhere(
    corpus: Corpus, tokenizer: Tokenizer
) -> None:
    """Neighbours by BM25 are found among all sources, before any is left out."""
    with_all = Recipe(exchanged=0.0).arranger(corpus, Wording.of(tokenizer))
    without = Recipe.of(READING).arranger(corpus, Wording.of(tokenizer))
    made = [c for c, s in enumerate(corpus.flat["context_source"]) if s >= len(corpus.sources) - 2]
    texts = {
        tokenizer.decode(np.concatenate([corpus.arrays["pieces"][p] for p in own]).tolist())
        for own in (corpus.arrays["context_pieces"][c] for c in made)
    }
    found = []
    for arranger in (with_all, without):
        rows = [arranger.questions(default_rng(s), 2048) for s in range(20)]
        rows += [arranger.few(default_rng(s), 1024) for s in range(40)]
        found.append(sum(t in text_of(row, tokenizer) for row in rows for t in texts))
    assert found[0] > 0 and found[1] == 0


def test_all_questions_of_a_passage_are_asked(
    arranger: Arranger, corpus: Corpus, tokenizer: Tokenizer
) -> None:
    contexts, named = corpus.flat["question_context"], corpus.flat["named"]
    words = [plain(tokenizer.decode(ids.tolist())) for ids in corpus.arrays["questions"]]
    # By shop, what says which text it means.
    own = Counter(
        int(c) for c, w, n in zip(contexts, words, named, strict=True) if "shop" in w and n
    )
    of = {word: int(context) for word, context in zip(words, contexts, strict=True)}
    whole = asked = 0
    for seed in range(20):
        row = arranger.questions(default_rng(seed), 4096)
        text = plain(text_of(row, tokenizer))
        here = Counter(of[w] for w in set(words) if "shop" in w and w in text)
        asked += len(here)
        whole += sum(n == own[context] for context, n in here.items())
    # But for what is asked of a text that is not there instead, and for the last that fit.
    assert max(own.values()) == len(THINGS)
    assert asked > 60 and whole > 0.5 * asked


def test_dear_passages_are_taken_less_often(arranger: Arranger, tokenizer: Tokenizer) -> None:
    """As many wells as shops, one question of a well to five; the wells cost 60 times as much."""
    shops = wells = 0
    for seed in range(20):
        text = text_of(arranger.questions(default_rng(seed), 8192), tokenizer)
        shops += sum(f"Shop{i}x: " in text and f"in Shop{i}x?" in text for i in range(SHOPS))
        wells += sum(f"How deep is Well{i}y?" in text for i in range(WELLS))
    # By draws alone one of five would be a well.
    assert 0 < wells < 0.1 * shops
