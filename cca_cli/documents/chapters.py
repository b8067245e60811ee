"""Chapter headings of plain-text books, as Project Gutenberg and others set them.

Conservative: a missed heading costs an outline entry, a false one misleads. A heading stands
alone between blank lines, has one of the usual words and a number, and is followed by text
rather than by the next heading, which would make it a table of contents.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Heading", "find_headings"]

_ONES = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_MORE = "thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_ORDINAL = "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last"
_COUNT = rf"\d{{1,3}}|[ivxlc]{{1,8}}|(?:{_TENS})(?:[- ](?:{_ONES}))?|{_ONES}|{_MORE}"
# Rank: books hold chapters. Words in capitals or capitalised; "part of the" must not match.
_RANKS = {
    "volume": 0,
    "book": 1,
    "part": 2,
    "act": 2,
    "chapter": 3,
    "canto": 3,
    "stave": 3,
    "letter": 3,
    "scene": 3,
    "section": 4,
}
_WORD = "|".join(_RANKS)
_NUMBERED = re.compile(
    rf"(?P<word>{_WORD})\s+(?:the\s+)?(?:{_COUNT}|{_ORDINAL})(?P<title>\s*$|\s*[.:,—–-].*$)", re.I
)
_PLAIN = re.compile(
    r"(?:PREFACE|FOREWORD|PROLOGUE|EPILOGUE|INTRODUCTION|CONCLUSION|AFTERWORD|POSTSCRIPT"
    r"|APPENDIX(?:\s+[A-Z0-9]{1,4})?)\.?"
)
_MARKUP = re.compile(r"^[#*_=\s]+|[#*_=\s]+$")
MAX_LENGTH = 90
# Old books sum a chapter up in its heading; then CHAPTER stands in capitals.
MAX_SUMMARY = 300
# Fewer characters than this between two headings of a rank is a table of contents.
MIN_BODY = 60


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading: index of its line, its title, and its level from 0."""

    line: int
    title: str
    level: int


@dataclass(frozen=True, slots=True)
class _Found:
    start: int
    end: int
    title: str
    rank: int


def find_headings(lines: Sequence[str]) -> list[Heading]:
    """Return the chapter headings of a book, in order; empty if it seems to have none."""
    found: list[_Found] = []
    for at, line in enumerate(lines):
        if not line or (at and lines[at - 1].strip()):
            continue
        text = _MARKUP.sub("", line)
        rank = _rank(text)
        if rank is None:
            continue
        end = at + 1
        if end < len(lines) and lines[end].strip():
            # The chapter's title may stand on the next line; a paragraph may not.
            following = _MARKUP.sub("", lines[end])
            alone = end + 1 == len(lines) or not lines[end + 1].strip()
            if not alone or len(following) > MAX_LENGTH or _rank(following) is not None:
                continue
            text = f"{text.rstrip('.:')}. {following}"
            end += 1
        found.append(_Found(at, end, " ".join(text.split()), rank))

    kept = _without_contents(lines, found)
    if len(kept) < 2:
        return []
    ranks = sorted({f.rank for f in kept})
    return [Heading(f.start, f.title, ranks.index(f.rank)) for f in kept]


def _without_contents(lines: Sequence[str], found: Sequence[_Found]) -> list[_Found]:
    """Return the headings less those that no text follows before the next of their rank."""
    if not found:
        return []
    plain = [len(line.strip()) for line in lines]
    for heading in found:
        plain[heading.start : heading.end] = [0] * (heading.end - heading.start)
    kept = list(found)
    while True:
        # Once its chapters are out of a table of contents, a book in it stands bare as well.
        left = [
            heading
            for heading, following in itertools.pairwise([*kept, None])
            if heading is not None
            and (
                following is None
                or following.rank > heading.rank
                or sum(plain[heading.end : following.start]) >= MIN_BODY
            )
        ]
        if len(left) == len(kept):
            return left
        kept = left


def _rank(text: str) -> int | None:
    if not text[:1].isupper() or len(text) > MAX_SUMMARY:
        return None
    match = _NUMBERED.fullmatch(text)
    if match and (len(text) <= MAX_LENGTH or match["word"].isupper()):
        return _RANKS[match["word"].lower()]
    return 3 if _PLAIN.fullmatch(text) else None
