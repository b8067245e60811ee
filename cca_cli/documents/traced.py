"""Text that remembers where in the original each of its characters stood.

Cleaning a page joins words, folds ligatures and takes lines away. A quote's place in the clean
text can be carried back to the page as it came out of the file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

__all__ = ["Original", "Rule", "Traced"]

Rule = tuple[re.Pattern[str], "str | Callable[[re.Match[str]], str]"]


@dataclass(frozen=True, slots=True)
class Traced:
    """A text, and the place of every character of it in the original.

    Attributes:
        text: The text as it is now.
        origin: As long as `text`; None if nobody wants to know.
    """

    text: str
    origin: list[int] | None = None

    @classmethod
    def of(cls, original: str, *, trace: bool) -> Traced:
        """Begin with a text as it is."""
        return cls(original, list(range(len(original))) if trace else None)

    def apply(self, rules: Iterable[Rule]) -> Traced:
        """Apply replacements one after the other."""
        text = self
        for pattern, replacement in rules:
            text = text.sub(pattern, replacement)
        return text

    def sub(
        self, pattern: re.Pattern[str], replacement: str | Callable[[re.Match[str]], str]
    ) -> Traced:
        """Replace what a pattern matches; a replacement text is taken as it is."""
        if self.origin is None:
            new = replacement if callable(replacement) else _constant(replacement)
            return Traced(pattern.sub(new, self.text))
        pieces: list[str] = []
        origin: list[int] = []
        done = 0
        for match in pattern.finditer(self.text):
            new_text = replacement(match) if callable(replacement) else replacement
            start, end = match.span()
            pieces += [self.text[done:start], new_text]
            origin += self.origin[done:start]
            origin += _aligned(match[0], new_text, self.origin[start:end])
            done = end
        pieces.append(self.text[done:])
        origin += self.origin[done:]
        return Traced("".join(pieces), origin)

    def without_lines(self, gone: Collection[int]) -> Traced:
        """Leave out lines by their index."""
        if not gone:
            return self
        lines = self.text.split("\n")
        kept = [at for at in range(len(lines)) if at not in gone]
        text = "\n".join(lines[at] for at in kept)
        if self.origin is None:
            return Traced(text)
        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line) + 1)
        origin: list[int] = []
        for place, at in enumerate(kept):
            # Each line brings the line end before it, but for the first.
            start = starts[at] - (1 if place and at else 0)
            origin += self.origin[start : starts[at] + len(lines[at])]
        return Traced(text, origin)

    def spans(self) -> list[tuple[int, int, int]]:
        """Return the runs that stand in the original as they stand here.

        Returns:
            First character here, the one after the last, and the first one's place in the
            original. Runs are in order and cover the whole text.
        """
        runs: list[tuple[int, int, int]] = []
        start = 0
        origin = self.origin or []
        for at in range(1, len(origin) + 1):
            if at == len(origin) or origin[at] != origin[at - 1] + 1:
                runs.append((start, at, origin[start]))
                start = at
        return runs


def _constant(text: str) -> Callable[[re.Match[str]], str]:
    return lambda match: text


def _aligned(old: str, new: str, origin: list[int]) -> list[int]:
    """Return the origin of each character of a replacement."""
    if len(old) == len(new):
        return origin
    if not origin:
        return []
    places: list[int] = []
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        for at in range(new_end - new_start):
            last = old_end - 1 if kind == "equal" else max(old_start, old_end - 1)
            places.append(origin[min(old_start + at, last, len(origin) - 1)])
    return places


@dataclass(frozen=True, slots=True)
class Original:
    """A page as it came out of the file.

    Attributes:
        text: Its text, control characters and all.
        spans: First character in the page's clean text, the one after the last, and the first
            one's place in `text`, for every run that stands there in the same order.
    """

    text: str
    spans: tuple[tuple[int, int, int], ...]
