"""Zip files that hold documents (EPUB, DOCX, ODT, PPTX), read within bounds.

A zip file may claim or hold far more than its size suggests. Members are found by name in a
dictionary and read into memory piece by piece; nothing is ever written to disk and no member's
name becomes a path, so names like "../../etc/passwd" and symbolic links mean nothing here.
"""

from __future__ import annotations

import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import unquote

from cca_cli.documents.source import Source
from cca_cli.errors import InputError

__all__ = ["Archive", "open_archive", "parse_xml", "resolve"]

MAX_MEMBERS = 20_000
MAX_MEMBER_BYTES = 64 << 20
MAX_TOTAL_BYTES = 256 << 20
# zipfile builds an object for every entry of this table before anyone can count them.
MAX_DIRECTORY_BYTES = 4 << 20
_CHUNK = 1 << 16
_END_OF_DIRECTORY = b"PK\x05\x06"
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, struct.error)


class Archive:
    """The members of a zip file by name, with a budget of bytes that all reading shares."""

    def __init__(self, source: Source, archive: zipfile.ZipFile) -> None:
        self._source = source
        self._archive = archive
        self._members = {info.filename: info for info in archive.infolist()}
        self._left = MAX_TOTAL_BYTES

    @property
    def names(self) -> list[str]:
        """Names of the members, in the order of the file."""
        return list(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def read(self, name: str) -> bytes:
        """Return a member's bytes.

        Raises:
            InputError: If it is missing, encrypted or damaged, or too large once unpacked.
        """
        info = self._members.get(name)
        if info is None:
            raise damaged(self._source, f"it lacks {name}")
        if info.flag_bits & 0x1:
            raise InputError(
                f"{self._source.shown}: {name} in it is encrypted",
                hint="save it without a password, then run cca on that file",
            )
        limit = min(MAX_MEMBER_BYTES, self._left)
        pieces: list[bytes] = []
        size = 0
        try:
            with self._archive.open(info) as stream:
                # The size in the directory can lie, so what comes out is counted.
                while piece := stream.read(_CHUNK):
                    size += len(piece)
                    if size > limit:
                        raise self._too_large(name)
                    pieces.append(piece)
        except InputError:
            raise
        except (*_BROKEN, RuntimeError, NotImplementedError) as error:
            raise damaged(self._source, f"{name}: {_reason(error)}") from error
        self._left -= size
        return b"".join(pieces)

    def read_xml(self, name: str) -> Any:
        """Return the root element of an XML member.

        Raises:
            InputError: As `read` and `parse_xml`.
        """
        return parse_xml(self._source, name, self.read(name))

    def _too_large(self, name: str) -> InputError:
        return InputError(
            f"{self._source.shown}: unpacks to more than cca takes ({name}: "
            f"{MAX_MEMBER_BYTES >> 20} MiB a part, {MAX_TOTAL_BYTES >> 20} MiB in all)",
            hint="such a file may be a zip bomb; if you trust it, convert it to plain text first",
        )


@contextmanager
def open_archive(source: Source) -> Iterator[Archive]:
    """Open a zip file.

    Raises:
        InputError: If it is damaged, or has too many members.
    """
    with source.opened() as stream:
        _check_directory(source, stream)
        try:
            archive = zipfile.ZipFile(stream)
        except (*_BROKEN, NotImplementedError) as error:
            raise damaged(source, _reason(error)) from error
        with archive:
            if len(archive.infolist()) > MAX_MEMBERS:
                raise _too_many(source)
            yield Archive(source, archive)


def _check_directory(source: Source, stream: BinaryIO) -> None:
    """Refuse a table of members that would fill the memory, before zipfile reads it."""
    # Not source.size: a file may have changed since it was measured.
    stream.seek(max(0, stream.seek(0, 2) - (1 << 16) - 22))
    tail = stream.read()
    at = tail.rfind(_END_OF_DIRECTORY)
    if 0 <= at <= len(tail) - 22:
        size = int.from_bytes(tail[at + 12 : at + 16], "little")
        # 0xFFFFFFFF refers to the zip64 record, which no document of 256 MiB needs.
        if size > MAX_DIRECTORY_BYTES:
            raise _too_many(source)
    stream.seek(0)


def _too_many(source: Source) -> InputError:
    return InputError(
        f"{source.shown}: holds more than the {MAX_MEMBERS:,} parts that cca takes",
        hint="such a file may be a zip bomb; if you trust it, convert it to plain text first",
    )


def parse_xml(source: Source, name: str, data: bytes) -> Any:
    """Parse XML without expanding entities, loading anything or going without bounds.

    Args:
        source: The file, for messages.
        name: What is parsed, for messages.
        data: The XML.

    Returns:
        The root element, an `lxml.etree._Element`.

    Raises:
        InputError: If it is not well-formed, uses entities of its own, or nests too deeply.
    """
    from lxml import etree

    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        # libxml2's own bounds on depth, names and text nodes stay in force.
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise damaged(source, f"{name}: {_reason(error)}") from error
    if root is None:
        raise damaged(source, f"{name}: it is empty")
    if next(root.iter(etree.Entity), None) is not None:
        raise damaged(source, f"{name}: it uses entities of its own, which are not expanded")
    return root


def resolve(base: str, reference: str) -> str:
    """Return the member that a reference inside another member means, without its fragment.

    Args:
        base: Name of the member that holds the reference.
        reference: A relative or absolute IRI path, percent-encoded or not.
    """
    path = unquote(reference.partition("#")[0])
    joined = path if path.startswith("/") else posixpath.join(posixpath.dirname(base), path)
    return posixpath.normpath(joined).lstrip("/") if path else base


def damaged(source: Source, reason: str) -> InputError:
    """Return the error for a document whose parts do not fit."""
    return InputError(f"{source.shown}: damaged file ({reason})", hint="fetch the file again")


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text[:120] or type(error).__name__
