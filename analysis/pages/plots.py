"""How a report's plots are drawn: in the page's colours, right on light and on dark, and as files for a paper."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import get_named_colors_mapping
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter

INK, GRID, ACCENT, WARN = (f"flysoma:{name}" for name in ("ink", "grid", "accent", "warn"))
_SENTINELS = {INK: "#010203", GRID: "#040506", ACCENT: "#070809", WARN: "#0a0b0c"}
_THEME = {INK: "currentColor", GRID: "var(--grid)", ACCENT: "var(--accent)", WARN: "var(--warn)"}
_PAPER = {INK: "#000000", GRID: "#d9d6cf", ACCENT: "#2f7396", WARN: "#c2452d"}
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
SMALL = (3.7, 2.6)  # inches
MANY = 3000  # dots; more are drawn as pixels, to keep files small


@dataclass(frozen=True)
class Plot:
    """A figure and what it shows.

    Attributes:
      name: also of its files.
      caption: a sentence or two.
      draw: fills a figure.
      data: what is drawn.
      size_in: width and height, inches.
      laid_out: whether `draw` places its axes itself.
    """

    name: str
    caption: str
    draw: Callable[[Figure], None]
    data: pd.DataFrame
    size_in: tuple[float, float] = SMALL
    laid_out: bool = False


def inline(plot: Plot) -> str:
    """An SVG element that takes the page's colours; the same plot gives the same text."""
    text = _render(plot, _SENTINELS, "svg").decode()
    text = text[text.index("<svg") :]
    for name, drawn in _SENTINELS.items():
        text = text.replace(drawn, _THEME[name])
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # the page's own face; text is anchored, so other widths do no harm
    text = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "inherit-face", text)
    text = text.replace("inherit-face", "system-ui, sans-serif")
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg class="plot" \1>', text, count=1)


def plot_files(plot: Plot) -> dict[str, bytes]:
    """The plot for a paper, as SVG and PDF, and its data as CSV, by file name; the same plot gives the same bytes."""
    return {
        f"{plot.name}.svg": _render(plot, _PAPER, "svg"),
        f"{plot.name}.pdf": _render(plot, _PAPER, "pdf"),
        f"{plot.name}.csv": plot.data.to_csv(index=False).encode(),
    }


def _render(plot: Plot, colours: Mapping[str, str], form: str) -> bytes:
    known = get_named_colors_mapping()
    for name, colour in colours.items():
        known[name] = colour  # one by one: what was resolved before is forgotten
    style: Any = _STYLE | {"svg.hashsalt": plot.name}
    with mpl.rc_context(style):
        figure = Figure(figsize=plot.size_in, layout=None if plot.laid_out else "constrained")
        (FigureCanvasSVG if form == "svg" else FigureCanvasPdf)(figure)
        plot.draw(figure)
        buffer = io.BytesIO()
        dated = {"Date": None} if form == "svg" else {"CreationDate": None}
        figure.savefig(buffer, format=form, dpi=200, metadata=dated)
    return buffer.getvalue()


def histogram(axes: Axes, values: np.ndarray, edges: np.ndarray, unit: str, label: str) -> None:
    """Bars, with the median marked."""
    axes.grid(True, axis="y")
    axes.hist(values, bins=edges.tolist(), color=ACCENT, alpha=0.85, rwidth=0.92)
    axes.set_xlabel(label)
    axes.set_ylabel("somas")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.set_ylim(0, 1.25 * axes.dataLim.ymax or 1)  # room for words above the bars
    if len(values):
        median = float(np.median(values))
        mark(axes, median, f"median {median:.3g} {unit}".rstrip(), WARN)
    say_if_empty(axes, len(values))


def mark(axes: Axes, at: float, words: str, colour: str, other: bool = False) -> None:
    """A vertical line with words at its top; that of another volume is dashed, its words one line lower."""
    axes.axvline(at, ymax=0.9 if other else 1, color=colour, lw=1, ls=(0, (2, 2)) if other else "-")
    axes.annotate(
        words,
        (at, 0.99),
        xycoords=("data", "axes fraction"),
        xytext=(4, -10 if other else 0),
        textcoords="offset points",
        size=7.5,
        va="top",
    )


def say_if_empty(axes: Axes, n: int) -> None:
    """Words where there would be an empty plot."""
    if n == 0:
        axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])


def log_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic x axis with round numbers."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if low <= t <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
