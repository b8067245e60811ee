"""Markdown: a section for each heading, with the text as it was written."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from cca_cli.documents.encodings import decode
from cca_cli.documents.normalise import TEXT_RULES, clean
from cca_cli.documents.ranges import select_pages
from cca_cli.documents.sections import cut, split_lines
from cca_cli.documents.source import Source
from cca_cli.errors import InputError
from cca_models.documents import Document, OutlineEntry, Page

__all__ = ["read_markdown"]

_ATTRIBUTES = re.compile(r"\s*\{[^{}]*[#.=][^{}]*\}\s*$")
_TAG = re.compile(r"<[^<>]+>")


@dataclass(frozen=True, slots=True)
class _Heading:
    line: int
    body: int
    title: str
    level: int


def read_markdown(
    source: Source, *, pages: str | None = None, encoding: str | None = None
) -> Document:
    """Read a Markdown file.

    Args:
        source: The file.
        pages: As in `read_document`; counts sections.
        encoding: As in `read_document`.

    Raises:
        InputError: If it is not text, or blank.
        UsageError: If `pages` or `encoding` ask for what there is not.
    """
    text, codec, notes = decode(source, encoding)
    lines = split_lines(text)
    headings, blocks = _structure(lines)
    found = _sections(lines, headings, blocks)
    if not found:
        raise InputError(
            f"{source.shown}: holds no text, only blanks", hint="check how the file was made"
        )
    firsts = [first for first, _ in found]
    everything = [page for _, page in found]
    numbers = set(
        select_pages(pages, [p.label for p in everything], name=source.shown, unit="section")
    )
    outline = [
        OutlineEntry(title=h.title, page=bisect_right(firsts, h.line + 1), level=h.level)
        for h in headings
    ]
    return Document(
        name=source.name,
        path=source.path,
        sha256=source.sha256,
        format="markdown",
        reader=f"markdown-it-py {metadata.version('markdown-it-py')} {codec} {TEXT_RULES}",
        unit="section",
        pages=tuple(page for page in everything if page.number in numbers),
        outline=tuple(entry for entry in outline if entry.page in numbers),
        warnings=tuple(notes),
    )


def _structure(lines: Sequence[str]) -> tuple[list[_Heading], frozenset[int]]:
    """Return the top-level headings, and the lines on which a top-level block begins."""
    from markdown_it import MarkdownIt

    # Blanked rather than cut off, so that the parser's line numbers stay those of the file.
    parsed = [""] * _front_matter(lines)
    parsed += lines[len(parsed) :]
    tokens = MarkdownIt("commonmark").enable("table").parse("\n".join(parsed))
    headings = []
    blocks = set()
    for token, inline in itertools.pairwise([*tokens, None]):
        if token is None or token.level or token.map is None or token.nesting < 0:
            continue
        blocks.add(token.map[0])
        if token.type == "heading_open" and inline is not None:
            parts = [
                child.content if child.type in ("text", "code_inline", "image") else " "
                for child in inline.children or []
                if child.type != "html_inline"
            ]
            title = _ATTRIBUTES.sub("", _TAG.sub("", "".join(parts)))
            title = " ".join(clean(title).split())
            if title:
                level = int(token.tag[1:])
                headings.append(_Heading(token.map[0], token.map[1], title, level))
    top = min((h.level for h in headings), default=0)
    return [_Heading(h.line, h.body, h.title, h.level - top) for h in headings], frozenset(blocks)


def _front_matter(lines: Sequence[str]) -> int:
    """Return how many lines of YAML or TOML front matter the file begins with."""
    fence = lines[0].rstrip() if lines else ""
    if fence not in ("---", "+++"):
        return 0
    for at in range(1, len(lines)):
        if lines[at].rstrip() in (fence, "..." if fence == "---" else fence):
            # "---", a blank line, text, "---": that is two rules, not front matter.
            return at + 1 if lines[1].strip() else 0
    return 0


def _sections(
    lines: Sequence[str], headings: Sequence[_Heading], blocks: frozenset[int]
) -> list[tuple[int, Page]]:
    """Return each section with the number of its first line."""
    bounds: list[tuple[int, str | None]] = [(0, None)]
    for heading in headings:
        start, _ = bounds[-1]
        # A heading with nothing under it but the next heading shares that one's section.
        if _headings_only(lines, headings, start, heading.line):
            bounds[-1] = (start, heading.title)
        else:
            bounds.append((heading.line, heading.title))
    found: list[tuple[int, Page]] = []
    ends = [start for start, _ in bounds[1:]] + [len(lines)]
    for (start, title), end in zip(bounds, ends, strict=True):
        starts = frozenset(at - start for at in blocks if start < at < end)
        for part, section in enumerate(cut(lines[start:end], first=start + 1, starts=starts)):
            label = title
            if label is None:
                label = section.lines
            elif part:
                label = f"{title} (part {part + 1})"
            page = Page(number=len(found) + 1, label=label, text=clean(section.text))
            found.append((section.first, page))
    return found


def _headings_only(
    lines: Sequence[str], headings: Sequence[_Heading], start: int, end: int
) -> bool:
    """Return whether lines start..end hold headings and blanks but no text."""
    covered = {at for h in headings if start <= h.line < end for at in range(h.line, h.body)}
    return all(not lines[at].strip() for at in range(start, end) if at not in covered)
