"""Zip files and XML within bounds: bombs, entity tricks, names that lead elsewhere."""

import struct
import time
import tracemalloc
import zipfile

import pytest
from document_files import make_docx, make_epub, make_zip, paragraph

from cca_cli.documents import archives, read_document
from cca_cli.documents.archives import open_archive, parse_xml, resolve
from cca_cli.documents.source import open_source
from cca_cli.errors import InputError


def refused(path):
    with pytest.raises(InputError) as caught:
        read_document(str(path))
    assert caught.value.code == 4 and caught.value.hint
    return caught.value.message


def test_a_member_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1 << 20)
    text = "<w:p><w:r><w:t>" + "a" * (4 << 20) + "</w:t></w:r></w:p>"
    path = make_docx(tmp_path / "bomb.docx", text)
    assert path.stat().st_size < 1 << 17
    refused(path)  # what is imported on the way is not what is measured
    tracemalloc.start()
    assert "unpacks to more than cca takes (word/document.xml" in refused(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20


def test_members_that_together_unpack_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_TOTAL_BYTES", 1 << 20)
    chapters = {f"c{i}.xhtml": f"<p>{'word ' * 60_000}</p>" for i in range(6)}
    assert "unpacks to more" in refused(make_epub(tmp_path / "book.epub", chapters))


def test_a_size_that_lies(tmp_path, monkeypatch):
    """What comes out is counted, whatever the directory says."""
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1 << 16)
    path = make_zip(tmp_path / "a.zip", {"word/document.xml": b"x" * (1 << 20)})
    data = bytearray(path.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)
    path.write_bytes(data)
    with open_archive(open_source(str(path))) as archive:
        try:
            assert len(archive.read("word/document.xml")) <= 1 << 16
        except InputError as error:
            assert "damaged" in error.message or "unpacks" in error.message


def test_too_many_members(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBERS", 50)
    path = make_zip(tmp_path / "a.epub", {f"f{i}": "" for i in range(60)})
    assert "holds more than the 50 parts" in refused(path)


def test_a_directory_that_would_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_DIRECTORY_BYTES", 1000)
    monkeypatch.setattr(zipfile, "ZipFile", None)  # must not be reached
    path = make_zip_unpatched(tmp_path)
    assert "holds more than" in refused(path)


def make_zip_unpatched(folder):
    members = b"".join(
        b"PK\x01\x02" + bytes(24) + struct.pack("<H", 4) + bytes(16) + b"name" for _ in range(50)
    )
    end = b"PK\x05\x06" + bytes(4) + struct.pack("<HHIIH", 50, 50, len(members), 0, 0)
    path = folder / "many.docx"
    path.write_bytes(b"PK\x03\x04" + bytes(30) + members + end)
    return path


def test_names_lead_nowhere(tmp_path):
    """Members with paths and links are names in a dictionary, and nothing is written."""
    link = zipfile.ZipInfo("OPS/link.xhtml")
    link.external_attr = 0o120777 << 16
    path = make_epub(
        tmp_path / "book.epub",
        {"one.xhtml": "<h1>One</h1><p>text of one</p>"},
        extra={"../../evil.txt": "x", "/etc/evil": "x", "C:\\evil": "x"},
    )
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    before = sorted(tmp_path.rglob("*"))
    document = read_document(str(path))
    assert document.pages[0].text == "One\n\ntext of one"
    assert sorted(tmp_path.rglob("*")) == before


def test_references_stay_inside():
    assert resolve("OPS/a/b.opf", "../c%20d.xhtml#x") == "OPS/c d.xhtml"
    assert resolve("OPS/b.opf", "/word/x.xml") == "word/x.xml"
    # Above the top there is nothing in the archive; the name is looked up and not found.
    assert resolve("b.opf", "../../etc/passwd") == "../../etc/passwd"
    assert resolve("OPS/b.opf", "#part") == "OPS/b.opf"


BOMB = (
    '<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    + "]><d>&j;</d>"
)


@pytest.mark.parametrize(
    "xml",
    [
        BOMB,
        '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><d>&x;</d>',
        '<!DOCTYPE d [<!ENTITY x "text">]><d>&x;</d>',
    ],
    ids=["billion laughs", "external", "internal"],
)
def test_entities_are_not_expanded(tmp_path, xml):
    path = tmp_path / "x"
    path.write_text("x")
    started = time.monotonic()
    with pytest.raises(InputError, match="damaged file"):
        parse_xml(open_source(str(path)), "part.xml", xml.encode())
    assert time.monotonic() - started < 2


def test_a_foreign_dtd_is_not_loaded(tmp_path):
    path = tmp_path / "x"
    path.write_text("x")
    xml = b'<!DOCTYPE ncx SYSTEM "http://192.0.2.1/x.dtd"><ncx>text &amp; more</ncx>'
    assert parse_xml(open_source(str(path)), "x", xml).text == "text & more"


def test_deep_nesting_is_refused(tmp_path):
    path = make_docx(tmp_path / "deep.docx", "<w:tbl>" * 100_000 + "</w:tbl>" * 100_000)
    assert "damaged file" in refused(path)


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99])
def test_cut_off_files_are_damaged(tmp_path, keep):
    data = make_docx(tmp_path / "a.docx", paragraph("text " * 5000)).read_bytes()
    path = tmp_path / "cut.docx"
    path.write_bytes(data[: int(len(data) * keep)])
    assert "damaged file" in refused(path)


def test_damaged_bytes_inside(tmp_path):
    path = make_docx(tmp_path / "a.docx", "".join(paragraph(f"text {i}") for i in range(500)))
    data = bytearray(path.read_bytes())
    at = data.find(b"word/document.xml") + 100
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    assert "damaged file (word/document.xml" in refused(path)


def test_encrypted_members(tmp_path):
    path = make_docx(tmp_path / "a.docx", paragraph("text"))
    data = bytearray(path.read_bytes())
    at = 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        data[at + 8] |= 1
        at += 4
    path.write_bytes(data)
    assert "is encrypted" in refused(path)
