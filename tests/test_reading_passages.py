"""Sentences and passages: nothing lost, nothing twice, cut where a reader would cut."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading_helpers import make_document

from cca_models.reading.passages import PASSAGE_CHARACTERS, cut_passages, sentences

# Text in which much happens: ends of sentences, blank lines, abbreviations, scripts, long words.
ALPHABET = st.sampled_from(
    [
        *"abAZ019.!?…\"'”’)([ \n\t\u00a0。！？」中文한",
        "Mr. ",
        "\n\n",
        ". The",
        "word " * 90,
        "x" * 700,
    ]
)
TEXTS = st.lists(ALPHABET, max_size=60).map("".join) | st.text(max_size=300)


def covered(spans: Sequence[tuple[int, int]]) -> set[int]:
    places = [i for start, end in spans for i in range(start, end)]
    assert len(places) == len(set(places)), "overlap"
    assert places == sorted(places), "out of order"
    return set(places)


@given(TEXTS)
def test_sentences_hold_all_that_is_not_blank(text: str) -> None:
    spans = sentences(text)
    assert {i for i, c in enumerate(text) if not c.isspace()} <= covered(spans)
    for start, end in spans:
        assert start < end and text[start:end] == text[start:end].strip()


@given(TEXTS, st.data())
def test_sentences_of_a_part_stay_in_it(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    places = covered(sentences(text, start, end))
    assert {i for i in range(start, end) if not text[i].isspace()} <= places
    assert places <= set(range(start, end))


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_passages_hold_all_that_is_not_blank(texts: list[str]) -> None:
    passages = cut_passages(make_document(*texts))
    assert [p.page for p in passages] == sorted(p.page for p in passages)
    for place, text in enumerate(texts):
        spans = [(p.start, p.end) for p in passages if p.page == place]
        assert {i for i, c in enumerate(text) if not c.isspace()} <= covered(spans)
        assert all(0 < end - start <= PASSAGE_CHARACTERS for start, end in spans)
        # Two neighbours would not have fitted into one, so passages are not needlessly short.
        for (first, _), (_, last) in pairwise(spans):
            assert last - first > PASSAGE_CHARACTERS // 2


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "parts",
    [
        ["Mr. Hale met Mrs. Thornton and Dr. Donaldson.", "They spoke."],
        ["J. R. R. Tolkien wrote it.", "It was long."],
        ["See Fig. 3 and Vol. II for more.", "Then go on!"],
        ["He left the U.S. Army in May.", "Nobody asked."],
        ['"Is it so?" he asked.', "“Yes.”", "She went on."],
        ["It cost 3.50 in 1987.", "1990 was dearer."],
        ["(It ended.)", "[It began.]", "Why?!", "Well…", "So."],
        ["Heading", "A paragraph", "Another one"],
        ["彼は来た。", "彼女は「行く。」", "と言った！", "本当？", "はい"],
    ],
    ids=lambda parts: parts[0],
)  # fmt: skip
def test_where_sentences_end(parts: list[str]) -> None:
    cjk = "。" in parts[0]
    joint = "\n\n" if parts[0] == "Heading" else "" if cjk else " "
    assert split(joint.join(parts)) == parts


def test_sentences_go_on_over_line_ends() -> None:
    text = "The keeper of the\nlighthouse wrote it down. The lamp\nwas lit."
    assert split(text) == ["The keeper of the\nlighthouse wrote it down.", "The lamp\nwas lit."]


def test_passages_end_with_sentences_and_pages() -> None:
    sentence = "The keeper of the lighthouse wrote down the weather every evening. "
    texts = [sentence * 20, "Short page.", ""]
    passages = cut_passages(make_document(*texts))
    assert all(texts[p.page][p.start : p.end].endswith(".") for p in passages)
    assert [p.page for p in passages if p.page > 0] == [1]
    assert all(p.end - p.start > PASSAGE_CHARACTERS - len(sentence) for p in passages[:-2])


def test_long_lines_are_cut_at_spaces() -> None:
    text = "word" + " word" * 500
    passages = cut_passages(make_document(text))
    assert " ".join(text[p.start : p.end] for p in passages) == text
