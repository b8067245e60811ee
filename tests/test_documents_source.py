"""Files that change, grow, vanish or are no documents at all, while they are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from document_files import make_docx, paragraph

from cca_cli.document_text import ReadOptions
from cca_cli.documents import read_document
from cca_cli.documents.source import FILE_LIMIT, open_source
from cca_cli.errors import InputError

LINE = "The keeper wrote down the weather.\n"


def test_what_a_file_has_grown_by_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text(LINE)
    source = open_source(str(path))
    with path.open("a") as stream:
        stream.write("And one line more.\n")
    assert source.read() == LINE.encode()


@pytest.mark.parametrize("how", ["shorter", "other", "gone", "directory", "replaced"])
def test_a_file_that_is_another_by_now(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(LINE)
    source = open_source(str(path))
    path.unlink()
    if how == "directory":
        path.mkdir()
    elif how != "gone":
        path.write_text({"shorter": LINE[:5], "other": LINE.upper(), "replaced": "x" * 999}[how])
    with pytest.raises(InputError, match=r"a\.txt: the file changed while it was being read"):
        source.read()


def test_a_file_read_in_pieces_that_changes_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cca_cli.documents import docx

    path = make_docx(tmp_path / "a.docx", paragraph("One day."))
    read = docx.open_archive

    def slowly(source: object) -> object:
        make_docx(path, paragraph("Another day."))
        os.utime(path, ns=(1, 1))
        return read(source)  # type: ignore[arg-type]

    assert read_document(str(path)).pages[0].text == "One day."
    monkeypatch.setattr(docx, "open_archive", slowly)
    with pytest.raises(InputError, match="the file changed while it was being read"):
        read_document(str(path))


def test_a_hole_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "hole.txt"
    path.touch()
    os.truncate(path, FILE_LIMIT + 1)
    for call in (lambda: open_source(str(path)), lambda: ReadOptions().check(str(path))):
        with pytest.raises(InputError, match=r"8 GiB, more than the 8 GiB that are read"):
            call()


def test_a_look_takes_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text(LINE)

    def fail(*args: object) -> None:
        raise AssertionError("a digest was taken")

    monkeypatch.setattr("hashlib.file_digest", fail)
    ReadOptions().check(str(path))
