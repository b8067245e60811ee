"""Source code as a document, and directories and patterns as documents."""

import os

import pytest

from cca_cli.documents import read_document
from cca_cli.documents.collect import collect
from cca_cli.errors import InputError

FUNCTION = '''def step_{0}(x):
    """Add {0}."""
    ｆｕｌｌ = x + {0}  # nicht\u00adtrennen
{1}
    return ｆｕｌｌ


'''


def test_code_is_left_as_it_is(tmp_path):
    path = tmp_path / "steps.py"
    path.write_text(FUNCTION.format(1, "    pass\f"), encoding="utf-8")
    document = read_document(str(path))
    assert document.format == "code" and document.unit == "section"
    assert document.pages[0].label == "lines 1-5"
    # No folding of widths, no joining of words; control characters go.
    assert document.pages[0].text.split("\n")[2] == "    ｆｕｌｌ = x + 1  # nicht\u00adtrennen"
    assert [e.title for e in document.outline] == ["def step_1"]


def test_long_code_is_cut_between_definitions(tmp_path):
    path = tmp_path / "steps.py"
    body = "\n".join(f"    y = {i} * x\n" for i in range(60))
    path.write_text("".join(FUNCTION.format(i, body) for i in range(8)))
    document = read_document(str(path))
    assert len(document.pages) >= 4
    assert all(page.text.startswith("def step_") for page in document.pages)
    assert [e.title for e in document.outline] == [f"def step_{i}" for i in range(8)]
    lines = path.read_text().split("\n")
    for page in document.pages:
        first, last = map(int, page.label.removeprefix("lines ").split("-"))
        assert "\n".join(lines[first - 1 : last]) == page.text
    for entry in document.outline:
        assert entry.title in document.pages[entry.page - 1].text


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("pub(crate) async fn run<T>(x: T) {", "pub(crate) async fn run<T>"),
        ("export default class Shelf extends Base {", "export default class Shelf"),
        ("func (b *Book) Read(p []byte) error {", "func (b *Book) Read"),
        ("CREATE TABLE books (", "CREATE TABLE books"),
        ("the function of this", None),
        ("    def inner():", None),
    ],
)
def test_definitions(tmp_path, line, title):
    path = tmp_path / "x.rs"
    path.write_text(f"{line}\n  body\n")
    assert [e.title for e in read_document(str(path)).outline] == ([title] if title else [])


@pytest.fixture
def shelf(tmp_path):
    folder = tmp_path / "shelf"
    for name, content in {
        "b.txt": b"text",
        "a/one.md": b"# One\n\ntext\n",
        "a/page": b"<!DOCTYPE html><p>text</p>",
        "a/photo.jpg": b"\xff\xd8\xff\xe0" + bytes(50),
        "a/data.bin": bytes(range(256)),
        "a/empty.txt": b"",
        "a/utf16.txt": "text".encode("utf-16"),
        ".git/config.txt": b"hidden",
        "node_modules/x.js": b"let x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_a_directory_is_the_documents_in_it(shelf):
    found = collect([str(shelf)])
    assert [os.path.relpath(f, shelf) for f in found.files] == [
        "b.txt", "a/one.md", "a/page", "a/utf16.txt",
    ]  # fmt: skip
    reasons = {os.path.basename(path): reason for path, reason in found.skipped}
    assert set(reasons) == {"photo.jpg", "data.bin", "empty.txt"}
    assert "JPEG" in reasons["photo.jpg"] and reasons["data.bin"] == "binary data"


def test_patterns(shelf):
    assert [os.path.basename(f) for f in collect([f"{shelf}/**/*.md"]).files] == ["one.md"]
    named = collect([f"{shelf}/b.txt", f"{shelf}/*.txt", "-", "missing.pdf"])
    assert [os.path.basename(f) for f in named.files] == ["b.txt", "-", "missing.pdf"]
    with pytest.raises(InputError, match="no file matches"):
        collect([f"{shelf}/*.pdf"])


def test_a_file_called_like_a_pattern(tmp_path):
    path = tmp_path / "a[1].txt"
    path.write_text("text")
    assert collect([str(path)]).files == [str(path)]


def test_links_do_not_lead_in_circles(shelf):
    (shelf / "a" / "up").symlink_to(shelf, target_is_directory=True)
    (shelf / "a" / "dead.txt").symlink_to(shelf / "nothing")
    found = collect([str(shelf)])
    assert len(found.files) == 4
    assert any(path.endswith("dead.txt") for path, _ in found.skipped)


def test_a_directory_without_documents(tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    with pytest.raises(InputError, match=r"directory without documents \(1 files"):
        collect([str(tmp_path)])
