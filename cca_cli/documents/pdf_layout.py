"""From the raw text of PDF pages to text that reads well: line-end hyphens, running heads.

Both need the whole document: whether "well-" + "known" lost a hyphen of its own shows in how the
word is written elsewhere, and whether a first line is a running head shows on the other pages.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

from cca_cli.documents.normalise import CLEAN, FOLD, SPACES
from cca_cli.documents.traced import Rule, Traced

__all__ = ["page_text", "tidy_pages"]

# pdfium writes U+0002 (or U+FFFE) for a hyphen at a line's end and drops the line break.
_MARKED_HYPHEN = re.compile(r"(?<=[^\W\d_])[\x02\ufffe](?:\r?\n)?(?=[^\W\d_])")
# Type fonts often map the ordinary hyphen to U+00AD, so on a page it is a visible hyphen.
_HYPHEN = re.compile("[\u00ad\u2010\u2011]")
_LINE_END = re.compile(r"([^\W\d_]+)-\n([^\W\d_]+)(\S*)[ \n]?")
_ADDRESS = re.compile(r"[/@]|\.\w")
_INLINE = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_BLANKS = re.compile(r"[ \t]+")
_LINE_EDGE = re.compile(r"^[^\S\n]+|[^\S\n]+$", re.M)
_EMPTY_LINES = re.compile(r"\n{3,}")
_PAGE_EDGE = re.compile(r"\A\n+|\n+\Z")
_LAST_LINE_ENDS = re.compile(r"\n+\Z")
_NUMBER = re.compile(r"\d{1,5}|[ivxlc]{1,8}", re.I)
_EDGE_NUMBER = re.compile(r"^(\d{1,5})\b\s*|\s*\b(\d{1,5})$")
_PAGE_WORD = re.compile(r"^page\s+\d+(?:\s+of\s+\d+)?\b|\bpage\s+\d+(?:\s+of\s+\d+)?$", re.I)
_TOTAL = re.compile(r"(?:/|of)\s*\d+", re.I)

# "over-view" is hardly ever meant, though both are words.
_PREFIXES = frozenset(
    {"after", "anti", "back", "counter", "down", "ever", "every", "fore", "hand", "here", "high",
     "hyper", "inter", "life", "macro", "mean", "meta", "micro", "mono", "more", "multi", "never",
     "none", "other", "over", "para", "photo", "post", "semi", "some", "super", "tele", "then",
     "there", "thermo", "through", "trans", "ultra", "under", "what", "when", "where", "which",
     "with", "work"}
)  # fmt: skip
MIN_HALF = 4
EDGE_LINES = 2
MIN_REPEATS = 5
# Slides repeat their titles, and there the title is the text; only pages full of text have heads.
MIN_CHARACTERS = 400


_PAGE_RULES: tuple[Rule, ...] = (
    (_MARKED_HYPHEN, "-\n"),
    *CLEAN,
    (_HYPHEN, "-"),
    *FOLD,
    *SPACES,
    (_BLANKS, " "),
    (_LINE_EDGE, ""),
    (_EMPTY_LINES, "\n\n"),
    (_PAGE_EDGE, ""),
)


def page_text(raw: str, *, trace: bool = False) -> Traced:
    """Clean the text of one page: characters, spaces and empty lines."""
    return Traced.of(raw, trace=trace).apply(_PAGE_RULES)


def tidy_pages(
    texts: Sequence[Traced], numbers: Sequence[int], labels: Mapping[int, str | None]
) -> list[Traced]:
    """Join words that were cut at line ends and take away running heads.

    Args:
        texts: Cleaned text of each page.
        numbers: Physical number of each page.
        labels: Printed label by physical number.

    Returns:
        The texts, in order.
    """
    gone = _running_heads([traced.text for traced in texts], numbers, labels)
    kept = [
        traced.without_lines(lines).sub(_PAGE_EDGE, "")
        for traced, lines in zip(texts, gone, strict=True)
    ]
    join = _joiner([traced.text for traced in kept])
    return [
        traced.sub(_LINE_END, join).sub(_LAST_LINE_ENDS, "") if "-\n" in traced.text else traced
        for traced in kept
    ]


def _joiner(texts: Sequence[str]) -> Callable[[re.Match[str]], str]:
    """Return what becomes of a word that a line's end cuts, in the light of all pages."""
    words: Counter[str] = Counter()
    for text in texts:
        if "-\n" in text:
            # Only documents with cut words pay for the count.
            words = Counter(w.lower() for t in texts for w in _INLINE.findall(t))
            break
    tails = {word.rsplit("-", 1)[1] for word in words if "-" in word}

    def join(match: re.Match[str]) -> str:
        left, right, rest = match.groups()
        before = match.string[match.start() - 1 : match.start()]
        if not right[0].islower():
            return match[0]
        hyphenated, joined = f"{left}-{right}".lower(), f"{left}{right}".lower()
        # In an address or a path every hyphen is meant.
        line = match.string[match.string.rfind("\n", 0, match.start()) + 1 : match.end(1)]
        address = "/" in line.rsplit(" ", 1)[-1] or _ADDRESS.search(rest)
        compound = before == "-" or rest.startswith("-") or address
        # "gender-specific" from "women-specific": both halves are known, the joined word is not.
        likely = right.lower() in tails and left.lower() in words and joined not in words
        # "question-passage": both halves are words of this document, and no mere prefix.
        likely = likely or (
            joined not in words
            and left.lower() not in _PREFIXES
            and min(len(left), len(right)) >= MIN_HALF
            and min(words[left.lower()], words[right.lower()]) >= 2
        )
        keep = compound or likely or words[hyphenated] > words[joined]
        return f"{left}{'-' if keep else ''}{right}{rest}\n"

    return join


def _running_heads(
    texts: Sequence[str], numbers: Sequence[int], labels: Mapping[int, str | None]
) -> list[set[int]]:
    """Return the lines of each page that are page numbers, or recur at the edge of pages nearby.

    Conservative: a line goes only if it stands among the outermost two lines of a page full of
    text, recurs word for word (but for the page number in it) on five pages or more, most of
    them at most two pages apart; and its first occurrence stays, so no words are lost.
    """
    pages = [text.split("\n") for text in texts]
    offsets = _number_offsets(pages, numbers)
    seen: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, lines in enumerate(pages):
        for side, _, line in _edges(lines):
            key = _key(line, numbers[index], offsets, labels)
            if key:
                seen[side, key].append(index)
    heads = {
        slot: places[0]
        for slot, places in seen.items()
        if len(places) >= MIN_REPEATS and _close_together(places)
    }
    result = []
    for index, lines in enumerate(pages):
        gone: set[int] = set()
        stopped: set[str] = set()
        full = len(texts[index]) >= MIN_CHARACTERS
        for side, at, line in _edges(lines):
            if side in stopped:
                continue
            key = _key(line, numbers[index], offsets, labels)
            first = heads.get((side, key))
            if not key or (full and first is not None and first != index):
                gone.add(at)
            elif first is None:
                # What lies inside of a line that stays is the page's own text.
                stopped.add(side)
        result.append(gone)
    return result


def _edges(lines: Sequence[str]) -> list[tuple[str, int, str]]:
    filled = [(at, line) for at, line in enumerate(lines) if line.strip()]
    # A page of a few lines has no edge: all of it may be its text.
    depth = min(EDGE_LINES, len(filled) // 3)
    top = [("top", at, line) for at, line in filled[:depth]]
    return top + [("bottom", at, line) for at, line in reversed(filled[len(filled) - depth :])]


def _number_offsets(pages: Sequence[Sequence[str]], numbers: Sequence[int]) -> frozenset[int]:
    """Return printed minus physical number, for each numbering that many pages agree on."""
    votes: Counter[int] = Counter()
    for lines, number in zip(pages, numbers, strict=True):
        found = {
            int(m[1] or m[2]) - number
            for _, _, line in _edges(lines)
            for m in _EDGE_NUMBER.finditer(line)
        }
        votes.update(found)
    needed = max(MIN_REPEATS, len(pages) * 3 // 10)
    return frozenset(offset for offset, n in votes.items() if n >= needed)


def _key(line: str, number: int, offsets: frozenset[int], labels: Mapping[int, str | None]) -> str:
    """Return an edge line without this page's own number; empty if nothing else is in it."""
    label = labels.get(number)
    bare = line.strip(" -–—·|[]()")
    if label is not None and _NUMBER.fullmatch(bare) and bare.casefold() == label.casefold():
        return ""

    def cut(match: re.Match[str]) -> str:
        printed = match[1] or match[2]
        own = int(printed) - number in offsets or printed == label
        return "" if own else match[0]

    text = _EDGE_NUMBER.sub(cut, _PAGE_WORD.sub("", line).strip())
    if text == line.strip():
        return " ".join(line.casefold().split())
    text = " ".join(text.casefold().split()).strip(" -–—·|[]()")
    return "" if _TOTAL.fullmatch(text) else text


def _close_together(places: Sequence[int]) -> bool:
    gaps = [b - a for a, b in itertools.pairwise(places)]
    return 2 * sum(gap <= 2 for gap in gaps) >= len(gaps)
