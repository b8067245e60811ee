"""HTML's elements, by what a reader of the text has to know of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

__all__ = [
    "BLOCKS",
    "HEADINGS",
    "LISTS",
    "SKIPPED",
    "is_hidden",
    "is_note_mark",
    "is_page_break",
]

HEADINGS = {"h1": 0, "h2": 1, "h3": 2, "h4": 3, "h5": 4, "h6": 5}
BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details",
    "dialog", "dir", "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form",
    "header", "hgroup", "hr", "html", "legend", "li", "main", "menu", "nav", "ol", "optgroup",
    "p", "section", "summary", "tbody", "td", "tfoot", "th", "thead", "tr", "ul", "table",
    "text",
})  # fmt: skip
LISTS = frozenset({"ul", "ol", "menu", "dir"})
SKIPPED = frozenset({
    "audio", "button", "canvas", "datalist", "defs", "desc", "head", "metadata", "iframe",
    "input", "noscript", "script", "select", "style", "template", "title", "video",
    "-comment", "annotation", "annotation-xml", "rp",
})  # fmt: skip
# Print style sheets leave these out, too.
_CLASSES = frozenset({
    "noprint", "mw-editsection", "mw-indicators", "mw-jump-link", "vector-dropdown",
})  # fmt: skip
_HIDING = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
# Icons, and the visible copy of a formula whose text stands beside it.
_DECORATION = frozenset({"svg", "span", "a", "i", "button"})


def is_hidden(tag: str, attributes: dict[str, str | None]) -> bool:
    """Return whether a browser would not show an element."""
    if not attributes:
        return False
    if "hidden" in attributes or _HIDING.search(attributes.get("style") or ""):
        return True
    if attributes.get("aria-hidden") == "true" and tag in _DECORATION:
        return True
    names = attributes.get("class")
    return bool(names) and not _CLASSES.isdisjoint((names or "").split())


def is_note_mark(tag: str, node: LexborNode, attributes: dict[str, str | None]) -> bool:
    """Return whether an element is the raised number of a note, not yet in brackets."""
    if tag == "sup":
        marked = node.css_first("a") is not None
    else:
        marked = tag == "a" and "noteref" in (attributes.get("epub:type") or "")
    return marked and node.text().strip().isalnum()


def is_page_break(attributes: dict[str, str | None]) -> bool:
    return (
        "pagebreak" in (attributes.get("epub:type") or "").split()
        or attributes.get("role") == "doc-pagebreak"
    )
