"""Markdown: sections, labels, outline."""

from pathlib import Path

import pytest

from cca_cli.documents import read_document
from cca_cli.documents.sections import LIMIT

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "documents" / "markdown"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/documents is absent")

SAMPLE = """---
title: front matter
# not a heading
---

Opening words.

Title with `code` and *stress* {#anchor}
========================================

Body of the title.

## Empty

### Deep <a name="x"></a>

```sh
# a comment, not a heading

echo hi
```

> ## a quoted heading

Last words.
"""


def read(tmp_path, text, **options):
    path = tmp_path / "file.md"
    path.write_text(text)
    return read_document(str(path), **options)


def test_structure(tmp_path):
    document = read(tmp_path, SAMPLE)
    assert document.unit == "section"
    assert [(e.title, e.page, e.level) for e in document.outline] == [
        ("Title with code and stress", 2, 0),
        ("Empty", 3, 1),
        ("Deep", 3, 2),
    ]
    assert [p.label for p in document.pages] == ["lines 1-6", "Title with code and stress", "Deep"]


def test_text_is_verbatim(tmp_path):
    pages = read(tmp_path, SAMPLE).pages
    assert "\n\n".join(p.text for p in pages) == SAMPLE.strip()


def test_pages_keep_their_numbers(tmp_path):
    document = read(tmp_path, SAMPLE, pages="3")
    assert [p.number for p in document.pages] == [3]
    assert [e.title for e in document.outline] == ["Empty", "Deep"]
    assert read(tmp_path, SAMPLE, pages="label:deep").pages == document.pages


def test_long_sections_are_cut_between_blocks(tmp_path):
    fence = "```\n" + "code\n\n" * 100 + "```"
    text = "# Long\n\n" + "\n\n".join(["A paragraph. " * 60, fence, "More. " * 300, "End."])
    document = read(tmp_path, text)
    assert [p.label for p in document.pages] == ["Long", "Long (part 2)", "Long (part 3)"][
        : len(document.pages)
    ]
    assert len(document.pages) > 1
    assert all(len(p.text) <= LIMIT for p in document.pages)
    assert sum(fence in p.text for p in document.pages) == 1


def test_two_rules_are_no_front_matter(tmp_path):
    document = read(tmp_path, "---\n\n# One\n\ntext\n\n---\n\n# Two\n\ntext\n")
    assert [e.title for e in document.outline] == ["One", "Two"]


@needs_data
@pytest.mark.parametrize(
    ("name", "headings", "title", "phrase"),
    [
        ("2094-nll.md", 48, "Problem case #4: mutating &mut references", "non-lexical lifetimes"),
        ("mod.md", 92, "go.mod files", "A module is identified by a"),
        ("sec5_authenticators.md", 41, "5.1.1 Memorized Secrets", "Memorized Secret"),
    ],
)
def test_real_files(name, headings, title, phrase):
    document = read_document(str(DATA / name))
    assert len(document.outline) == headings
    entry = next(e for e in document.outline if e.title == title)
    by_number = {p.number: p for p in document.pages}
    last_word = title.split()[-1]
    assert last_word in by_number[entry.page].text
    text = (DATA / name).read_text()
    assert phrase in text and any(phrase in p.text for p in document.pages)
    assert "".join("".join(p.text for p in document.pages).split()) == "".join(text.split())
