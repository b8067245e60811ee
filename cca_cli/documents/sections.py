"""Cutting a text without pages into sections of about a page each."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass

__all__ = ["Section", "cut", "split_lines"]

# A printed page holds 2,000 to 3,000 characters; citations should be as sharp as a page.
TARGET = 2000
LIMIT = 3000
# A heading does not open a new section while the current one is no more than headings.
TINY = 200
_SENTENCE = re.compile(r"(?<=[.!?。！？])[\"'”’)]*\s+|(?<=[。！？])")


@dataclass(frozen=True, slots=True)
class Section:
    """A run of lines: its text, and its first and last line, from 1."""

    text: str
    first: int
    last: int

    @property
    def lines(self) -> str:
        """Return "lines 120-164"."""
        one = self.first == self.last
        return f"line {self.first}" if one else f"lines {self.first}-{self.last}"


def split_lines(text: str) -> list[str]:
    """Split at the line ends that editors count: LF, CRLF and CR."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def cut(
    lines: Sequence[str],
    *,
    first: int = 1,
    starts: Container[int] | None = None,
    breaks: Container[int] = frozenset(),
) -> list[Section]:
    """Cut lines into sections of 2,000 to 3,000 characters; blank ones are left out.

    Args:
        lines: The lines, without their ends.
        first: Number of the first line.
        starts: Indices of lines before which a cut may be made; by default lines after a blank
            one.
        breaks: Indices of lines that begin a section, whatever the size.

    Returns:
        Sections in order. A paragraph that is too long is cut between lines, a line that is too
        long between sentences, or words.
    """
    blocks: list[tuple[int, int]] = []
    begin = 0
    for at in range(1, len(lines) + 1):
        may = at == len(lines) or at in breaks
        if not may:
            # A run of blank lines is one gap, however long somebody made it.
            blank = starts is None and not lines[at - 1].strip()
            may = bool(lines[at].strip()) if blank else starts is not None and at in starts
        if may:
            blocks.append((begin, at))
            begin = at

    sections: list[Section] = []
    held: tuple[int, int] | None = None
    size = 0

    def flush() -> None:
        nonlocal held, size
        if held is not None:
            sections.extend(_fit(lines, *held, first))
        held, size = None, 0

    for start, end in blocks:
        length = sum(len(line) + 1 for line in lines[start:end])
        headed = start in breaks and size >= TINY
        if held is not None and (headed or size >= TARGET or size + length > LIMIT):
            flush()
        held = (held[0] if held else start, end)
        size += length
    flush()
    return sections


def _fit(lines: Sequence[str], start: int, end: int, first: int) -> list[Section]:
    """Return one block as sections within the limit."""
    while start < end and not lines[start].strip():
        start += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    if start == end:
        return []
    sections: list[Section] = []
    held: list[str] = []
    begin = last = start
    size = 0
    for at in range(start, end):
        for piece in _pieces(lines[at]):
            if held and size + len(piece) > LIMIT:
                sections.append(Section("\n".join(held), first + begin, first + last))
                held, begin, size = [], at, 0
            held.append(piece)
            last = at
            size += len(piece) + 1
    sections.append(Section("\n".join(held), first + begin, first + last))
    return sections


def _pieces(line: str) -> list[str]:
    """Return a line in pieces of at most LIMIT characters that join to the same words."""
    if len(line) <= LIMIT:
        return [line]
    pieces: list[str] = []
    start = 0
    while len(line) - start > LIMIT:
        window = line[start : start + LIMIT]
        ends = [m.end() for m in _SENTENCE.finditer(window) if m.end() > LIMIT // 4]
        at = ends[-1] if ends else window.rfind(" ") + 1
        pieces.append(line[start : start + (at or LIMIT)].rstrip())
        start += at or LIMIT
    return [*pieces, line[start:]]
