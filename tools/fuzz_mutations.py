"""Ways to spoil a document: its bytes, words of its format, members of its archive.

Every function takes the random generator first and gives the same for the same state of it.
"""

import io
import random
import zipfile
from collections.abc import Callable

from fuzz_seeds import CANARY_PATH, archive

__all__ = ["mutate"]

_HUGE = ("99999999999999999999", "-1", "0", "2147483648", "1e309", "0x7fffffff")
_WORDS: dict[str, tuple[str, ...]] = {
    "pdf": (
        "/Kids", "/Count 999999999", "/Prev 0", "/Length 999999999", "/Type/ObjStm", "/Next 8 0 R",
        "/Parent 2 0 R", "/W[9 9 9]", "/Filter/LZWDecode", "/Filter/ASCII85Decode", "1 0 R", "<<",
        "/Filter[/FlateDecode/FlateDecode]", ">>", "stream\n", "endstream", "endobj", "xref",
        "trailer", "/Encrypt<</Filter/Standard/V 5/R 6>>", "(\\033]0;x\\007)",
        "/MediaBox[0 0 1e9 1e9]",
        "/DecodeParms<</Predictor 15/Columns 999999999>>", "/ToUnicode 5 0 R", "/S/r/St 999999999",
    ),
    "markup": (
        "<", "</", "<!DOCTYPE x [<!ENTITY a 'b'>]>", "<![CDATA[", "]]>", "&#27;]0;x&#7;",
        "&#x110000;",
        "&#0;", "&a;", "<!--", "-->", "<table>", "<td colspan=999999999>", "<script>", "<?x ",
        ' xmlns="y"', 'href="../../../../etc/passwd"', f'src="file://{CANARY_PATH}"', "<svg>",
        "<math>",
        "<template>", "<plaintext>", '<text:s text:c="999999999"/>', "<w:tbl>", "<base href='x'>",
    ),
    "text": (
        "\x1b]0;x\x07", "\x1b[2J", "\f", "\r", "\x00", "\ufeff", "\u202e", "> " * 40, "- " * 40,
        "#" * 40,
        "`" * 40, "[" * 40, "|" * 40, "![](", "<div>", "\\", "***", "1. " * 40, "~~~", "---\n",
        "&#27;",
    ),
}  # fmt: skip


def mutate(rng: random.Random, name: str, data: bytes, others: list[bytes]) -> bytes:
    """Spoil a document in one to four ways, inside its archive where it is one."""
    if data.startswith(b"PK\x03\x04") and rng.random() < 0.7:
        try:
            return _spoil_archive(rng, data, others)
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError):
            pass
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(_BYTES)(rng, data, _kind(name), others)
    return data


def _kind(name: str) -> str:
    suffix = name.rpartition(".")[2]
    return "pdf" if suffix == "pdf" else "text" if suffix in ("txt", "md", "py") else "markup"


def _flip(rng: random.Random, data: bytes, kind: str, others: list[bytes]) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _overwrite(rng: random.Random, data: bytes, kind: str, others: list[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    fill = rng.choice((b"\x00", b"\xff", b"\x80", b"\x1b", b"9", rng.randbytes(1)))
    run = fill * rng.choice((1, 4, 64, 1024))
    return data[:at] + run + data[at + len(run) :]


def _truncate(rng: random.Random, data: bytes, kind: str, others: list[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _cut_out(rng: random.Random, data: bytes, kind: str, others: list[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 16, 256, 4096)) :]


def _repeat(rng: random.Random, data: bytes, kind: str, others: list[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    part = data[at : at + rng.choice((1, 8, 64, 512))]
    return data[:at] + part * rng.choice((2, 16, 256)) + data[at:]


def _splice(rng: random.Random, data: bytes, kind: str, others: list[bytes]) -> bytes:
    other = rng.choice(others)
    begin = rng.randrange(len(other) + 1)
    at = rng.randrange(len(data) + 1)
    return data[:at] + other[begin : begin + rng.choice((64, 1024, 65536))] + data[at:]


def _insert_word(rng: random.Random, data: bytes, kind: str, others: list[bytes]) -> bytes:
    word = rng.choice(_WORDS[kind]).encode("utf-8")
    at = rng.randrange(len(data) + 1)
    return data[:at] + word * rng.choice((1, 1, 1, 50)) + data[at:]


def _change_number(rng: random.Random, data: bytes, kind: str, others: list[bytes]) -> bytes:
    places = [i for i in range(len(data)) if data[i : i + 1].isdigit()]
    if not places:
        return data
    at = end = rng.choice(places)
    while data[end : end + 1].isdigit():
        end += 1
    return data[:at] + rng.choice(_HUGE).encode() + data[end:]


_BYTES: tuple[Callable[[random.Random, bytes, str, list[bytes]], bytes], ...] = (
    _flip, _overwrite, _truncate, _cut_out, _repeat, _splice, _insert_word, _insert_word,
    _change_number,
)  # fmt: skip


def _spoil_archive(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Take an archive apart, spoil a member or the directory, and put it together again."""
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    name = rng.choice(list(members))
    trick = rng.randrange(8)
    if trick <= 2:
        for _ in range(rng.choice((1, 2))):
            members[name] = rng.choice(_BYTES)(rng, members[name], _kind(name), others)
    elif trick == 3:
        del members[name]
    elif trick == 4:
        members[rng.choice(_NAMES)] = members.pop(name)
    elif trick == 5:
        members[name] = rng.choice(others)  # an archive inside the archive among them
    elif trick == 6:
        return _link(members, name)
    packed = archive(members)
    return _lie(rng, packed) if trick == 7 else packed


_NAMES = (
    "../../../../tmp/cca-fuzz-escaped", "/tmp/cca-fuzz-escaped", "C:\\x", "a\\..\\..\\b",
    "x" * 60_000,
    "con", ".", "..", "a//b", "\u202ex", "mimetype", "META-INF/encryption.xml",
    "word/document.xml/",
)  # fmt: skip


def _link(members: dict[str, bytes], name: str) -> bytes:
    """Make a member a symbolic link to the canary."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for member, body in members.items():
            info = zipfile.ZipInfo(member)
            if member == name:
                info.create_system, info.external_attr = 3, 0o120777 << 16
                body = CANARY_PATH.encode()
            out.writestr(info, body)
    return buffer.getvalue()


def _lie(rng: random.Random, packed: bytes) -> bytes:
    """Falsify a field of a header: flags, method, check sum, sizes, offset."""
    out = bytearray(packed)
    magic, fields = rng.choice(
        ((b"PK\x01\x02", (8, 10, 16, 20, 24, 28, 42)), (b"PK\x03\x04", (6, 8, 14, 18, 22, 26)))
    )
    heads = [i for i in range(len(out)) if out.startswith(magic, i)]
    at = rng.choice(heads) + rng.choice(fields)
    out[at : at + 2] = rng.choice((b"\xff\xff", b"\x01\x00", b"\x00\x00", b"\x63\x00"))
    return bytes(out)
