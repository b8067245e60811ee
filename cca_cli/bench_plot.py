"""The results of ``cca bench`` as a picture; needs the extra ``plot``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cca_cli.errors import UsageError
from cca_cli.formatting import format_bytes
from cca_models.attention_styles import attention_style

if TYPE_CHECKING:
    from cca_models.benchmarks_results import Row

__all__ = ["check_plot", "save_plot"]

_FORMATS = (".png", ".svg", ".pdf")
# Entries of a legend that fit above the lines of a panel.
_INSIDE = 4
_NAMES = {"full": "full (dense SDPA)", "cca": "cca"}


def check_plot(path: Path) -> None:
    """Check, before anything is measured, that a picture can be made.

    Raises:
        UsageError: If matplotlib is missing or the file's kind is not one that it writes.
    """
    if path.suffix.lower() not in _FORMATS:
        raise UsageError(
            f"--plot {path}: the name must end in {', '.join(_FORMATS)}",
            hint=f"--plot {path.with_suffix('.png')}",
        )
    try:
        # Half a second, and not installed by default.
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--plot needs matplotlib, which is not installed", hint="pip install 'cca[plot]'"
        ) from error


def save_plot(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Draw prefill seconds, decode milliseconds and KV bytes over length.

    Args:
        rows: The results; those without figures are named beneath the picture.
        path: A file ending in .png, .svg or .pdf.
        title: A line above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    panels: tuple[tuple[str, Callable[[Row], float | None], Callable[[float], str]], ...] = (
        ("prefill", lambda row: row.prefill_s, _seconds),
        ("decode, per token", lambda row: row.decode_ms, lambda ms: _seconds(ms / 1000)),
        ("keys and values held", lambda row: row.kv_bytes, lambda size: format_bytes(round(size))),
    )
    lengths = sorted({row.length for row in rows})
    for axes, (name, value, label) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.set_title(name)
        for method in dict.fromkeys(row.method for row in rows):
            own = [row for row in rows if row.method == method]
            _draw(axes, own, value, sampling=name == "prefill")
        _scale(axes, lengths, label, base=2 if "held" in name else 10)
    handles = _legend(rows)
    if len(handles) <= _INSIDE:
        figure.axes[0].legend(handles=handles, fontsize=9, loc="upper left", frameon=False)
    else:
        figure.legend(handles=handles, fontsize=9, loc="outside right upper", frameon=False)
    figure.suptitle(title, fontsize=10)
    gone = [f"{row.method} at {row.length:,}: {row.mark[:60]}" for row in rows if not row.n]
    figure.supxlabel("tokens" + (f"\nno figure: {'; '.join(gone)}" if gone else ""), fontsize=9)
    figure.savefig(path, dpi=150)


def _draw(
    axes: Any, rows: Sequence[Row], value: Callable[[Row], float | None], *, sampling: bool
) -> None:
    """Draw one method: a line, its points hollow where they were sampled."""
    color, marker, width = attention_style(rows[0].method)
    points = [(row.length, y, sampling and bool(row.sampled)) for row in rows if (y := value(row))]
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], color=color, linewidth=width)
    for x, y, hollow in points:
        face = "white" if hollow else color
        axes.plot(x, y, marker=marker, color=color, markerfacecolor=face, markersize=4 * width)


def _scale(axes: Any, lengths: Sequence[int], label: Callable[[float], str], *, base: int) -> None:
    """Set log axes with ticks that say what people say: 32k, 2 s, 1.5 GiB."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=base)
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _length(round(x))))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", rotation=45 if len(lengths) > 5 else 0)
    axes.yaxis.set_major_locator(LogLocator(base=base, subs=(1, 2, 5) if base == 10 else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: label(y)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.18)
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _legend(rows: Sequence[Row]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = []
    for method in dict.fromkeys(row.method for row in rows):
        color, marker, _ = attention_style(method)
        handles.append(Line2D([], [], color=color, marker=marker, label=_NAMES.get(method, method)))
    if any(row.sampled for row in rows):
        hollow = Line2D([], [], color="#777777", markerfacecolor="white", linestyle="none")
        hollow.set(marker="o", label="sampled")
        handles.append(hollow)
    return handles


def _length(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else f"{tokens:,}"


def _seconds(seconds: float) -> str:
    return f"{seconds:g} s" if seconds >= 1 else f"{1000 * seconds:g} ms"
