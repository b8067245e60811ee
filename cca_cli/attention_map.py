"""Where in the documents the model looked, as a picture; needs the extra ``plot``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_cli.errors import UsageError
from cca_cli.extras import expect_packages
from cca_cli.formatting import strip_control

if TYPE_CHECKING:
    from cca_models.documents import Document
    from cca_models.reading import AnswerStream, Look

__all__ = ["check_map", "map_file", "save_map"]

_FORMATS = (".png", ".svg", ".pdf")
_COLUMNS = 900
_ATTENTION, _READ, _CITED = "#3060a8", "#e8a33d", "#c44e52"
# What the passages marked are; straight from the memory, none is read again.
_PASSAGES = {"core": "passages with the answer's words", "focus": "passages read again in full"}


def check_map(path: Path, read: str) -> None:
    """Check, before anything is read, that a map can be drawn.

    Raises:
        UsageError: If the file cannot be one, or the way of answering looks at nothing.
        ResourceError: If matplotlib is missing.
    """
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"--map {path}: the name must end in {', '.join(_FORMATS)}",
            hint=f"--map {path.with_suffix('.png')}",
        )
    if not path.absolute().parent.is_dir():
        raise UsageError(
            f"--map {path}: there is no directory {path.parent}", hint=f"mkdir -p {path.parent}"
        )
    if read == "lexical":
        raise UsageError(
            "--map shows the model's attention, and --read lexical uses none",
            hint="leave out --read lexical",
        )
    expect_packages("--map", ["matplotlib"], extra="plot")


def map_file(path: Path, name: str) -> Path:
    """Return the file of one of several maps: out.png becomes out-NAME.png."""
    return path.with_stem(f"{path.stem}-{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[:60]}")


def save_map(stream: AnswerStream, path: Path, *, warn: Callable[[str], None]) -> None:
    """Draw what an answer's question looked at: by page above, by core token below.

    Args:
        stream: The finished answer.
        path: A file ending in .png, .svg or .pdf.
        warn: Told what the picture lacks.

    Raises:
        OSError: If it cannot be written.
    """
    # Half a second, and not installed by default.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from cca_models.reading import look

    seen = look(stream)
    documents = stream.reader.documents
    starts = list(accumulate((share.shape[1] for share in seen.shares), initial=0))
    tall = 0.24 * max(5, len(seen.rows))
    figure = Figure(figsize=(12, 4.2 + tall), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, tall])
    _draw_pages(above, seen, documents, starts, passages=_PASSAGES[stream.read])
    _draw_rows(below, seen, starts)
    _scale_pages(below, seen, documents, starts)
    for axes in (above, below):
        for edge in starts[1:-1]:
            axes.axvline(edge, color="#444444", linewidth=1)
        axes.set_xlim(0, starts[-1])
    answer = stream.finished()
    # A dollar sign is no formula here.
    title = f"{_line(stream.question)}\n{_line(answer.answer)}"
    figure.suptitle(title, fontsize=11, parse_math=False)
    # matplotlib would write a line for every letter that its font lacks.
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        figure.savefig(path, dpi=150)
    if any("missing from font" in str(one.message) for one in told):
        warn(f"{path}: boxes stand for letters that the picture's font lacks")


def _draw_pages(
    axes: Any,
    seen: Look,
    documents: Sequence[Document],
    starts: Sequence[int],
    *,
    passages: str,
) -> None:
    """Draw what each page drew, and mark what was read and what was quoted."""
    from matplotlib.patches import Patch, Rectangle

    top = 0.0
    for shares, pages, start in zip(seen.page_shares(), seen.pages, starts, strict=False):
        edges = [start + a for a, _ in pages] + [start + pages[-1][1]]
        axes.stairs([100 * share for share in shares], edges, fill=True, color=_ATTENTION)
        top = max(top, *(100 * share for share in shares))
    top = top or 1.0
    # Two lanes above the bars; a passage of a long book would be thinner than a line.
    least = starts[-1] / 300
    for spans, color, lane in ((seen.read, _READ, 1.06), (seen.cited, _CITED, 1.14)):
        for doc, a, b in spans:
            width = max(b - a, least)
            left = starts[doc] + (a + b - width) / 2
            axes.add_patch(Rectangle((left, lane * top), width, 0.06 * top, color=color))
    _name_places(axes, seen, documents, starts, height=1.24 * top)
    axes.set_ylim(0, 1.4 * top)
    axes.set_ylabel("share of the attention\non the pages, %")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    named = (
        ("attention of the question", _ATTENTION),
        (passages, _READ),
        ("quoted for the answer", _CITED),
    )
    handles = [Patch(color=color, label=label) for label, color in named]
    axes.legend(
        handles=handles, fontsize=8, ncols=3, frameon=False, loc="lower left",
        bbox_to_anchor=(0, 1.0), borderaxespad=0.2,
    )  # fmt: skip


def _name_places(
    axes: Any, seen: Look, documents: Sequence[Document], starts: Sequence[int], *, height: float
) -> None:
    """Name the pages of what was quoted, or of what was read if nothing was; each once."""
    named: set[tuple[int, int]] = set()
    last = float("-inf")
    for doc, a, b in sorted(seen.cited or seen.read):
        place = next(i for i, (_, end) in enumerate(seen.pages[doc]) if a < end)
        at = starts[doc] + (a + b) / 2
        # Labels that would cover each other help nobody.
        if (doc, place) in named or at - last < starts[-1] / 20:
            continue
        named.add((doc, place))
        last = at
        page = documents[doc].pages[place]
        kind = "p." if documents[doc].unit == "page" else "section"
        color = _CITED if seen.cited else "#9a6a1a"
        # At the edges of the picture a label leans inwards.
        side = (
            "left" if at < starts[-1] / 40 else "right" if at > starts[-1] * 39 / 40 else "center"
        )
        axes.text(at, height, f"{kind} {page.number}", color=color, fontsize=9, ha=side)


def _draw_rows(axes: Any, seen: Look, starts: Sequence[int]) -> None:
    """Draw a row for each head or layer, its brightest column being its strongest."""
    import torch
    from matplotlib.colors import PowerNorm

    whole = torch.cat(list(seen.shares), dim=1)  # [rows, tokens]
    columns = min(_COLUMNS, whole.shape[1])
    edges = torch.linspace(0, whole.shape[1], columns + 1).round().long()
    sums = torch.nn.functional.pad(whole.double().cumsum(1), (1, 0))
    binned = sums[:, edges[1:]] - sums[:, edges[:-1]]
    binned = binned / binned.amax(1, keepdim=True).clamp(min=1e-12)
    axes.imshow(
        binned.numpy(), aspect="auto", interpolation="nearest", cmap="Blues",
        norm=PowerNorm(0.5, vmin=0, vmax=1), extent=(0, starts[-1], len(seen.rows), 0),
    )  # fmt: skip
    step = 1 if len(seen.rows) <= 16 else 2
    axes.set_yticks([i + 0.5 for i in range(0, len(seen.rows), step)], seen.rows[::step])
    axes.tick_params(axis="y", length=0, labelsize=8)
    for spans, color in ((seen.read, _READ), (seen.cited, _CITED)):
        for doc, a, b in spans:
            for edge in (a, b):
                axes.axvline(starts[doc] + edge, color=color, linewidth=0.8)


def _scale_pages(
    axes: Any, seen: Look, documents: Sequence[Document], starts: Sequence[int]
) -> None:
    """Count pages along the axis, and name the documents where there are several."""
    places: list[float] = []
    labels = []
    for document, pages, start in zip(documents, seen.pages, starts, strict=False):
        for (a, b), page in zip(pages, document.pages, strict=True):
            place = start + (a + b) / 2
            if not places or place - places[-1] > starts[-1] / 24:
                places.append(place)
                labels.append(str(page.number))
    axes.set_xticks(places, labels)
    axes.tick_params(axis="x", labelsize=8)
    for document, start, end in zip(documents, starts, starts[1:], strict=False):
        # A short document beside a long one: its name must not hang over the edge.
        side = "right" if starts[-1] - start < starts[-1] / 12 else "center"
        axes.annotate(
            f"{document.unit}s of {_line(document.name, 36)}",
            xy=(end if side == "right" else (start + end) / 2, 0),
            xycoords=("data", "axes fraction"), xytext=(0, -20), textcoords="offset points",
            fontsize=9, ha=side, va="top", parse_math=False,
        )  # fmt: skip


def _line(text: str, most: int = 110) -> str:
    """Put a text on one line of a picture."""
    line = " ".join(strip_control(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
