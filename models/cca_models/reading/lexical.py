"""Which passages share the question's words: BM25 (library bm25s), and how much they cover."""

import logging
import math
import re
from collections.abc import Sequence

import bm25s
import Stemmer

# It reports every index at a level that programs show.
logging.getLogger("bm25s").setLevel(logging.WARNING)

_WORD = re.compile(r"[^\W_]+", re.UNICODE)
# Scripts written without spaces: two characters at a time stand for words.
_UNSPACED = re.compile(r"[぀-ヿ㐀-鿿가-힯฀-๿]")
# Words that ask, but say nothing about where the answer stands, beside the usual stop words.
_ASKING = frozenset(
    """
    a an the and or but of to in on at by for from with about into over after before is are was
    were be been being am do does did done have has had having it its this that these those there
    what which who whom whose when where why how many much long far often can could may might must
    shall should will would i you he she they we me him her them us my your his their our not no
    yes if then than as so such any some all each every other please tell say says said according
    text document book author name give explain describe s t d ll re ve m
    """.split()  # noqa: SIM905 - words read better than a list of strings
)


class Words:
    """Splits text into the stems that passages and questions are compared by."""

    def __init__(self) -> None:
        self._stemmer = Stemmer.Stemmer("english")

    def stems(self, text: str) -> list[str]:
        """Give the stems of a text's words, asking words and stop words left out."""
        words = []
        for word in _WORD.findall(text.lower()):
            if _UNSPACED.search(word):
                words += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
            elif word not in _ASKING:
                words.append(word)
        return list(self._stemmer.stemWords(words))


class LexicalIndex:
    """BM25 over passages.

    Args:
        texts: The passages, in document order.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._words = Words()
        stems = [self._words.stems(text) for text in texts]
        self._holds = [frozenset(s) for s in stems]
        self._count = len(texts)
        frequency: dict[str, int] = {}
        for held in self._holds:
            for stem in held:
                frequency[stem] = frequency.get(stem, 0) + 1
        self._frequency = frequency
        self._index = bm25s.BM25()
        if frequency:
            self._index.index(stems, show_progress=False)

    def scores(self, question: str) -> list[float]:
        """Score every passage; 0 where it shares no word with the question."""
        stems = [s for s in self._words.stems(question) if s in self._frequency]
        if not stems:
            return [0.0] * self._count
        return [float(x) for x in self._index.get_scores(stems)]

    def coverage(self, question: str, passages: Sequence[int]) -> float:
        """Say how much of the question's information these passages share, 0 to 1.

        Each word of the question counts by its rarity in the document; one that is nowhere in the
        document counts as the rarest. 1 for a question without words of its own.
        """
        weight = {stem: self._rarity(stem) for stem in set(self._words.stems(question))}
        total = sum(weight.values())
        if total == 0:
            return 1.0
        held = frozenset().union(*(self._holds[i] for i in passages))
        return sum(w for stem, w in weight.items() if stem in held) / total

    def _rarity(self, stem: str) -> float:
        n = self._frequency.get(stem, 0)
        return math.log(1 + (self._count - n + 0.5) / (n + 0.5))
