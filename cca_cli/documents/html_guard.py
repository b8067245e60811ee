"""A look at HTML before it is parsed, for pages made to choke a parser.

The parser follows the HTML standard, and that makes three things cost the square of the input: very
deep nesting; formatting elements that are left open, which the standard opens anew in every later
block; and the attributes of one element, each of which is looked for among those before it. It is
one call into C that nobody can stop, so the cost is estimated beforehand.
"""

from __future__ import annotations

import re
from collections import Counter

__all__ = ["too_costly"]

# Browsers cut pages off at a nesting of about 500.
MAX_DEPTH = 4000
MAX_REOPENED = 2_000_000
MAX_ATTRIBUTES = 1000
_TOKEN = re.compile(r"<!--|-->|<(/?)([A-Za-z][^\s/>]*)")
_ATTRIBUTE = re.compile(r"""[\s/]*[^\s/>][^\s/>=]*(?:\s*=\s*(?:"[^"]*"|'[^']*'|[^\s>]*))?""")
# Elements that hold nothing, or that end by themselves where the next one of their kind begins.
_NO_DEPTH = frozenset({
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param",
    "source", "track", "wbr", "p", "li", "dt", "dd", "option", "optgroup", "rp", "rt", "tr",
    "td", "th", "thead", "tbody", "tfoot", "colgroup",
})  # fmt: skip
_FORMATTING = frozenset({
    "a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong",
    "tt", "u",
})  # fmt: skip
_RAW = frozenset({"script", "style", "textarea", "title"})


def too_costly(text: str) -> str | None:
    """Return why a page should not be parsed, or None if it may."""
    opened: Counter[str] = Counter()
    depth = formatting = reopened = 0
    raw = ""
    for match in _TOKEN.finditer(text):
        token, name = match[0], (match[2] or "").lower()
        if raw:
            if (raw == "--" and token == "-->") or (match[1] and name == raw):
                raw = ""
            continue
        if name and _has_many_attributes(text, match.end()):
            return f"an element with more than {MAX_ATTRIBUTES:,} attributes"
        if not name:
            raw = "--" if token == "<!--" else ""
        elif match[1]:
            if opened[name]:
                opened[name] -= 1
                depth -= 1
                formatting -= name in _FORMATTING
        elif name in _RAW:
            raw = name
        else:
            reopened += formatting
            if name not in _NO_DEPTH:
                opened[name] += 1
                depth += 1
                formatting += name in _FORMATTING
            if depth > MAX_DEPTH:
                return f"more than {MAX_DEPTH:,} elements within one another"
            if reopened > MAX_REOPENED:
                return "too many formatting elements left open"
    return None


def _has_many_attributes(text: str, at: int) -> bool:
    """Return whether the tag whose name ends here has more attributes than any page needs."""
    for _ in range(MAX_ATTRIBUTES + 1):
        match = _ATTRIBUTE.match(text, at)
        if match is None:
            return False
        at = match.end()
    return True
