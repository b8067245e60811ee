"""From lines with headings to a document: a section for each heading, and the outline."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Sequence

from cca_cli.documents.blocks import BlockWriter, Heading
from cca_cli.documents.ranges import select_pages
from cca_cli.documents.sections import cut
from cca_cli.documents.source import Source
from cca_cli.errors import InputError
from cca_models.documents import Document, OutlineEntry, Page, Unit

__all__ = ["assemble", "document_of", "sections"]


def assemble(
    source: Source,
    blocks: BlockWriter,
    *,
    kind: str,
    reader: str,
    pages: str | None,
    warnings: Sequence[str] = (),
    outline: Sequence[tuple[str, int, int]] | None = None,
) -> Document:
    """Make a document of blocks: pages where they are marked, else sections by heading.

    Args:
        source: The file.
        blocks: Its content.
        kind: Its format.
        reader: Reader and version.
        pages: As in `read_document`.
        warnings: For the user.
        outline: Title, line and level of each entry, if the file has an outline of its own;
            by default its headings are the outline.

    Raises:
        InputError: If there is no text.
        UsageError: If `pages` names what there is not.
    """
    headings = sorted(blocks.headings, key=lambda h: h.line)
    top = min((h.level for h in headings), default=0)
    if blocks.pages:
        unit: Unit = "page"
        firsts, found = _by_page(blocks)
    else:
        unit = "section"
        cuts = sections(blocks.lines, headings, blocks.starts)
        firsts, found = [first - 1 for first, _ in cuts], [page for _, page in cuts]
    entries = [(h.title, h.line, h.level - top) for h in headings] if outline is None else outline
    return document_of(
        source,
        kind=kind,
        reader=reader,
        unit=unit,
        found=found,
        outline=[
            OutlineEntry(title=title, page=max(1, bisect_right(firsts, line)), level=level)
            for title, line, level in entries
        ],
        pages=pages,
        warnings=warnings,
    )


def document_of(
    source: Source,
    *,
    kind: str,
    reader: str,
    unit: Unit,
    found: Sequence[Page],
    outline: Sequence[OutlineEntry],
    pages: str | None,
    warnings: Sequence[str] = (),
) -> Document:
    """Make a document of its pages, less those that were not asked for.

    Raises:
        InputError: If no page has text.
        UsageError: If `pages` names what there is not.
    """
    if not any(page.text.strip() for page in found):
        raise InputError(
            f"{source.shown}: holds no text, only blanks or pictures",
            hint="check how the file was made",
        )
    numbers = set(select_pages(pages, [p.label for p in found], name=source.shown, unit=unit))
    return Document(
        name=source.name,
        path=source.path,
        sha256=source.sha256,
        format=kind,
        reader=reader,
        unit=unit,
        pages=tuple(page for page in found if page.number in numbers),
        outline=tuple(entry for entry in outline if entry.page in numbers),
        warnings=tuple(warnings),
    )


def sections(
    lines: Sequence[str],
    headings: Sequence[Heading],
    starts: Collection[int],
    *,
    name: Callable[[str], str] | None = None,
    finish: Callable[[str], str] = str,
) -> list[tuple[int, Page]]:
    """Cut lines into a section for each heading, and long ones into parts.

    Args:
        lines: The lines, without their ends.
        headings: In order.
        starts: Lines at which a top-level block begins, where a long section may be cut.
        name: Makes the label of what stands before the first heading from its line range; it has
            none by default.
        finish: Applied to each section's text.

    Returns:
        Each section with the number of its first line, from 1.
    """
    bounds: list[tuple[int, str | None]] = [(0, None)]
    bare, body = True, 0
    for heading in headings:
        bare = bare and not any(line.strip() for line in lines[body : heading.line])
        # A heading with nothing under it but the next heading shares that one's section.
        if bare:
            bounds[-1] = (bounds[-1][0], heading.title)
        else:
            bounds.append((heading.line, heading.title))
        bare, body = True, heading.body
    found: list[tuple[int, Page]] = []
    places = sorted(starts)
    ends = [start for start, _ in bounds[1:]] + [len(lines)]
    for (start, title), end in zip(bounds, ends, strict=True):
        inside = places[bisect_right(places, start) : bisect_left(places, end)]
        allowed = frozenset(at - start for at in inside)
        for part, section in enumerate(cut(lines[start:end], first=start + 1, starts=allowed)):
            label = title
            if label is None:
                label = name(section.lines) if name is not None else None
            elif part:
                label = f"{title} (part {part + 1})"
            page = Page(number=len(found) + 1, label=label, text=finish(section.text))
            found.append((section.first, page))
    return found


def _by_page(blocks: BlockWriter) -> tuple[list[int], list[Page]]:
    """Return the first line of every page, and the pages."""
    bounds = list(blocks.pages)
    if any(line.strip() for line in blocks.lines[: bounds[0][0]]):
        bounds.insert(0, (0, None))
    ends = [line for line, _ in bounds[1:]] + [len(blocks.lines)]
    pages = [
        Page(number=number, label=label, text="\n".join(blocks.lines[start:end]).strip("\n"))
        for number, ((start, label), end) in enumerate(zip(bounds, ends, strict=True), start=1)
    ]
    return [line for line, _ in bounds], pages
