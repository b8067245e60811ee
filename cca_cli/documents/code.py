"""Source code: sections of whole definitions where that is possible, cited by their lines.

The text is left as it is but for control characters: spaces, full-width letters and hyphens mean
something in a program.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence

from cca_cli.documents.encodings import decode
from cca_cli.documents.headed import document_of
from cca_cli.documents.normalise import TEXT_RULES, clean
from cca_cli.documents.sections import cut, split_lines
from cca_cli.documents.source import Source
from cca_models.documents import Document, OutlineEntry, Page

__all__ = ["read_code"]

# What begins a definition at a line's start, in the languages that most people write. A missed
# one costs an outline entry.
_DEFINITION = re.compile(
    r"(?:(?:export|default|public|private|protected|internal|static|final|abstract|async|pub"
    r"(?:\([a-z]+\))?|unsafe|extern|inline|const|open|data|sealed|case|override|virtual)\s+)*"
    r"(?P<word>def|class|func|function|fn|struct|enum|trait|impl|interface|type|module|namespace|"
    r"object|record|protocol|extension|sub|package|CREATE\s+(?:TABLE|VIEW|FUNCTION))\s+"
    r"(?P<name>\([^()]*\)\s*)?[\w:.<>*&$]+"
)
_BLANK_BREAK = re.compile(r"\f")
MAX_TITLE = 80


def read_code(source: Source, *, pages: str | None = None, encoding: str | None = None) -> Document:
    """Read a file of source code.

    Args:
        source: The file.
        pages: As in `read_document`; counts sections.
        encoding: As in `read_document`.

    Raises:
        InputError: If it is not text, or blank.
        UsageError: If `pages` or `encoding` ask for what there is not.
    """
    text, codec, notes = decode(source, encoding)
    # Old sources set their parts apart with form feeds, which are no lines of their own.
    lines = split_lines(_BLANK_BREAK.sub("", text))
    starts = _starts(lines)
    found = cut(lines, starts=starts)
    firsts = [section.first for section in found]
    return document_of(
        source,
        kind="code",
        reader=f"code {codec} {TEXT_RULES}",
        unit="section",
        found=[
            Page(number=number, label=section.lines, text=clean(section.text))
            for number, section in enumerate(found, start=1)
        ],
        outline=[
            OutlineEntry(title=title, page=max(1, bisect_right(firsts, at + 1)), level=0)
            for at, title in _definitions(lines)
        ],
        pages=pages,
        warnings=notes,
    )


def _starts(lines: Sequence[str]) -> frozenset[int]:
    """Return the lines before which a section may end: unindented ones after a blank line."""
    return frozenset(
        at
        for at in range(1, len(lines))
        if not lines[at - 1].strip() and lines[at][:1].strip() and lines[at][0] not in ")]}"
    )


def _definitions(lines: Sequence[str]) -> list[tuple[int, str]]:
    return [
        (at, " ".join(clean(match[0]).split())[:MAX_TITLE])
        for at, line in enumerate(lines)
        if (match := _DEFINITION.match(line[:400])) is not None
    ]
