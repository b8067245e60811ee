"""The picture of ``cca ask --map``: what it shows is what was looked at."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reading_helpers import make_document

from cca_cli import attention_map
from cca_models.documents import Document
from cca_models.reading.looking import Look

figures = pytest.importorskip("matplotlib.figure")

# Two documents of 40 and 30 tokens; most attention falls on tokens 50 to 53, in the second.
PAGES = (((0, 10), (10, 10), (10, 40)), ((0, 20), (20, 30)))


def make_look(**changes: Any) -> Look:
    shares = [torch.zeros(2, 40), torch.zeros(2, 30)]
    shares[0][:, 0] = 0.25
    shares[1][:, 10:14] = 0.75 / 4
    facts: dict[str, Any] = {
        "rows": ("layer 0, head 1", "layer 1, head 3"), "shares": tuple(shares), "pages": PAGES,
        "read": ((1, 10, 20), (0, 12, 16)), "cited": ((1, 11, 13),),
    }  # fmt: skip
    return Look(**{**facts, **changes})


def draw(
    monkeypatch: pytest.MonkeyPatch, path: Path, look: Look, documents: list[Document], **texts: str
) -> Any:
    """Draw a map and return the figure."""
    drawn = []
    real = figures.Figure.savefig

    def keep(self: Any, *args: Any, **options: Any) -> None:
        drawn.append(self)
        real(self, *args, **options)

    monkeypatch.setattr(figures.Figure, "savefig", keep)
    monkeypatch.setattr("cca_models.reading.look", lambda stream: look)
    answer = SimpleNamespace(answer=texts.get("answer", "The nephew."))
    stream = SimpleNamespace(
        reader=SimpleNamespace(documents=documents), read="focus",
        question=texts.get("question", "Who?"), finished=lambda: answer,
    )  # fmt: skip
    told: list[str] = []
    attention_map.save_map(stream, path, warn=told.append)  # type: ignore[arg-type]
    (figure,) = drawn
    figure.told = told
    return figure


@pytest.fixture
def documents() -> list[Document]:
    return [make_document("a", "", "b"), make_document("c", "d")]


def test_bars_are_the_pages_shares(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, documents: list[Document]
) -> None:
    figure = draw(monkeypatch, tmp_path / "out.png", make_look(), documents)
    first, second = (patch for patch in figure.axes[0].patches if hasattr(patch, "get_data"))
    assert first.get_data().values.tolist() == pytest.approx([25, 0, 0])
    assert first.get_data().edges == pytest.approx([0, 10, 10, 40])
    assert second.get_data().values.tolist() == pytest.approx([75, 0], abs=1e-4)
    assert second.get_data().edges == pytest.approx([40, 60, 70])


def test_marks_stand_where_the_passages_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, documents: list[Document]
) -> None:
    figure = draw(monkeypatch, tmp_path / "out.png", make_look(), documents)
    marks = {
        (patch.get_x(), patch.get_x() + patch.get_width())
        for patch in figure.axes[0].patches
        if hasattr(patch, "get_x")
    }
    assert marks == {(50, 60), (12, 16), (51, 53)}
    assert [text.get_text() for text in figure.axes[0].texts] == ["p. 1"]
    # Where nothing was quoted, what was read is named.
    figure = draw(monkeypatch, tmp_path / "out.png", make_look(cited=()), documents)
    assert [text.get_text() for text in figure.axes[0].texts] == ["p. 3", "p. 1"]


def test_rows_are_bright_where_the_heads_looked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, documents: list[Document]
) -> None:
    figure = draw(monkeypatch, tmp_path / "out.png", make_look(), documents)
    (image,) = figure.axes[1].images
    shown = torch.as_tensor(image.get_array().data)
    assert shown.shape == (2, 70)
    assert {int(i) for i in (shown[0] > 0).nonzero()} == {0, 50, 51, 52, 53}
    assert image.get_extent() == [0, 70, 2, 0]
    assert [t.get_text() for t in figure.axes[1].get_yticklabels()] == list(make_look().rows)


@pytest.mark.parametrize("tokens", [899, 900, 901, 12_345])
def test_long_documents_are_put_into_columns(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokens: int
) -> None:
    share = torch.zeros(1, tokens)
    share[0, tokens - 1] = 1.0
    look = Look(
        rows=("layer 0",), shares=(share,), pages=(((0, tokens),),), read=(), cited=()
    )  # fmt: skip
    figure = draw(monkeypatch, tmp_path / "out.png", look, [make_document("a")])
    shown = torch.as_tensor(figure.axes[1].images[0].get_array().data)
    assert shown.shape == (1, min(tokens, 900))
    assert int(shown.argmax()) == shown.shape[1] - 1 and float(shown.sum()) == pytest.approx(1)


def test_texts_are_shown_as_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, documents: list[Document]
) -> None:
    figure = draw(
        monkeypatch, tmp_path / "out.png", make_look(), documents,
        question="What costs $5 and\n$\\frac$?\x1b[31m", answer="x" * 400,
    )  # fmt: skip
    question, answer = figure.get_suptitle().split("\n")
    assert question == "What costs $5 and $\\frac$?" and len(answer) < 120 and answer[-1] == "…"
    assert figure.told == []
    figure = draw(monkeypatch, tmp_path / "out.png", make_look(), documents, question="灯台?")
    assert len(figure.told) == 1 and "boxes" in figure.told[0]


@pytest.mark.parametrize(
    ("name", "file"), [("7", "out-7.png"), ("a/../b c", "out-a_.._b_c.png"), ("灯", "out-_.png")]
)
def test_files_of_several_maps(name: str, file: str) -> None:
    assert attention_map.map_file(Path("shelf/out.png"), name) == Path("shelf") / file
