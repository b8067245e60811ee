"""What is read: a document, its pages and its outline. Plain data, no torch.

Readers of file formats live in cca_cli.documents and make these; cca_models.reading takes them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Unit = Literal["page", "section"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One page, or one section of a format that has no pages.

    Attributes:
        number: Place in the document, counted from 1.
        label: The printed page label ("xii"), or for a section its heading or line range; None if
            it has none.
        text: The text that the model reads and that quotes are checked against.
    """

    number: int
    label: str | None
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class OutlineEntry:
    """One entry of the outline: a title, the number of its page (from 1), its depth (from 0)."""

    title: str
    page: int
    level: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A document as its reader understood it.

    Attributes:
        name: What to call it in citations: the file name, or "stdin".
        path: Absolute path of the file, or "-" for standard input.
        sha256: Digest of the file's bytes, hex.
        format: "pdf", "epub", "html", "docx", "odt", "pptx", "markdown", "code" or "text".
        reader: Reader and version that made the text ("pypdf 7.1.0 +cca1").
        unit: What `pages` holds.
        pages: In reading order; never empty.
        outline: In reading order; empty if the document has none.
        warnings: One sentence each, for the user.
    """

    name: str
    path: str
    sha256: str
    format: str
    reader: str
    unit: Unit
    pages: tuple[Page, ...]
    outline: tuple[OutlineEntry, ...] = ()
    warnings: tuple[str, ...] = ()

    @classmethod
    def of_texts(cls, texts: Iterable[str], *, name: str = "context") -> "Document":
        """Make a document of texts that come from no file, each a section."""
        return cls(
            name=name, path="-", sha256="", format="text", reader="", unit="section",
            pages=tuple(Page(number=i, label=None, text=t) for i, t in enumerate(texts, 1)),
        )  # fmt: skip
