"""Rendering of plots, as SVG in the colours of a page (light or dark) and as SVG and PDF files for publications."""

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
_PALE = "#4a8fb0"
_PRINT = {INK: "#000000", GRID: "#d9d6cf", ACCENT: "#2f7396", WARN: "#c2452d"}
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
RASTERIZE_ABOVE = 3000  # dots; more are rasterized to keep files small


@dataclass(frozen=True)
class Plot:
    """A plot and its data.

    Attributes:
      name: name of the plot and of its files.
      caption: one or more sentences.
      draw: draws the plot in a figure.
      data: plotted data.
      size_in: width and height in inches.
      laid_out: whether `draw` positions its axes itself.
    """

    name: str
    caption: str
    draw: Callable[[Figure], None]
    data: pd.DataFrame
    size_in: tuple[float, float] = SMALL
    laid_out: bool = False


def inline_svg(plot: Plot) -> str:
    """Return an SVG element that uses the colours of the page; equal plots give equal text."""
    text = _render(plot, _SENTINELS, "svg").decode()
    text = text[text.index("<svg") :]
    for name, drawn in _SENTINELS.items():
        text = text.replace(drawn, _THEME[name])
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # use the font of the page; text is anchored, so that a different width does not matter
    text = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "inherit-face", text)
    text = text.replace("inherit-face", "system-ui, sans-serif")
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg class="plot" \1>', text, count=1)


def plot_files(plot: Plot) -> dict[str, bytes]:
    """Return the plot as SVG and PDF and its data as CSV, by file name; equal plots give equal bytes."""
    return {
        f"{plot.name}.svg": _render(plot, _PRINT, "svg"),
        f"{plot.name}.pdf": _render(plot, _PRINT, "pdf"),
        f"{plot.name}.csv": plot.data.to_csv(index=False).encode(),
    }


def _render(plot: Plot, colours: Mapping[str, str], form: str) -> bytes:
    named_colours = get_named_colors_mapping()
    for name, colour in colours.items():
        named_colours[name] = colour  # item by item, which clears matplotlib's cache of colours
    style: Any = _STYLE | {"svg.hashsalt": plot.name}
    with mpl.rc_context(style):
        figure = Figure(figsize=plot.size_in, layout=None if plot.laid_out else "constrained")
        (FigureCanvasSVG if form == "svg" else FigureCanvasPdf)(figure)
        plot.draw(figure)
        buffer = io.BytesIO()
        no_date = {"Date": None} if form == "svg" else {"CreationDate": None}
        figure.savefig(buffer, format=form, dpi=200, metadata=no_date)
    return buffer.getvalue()


def histogram(axes: Axes, values: np.ndarray, edges: np.ndarray, unit: str, label: str) -> None:
    """Draw a histogram and mark the median."""
    axes.grid(True, axis="y")
    axes.hist(values, bins=edges.tolist(), color=ACCENT, alpha=0.85, rwidth=0.92)
    axes.set_xlabel(label)
    axes.set_ylabel("somas")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.set_ylim(0, 1.25 * axes.dataLim.ymax or 1)  # space for labels above the bars
    if len(values):
        median = float(np.median(values))
        mark_value(axes, median, f"median {median:.3g} {unit}".rstrip(), WARN)
    note_if_empty(axes, len(values))


def mark_value(axes: Axes, at: float, text: str, colour: str, reference: bool = False) -> None:
    """Draw a labelled vertical line; that of a reference value is dashed, with its label one line lower."""
    style: Any = (0, (2, 2)) if reference else "-"
    axes.axvline(at, ymax=0.9 if reference else 1, color=colour, lw=1, ls=style)
    axes.annotate(
        text,
        (at, 0.99),
        xycoords=("data", "axes fraction"),
        xytext=(4, -10 if reference else 0),
        textcoords="offset points",
        size=7.5,
        va="top",
    )


def scatter(axes: Axes, x: pd.Series, y: pd.Series, colour: str, many: bool) -> None:
    """Draw dots; if there are many, draw them small and pale and rasterize those in the accent colour."""
    pale = many and colour == ACCENT
    axes.plot(
        x,
        y,
        ls="none",
        marker=".",
        ms=2 if many else 5,
        mew=0,
        alpha=0.35 if many else 0.75,
        color=_PALE if pale else colour,
        rasterized=pale,
    )


def note_if_empty(axes: Axes, n: int) -> None:
    """Write a note in a plot without data."""
    if n == 0:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])


def set_log_axis(axes: Axes, low: float, high: float) -> None:
    """Make the x axis logarithmic, with ticks at round numbers."""
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if low <= t <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
