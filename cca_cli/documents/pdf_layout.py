"""From the raw text of PDF pages to text that reads well: line-end hyphens, running heads.

Both need the whole document: whether "well-" + "known" lost a hyphen of its own shows in how the
word is written elsewhere, and whether a first line is a running head shows on the other pages.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from cca_cli.documents.normalise import clean, fold

__all__ = ["page_text", "tidy_pages"]

# pdfium writes U+0002 (or U+FFFE) for a hyphen at a line's end and drops the line break.
_MARKED_HYPHEN = re.compile(r"(?<=[^\W\d_])[\x02\ufffe](?:\r?\n)?(?=[^\W\d_])")
# Type fonts often map the ordinary hyphen to U+00AD, so on a page it is a visible hyphen.
_HYPHEN = re.compile("[\u00ad\u2010\u2011]")
_LINE_END = re.compile(r"([^\W\d_]+)-\n([^\W\d_]+)(\S*)[ \n]?")
_ADDRESS = re.compile(r"[/@]|\.\w")
_INLINE = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_BLANKS = re.compile(r"[ \t]+")
_EMPTY_LINES = re.compile(r"\n{3,}")
_NUMBER = re.compile(r"\d{1,5}|[ivxlc]{1,8}", re.I)
_EDGE_NUMBER = re.compile(r"^(\d{1,5})\b\s*|\s*\b(\d{1,5})$")
_PAGE_WORD = re.compile(r"^page\s+\d+(?:\s+of\s+\d+)?\b|\bpage\s+\d+(?:\s+of\s+\d+)?$", re.I)
_TOTAL = re.compile(r"(?:/|of)\s*\d+", re.I)

EDGE_LINES = 2
MIN_REPEATS = 5
# Slides repeat their titles, and there the title is the text; only pages full of text have heads.
MIN_CHARACTERS = 400


def page_text(raw: str) -> str:
    """Clean the text of one page: characters, spaces and empty lines."""
    text = _MARKED_HYPHEN.sub("-\n", raw)
    text = _HYPHEN.sub("-", clean(text))
    text = fold(text, spaces=True)
    text = "\n".join(_BLANKS.sub(" ", line).strip() for line in text.split("\n"))
    return _EMPTY_LINES.sub("\n\n", text).strip("\n")


def tidy_pages(
    texts: Sequence[str], numbers: Sequence[int], labels: Mapping[int, str | None]
) -> list[str]:
    """Join words that were cut at line ends and take away running heads.

    Args:
        texts: Cleaned text of each page.
        numbers: Physical number of each page.
        labels: Printed label by physical number.

    Returns:
        The texts, in order.
    """
    return _join_hyphens(_drop_running_heads(texts, numbers, labels))


def _join_hyphens(texts: Sequence[str]) -> list[str]:
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
        keep = compound or likely or words[hyphenated] > words[joined]
        return f"{left}{'-' if keep else ''}{right}{rest}\n"

    return [_LINE_END.sub(join, text).rstrip("\n") for text in texts]


def _drop_running_heads(
    texts: Sequence[str], numbers: Sequence[int], labels: Mapping[int, str | None]
) -> list[str]:
    """Take away page numbers, and lines that recur at the edge of neighbouring pages.

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
        kept = [line for at, line in enumerate(lines) if at not in gone]
        result.append("\n".join(kept).strip("\n"))
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
