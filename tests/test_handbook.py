"""The handbook PDF: up to date, complete, numbered; and what its pages claim in figures."""

import io
import re
import sys
from pathlib import Path

import pytest

from cca_cli.errors import ExitCode
from cca_models.config import CCAConfig

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "tools"))

pytest.importorskip("reportlab", reason="the handbook is built with reportlab, an extra of dev")
pytest.importorskip("matplotlib", reason="the handbook's fonts come with matplotlib")

import build_handbook  # noqa: E402
import handbook_flowables as flow  # noqa: E402
from handbook_style import HandbookError, register_fonts  # noqa: E402
from pypdf import PdfReader  # noqa: E402


@pytest.fixture(scope="module")
def pdf() -> bytes:
    return build_handbook.build(DOCS)


@pytest.fixture(scope="module")
def reader(pdf: bytes) -> PdfReader:
    return PdfReader(io.BytesIO(pdf))


@pytest.fixture(scope="module")
def texts(reader: PdfReader) -> list[str]:
    return [page.extract_text() for page in reader.pages]


def make_pages(folder: Path, **pages: str) -> Path:
    for stem, text in pages.items():
        (folder / f"{stem}.md").write_text(text, encoding="utf-8")
    return folder


def test_committed_handbook_is_up_to_date() -> None:
    assert not build_handbook.stale(DOCS), "run: python tools/build_handbook.py"


def test_same_pages_give_same_bytes(pdf: bytes) -> None:
    assert build_handbook.build(DOCS) == pdf


def test_handbook_is_stale_once_a_page_changes(tmp_path: Path) -> None:
    make_pages(tmp_path, index="# One\n\nFirst words.\n")
    assert build_handbook.stale(tmp_path)
    (tmp_path / build_handbook.OUTPUT).write_bytes(build_handbook.build(tmp_path))
    assert not build_handbook.stale(tmp_path)
    make_pages(tmp_path, index="# One\n\nOther words.\n")
    assert build_handbook.stale(tmp_path)


def test_labels_are_roman_then_arabic_and_printed_in_the_foot(
    reader: PdfReader, texts: list[str]
) -> None:
    labels = reader.page_labels
    front = labels.index("1")
    assert front >= 2
    assert labels[:front] == ["i", "ii", "iii", "iv", "v"][:front]
    assert labels[front:] == [str(n) for n in range(1, len(labels) - front + 1)]
    for label, text in list(zip(labels, texts, strict=True))[1:]:
        assert text.split()[-1] == label


def test_outline_and_contents_lead_to_the_headings(reader: PdfReader, texts: list[str]) -> None:
    chapters = [entry for entry in reader.outline if not isinstance(entry, list)]
    found = {path.stem for path in DOCS.glob("*.md")}
    assert len(chapters) == len(found) + 1
    assert [entry.title for entry in chapters][:2] == ["Contents", "1  What cca is"]
    front = reader.page_labels.index("1")
    contents = squeeze("".join(texts[1:front]))
    for entry in chapters[1:]:
        page = reader.get_destination_page_number(entry)
        assert texts[page].startswith(squeeze(entry.title))
        assert f"{squeeze(entry.title)} {reader.page_labels[page]} " in contents


def squeeze(text: str) -> str:
    return " ".join(text.split())


def test_no_word_of_the_pages_is_lost(texts: list[str]) -> None:
    register_fonts()
    printed = "".join("".join(texts).split())
    for path in sorted(DOCS.glob("*.md")):
        for node in flow.Page(path, number=1).root.walk():
            if node.type in ("inline", "fence"):
                for word in flow.plain(node).split():
                    assert word in printed, f"{path.name}: {word!r} is not in the handbook"


def test_signs_and_marks_are_printed_and_extracted(tmp_path: Path) -> None:
    line = "q · k ≈ −1 × 2 → 3 ≥ 2 “café” … – § µ ß"
    code = "x = softmax(q · k / √D)  # → ≤ 1"
    page = f"# Signs\n\n{line}\n\n- `{line}` and **bold ≥ 1**\n\n```\n{code}\n```\n"
    pdf = build_handbook.build(make_pages(tmp_path, index=page))
    text = squeeze(PdfReader(io.BytesIO(pdf)).pages[-1].extract_text())
    assert text.count(line) == 2
    assert "• " + line + " and bold ≥ 1" in text
    assert squeeze(code) in text


def test_character_without_a_glyph_is_an_error_with_its_line(tmp_path: Path) -> None:
    make_pages(tmp_path, index="# One\n\nAll well.\nA robot: \N{ROBOT FACE}\n")
    with pytest.raises(HandbookError, match=r"index\.md:4: no glyph"):
        build_handbook.build(tmp_path)


def test_page_without_a_title_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HandbookError, match=r"index\.md: expected the title"):
        build_handbook.build(make_pages(tmp_path, index="Words.\n"))


def test_repeated_headings_and_long_code_keep_their_pages(tmp_path: Path) -> None:
    code = "\n".join(f"line {n}" for n in range(50))
    parts = "".join(f"## Part {n}\n\n### Options\n\n```\n{code}\n```\n" for n in range(4))
    reader = PdfReader(
        io.BytesIO(build_handbook.build(make_pages(tmp_path, cli=f"# All\n\nWords.\n\n{parts}")))
    )
    sections = next(entry for entry in reader.outline if isinstance(entry, list))
    options = [inner[0] for inner in sections if isinstance(inner, list)]
    pages = [reader.get_destination_page_number(entry) for entry in options]
    assert len(set(pages)) == 4
    assert pages[0] == 2, "long code drags its headings to the next page"
    for page in pages:
        assert "Options line 0" in squeeze(reader.pages[page].extract_text())


def test_links_lead_to_headings_or_stay_words(tmp_path: Path) -> None:
    make_pages(
        tmp_path,
        index="# One\n\n[there](method.md#the-place), [gone](none.md), [out](https://example.org/)\n",
        method="# Two\n\n## The place\n\nHere.\n",
    )
    page = PdfReader(io.BytesIO(build_handbook.build(tmp_path))).pages[2]
    annotations = [a.get_object() for a in page["/Annots"]]
    assert [a["/A"]["/URI"] for a in annotations if "/A" in a] == ["https://example.org/"]
    assert len(annotations) == 2
    assert "gone" in page.extract_text()


def test_long_code_is_wrapped_not_cut(tmp_path: Path) -> None:
    words = [f"word{n}" for n in range(60)]
    page = "# One\n\n```\n" + " ".join(words) + "\n" + "x" * 300 + "\n```\n"
    text = (
        PdfReader(io.BytesIO(build_handbook.build(make_pages(tmp_path, index=page))))
        .pages[-1]
        .extract_text()
    )
    assert [word for word in text.split() if word.startswith("word")] == words
    assert text.count("x") == 300


@pytest.mark.parametrize(
    "sentence",
    [
        "Sixteen past tokens are folded into one core token",
        "At 128K tokens the KV cache is therefore 93 % smaller",
        "it shrinks from 64 GiB to 4.5 GiB",
        "Exit code 5 means that the document is too long for the model.",
        "The library is kept in the folder library inside the cache folder of cca.",
        "The default way is focus.",
    ],
)
def test_demo_questions_are_answered_in_prose(sentence: str, texts: list[str]) -> None:
    assert any(sentence in squeeze(text) for text in texts)


def table_after(page: str, heading: str) -> list[list[str]]:
    """Read the first table after a heading; cells without back-ticks, head row dropped."""
    text = (DOCS / page).read_text(encoding="utf-8")
    section = text[text.index(f"\n{heading}\n") :]
    rows = re.findall(
        r"^\|(.+)\|$", section.split("\n\n|", 1)[1].join("|\n").split("\n\n")[0], re.M
    )
    return [[cell.strip(" `") for cell in row.split("|")] for row in rows[2:]]


def test_worked_example_follows_the_partition() -> None:
    cca = CCAConfig(group_size=4, window=8)
    rows = table_after("method.md", "## A worked example")
    assert len(rows) >= 8
    for p, m, cores, folded, raw, count in rows:
        visible, first = cca.visible_cores(int(p)), cca.raw_start(int(p))
        assert int(m) == visible == max(0, (int(p) + 1 - 8) // 4)
        assert cores == (", ".join(map(str, range(visible))) or "none")
        assert folded == (f"0 to {first - 1}" if visible else "nothing")
        assert raw == f"{first} to {p}"
        assert int(count) == int(p) + 1 - first


def test_sizes_of_the_kv_cache_follow_the_formula() -> None:
    length, cca = 131_072, CCAConfig()
    entries = length // 16 + length - cca.raw_start(length - 1)
    assert entries == 9_216
    unit = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
    rows = table_after("method.md", "## The size of the KV cache")
    assert len(rows) == 4
    for _model, entry, dense, folded, saved in rows:
        each = float(entry.split()[0]) * unit[entry.split()[1]]
        for said, count in ((dense, length), (folded, entries)):
            value, name = said.split()
            digits = len(value.partition(".")[2])
            assert float(value) == pytest.approx(each * count / unit[name], abs=0.51 * 10**-digits)
        assert saved == f"{100 * (1 - entries / length):.0f} %"


def test_cost_figures_follow_the_partition() -> None:
    text = squeeze((DOCS / "method.md").read_text(encoding="utf-8"))
    cca, length = CCAConfig(), 131_072
    pairs = sum(cca.visible_cores(p) + p + 1 - cca.raw_start(p) for p in range(length))
    dense = length * (length + 1) // 2
    assert f"{pairs / 1e6:,.0f} million pairs instead of {dense / 1e6:,.0f} million" in text
    assert f"{dense / pairs:.0f} times fewer" in text
    last = cca.visible_cores(length - 1) + length - cca.raw_start(length - 1)
    assert f"attends to {last:,} keys instead of {length:,}" in text


def test_exit_codes_of_the_design_page_are_those_of_the_program() -> None:
    rows = table_after("design.md", "## Exit codes")
    assert [int(row[0]) for row in rows] == sorted(code.value for code in ExitCode)


def test_example_for_transformers_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiny_checkpoint import make_tiny_checkpoint

    text = (DOCS / "design.md").read_text(encoding="utf-8")
    example = re.search(r"^```python\n(.+?)^```", text, re.M | re.S)
    assert example is not None
    code = example[1].replace(
        "path/to/a/llama/checkpoint", str(make_tiny_checkpoint(tmp_path / "m"))
    )
    (tmp_path / "notes.txt").write_text("The lamp was lit every evening. " * 3, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(code, "docs/design.md", "exec"), names)
    assert names["cache"].get_seq_length() > names["inputs"]["input_ids"].shape[1]
    assert capsys.readouterr().out
