"""The report's plots as SVG that takes the page's colours, so that it is right on light and on dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import EllipseCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    MaxNLocator,
    MultipleLocator,
    NullLocator,
    ScalarFormatter,
)

Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]

HEMIBRAIN_NEAREST_UM = 3.71  # median nearest neighbour of the hemibrain's somas
_WIDTH_IN = 7.6
_MANY = 3000  # somas; more are drawn as pixels, to keep the page small
# drawn in these, replaced by the page's own
_INK, _GRID, _ACCENT, _WARN = "#010203", "#040506", "#070809", "#0a0b0c"
_THEME = {
    _INK: "currentColor",
    _GRID: "var(--grid)",
    _ACCENT: "var(--accent)",
    _WARN: "var(--warn)",
}
_SIZES = LinearSegmentedColormap.from_list("size", ["#4a6fe3", "#22a699", "#e5a32f"])
_SIZE_RANGE = Normalize(2.0, 8.0, clip=True)  # um, of a soma's diameter
_STEPS_UM = (*(f * 10.0**e for e in range(-1, 7) for f in (1, 2, 5)), np.inf)  # between grid lines
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "svg.fonttype": "none",
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def plot_maps(somas: pd.DataFrame, bounds_nm: Bounds) -> str:
    """Centres in the three projections, circles of each soma's true size coloured by it; y downward."""
    low, high = (np.array(b, np.float64) * 1e-3 for b in bounds_nm)
    extent = np.maximum(high - low, 1e-3)
    wide, tall, deep = np.maximum(extent, 0.12 * extent.max())
    across, down = wide + deep, tall + deep
    scale = min((_WIDTH_IN - 1.5) / across, 7.0 / down)
    size_in = (_WIDTH_IN, max(down * scale, 1.2) + 1.1)

    def draw(figure: Figure) -> None:
        grid = figure.add_gridspec(
            2, 2, width_ratios=(wide, deep), height_ratios=(tall, deep), hspace=0.08, wspace=0.08
        )
        span = (across * scale / size_in[0], down * scale / size_in[1])
        left = 0.5 - span[0] / 2 + 0.02
        bottom = 0.6 / size_in[1]
        grid.update(left=left, right=left + span[0], bottom=bottom, top=bottom + span[1])
        step = next(s for s in _STEPS_UM if extent.max() / s <= 8)
        panels = [(grid[0, 0], 0, 1), (grid[0, 1], 2, 1), (grid[1, 0], 0, 2)]
        for cell, i, j in panels:
            axes = figure.add_subplot(cell)
            _map(axes, somas, i, j)
            axes.set_xlim(low[i], low[i] + (wide, tall, deep)[i])
            axes.set_ylim(low[j] + (wide, tall, deep)[j], low[j])
            axes.set_aspect("equal")
            axes.xaxis.set_major_locator(MultipleLocator(step))
            axes.yaxis.set_major_locator(MultipleLocator(step))
            # the panels share axes: each is named once, outside
            axes.set_xlabel(f"{'xyz'[i]} (µm)" if (i, j) != (0, 1) else "")
            axes.set_ylabel(f"{'xyz'[j]} (µm)" if i == 0 else "")
            axes.tick_params(labelbottom=(i, j) != (0, 1), labelleft=i == 0)
        colours = figure.add_axes(
            (left, 1 - 0.22 / size_in[1], 1.6 / size_in[0], 0.08 / size_in[1])
        )
        _size_scale(colours)

    return _svg("maps", size_in, draw)


def plot_volumes(somas: pd.DataFrame) -> str:
    """Histogram of volumes on a logarithmic axis, with the median."""

    def draw(figure: Figure) -> None:
        values = _finite(somas, "volume_um3")
        low, high = _volume_range(values)
        edges = np.geomspace(low, high, _bins(len(values)))
        axes = figure.add_subplot()
        _histogram(axes, values, edges, "µm³", "volume (µm³)")
        _log_axis(axes, edges[0], edges[-1])

    return _svg("volumes", (3.7, 2.6), draw)


def plot_neighbours(somas: pd.DataFrame) -> str:
    """Histogram of the distance to the nearest other soma, with the hemibrain's median beside the own one."""

    def draw(figure: Figure) -> None:
        values = _finite(somas, "nearest_nm") * 1e-3
        top = max(float(np.percentile(values, 99)) * 1.1 if len(values) else 0.0, 8.0)
        axes = figure.add_subplot()
        edges = np.linspace(0, top, _bins(len(values)))
        _histogram(axes, np.minimum(values, top), edges, "µm", "nearest other soma (µm)")
        _mark(axes, HEMIBRAIN_NEAREST_UM, f"hemibrain {HEMIBRAIN_NEAREST_UM}", _INK, other=True)

    return _svg("neighbours", (3.7, 2.6), draw)


def plot_sphericity(somas: pd.DataFrame) -> str:
    """Sphericity against volume; flagged somas in the warning colour."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.grid(True)
        shown = somas[somas["volume_um3"].notna() & somas["sphericity"].notna()]
        odd = shown["suspicious"].to_numpy(bool)
        many = len(shown) > _MANY
        for rows, colour in ((shown[~odd], _ACCENT), (shown[odd], _WARN)):
            axes.plot(
                rows["volume_um3"],
                rows["sphericity"],
                ls="none",
                marker=".",
                ms=2 if many else 5,
                mew=0,
                alpha=0.35 if many else 0.75,
                color="#4a8fb0" if many and colour == _ACCENT else colour,
                rasterized=many and colour == _ACCENT,
            )
        _log_axis(axes, *_volume_range(shown["volume_um3"].to_numpy(np.float64)))
        lowest = float(shown["sphericity"].min()) if len(shown) else 0.5
        axes.set_ylim(min(0.5, np.floor(lowest * 10) / 10), 1.0)
        axes.set_xlabel("volume (µm³)")
        axes.set_ylabel("sphericity")
        _say_if_empty(axes, len(shown))

    return _svg("sphericity", (3.7, 2.6), draw)


def plot_confidence(somas: pd.DataFrame) -> str:
    """Histogram of the network's mean certainty."""

    def draw(figure: Figure) -> None:
        values = _finite(somas, "confidence")
        low = min(0.5, float(values.min())) if len(values) else 0.5
        axes = figure.add_subplot()
        _histogram(axes, values, np.linspace(low, 1.0, _bins(len(values))), "", "confidence")

    return _svg("confidence", (3.7, 2.6), draw)


def _map(axes: Axes, somas: pd.DataFrame, i: int, j: int) -> None:
    axes.grid(True)
    if len(somas) == 0:
        return
    diameter = somas["equivalent_diameter_um"].fillna(4.0).to_numpy(np.float64)
    places = somas[["x_nm", "y_nm", "z_nm"]].to_numpy(np.float64)[:, (i, j)] * 1e-3
    circles = EllipseCollection(
        diameter,
        diameter,
        np.zeros(len(somas)),
        units="xy",
        offsets=places,
        offset_transform=axes.transData,
        facecolors=_SIZES(_SIZE_RANGE(diameter), alpha=0.6),
        edgecolors="none" if len(somas) > _MANY else _SIZES(_SIZE_RANGE(diameter)),
        linewidths=0.5,
        rasterized=len(somas) > _MANY,
    )
    axes.add_collection(circles)


def _size_scale(axes: Axes) -> None:
    axes.imshow(np.linspace(0, 1, 64)[None], cmap=_SIZES, aspect="auto", extent=(2, 8, 0, 1))
    axes.xaxis.set_major_locator(FixedLocator([2, 5, 8]))
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=7.5, pad=2)
    axes.annotate(
        "diameter (µm)", (1, 0.5), xycoords="axes fraction", xytext=(6, 0),
        textcoords="offset points", va="center", size=7.5,
    )  # fmt: skip


def _histogram(axes: Axes, values: np.ndarray, edges: np.ndarray, unit: str, label: str) -> None:
    axes.grid(True, axis="y")
    axes.hist(values, bins=edges.tolist(), color=_ACCENT, alpha=0.85, rwidth=0.92)
    axes.set_xlabel(label)
    axes.set_ylabel("somas")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.set_ylim(0, 1.25 * axes.dataLim.ymax or 1)  # room for words above the bars
    if len(values):
        median = float(np.median(values))
        _mark(axes, median, f"median {median:.3g} {unit}".rstrip(), _WARN)
    _say_if_empty(axes, len(values))


def _mark(axes: Axes, at: float, words: str, colour: str, other: bool = False) -> None:
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


def _say_if_empty(axes: Axes, n: int) -> None:
    if n == 0:
        axes.text(0.5, 0.5, "nothing to show", transform=axes.transAxes, ha="center", va="center")
        axes.set_yticks([])


def _log_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000) if low <= t <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())


def _volume_range(volumes: np.ndarray) -> tuple[float, float]:
    """From 5 to 300 um3, where most somas lie, and farther where some do not."""
    usual = np.append(volumes[volumes > 0], (6.0, 250.0))
    return float(usual.min()) / 1.2, float(usual.max()) * 1.2


def _bins(n: int) -> int:
    return int(np.clip(2 * np.cbrt(n) + 6, 8, 60)) + 1


def _finite(somas: pd.DataFrame, name: str) -> np.ndarray:
    values = somas[name].to_numpy(np.float64)
    return values[np.isfinite(values)]


def _svg(name: str, size_in: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """An inline SVG element; the same input gives the same text."""
    style: Any = _STYLE | {"svg.hashsalt": name}
    with mpl.rc_context(style):
        figure = Figure(figsize=size_in, layout=None if name == "maps" else "constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", dpi=200, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for drawn, themed in _THEME.items():
        text = text.replace(drawn, themed)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # the page's own face; text is anchored, so other widths do no harm
    text = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "inherit-face", text)
    text = text.replace("inherit-face", "system-ui, sans-serif")
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg class="plot" \1>', text, count=1)
