"""What becomes of characters on their way from a file to Page.text.

Page.text is what the model reads and what quotes are checked against, so this happens once,
before both. Rules, in order:

* All formats: escape sequences, such as colours in a log, go whole. Line ends become "\\n".
  Control characters, zero-width and bidirectional marks, Unicode tags and noncharacters go:
  they print as nothing, split words in two, and can hide text or drive a terminal. Lone
  surrogates, which no UTF-8 file can hold, become U+FFFD. Canonical composition (NFC), which
  changes no meaning.
* Plain text and PDF: compatibility forms that are mere typography are folded to what they
  stand for: ligatures, Arabic presentation forms, full-width letters and digits, half-width
  kana, mathematical alphabets, Kangxi radicals, Roman numerals, vertical punctuation.
* Not the whole of NFKC: it would turn x² into x2, ½ into 1⁄2, ™ into TM and the Chinese comma
  into an ASCII one. Those keep their form.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

from cca_cli.documents.traced import Rule

__all__ = [
    "CLEAN",
    "FOLD",
    "SPACES",
    "TEXT_RULES",
    "arabic_share",
    "clean",
    "fold",
    "unreadable_share",
]

# Part of Document.reader: other rules make other text, hence other tokens.
TEXT_RULES = "+cca3"

_DROPPED = "".join(
    f"{chr(a)}-{chr(b)}"
    for a, b in (
        (0x00, 0x08),
        (0x0E, 0x1F),
        (0x7F, 0x84),
        (0x86, 0x9F),
        (0x200B, 0x200B),
        (0x200E, 0x200F),
        (0x202A, 0x202E),
        (0x2060, 0x206F),
        (0xFDD0, 0xFDEF),
        (0xFEFF, 0xFEFF),
        (0xFFF9, 0xFFFB),
        (0xFFFE, 0xFFFF),
        (0xE0000, 0xE007F),
    )
)
# Only what is whole and bounded: a lone escape character must not take text away with it. The
# eight-bit forms are letters and quotation marks in other encodings, so they are only dropped.
_ESCAPES = re.compile(
    r"""
    \x1b\[ [0-?]{0,64} [ -/]{0,8} [@-~]                          # CSI: colours, cursor
  | \x1b [\]PX^_] [^\x07\x1b\r\n]{0,4096} (?: \x07 | \x1b\\ )    # OSC and its like: titles, links
  | \x1b [()] [0-9A-B]                                         # character sets
  | \x1b [78=>]                                                # cursor kept, keypad
    """,
    re.VERBOSE,
)
_DROP = re.compile(f"[\u061c{_DROPPED}]")
_BREAK = re.compile("\r\n?|[\f\v\x85\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_COMPAT = re.compile(
    "[\u2160-\u217f\u2e80-\u2fdf\ufb00-\ufdcf\ufdf0-\ufdff\ufe10-\ufe19\ufe30-\ufe44"
    "\ufe70-\ufefc\uff10-\uff19\uff21-\uff3a\uff41-\uff5a\uff65-\uffdc\U0001d400-\U0001d7ff]+"
)
_ARABIC = re.compile("[\u0600-\u06ff\u0750-\u077f\ufb50-\ufdff\ufe70-\ufefc]")
# Composition never reaches over an ASCII character.
_COMPOSABLE = re.compile("[\x00-\x7f]?[^\x00-\x7f]+")
_SPACE = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")


def _compose(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFC", match[0])


def _stand_for(match: re.Match[str]) -> str:
    return unicodedata.normalize("NFKC", match[0])


CLEAN: tuple[Rule, ...] = (
    (_ESCAPES, ""),
    (_BREAK, "\n"),
    (_SURROGATE, "\ufffd"),
    (_DROP, ""),
    (_COMPOSABLE, _compose),
)
"""What `clean` does, as replacements."""

FOLD: tuple[Rule, ...] = ((_COMPAT, _stand_for),)
"""What `fold` does, as replacements."""

SPACES: tuple[Rule, ...] = ((_SPACE, " "),)
"""What `fold` does to spaces, as replacements."""


def clean(text: str) -> str:
    """Apply the rules for all formats; a text without oddities comes back unchanged."""
    text = _BREAK.sub("\n", _ESCAPES.sub("", text))
    text = _SURROGATE.sub("\ufffd", text)
    return unicodedata.normalize("NFC", _DROP.sub("", text))


def fold(text: str, *, spaces: bool = False) -> str:
    """Replace typographic compatibility forms by what they stand for.

    Args:
        text: Cleaned text.
        spaces: Whether no-break, thin and ideographic spaces become plain ones.
    """
    text = _COMPAT.sub(_stand_for, text)
    return _SPACE.sub(" ", text) if spaces else text


def unreadable_share(texts: Iterable[str]) -> float:
    """Return the share of non-blank characters that stand for no known letter or sign.

    Private-use and unassigned code points and U+FFFD: what a font without a usable table leaves.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    total = sum(n for c, n in counts.items() if not c.isspace())
    bad = sum(
        n for c, n in counts.items() if c == "\ufffd" or unicodedata.category(c) in ("Co", "Cn")
    )
    return bad / total if total else 0.0


def arabic_share(texts: Iterable[str]) -> float:
    """Return the share of non-blank characters that are of the Arabic script."""
    total = arabic = 0
    for text in texts:
        total += len(text) - sum(map(text.count, " \n\r\t"))
        arabic += len(_ARABIC.findall(text))
    return arabic / total if total else 0.0
