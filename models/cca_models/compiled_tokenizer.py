"""What is worked out about a tokenizer.json once and remembered, and the probe that decides.

Parsing tokenizer.json, proving its merges equal to tiktoken's and asking `tokenizers` about the
probe takes a second; reading the result back takes milliseconds. It is kept under the SHA-256 of
the tokenizer.json and the versions of everything that had a say.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from cca_models.byte_vocabulary import (
    ByteVocabulary,
    NotEquivalentError,
    byte_ranks,
    read_vocabulary,
)
from cca_models.paths import cache_dir, private_dir, replace_file
from cca_models.tokenizer_patterns import PRE_TOKENIZERS

if TYPE_CHECKING:
    import tokenizers

_log = logging.getLogger(__name__)
_FORMAT = 1

# Every kind of fragment in many scripts, and each kind next to each other.
PROBE = (
    "It's the end, isn't it? We'll see: THEY'RE here, I'd say; she'd've  gone.\tTab\t\ttabs \t x",
    "line\nline\n\n\nline \n  indented\r\nCRLF\r\n\r\n  trailing   ",
    "   leading\n   ",
    "1234567890 3.14 1,000,000 in 1987s 5 5  5   5\n5\t5 a1b22c333 x² ½ ⅷ Ⅷ ①② ٣٤٥ ४५६ 三百 ๔๕",
    "Ünïcödé naïve café cafe\u0301 Ångström Łódź ĳ ﬁ ſ 'ſ Straße İstanbul Dvořák a\u0308\u0323 Å",
    "Ελληνικά Кириллица ѣ ՀԱՅ ქართული עִבְרִית العربيّة فارسی हिन्दी বাংলা தமிழ் ไทย ខ្មែរ မြန်မာ አማርኛ",
    "汉字漢字 かなカナ ｶﾅ 한국어 ㅎㅏㄴ 조선 𠮷野家 𝔘𝔫𝔦 𐍈 ᏣᎳᎩ ᠮᠣᠩᠭᠣᠯ བོད་ཡིག",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪 ❤️ ☕ №1 €5 £ © ™ … — ‘q’ “q” «q» ¿? ¡! §3 †‡ • → ≤ ∑ ∂ √2",
    "a\u00a0b\u2003c\u3000d\u200be\u2028f\u0085g\ufeffh \u00a0 5\u00a05 \u00a0\u00a0x",
    "def f(x):\n    return {'a': [1, 2]}  # x\n\n\tif (a != b) && c: //--==>> $$ __init__ ${v} \\n",
    "http://example.org/a?b=c&d=%20#e user@example.com C:\\dir\\file.txt 2024-01-31T12:00:00Z",
    "-------- ======== ........ !!!! aaaaaaaaaaaaaaaaa          .",
    "\x01\x07\x0b\x0c\x1b[0m\x7f",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CompiledTokenizer:
    """A tokenizer.json, ready for use.

    Attributes:
        warning: Why tiktoken cannot be used, one sentence; None if it can.
        pattern: Expression that cuts text into fragments; empty with a warning.
        nfc: Whether text is brought to form NFC first.
        tokens: Bytes of every ordinary token at its number, empty where there is none. Without any
            bytes at all the vocabulary is not a byte-level one.
        added: Added tokens and their numbers; none of them is in `tokens`.
        special: Those of them that decoding drops.
    """

    warning: str | None
    pattern: str
    nfc: bool
    tokens: Sequence[bytes]
    added: Mapping[str, int]
    special: frozenset[int]


def compile_tokenizer(raw: bytes) -> CompiledTokenizer:
    """Return what is known about the tokenizer.json `raw`, from the cache if it was seen before.

    Raises:
        ValueError: If it is not a tokenizer.json.
    """
    place = None
    try:
        place = private_dir(cache_dir() / "tokenizers") / f"{_key(raw)}.bin"
        return _unpack(place.read_bytes())
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.debug("cannot use the remembered tokenizer: %s", error)
    compiled = _compile(raw)
    if place:
        try:
            replace_file(place, _pack(compiled))
        except OSError as error:
            _log.debug("cannot remember the tokenizer: %s", error)
    return compiled


def full_tokenizer(raw: bytes) -> "tokenizers.Tokenizer":
    """Return the `tokenizers` object that tokenizer.json describes.

    Raises:
        ValueError: If it describes none.
    """
    # Not needed where tiktoken does the work.
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_str(raw.decode("utf-8"))
    # The library raises the base class for everything that it cannot read.
    except Exception as error:
        raise ValueError(str(error)) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def plain_tokenizer(raw: bytes) -> "tokenizers.Tokenizer":
    """Return the `tokenizers` object for ordinary text: it knows no added tokens.

    Raises:
        ValueError: If tokenizer.json describes none.
    """
    content = json.loads(raw)
    content |= {"added_tokens": [], "post_processor": None}
    return full_tokenizer(json.dumps(content).encode())


def _compile(raw: bytes) -> CompiledTokenizer:
    content = json.loads(raw)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise ValueError("it holds no model")
    listed = content.get("added_tokens") or ()
    added = {str(token["content"]): int(token["id"]) for token in listed}
    special = frozenset(int(token["id"]) for token in listed if token.get("special"))
    try:
        vocabulary = read_vocabulary(content)
        _probe(vocabulary, raw)
    except NotEquivalentError as reason:
        return CompiledTokenizer(
            warning=(
                "tiktoken cannot stand in for this checkpoint's tokenizer, because "
                f"{reason}; the slower tokenizers library is used"
            ),
            pattern="",
            nfc=False,
            tokens=_byte_tokens(content, set(added)),
            added=added,
            special=special,
        )
    return CompiledTokenizer(
        warning=None,
        pattern=vocabulary.pattern,
        nfc=vocabulary.nfc,
        tokens=_by_number(vocabulary.ranks),
        added=added,
        special=special,
    )


def _probe(vocabulary: ByteVocabulary, raw: bytes) -> None:
    import unicodedata

    import tiktoken

    encoding = tiktoken.Encoding(
        "probe",
        pat_str=vocabulary.pattern,
        mergeable_ranks=dict(vocabulary.ranks),
        special_tokens={},
    )
    exact = plain_tokenizer(raw)
    # Bytes that are in no token: `tokenizers` drops them, and Tokenizer.encode leaves text that
    # has them to it.
    known = bytes(byte for byte in range(256) if bytes([byte]) in vocabulary.ranks)
    for text in (*PROBE, "\n".join(PROBE)):
        plain = "".join(c for c in text if not c.encode().translate(None, known))
        fed = unicodedata.normalize("NFC", plain) if vocabulary.nfc else plain
        if encoding.encode_ordinary(fed) != exact.encode(plain, add_special_tokens=False).ids:
            raise NotEquivalentError(f"its tokens differ for {text[:24]!r}")


def _byte_tokens(content: Mapping[str, Any], added: set[str]) -> Sequence[bytes]:
    if (content.get("decoder") or {}).get("type") != "ByteLevel":
        return ()
    try:
        return _by_number(byte_ranks(content["model"]["vocab"], added))
    except (NotEquivalentError, KeyError, TypeError):
        return ()


def _by_number(ranks: Mapping[bytes, int]) -> list[bytes]:
    tokens = [b""] * (max(ranks.values(), default=-1) + 1)
    for token, number in ranks.items():
        tokens[number] = token
    return tokens


def _key(raw: bytes) -> str:
    import tiktoken

    says = json.dumps(
        [
            _FORMAT,
            hashlib.sha256(raw).hexdigest(),
            version("tokenizers"),
            tiktoken.__version__,
            [known.pattern for known in PRE_TOKENIZERS],
            PROBE,
        ]
    )
    return hashlib.sha256(says.encode()).hexdigest()


def _pack(compiled: CompiledTokenizer) -> bytes:
    data = b"".join(compiled.tokens)
    header = {
        "warning": compiled.warning,
        "pattern": compiled.pattern,
        "nfc": compiled.nfc,
        "added": dict(compiled.added),
        "special": sorted(compiled.special),
        "lengths": [len(token) for token in compiled.tokens],
        "bytes": len(data),
    }
    return json.dumps(header).encode() + b"\n" + data


def _unpack(packed: bytes) -> CompiledTokenizer:
    line, _, data = packed.partition(b"\n")
    header = json.loads(line)
    if len(data) != header["bytes"]:
        raise ValueError("the remembered tokenizer was cut off")
    ends = list(accumulate(header["lengths"]))
    return CompiledTokenizer(
        warning=header["warning"],
        pattern=header["pattern"],
        nfc=header["nfc"],
        tokens=[data[start:end] for start, end in zip([0, *ends], ends, strict=False)],
        added=header["added"],
        special=frozenset(header["special"]),
    )
