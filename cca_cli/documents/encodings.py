"""Bytes of a text file to characters: byte-order mark, UTF-8, a guess, in that order."""

from __future__ import annotations

import codecs
import re

from cca_cli.documents.source import Source
from cca_cli.errors import InputError, UsageError

__all__ = ["decode", "looks_binary"]

_MARKS = (
    # The UTF-32 mark begins with the UTF-16 one.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Far more than any reader could hold; what is larger is hardly a text.
TEXT_LIMIT = 256 << 20
# The guess needs no more than this, and takes seconds on a whole book.
SAMPLE_BYTES = 1 << 17
_TYPOGRAPHIC = re.compile(
    "(?<!\\w)[\u2018\u201c]|[\u2019\u201d](?!\\w)|(?<=\\w)\u2019|[\u2013\u2014\u2026]"
)
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b")) + b"\x7f"


def decode(
    source: Source, encoding: str | None = None, *, declared: str | None = None
) -> tuple[str, str, list[str]]:
    """Read a text.

    Args:
        source: The file.
        encoding: Codec to use instead of looking for one.
        declared: Codec that the text says it has; believed where it has no byte-order mark and
            is not valid UTF-8, which pages that declare something else often are.

    Returns:
        The text without its byte-order mark, the codec's name, and warnings.

    Raises:
        InputError: If the bytes are not text, or not in the encoding given.
        UsageError: If there is no such codec.
    """
    if source.size > TEXT_LIMIT:
        raise InputError(
            f"{source.shown}: {source.size >> 20} MiB, more than the {TEXT_LIMIT >> 20} MiB "
            "that are read as text",
            hint=f"cut it into parts: split -C 64m {source.quoted}",
        )
    data = source.read()
    if encoding is not None:
        return _as_told(source, data, encoding)
    for mark, name in _MARKS:
        if data.startswith(mark):
            text, notes = _tolerantly(data, name)
            return text, name.removesuffix("-sig"), notes
    if b"\0" in data:
        name = _utf16_without_mark(source, data)
        return data.decode(name, "replace"), name, [f"no byte-order mark: read as {name}"]
    if _has_controls(data):
        raise _binary(source)
    try:
        return data.decode("utf-8"), "utf-8", []
    except UnicodeDecodeError:
        pass
    codec = _text_codec(declared) if declared is not None else None
    if codec is not None:
        text, notes = _tolerantly(data, codec)
        return text, codec, notes
    return _guess(source, data)


def looks_binary(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of no text, in any encoding."""
    if any(head.startswith(mark) for mark, _ in _MARKS):
        return False
    return _utf16_name(head) is None if b"\0" in head else _has_controls(head)


def _has_controls(data: bytes) -> bool:
    return len(data.translate(None, _CONTROLS)) < 0.98 * len(data)


def _text_codec(declared: str) -> str | None:
    """Return the codec that a document means, None if it is not one of text."""
    try:
        name = codecs.lookup(declared).name
        b" ".decode(name)
    except (LookupError, UnicodeError):
        # Not text at all ("hex"), or UTF-16, which a declaration in ASCII rules out.
        return None
    # Browsers read these two as the Windows code page that has quotes and dashes, too.
    return "cp1252" if name in ("iso8859-1", "ascii") else name


def _as_told(source: Source, data: bytes, encoding: str) -> tuple[str, str, list[str]]:
    try:
        name = codecs.lookup(encoding).name
        text = data.decode(name)
    except UnicodeError as error:
        at = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise InputError(
            f"{source.shown}: not valid {encoding}{at}",
            hint="leave out --encoding to have it found",
        ) from error
    except LookupError as error:
        raise UsageError(
            f"--encoding {encoding}: no such text encoding",
            hint="for example utf-8, cp1252, iso8859-2, shift_jis, gb18030",
        ) from error
    return text.removeprefix("\ufeff"), name, []


def _tolerantly(data: bytes, name: str) -> tuple[str, list[str]]:
    try:
        return data.decode(name), []
    except UnicodeDecodeError:
        text = data.decode(name, "replace")
        bad = text.count("\ufffd")
        return text, [f"{bad} places are not valid {name} and were replaced"]


def _utf16_without_mark(source: Source, data: bytes) -> str:
    name = _utf16_name(data)
    if name is None:
        raise _binary(source)
    return name


def _utf16_name(data: bytes) -> str | None:
    sample = data[: SAMPLE_BYTES & ~1]
    pairs = len(sample) // 2
    # ASCII, which every text has much of, puts a NUL in the same half of each pair.
    for name, zeros, others in (
        ("utf-16-le", sample[1::2].count(0), sample[0::2].count(0)),
        ("utf-16-be", sample[0::2].count(0), sample[1::2].count(0)),
    ):
        if zeros > 0.3 * pairs and others < 0.01 * pairs:
            return name
    return None


def _guess(source: Source, data: bytes) -> tuple[str, str, list[str]]:
    text = data.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    if 10 * bad <= sum(c > "\x7f" for c in text) - bad:
        # UTF-8 with a few broken bytes; any single-byte guess would spoil all the rest.
        return text, "utf-8", [f"{bad} places are not valid utf-8 and were replaced"]

    from charset_normalizer import from_bytes

    sample = _sample(data)
    best = from_bytes(sample).best()
    if best is None:
        raise InputError(
            f"{source.shown}: its text encoding cannot be told",
            hint=f"iconv -f ENCODING -t UTF-8 {source.quoted} > utf8.txt, then run cca on utf8.txt",
        )
    name = _prefer_cp1252(best.encoding, sample)
    text, notes = _tolerantly(data, name)
    return text, name, [f"not UTF-8: read as {name}, which is a guess", *notes]


def _sample(data: bytes) -> bytes:
    """Return the part to guess from: around the first byte beyond ASCII, cut at line ends."""
    if len(data) <= SAMPLE_BYTES:
        return data
    first = next(i for i, byte in enumerate(data) if byte > 127)
    start = data.rfind(b"\n", 0, first) + 1
    end = data.find(b"\n", min(start + SAMPLE_BYTES, len(data)))
    return data[start:] if end < 0 else data[start : min(end, start + 2 * SAMPLE_BYTES)]


def _prefer_cp1252(name: str, sample: bytes) -> str:
    """Return cp1252 where it is likelier than the guess.

    English with a few curly quotes or accents fits a dozen code pages alike, and the commonest
    of them is then the likeliest: where the two differ in fewer than 0.1 % of the characters,
    or where the guess is no Windows code page but most bytes beyond ASCII stand where Windows
    has quotes and dashes, and stand at the edge of words. A handful of bytes in a short text
    tell nothing.
    """
    try:
        western, guessed = sample.decode("cp1252"), sample.decode(name)
    except UnicodeDecodeError:
        return name
    beyond = sum(byte > 127 for byte in sample)
    if beyond < 16 and 3 * beyond < len(sample):
        return "cp1252"
    if len(western) != len(guessed):
        return name
    differ = sum(a != b for a, b in zip(western, guessed, strict=True))
    if differ < 0.001 * len(western):
        return "cp1252"
    if not name.startswith("cp125") and 2 * len(_TYPOGRAPHIC.findall(western)) > beyond:
        return "cp1252"
    return name


def _binary(source: Source) -> InputError:
    return InputError(
        f"{source.shown}: is binary data of no known format",
        hint=f"see what it is: file {source.quoted}; cca reads documents and texts",
    )
