"""Pictures of sections of the volume with outlines of somas."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import ndimage
from skimage.measure import find_contours

_GOLDEN_RATIO = 0.61803398875
_INK, _BACKGROUND = "#e8e6e1", "#15171a"
_DPI = 100
_BARS_UM = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


@dataclass(frozen=True)
class Section:
    """A section to draw; rows run downward.

    Attributes:
      title: position, such as "z = 12.4 um".
      image: 2D, uint8.
      labels: 2D, 0 is background; each label is outlined in a colour of its own.
      pixel_nm: pixel size, (rows, columns).
      truth: 2D labels to outline in dashed white, or None.
    """

    title: str
    image: np.ndarray
    labels: np.ndarray
    pixel_nm: tuple[float, float]
    truth: np.ndarray | None = None


def draw_sections(
    sections: Sequence[Section],
    *,
    title: str = "",
    columns: int = 2,
    dpi: int = _DPI,
    names: tuple[str, str] = ("predicted (one colour per soma)", "ground truth"),
) -> bytes:
    """Draw sections in a grid, each with a scale bar and the number of somas in it.

    Args:
      sections: sections to draw; may be empty.
      title: title of the picture.
      columns: maximum number of columns.
      dpi: resolution; the picture is 16 inches wide.
      names: legend entries of `labels` and `truth`.

    Returns:
      A PNG file; equal sections give equal bytes.
    """
    columns = max(1, min(columns, len(sections)))
    rows = max(1, -(-len(sections) // columns))
    heights = [_aspect(s) for s in sections] or [0.3]
    panel_in = 16.0 / columns
    row_in = [max(heights[r * columns : (r + 1) * columns]) * panel_in for r in range(rows)]
    head_in = 0.45 if title else 0.1
    foot_in = 0.4 if any(s.truth is not None for s in sections) else 0.1
    height_in = sum(row_in) + 0.45 * rows + head_in + foot_in
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 12}):
        figure = Figure(figsize=(16, height_in), dpi=dpi, facecolor=_BACKGROUND)
        FigureCanvasAgg(figure)
        if title:
            figure.text(0.012, 1 - 0.3 / height_in, title, color=_INK, size=16, va="center")
        top = height_in - head_in
        for r in range(rows):
            top -= 0.45
            for c, section in enumerate(sections[r * columns : (r + 1) * columns]):
                h = _aspect(section) * panel_in
                left, width = (c * panel_in + 0.1) / 16, (panel_in - 0.2) / 16
                frame = (left, (top - h) / height_in, width, h / height_in)
                _draw(figure.add_axes(frame), section)
            top -= row_in[r]
        if not sections:
            figure.text(0.5, 0.5, "no sections", color=_INK, size=14, ha="center", va="center")
        if foot_in > 0.2:
            _legend(figure, names)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", facecolor=_BACKGROUND, metadata={"Software": None})
    return buffer.getvalue()


def orthogonal_sections(
    image: np.ndarray,
    labels: np.ndarray,
    first: Sequence[int],
    centre: Sequence[int],
    voxel_nm: Sequence[float],
    truth: np.ndarray | None = None,
) -> list[Section]:
    """Return sections perpendicular to z, y and x through a position. Everything is z, y, x, in voxels.

    Args:
      image, labels, truth: contents of a box around the position.
      first: first voxel of the box.
      centre: the position; it is clipped to the box.
      voxel_nm: voxel size.
    """
    sections = []
    for axis, name in enumerate("zyx"):
        at = min(max(centre[axis] - first[axis], 0), labels.shape[axis] - 1)
        across = [v for other, v in enumerate(voxel_nm) if other != axis]
        sections.append(
            Section(
                f"{name} = {(first[axis] + at) * voxel_nm[axis] * 1e-3:.1f} µm",
                image.take(at, axis),
                labels.take(at, axis),
                (across[0], across[1]),
                None if truth is None else truth.take(at, axis),
            )
        )
    return sections


def label_colour(label: int) -> tuple[float, float, float]:
    """Return a bright RGB colour for a label; consecutive labels differ clearly."""
    hue = (label * _GOLDEN_RATIO) % 1.0
    return colorsys.hls_to_rgb(hue, 0.62 + 0.08 * (label % 3 - 1), 0.95)


def find_outlines(labels: np.ndarray) -> dict[int, list[np.ndarray]]:
    """Return the closed outlines of each label of a 2D array: lists of points (n, 2), x and y in pixels."""
    ids, dense = np.unique(labels, return_inverse=True)
    dense = dense.reshape(labels.shape)
    if len(ids) and ids[0] > 0:
        ids, dense = np.insert(ids, 0, 0), dense + 1
    outlines = {}
    for index, box in enumerate(ndimage.find_objects(dense), start=1):
        if box is None:
            continue
        mask = np.pad(dense[box] == index, 2).astype(np.float32)
        smooth = ndimage.gaussian_filter(mask, 0.7) if mask.sum() > 60 else mask
        shift = [box[1].start - 2, box[0].start - 2]
        outlines[int(ids[index])] = [line[:, ::-1] + shift for line in find_contours(smooth, 0.5)]  # type: ignore[no-untyped-call]
    return outlines


def _draw(axes: Axes, section: Section) -> None:
    image = section.image
    rows, columns = image.shape
    stretch = section.pixel_nm[0] / section.pixel_nm[1]
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, aspect=stretch, interpolation="antialiased")
    lines = find_outlines(section.labels)
    for label, parts in lines.items():
        axes.add_collection(LineCollection(parts, colors=[label_colour(label)], linewidths=1.6))
    if section.truth is not None:
        dashed = [line for parts in find_outlines(section.truth).values() for line in parts]
        style = (0, (2.5, 2.5))
        axes.add_collection(
            LineCollection(dashed, colors="white", linewidths=0.9, linestyles=[style])
        )
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.axis("off")
    count = f"{len(lines)} soma{'' if len(lines) == 1 else 's'}"
    axes.set_title(f"{section.title}   {count}", color=_INK, size=12, loc="left", pad=6)
    _scale_bar(axes, columns, rows, section.pixel_nm)


def _scale_bar(axes: Axes, columns: int, rows: int, pixel_nm: tuple[float, float]) -> None:
    """Draw a bar of a round length, at most a quarter of the width if possible."""
    width_um = columns * pixel_nm[1] * 1e-3
    length_um = max((b for b in _BARS_UM if b <= width_um / 4), default=_BARS_UM[0])
    length = length_um * 1e3 / pixel_nm[1]
    right, y = 0.97 * columns, rows - 0.05 * columns * pixel_nm[1] / pixel_nm[0]
    for colour, width in (("black", 6), ("white", 3)):
        axes.plot([right - length, right], [y, y], color=colour, lw=width, solid_capstyle="butt")
    text = axes.annotate(
        f"{length_um:g} µm",
        (right - length / 2, y),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        color="white",
        size=11,
    )
    text.set_bbox({"facecolor": "black", "alpha": 0.45, "pad": 1.5, "linewidth": 0})


def _legend(figure: Figure, names: tuple[str, str]) -> None:
    handles = [
        Line2D([], [], color=label_colour(1), lw=1.6, label=names[0]),
        Line2D([], [], color="white", lw=0.9, ls=(0, (2.5, 2.5)), label=names[1]),
    ]
    legend = figure.legend(
        handles=handles, loc="lower left", ncols=2, frameon=False, labelcolor=_INK
    )
    legend.set_in_layout(False)


def _aspect(section: Section) -> float:
    """Return height over width of a section as drawn, clipped to a reasonable range."""
    rows, columns = section.image.shape
    ratio = rows * section.pixel_nm[0] / max(columns * section.pixel_nm[1], 1e-9)
    return float(np.clip(ratio, 0.05, 2.0))
