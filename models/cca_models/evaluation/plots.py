"""The needle's heat map: depth by length, one panel a method. Needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from cca_models.evaluation.results import grouped, length_name
from cca_models.evaluation.types import Row


def save_heat_map(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Draw the share of needles found.

    Args:
        rows: Of the task `needle`.
        path: A file ending in .png, .svg or .pdf.
        title: A line above.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    # Half a second, and not installed by default.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lengths = sorted({row["length"] for row in rows})
    depths = sorted({row["depth"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(1.5 + 4 * max(1, len(methods)), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, max(1, len(methods)), squeeze=False)[0]
    cells = grouped(rows, "method", "depth", "length")
    image = None
    for axes, method in zip(panels, methods, strict=False):
        share = [[_mean(cells.get((method, d, n), [])) for n in lengths] for d in depths]
        image = axes.imshow(share, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
        axes.set_title(method)
        axes.set_xticks(range(len(lengths)), [length_name(n) for n in lengths])
        axes.set_yticks(range(len(depths)), [f"{100 * d:.0f} %" for d in depths])
        axes.set_xlabel("tokens of context")
        for i, line in enumerate(share):
            for j, value in enumerate(line):
                if value == value:
                    axes.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7)
    panels[0].set_ylabel("depth of the needle")
    if image is not None:
        figure.colorbar(image, ax=list(panels), label="found", shrink=0.8)
    figure.suptitle(title, fontsize=7)
    figure.savefig(path, dpi=150)


def _mean(rows: Sequence[Row]) -> float:
    """Give the share found; not a number where there is nothing, which stays blank."""
    values = [float(row["metrics"]["found"]) for row in rows]
    return sum(values) / len(values) if values else float("nan")
