"""Pictures of results: the needle's heat map, and all methods side by side. Need matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cca_models.attention_styles import attention_style
from cca_models.evaluation.comparison import Panel
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


def save_comparison(panels: Sequence[Panel], path: Path, *, title: str) -> None:
    """Draw a panel a task, with a line a method and its 95 % intervals.

    Args:
        panels: What to draw; at least one.
        path: A file ending in .png, .svg or .pdf.
        title: A line above.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 + 4.4 * len(panels), 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    drawn: dict[str, Any] = {}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, method in enumerate(panel.lines):
            # Side by side by a little, so that intervals do not lie upon each other.
            shift = 0.2 * (number / max(1, len(panel.lines) - 1) - 0.5)
            drawn[method] = _draw_line(axes, panel, method, shift=shift)
        axes.set_title(panel.title + (", %" if panel.percent else ""))
        axes.set_xlabel(panel.axis)
        axes.set_xticks(range(len(panel.names)), list(panel.names.values()), fontsize=8)
        if panel.percent:
            axes.set_ylim(-3, 103)
        else:
            # A method that falls apart beyond its window must not flatten all others.
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.tick_params(axis="y", which="both", labelsize=8)
        axes.grid(True, color="#dddddd", linewidth=0.6)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.legend(
        drawn.values(), drawn, loc="outside lower center", ncols=min(7, len(drawn)), fontsize=8,
        frameon=False,
    )  # fmt: skip
    figure.suptitle(title, fontsize=7)
    figure.savefig(path, dpi=150)


def _draw_line(axes: Any, panel: Panel, method: str, *, shift: float) -> Any:
    """Draw one method over the panel's lengths; places without a figure are left out."""
    color, marker, width = attention_style(method)
    scale = 100 if panel.percent else 1
    points = [(x, one) for x, one in enumerate(panel.lines[method]) if one is not None]
    at, means = [x + shift for x, _ in points], [scale * one.mean for _, one in points]
    below = [max(0.0, scale * (one.mean - one.low)) for _, one in points]
    above = [max(0.0, scale * (one.high - one.mean)) for _, one in points]
    return axes.errorbar(
        at, means, yerr=[below, above], color=color, marker=marker, linewidth=width,
        markersize=3 * width, elinewidth=0.5, capsize=1.5,
    )  # fmt: skip
