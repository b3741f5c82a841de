"""A picture of a section with its marks and the objects of a segmentation, coloured by verdict."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Polygon

from ..metrics.marks import Points, SectionResult
from .sections import find_outlines

MARK_COLOURS = {
    "found": "#3fbf6f",
    "outline": "#f0a030",
    "merged": "#d060e0",
    "missed": "#ff4030",
    "hidden": "#909090",
}
OBJECT_COLOURS = {"mark": "#50c8ff", "rim": "#e8e060", "small": "#a0a0a0", "unmarked": "#ff4030"}
_UNCERTAIN = "#ffffff"
_STYLES: dict[str, Literal["-", "--", ":"]] = {"whole": "-", "cut": "--", "uncertain": ":"}
_INK, _BACKGROUND = "#e8e6e1", "#15171a"
_WIDTH_IN = 9.0


def marks_figure(
    title: str,
    image: np.ndarray,
    labels: np.ndarray,
    result: SectionResult,
    no_soma: Sequence[Points] = (),
    valid: np.ndarray | None = None,
) -> bytes:
    """Draw marks as circles, objects as outlines, and areas without somas as dotted lines on a section.

    Colours show the verdicts. Marks cut by the edge are dashed, uncertain marks are dotted. Excluded pixels are tinted.

    Args:
      title: title of the picture.
      image: (y, x), uint8.
      labels: (y, x), 0 is background.
      result: verdicts of `score_marks`.
      no_soma: areas without somas: polygons of (x, y) in pixels.
      valid: (y, x) booleans; None: all pixels are valid.

    Returns:
      A PNG file; equal arguments give equal bytes.
    """
    rows, columns = image.shape
    head_in, foot_in = 0.4, 0.75
    height_in = _WIDTH_IN * rows / columns + head_in + foot_in
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 10}):
        figure = Figure(figsize=(_WIDTH_IN, height_in), dpi=100, facecolor=_BACKGROUND)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, foot_in / height_in, 1, 1 - (head_in + foot_in) / height_in))
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        if valid is not None and not valid.all():
            tint = np.zeros((rows, columns, 4))
            tint[~valid] = (0.3, 0.4, 1.0, 0.35)
            axes.imshow(tint, interpolation="nearest")
        _draw_objects(axes, labels, result)
        _draw_marks(axes, result, no_soma)
        axes.set_xlim(-0.5, columns - 0.5)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.axis("off")
        y = 1 - 0.5 * head_in / height_in
        figure.text(0.01, y, title, color=_INK, size=11, va="center")
        _legend(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", facecolor=_BACKGROUND, metadata={"Software": None})
    return buffer.getvalue()


def _draw_objects(axes: Axes, labels: np.ndarray, result: SectionResult) -> None:
    roles = {item.label: item.role for item in result.objects}
    for label, lines in find_outlines(labels).items():
        colour = OBJECT_COLOURS[roles.get(label, "small")]
        axes.add_collection(LineCollection(lines, colors=[colour], linewidths=1.8))


def _draw_marks(axes: Axes, result: SectionResult, no_soma: Sequence[Points]) -> None:
    for points in no_soma:
        axes.add_patch(Polygon(list(points), fill=False, ec="#8090ff", lw=1.0, ls=":"))
    for item in result.marks:
        mark = item.mark
        colour = MARK_COLOURS[item.verdict] if mark.certain else _UNCERTAIN
        circle = Circle((mark.x_px, mark.y_px), mark.radius_px, fill=False, ec=colour, lw=1.4)
        circle.set_linestyle(_STYLES[mark.group])
        axes.add_patch(circle)
        text = f"{item.iou:.2f}" + (f" {mark.kind}" if mark.kind else "")
        note = axes.text(
            mark.x_px,
            mark.y_px,
            text,
            color=colour,
            ha="center",
            va="center",
            size=8,
            clip_on=True,
        )
        note.set_bbox({"facecolor": "black", "alpha": 0.55, "pad": 1.5, "linewidth": 0})


def _legend(figure: Figure) -> None:
    marks = [("mark: " + name, colour, "-") for name, colour in MARK_COLOURS.items()]
    styles = [("cut by the edge", _INK, "--"), ("uncertain", _UNCERTAIN, ":")]
    objects = [("object: " + name, colour, "-") for name, colour in OBJECT_COLOURS.items()]
    handles = [
        Line2D([], [], color=colour, lw=1.8, ls=style, label=name)
        for name, colour, style in [
            *marks,
            *styles,
            *objects,
            ("area without somas", "#8090ff", ":"),
        ]
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=4, frameon=False, labelcolor=_INK, fontsize=9
    )
