"""Styles and numbering of a Word document: which paragraphs are headings, what number they bear.

Word stores neither: a heading is a style with an outline level, perhaps inherited, and the "2.1"
before it is counted anew whenever the document is shown.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["Numbering", "ParagraphStyle", "Styles", "W", "roman", "value"]

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
# Deeper than any style sheet of people; ends chains that run in circles.
MAX_BASES = 20
MAX_LEVELS = 9
_HEADING = re.compile(r"head(?:ing)?\s?([1-9]|[a-e])")
_CODE = re.compile(r"\b(?:code(?! ?(?:label|caption|listing))|html preformatted|program)")
_ROMAN = (
    (1000, "m"), (900, "cm"), (500, "d"), (400, "cd"), (100, "c"), (90, "xc"),
    (50, "l"), (40, "xl"), (10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i"),
)  # fmt: skip


def value(parent: Any, name: str) -> str | None:
    """Return the `val` of a child element; None if there is none."""
    child = parent.find(W + name) if parent is not None else None
    return child.get(W + "val") if child is not None else None


@dataclass(frozen=True, slots=True)
class ParagraphStyle:
    """What matters of a style.

    Attributes:
        level: Outline level from 0; None for body text.
        number: Numbering and level in it, or None.
        tight: Its name, if its paragraphs follow one another without space between; else empty.
        code: Whether spaces and line ends mean something.
    """

    level: int | None = None
    number: tuple[str, int] | None = None
    tight: str = ""
    code: bool = False


class Styles:
    """The paragraph styles of a document by their id."""

    def __init__(self, root: Any | None) -> None:
        self._elements: dict[str, Any] = {}
        if root is not None:
            self._elements = {s.get(W + "styleId"): s for s in root.iter(W + "style")}
        self._known: dict[str | None, ParagraphStyle] = {None: ParagraphStyle()}

    def of(self, properties: Any | None) -> ParagraphStyle:
        """Return what a paragraph's style and its own properties make of it."""
        if properties is None:
            return self._known[None]
        name = value(properties, "pStyle")
        if name not in self._known:
            self._known[name] = self._inherited(name)
        style = self._known[name]
        level = _level(value(properties, "outlineLvl"))
        number = _number(properties.find(W + "numPr"), style.number)
        return replace(style, level=style.level if level is None else level, number=number)

    def _inherited(self, name: str | None) -> ParagraphStyle:
        level: int | None = None
        told: Any | None = None
        tight = code = False
        base = name
        for _ in range(MAX_BASES):
            element = self._elements.get(base) if base is not None else None
            if element is None:
                break
            properties = element.find(W + "pPr")
            # Built-in styles keep their English names in every language of Word.
            title = (value(element, "name") or "").lower()
            if level is None:
                level = _level(value(properties, "outlineLvl"))
            if level is None:
                level = _level_by_name(title)
            tight = tight or _is_tight(properties)
            code = code or _CODE.search(title) is not None
            if told is None and properties is not None:
                told = properties.find(W + "numPr")
            base = value(element, "basedOn")
        # A heading's numbering has a level for each heading level, told or not.
        default = min(level or 0, MAX_LEVELS - 1)
        number = _number(told, None)
        if number is not None and value(told, "ilvl") is None:
            number = (number[0], default)
        return ParagraphStyle(level, number, (name or "") if tight else "", code)


def _level_by_name(title: str) -> int | None:
    """Return the level of a heading's style by its name: Word's own, or a publisher's."""
    if title in ("title", "chaptertitle", "chapter title", "part title"):
        return 0
    match = _HEADING.fullmatch(title)
    if match is None:
        return None
    return int(match[1]) - 1 if match[1].isdecimal() else ord(match[1]) - ord("a") + 1


def _is_tight(properties: Any | None) -> bool:
    told = properties.find(W + "contextualSpacing") if properties is not None else None
    return told is not None and told.get(W + "val") not in ("0", "false")


def _level(text: str | None) -> int | None:
    # Level 9 is Word's own word for body text.
    return int(text) if text is not None and text in tuple("012345678") else None


def _number(told: Any | None, inherited: tuple[str, int] | None) -> tuple[str, int] | None:
    if told is None:
        return inherited
    identity = value(told, "numId") or (inherited[0] if inherited else None)
    level = value(told, "ilvl")
    if identity in (None, "0"):
        return None
    place = int(level) if level in tuple("012345678") else (inherited[1] if inherited else 0)
    return str(identity), place


@dataclass(slots=True)
class _Level:
    start: int = 1
    form: str = "decimal"
    text: str = ""


@dataclass(slots=True)
class _Scheme:
    levels: dict[int, _Level] = field(default_factory=dict)


class Numbering:
    """Counts the paragraphs of every list as Word does."""

    def __init__(self, root: Any | None) -> None:
        self._schemes: dict[str, _Scheme] = {}
        self._of: dict[str, str] = {}
        self._counts: dict[str, dict[int, int]] = defaultdict(dict)
        if root is None:
            return
        for element in root.iter(W + "abstractNum"):
            scheme = _Scheme()
            for level in element.iter(W + "lvl"):
                start = value(level, "start") or "1"
                scheme.levels[_place(level)] = _Level(
                    int(start[:6]) if start.isascii() and start.isdigit() else 1,
                    value(level, "numFmt") or "decimal",
                    value(level, "lvlText") or "",
                )
            self._schemes[element.get(W + "abstractNumId")] = scheme
        for element in root.iter(W + "num"):
            self._of[element.get(W + "numId")] = value(element, "abstractNumId") or ""

    def mark(self, number: tuple[str, int]) -> str:
        """Return what stands before the next paragraph of a list: "2.1", "(a)" or "-"."""
        identity, place = number
        name = self._of.get(identity, "")
        scheme = self._schemes.get(name)
        level = scheme.levels.get(place) if scheme is not None else None
        if scheme is None or level is None:
            return ""
        counts = self._counts[name]
        counts[place] = counts.get(place, level.start - 1) + 1
        for deeper in [p for p in counts if p > place]:
            del counts[deeper]
        if level.form == "bullet":
            return "-"
        if level.form == "none":
            return ""
        text = level.text
        for above in range(place + 1):
            one = scheme.levels.get(above, level)
            text = text.replace(f"%{above + 1}", _written(counts.get(above, one.start), one.form))
        return text


def _place(level: Any) -> int:
    text = level.get(W + "ilvl") or "0"
    return int(text) if text in tuple("012345678") else 0


def _written(number: int, form: str) -> str:
    if form in ("lowerLetter", "upperLetter"):
        letters = chr(ord("a") + (number - 1) % 26) * min((number - 1) // 26 + 1, 9)
        return letters.upper() if form == "upperLetter" else letters
    if form in ("lowerRoman", "upperRoman"):
        return roman(number).upper() if form == "upperRoman" else roman(number)
    return f"0{number}" if form == "decimalZero" and number < 10 else str(number)


def roman(number: int) -> str:
    """Return a small number in lower-case Roman numerals; others in digits."""
    if not 0 < number < 4000:
        return str(number)
    text = ""
    for size, letters in _ROMAN:
        text += letters * (number // size)
        number %= size
    return text
