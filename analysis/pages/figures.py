"""The figures of a report, drawn from the table of somas."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, MultipleLocator, NullLocator

from ..tables.seams import NO_SEAMS, Seams, chance_share, face_distances
from .plots import (
    ACCENT,
    INK,
    RASTERIZE_ABOVE,
    WARN,
    Plot,
    histogram,
    mark_value,
    note_if_empty,
    scatter,
    set_log_axis,
)

Bounds = tuple[tuple[float, float, float], tuple[float, float, float]]

# nearest-neighbour distances of the 17,236 annotated somas of the hemibrain (neuPrint): median, and density per um in
# bins of 0.25 um from 1.5 um
_HEMIBRAIN_MEDIAN_UM = 3.71
_HEMIBRAIN_DENSITY = (
    *(0.0, 0.0, 0.003, 0.031, 0.086, 0.215, 0.418, 0.633, 0.707, 0.582, 0.421, 0.285, 0.196),
    *(0.132, 0.089, 0.064, 0.036, 0.021, 0.018, 0.01, 0.009, 0.007, 0.006, 0.005, 0.003, 0.002),
)
_HEMIBRAIN_START_UM, _HEMIBRAIN_BIN_UM = 1.5, 0.25
_WIDTH_IN = 7.6
_SIZES = LinearSegmentedColormap.from_list("size", ["#4a6fe3", "#22a699", "#e5a32f"])
_SIZE_RANGE = Normalize(2.0, 8.0, clip=True)  # diameter of a soma in um
_GRID_STEPS_UM = (*(f * 10.0**e for e in range(-1, 7) for f in (1, 2, 5)), np.inf)


def all_plots(somas: pd.DataFrame, bounds_nm: Bounds, seams: Seams = NO_SEAMS) -> list[Plot]:
    """Return all figures for which there are data."""
    plots = [
        plot_maps(somas, bounds_nm),
        plot_volumes(somas),
        plot_neighbours(somas),
        plot_density(somas),
        plot_sphericity(somas),
        plot_confidence(somas),
        plot_neurites(somas),
    ]
    if somas["depth_nm"].notna().any():
        plots.append(plot_depth(somas))
    if seams:
        plots += [plot_seams(somas, seams), plot_blocks(somas, bounds_nm, seams)]
    return plots


def plot_maps(somas: pd.DataFrame, bounds_nm: Bounds) -> Plot:
    """Plot three orthogonal projections of the somas as circles of true size, coloured by size; y runs downward."""
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
        step = next(s for s in _GRID_STEPS_UM if extent.max() / s <= 8)
        panels = [(grid[0, 0], 0, 1), (grid[0, 1], 2, 1), (grid[1, 0], 0, 2)]
        for cell, i, j in panels:
            axes = figure.add_subplot(cell)
            _draw_circles(axes, somas, i, j)
            axes.set_xlim(low[i], low[i] + (wide, tall, deep)[i])
            axes.set_ylim(low[j] + (wide, tall, deep)[j], low[j])
            axes.set_aspect("equal")
            axes.xaxis.set_major_locator(MultipleLocator(step))
            axes.yaxis.set_major_locator(MultipleLocator(step))
            # the panels share axes: label each only once, on the outer side
            axes.set_xlabel(f"{'xyz'[i]} (µm)" if (i, j) != (0, 1) else "")
            axes.set_ylabel(f"{'xyz'[j]} (µm)" if i == 0 else "")
            axes.tick_params(labelbottom=(i, j) != (0, 1), labelleft=i == 0)
        scale_axes = figure.add_axes(
            (left, 1 - 0.22 / size_in[1], 1.6 / size_in[0], 0.08 / size_in[1])
        )
        _draw_size_scale(scale_axes)

    caption = (
        "Positions of the somas in three orthogonal projections. Size and colour of the circles show the diameter of "
        "the somas. y runs downward."
    )
    data = somas[["id", "x_nm", "y_nm", "z_nm", "equivalent_diameter_um"]]
    return Plot("maps", caption, draw, data, size_in, laid_out=True)


def plot_volumes(somas: pd.DataFrame) -> Plot:
    """Plot a histogram of the volumes on a logarithmic axis."""

    def draw(figure: Figure) -> None:
        values = _finite(somas, "volume_um3")
        low, high = _volume_range(values)
        edges = np.geomspace(low, high, _bins(len(values)))
        axes = figure.add_subplot()
        histogram(axes, values, edges, "µm³", "volume (µm³)")
        set_log_axis(axes, edges[0], edges[-1])

    caption = "Distribution of soma volumes. Red: median."
    return Plot("volumes", caption, draw, somas[["id", "volume_um3"]])


def plot_neighbours(somas: pd.DataFrame) -> Plot:
    """Plot a histogram of the nearest-neighbour distances, with the distribution in the hemibrain for reference."""

    def draw(figure: Figure) -> None:
        values = _finite(somas, "nearest_nm") * 1e-3
        top = max(float(np.percentile(values, 99)) * 1.1 if len(values) else 0.0, 8.0)
        axes = figure.add_subplot()
        edges = np.linspace(0, top, _bins(len(values)))
        histogram(axes, np.minimum(values, top), edges, "µm", "nearest-neighbour distance (µm)")
        bins = np.arange(len(_HEMIBRAIN_DENSITY)) + 0.5
        curve = np.array(_HEMIBRAIN_DENSITY) * len(values) * (edges[1] - edges[0])
        axes.plot(_HEMIBRAIN_START_UM + _HEMIBRAIN_BIN_UM * bins, curve, color=INK, lw=1)
        axes.set_ylim(0, max(axes.get_ylim()[1], 1.3 * curve.max()))
        text = f"hemibrain {_HEMIBRAIN_MEDIAN_UM}"
        mark_value(axes, _HEMIBRAIN_MEDIAN_UM, text, INK, reference=True)

    caption = (
        "Distance between the centroids of each soma and its nearest neighbour. Black: distribution and median of "
        "the 17,236 annotated somas of the hemibrain."
    )
    return Plot("neighbours", caption, draw, somas[["id", "nearest_nm"]])


def plot_sphericity(somas: pd.DataFrame) -> Plot:
    """Plot sphericity against volume, with suspicious somas in the warning colour."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.grid(True)
        shown = somas[somas["volume_um3"].notna() & somas["sphericity"].notna()]
        suspicious = shown["suspicious"].to_numpy(bool)
        many = len(shown) > RASTERIZE_ABOVE
        for rows, colour in ((shown[~suspicious], ACCENT), (shown[suspicious], WARN)):
            scatter(axes, rows["volume_um3"], rows["sphericity"], colour, many)
        set_log_axis(axes, *_volume_range(shown["volume_um3"].to_numpy(np.float64)))
        lowest = float(shown["sphericity"].min()) if len(shown) else 0.5
        axes.set_ylim(min(0.5, np.floor(lowest * 10) / 10), 1.0)
        axes.set_xlabel("volume (µm³)")
        axes.set_ylabel("sphericity")
        note_if_empty(axes, len(shown))

    caption = "Sphericity against volume. Suspicious somas are red."
    data = somas[["id", "volume_um3", "sphericity", "suspicious"]]
    return Plot("sphericity", caption, draw, data)


def plot_confidence(somas: pd.DataFrame) -> Plot:
    """Plot a histogram of the confidence."""

    def draw(figure: Figure) -> None:
        values = _finite(somas, "confidence")
        low = min(0.5, float(values.min())) if len(values) else 0.5
        axes = figure.add_subplot()
        histogram(axes, values, np.linspace(low, 1.0, _bins(len(values))), "", "confidence")

    caption = "Confidence: the mean predicted soma probability of the voxels of each soma."
    return Plot("confidence", caption, draw, somas[["id", "confidence"]])


def plot_density(somas: pd.DataFrame) -> Plot:
    """Plot a histogram of the number of other somas within 10 um."""

    def draw(figure: Figure) -> None:
        values = _finite(somas, "neighbours_10um")
        values = values[values >= 0]
        axes = figure.add_subplot()
        most = max(int(values.max(initial=0)), 10)
        step = -(-most // 25)
        edges = np.arange(0, most + 1 + step, step) - 0.5
        histogram(axes, values, edges, "", "other somas within 10 µm")

    caption = "Local density: the number of other somas within 10 µm of each soma."
    return Plot("density", caption, draw, somas[["id", "neighbours_10um"]])


def plot_neurites(somas: pd.DataFrame) -> Plot:
    """Plot the number of neurites per soma; somas that the edge of the volume cuts are excluded."""
    counted = somas[(somas["neurites"] >= 0) & ~somas["touches_edge"]]
    number = counted["neurites"].clip(upper=4).value_counts().reindex(range(5), fill_value=0)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.grid(True, axis="y")
        colours = [ACCENT if n < 2 else WARN for n in range(5)]
        axes.bar(range(5), number.to_numpy(), color=colours, alpha=0.85, width=0.8)
        axes.set_xticks(range(5), ["0", "1", "2", "3", "4 or more"])
        axes.set_xlabel("neurites")
        axes.set_ylabel("somas")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        note_if_empty(axes, len(counted))

    caption = (
        "Neurites that leave each soma, if its label extends far enough to show them. Red: more than one. Somas that "
        "the volume edge cuts are excluded."
    )
    return Plot("neurites", caption, draw, counted[["id", "neurites"]])


def plot_depth(somas: pd.DataFrame) -> Plot:
    """Plot the diameter against the depth below the surface of the tissue mask."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.grid(True)
        many = len(somas) > RASTERIZE_ABOVE
        scatter(axes, somas["depth_nm"] * 1e-3, somas["equivalent_diameter_um"], ACCENT, many)
        axes.set_xlabel("depth below the surface (µm)")
        axes.set_ylabel("diameter (µm)")

    data = somas[["id", "depth_nm", "equivalent_diameter_um"]]
    caption = "Soma diameter against depth below the surface of the tissue mask."
    return Plot("depth", caption, draw, data)


def plot_seams(somas: pd.DataFrame, seams: Seams) -> Plot:
    """Plot a histogram of the distances of soma ends from the nearest seam."""
    distance_um = face_distances(somas, seams) * 1e-3

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.grid(True, axis="y")
        top = float(np.percentile(distance_um, 98)) if len(distance_um) else 4.0
        edges = np.linspace(0, max(top, 0.5), _bins(len(distance_um)))
        axes.hist(distance_um, bins=edges.tolist(), color=ACCENT, alpha=0.85, rwidth=0.92)
        expected = chance_share(seams, edges[1] * 1e3) * len(distance_um)
        axes.axhline(expected, color=INK, lw=1, ls=(0, (2, 2)))
        axes.set_xlabel("distance to the nearest seam (µm)")
        axes.set_ylabel("soma ends")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        note_if_empty(axes, len(distance_um))

    caption = (
        "Distance between the ends of the somas along each axis and the nearest seam between blocks. Somas that are "
        "cut end on a seam and would raise the first bar above the dashed line, the number expected by chance."
    )
    return Plot("seams", caption, draw, pd.DataFrame({"distance_um": distance_um}))


def plot_blocks(somas: pd.DataFrame, bounds_nm: Bounds, seams: Seams) -> Plot:
    """Plot the number of somas in each column of blocks along z."""
    edges = [
        np.concatenate([[low], at, [high]]) * 1e-3
        for low, at, high in zip(bounds_nm[0], seams.at_nm, bounds_nm[1])
    ]
    x, y = (somas[f"{a}_nm"].to_numpy(np.float64) * 1e-3 for a in "xy")
    count, _, _ = np.histogram2d(x, y, bins=[edges[0], edges[1]])

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        shown = axes.pcolormesh(edges[0], edges[1], count.T, cmap="cividis", vmin=0)
        axes.set_aspect("equal")
        axes.invert_yaxis()
        axes.set_xlabel("x (µm)")
        axes.set_ylabel("y (µm)")
        bar = figure.colorbar(shown, ax=axes, shrink=0.8)
        bar.set_label("somas")
        bar.outline.set_visible(False)

    i, j = np.indices(count.shape)
    data = pd.DataFrame(
        {
            "x_start_um": edges[0][i.ravel()],
            "y_start_um": edges[1][j.ravel()],
            "somas": count.ravel().astype(int),
        }
    )
    return Plot("blocks", "Number of somas in each column of blocks along z.", draw, data)


def _draw_circles(axes: Axes, somas: pd.DataFrame, i: int, j: int) -> None:
    axes.grid(True)
    if len(somas) == 0:
        return
    many = len(somas) > RASTERIZE_ABOVE
    diameter = somas["equivalent_diameter_um"].fillna(4.0).to_numpy(np.float64)
    positions = somas[["x_nm", "y_nm", "z_nm"]].to_numpy(np.float64)[:, (i, j)] * 1e-3
    circles = EllipseCollection(
        diameter,
        diameter,
        np.zeros(len(somas)),
        units="xy",
        offsets=positions,
        offset_transform=axes.transData,
        facecolors=_SIZES(_SIZE_RANGE(diameter), alpha=0.6),
        edgecolors="none" if many else _SIZES(_SIZE_RANGE(diameter)),
        linewidths=0.5,
        rasterized=many,
    )
    axes.add_collection(circles)


def _draw_size_scale(axes: Axes) -> None:
    axes.imshow(np.linspace(0, 1, 64)[None], cmap=_SIZES, aspect="auto", extent=(2, 8, 0, 1))
    axes.xaxis.set_major_locator(FixedLocator([2, 5, 8]))
    axes.yaxis.set_major_locator(NullLocator())
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=7.5, pad=2)
    axes.annotate(
        "diameter (µm)", (1, 0.5), xycoords="axes fraction", xytext=(6, 0),
        textcoords="offset points", va="center", size=7.5,
    )  # fmt: skip


def _volume_range(volumes: np.ndarray) -> tuple[float, float]:
    """Return an axis range of 5 to 300 um3, extended to include all volumes."""
    included = np.append(volumes[volumes > 0], (6.0, 250.0))
    return float(included.min()) / 1.2, float(included.max()) * 1.2


def _bins(n: int) -> int:
    return int(np.clip(2 * np.cbrt(n) + 6, 8, 60)) + 1


def _finite(somas: pd.DataFrame, name: str) -> np.ndarray:
    values = somas[name].to_numpy(np.float64)
    return values[np.isfinite(values)]
