"""docs/documents.md says what becomes of real documents, and both PDF readers agree on them."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from cca_cli.documents import pdfium

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "documents"
PAGE = ROOT / "docs" / "documents.md"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data/documents is absent")
# The rest is read by `python tools/documents_table.py`; here it would take a minute.
SECONDS = 0.2


def load_tool():
    spec = importlib.util.spec_from_file_location(
        "documents_table", ROOT / "tools/documents_table.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rows(name):
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition(f"<!-- {name} -->")[2].partition(f"<!-- end of {name} -->")[0]
    lines = [line for line in table.strip().splitlines()[2:] if line]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


FILES = rows("files")
QUICK = [row for row in FILES if float(row[4]) < SECONDS]


def test_every_file_is_in_the_table():
    tool = load_tool()
    names = {p.relative_to(DATA).as_posix() for p in tool.files_of(DATA)}
    assert {row[0] for row in FILES} == names
    # No empty success: either text, or an error that says why.
    for name, _, pages, characters, _, result in FILES:
        assert re.match(r"exit [45]: \w", result) or (pages and int(characters.replace(",", ""))), (
            name
        )


@pytest.mark.parametrize("row", QUICK, ids=[row[0] for row in QUICK])
def test_a_file_reads_as_the_table_says(row):
    if not pdfium.installed() and row[1] == "pdf":
        pytest.skip("pypdfium2 (extra `fast`) is not installed")
    tool = load_tool()
    secret = tool.passwords(DATA).get(row[0])
    found = tool.row_of(DATA, DATA / row[0], secret)
    assert [found.format, found.pages, found.characters, found.result] == [*row[1:4], row[5]]


AGREED = [row for row in rows("agreement") if row[0] in {quick[0] for quick in QUICK}]


@pytest.mark.parametrize("row", AGREED, ids=[row[0] for row in AGREED])
def test_both_readers_of_pdf_agree(row):
    if not pdfium.installed():
        pytest.skip("pypdfium2 (extra `fast`) is not installed")
    tool = load_tool()
    found = tool.agreement_of(DATA, DATA / row[0], tool.passwords(DATA).get(row[0]))
    assert found.words == int(row[1].replace(",", ""))
    assert (f"{100 * found.same:.1f}", f"{100 * found.order:.1f}") == (row[2], row[3])
    # Arabic, where pdfium exchanges letters, and slides with figures made of loose letters.
    hard = re.search("right_to_left|da2020", row[0])
    assert found.same > (0.8 if hard else 0.97)
