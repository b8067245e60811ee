"""Read a folder of documents and write what became of each into docs/documents.md.

    python tools/documents_table.py ../shared/data/documents     writes both tables of the page
    python tools/documents_table.py FOLDER --print               prints them

A file SOURCES.tsv in the folder may name passwords in its notes: password "...".
"""

from __future__ import annotations

import argparse
import csv
import difflib
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cca_cli.documents import read_document
from cca_cli.errors import CLIError
from cca_models.documents import Document

PAGE = Path(__file__).parents[1] / "docs/documents.md"
_PASSWORD = re.compile(r'password "([^"]+)"')
_WORD = re.compile(r"\w+")
# A page with fewer words says little about a reader.
MIN_WORDS = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One file, read."""

    name: str
    format: str
    pages: str
    characters: str
    seconds: str
    result: str

    def line(self) -> str:
        """Return the row as Markdown."""
        cells = (self.name, self.format, self.pages, self.characters, self.seconds, self.result)
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike both PDF back ends read one file.

    Attributes:
        name: The file.
        words: Words that pypdf reads.
        same: Share of both readers' words that the other has on the same page, 0 to 1 (F1).
        order: Share of them in the same order, 0 to 1, the mean of the pages.
    """

    name: str
    words: int
    same: float
    order: float


def passwords(folder: Path) -> dict[str, str]:
    """Return the password of each file that needs one, by path in the folder."""
    listing = folder / "SOURCES.tsv"
    if not listing.exists():
        return {}
    with listing.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    found = {row["file"]: _PASSWORD.search(row["note"] or "") for row in rows}
    return {name: match[1] for name, match in found.items() if match is not None}


def files_of(folder: Path) -> list[Path]:
    """Return the documents of a folder, by name."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SOURCES.tsv")


def read(
    path: Path, password: str | None, backend: Literal["auto", "pypdf", "pdfium"] = "auto"
) -> Document:
    """Read one document with the password that it may need."""
    return read_document(str(path), password=lambda: password, backend=backend)


def row_of(folder: Path, path: Path, password: str | None) -> Row:
    """Read one document and say what became of it."""
    name = path.relative_to(folder).as_posix()
    start = time.perf_counter()
    try:
        document = read(path, password)
    except CLIError as error:
        seconds = f"{time.perf_counter() - start:.2f}"
        message = error.message.removeprefix(f"{path}: ")
        return Row(name, path.suffix[1:], "", "", seconds, f"exit {error.code}: {message}")
    seconds = f"{time.perf_counter() - start:.2f}"
    characters = sum(len(page.text) for page in document.pages)
    if not characters:
        raise AssertionError(f"{name}: an empty success")
    empty = [page.number for page in document.pages if not page.text.strip()]
    notes = [f"without text: {', '.join(map(str, empty))}"] if empty else []
    count = len(document.pages)
    return Row(
        name,
        document.format,
        f"{count:,} {document.unit}{'' if count == 1 else 's'}",
        f"{characters:,}",
        seconds,
        "; ".join(["read", *notes, *document.warnings]),
    )


def agreement_of(folder: Path, path: Path, password: str | None) -> Agreement | None:
    """Compare both back ends on one PDF; None if one does not read it, or there are few words."""
    try:
        ours = read(path, password, "pypdf"), read(path, password, "pdfium")
    except CLIError:
        return None
    shared = total = 0
    order: list[float] = []
    for one, other in zip(*(document.pages for document in ours), strict=True):
        left, right = (_WORD.findall(page.text.lower()) for page in (one, other))
        shared += 2 * (Counter(left) & Counter(right)).total()
        total += len(left) + len(right)
        if left or right:
            order.append(difflib.SequenceMatcher(None, left, right, autojunk=False).ratio())
    words = sum(len(_WORD.findall(page.text)) for page in ours[0].pages)
    if words < MIN_WORDS:
        return None
    name = path.relative_to(folder).as_posix()
    return Agreement(name, words, shared / total, sum(order) / len(order))


def files_table(folder: Path) -> Iterator[str]:
    """Yield the lines of the table of all files."""
    secrets = passwords(folder)
    # What a first document of each format pays for imports is no property of the document.
    for path in files_of(folder):
        row_of(folder, path, secrets.get(path.relative_to(folder).as_posix()))
    yield "| file | format | pages | characters | seconds | result |"
    yield "|---|---|--:|--:|--:|---|"
    for path in files_of(folder):
        yield row_of(folder, path, secrets.get(path.relative_to(folder).as_posix())).line()


def agreement_table(folder: Path) -> Iterator[str]:
    """Yield the lines of the table of both back ends."""
    secrets = passwords(folder)
    yield "| file | words | same words, % | same order, % |"
    yield "|---|--:|--:|--:|"
    for path in files_of(folder):
        if path.suffix != ".pdf":
            continue
        name = path.relative_to(folder).as_posix()
        found = agreement_of(folder, path, secrets.get(name))
        if found is not None:
            yield f"| {name} | {found.words:,} | {100 * found.same:.1f} | {100 * found.order:.1f} |"


def page_with(text: str, tables: dict[str, str]) -> str:
    """Put tables between the marks `<!-- NAME -->` and `<!-- end of NAME -->` of a page.

    Raises:
        ValueError: If the page lacks a mark.
    """
    for name, table in tables.items():
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if any(mark not in text for mark in marks):
            raise ValueError(f"expected the marks {' and '.join(marks)} in {PAGE.name}")
        before, _, rest = text.partition(marks[0])
        text = f"{before}{marks[0]}\n\n{table}\n\n{marks[1]}{rest.partition(marks[1])[2]}"
    return text


def main() -> None:
    """Write or print the tables."""
    parser = argparse.ArgumentParser(description="Read documents, write docs/documents.md.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--print", action="store_true", help="print the tables, write nothing")
    args = parser.parse_args()
    if not args.folder.is_dir():
        sys.exit(f"{args.folder}: no such folder")
    tables = {
        "files": "\n".join(files_table(args.folder)),
        "agreement": "\n".join(agreement_table(args.folder)),
    }
    if args.print:
        print("\n\n".join(tables.values()))
        return
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
