"""Markdown: a section for each heading, with the text as it was written."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Sequence
from importlib import metadata

from cca_cli.documents.blocks import Heading
from cca_cli.documents.encodings import decode
from cca_cli.documents.headed import document_of, sections
from cca_cli.documents.normalise import TEXT_RULES, clean
from cca_cli.documents.sections import split_lines
from cca_cli.documents.source import Source
from cca_models.documents import Document, OutlineEntry

__all__ = ["read_markdown"]

_ATTRIBUTES = re.compile(r"\s*\{[^{}]*[#.=][^{}]*\}\s*$")
_TAG = re.compile(r"<[^<>]+>")


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
    # Line numbers in labels are those that an editor shows.
    found = sections(lines, headings, blocks, name=str, finish=clean)
    firsts = [first for first, _ in found]
    outline = [
        OutlineEntry(title=h.title, page=bisect_right(firsts, h.line + 1), level=h.level)
        for h in headings
    ]
    return document_of(
        source,
        kind="markdown",
        reader=f"markdown-it-py {metadata.version('markdown-it-py')} {codec} {TEXT_RULES}",
        unit="section",
        found=[page for _, page in found],
        outline=outline,
        pages=pages,
        warnings=notes,
    )


def _structure(lines: Sequence[str]) -> tuple[list[Heading], frozenset[int]]:
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
                headings.append(Heading(token.map[0], token.map[1], title, level))
    top = min((h.level for h in headings), default=0)
    return [Heading(h.line, h.body, h.title, h.level - top) for h in headings], frozenset(blocks)


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
