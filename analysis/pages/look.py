"""A picture of the look of an image: a section, grey values, spectra and numbers."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..look.stats import QUANTILES, LookStats, look_distance

_COLOURS = ("#2f7396", "#c2452d")


def look_figure(
    name: str,
    look: LookStats,
    section: np.ndarray,
    other: LookStats | None = None,
    other_section: tuple[str, np.ndarray] | None = None,
) -> bytes:
    """Draw a section, the quantiles of grey values, the spectra in the section plane and along z, and all numbers.

    Args:
      name: title of the section.
      look: the look to draw.
      section: an example of the image: (y, x), uint8.
      other: a second look to draw for comparison, with the distance.
      other_section: title and example of the image that `other` was measured on.

    Returns:
      A PNG file; equal arguments give equal bytes.
    """
    looks = [look] + ([] if other is None else [other])
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(12, 7.5), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2, 3)
        if other_section is None:
            _draw_section(figure.add_subplot(grid[:, 0]), name, section)
        else:
            for row, named in enumerate(((name, section), other_section)):
                _draw_section(figure.add_subplot(grid[row, 0]), *named)
        _draw_quantiles(figure.add_subplot(grid[0, 1]), looks)
        _draw_spectra(figure.add_subplot(grid[0, 2]), looks)
        if any(look.across is not None for look in looks):
            _draw_across(figure.add_subplot(grid[1, 2]), looks)
        _write_numbers(figure.add_subplot(grid[1, 1]), looks)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def look_rows(look: LookStats) -> list[tuple[str, str]]:
    """Return the names and values of all scalars of a look."""
    z, y, x = look.voxel_nm
    rows = [
        ("voxel, x y z", f"{x:g} x {y:g} x {z:g} nm" if z else f"{x:g} x {y:g} nm"),
        ("tissue", f"{look.tissue_voxels * 1e-6:.2f} million voxels"),
        ("black, resin", f"{100 * look.black_share:.1f} %, {100 * look.resin_share:.1f} %"),
        ("grey value, 1 %, median, 99 %", "{1:.0f}, {5:.0f}, {9:.0f}".format(*look.grey_quantiles)),
        (
            "cytoplasm - membrane",
            f"{look.cytoplasm_grey:.0f} - {look.membrane_grey:.0f} = {look.membrane_contrast:.0f}",
        ),
        ("noise, grain", f"{look.noise_sigma:.1f}, {look.noise_grain_px:.2f} px"),
        ("blur", f"{look.blur_px:.2f} px = {look.blur_px * x:.0f} nm"),
        ("JPEG blocks of 8 x 8", f"{100 * look.block_strength:.1f} %"),
    ]
    if look.across is not None:
        rows += [
            ("shift of sections", f"{look.across.shift_px:.2f} px"),
            ("correlation of sections", f"{look.across.correlation:.3f}"),
            ("change of grey value", f"{look.across.grey_change:.1f}"),
        ]
    return rows


def _draw_section(axes: Axes, name: str, section: np.ndarray) -> None:
    axes.imshow(section, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    axes.set_title(name, loc="left")
    axes.axis("off")


def _draw_quantiles(axes: Axes, looks: list[LookStats]) -> None:
    places = range(len(QUANTILES))
    for look, colour in zip(looks, _COLOURS):
        axes.plot(places, look.grey_quantiles, "o-", ms=3, color=colour)
        for grey in (look.membrane_grey, look.cytoplasm_grey):
            axes.axhline(grey, color=colour, lw=0.8, ls=":")
    names = [f"{100 * q:g}" if n % 2 == 0 else "" for n, q in enumerate(QUANTILES)]
    axes.set_xticks(list(places), names)
    axes.set_ylim(0, 255)
    axes.set_title("grey value by quantile", loc="left")
    axes.set_xlabel("%; dotted: membrane, cytoplasm")


def _draw_spectra(axes: Axes, looks: list[LookStats]) -> None:
    for look, colour in zip(looks, _COLOURS):
        axes.plot(look.spectrum_per_um, look.spectrum, "o-", ms=3, color=colour)
        noise = look.noise_sigma**2 * (look.voxel_nm[2] * 1e-3) ** 2
        if noise > 0:
            axes.axhline(np.log10(noise), color=colour, lw=0.8, ls=":")
    axes.set_xscale("log")
    axes.set_title("power in the section plane, log10", loc="left")
    axes.set_xlabel("cycles per um; dotted: white noise")


def _draw_across(axes: Axes, looks: list[LookStats]) -> None:
    for look, colour in zip(looks, _COLOURS):
        if look.across is not None and look.across.spectrum:
            axes.plot(look.across.spectrum_per_um, look.across.spectrum, "o-", ms=3, color=colour)
    axes.set_title("power across sections, log10", loc="left")
    axes.set_xlabel("cycles per um")


def _write_numbers(axes: Axes, looks: list[LookStats]) -> None:
    axes.axis("off")
    lines = [f"{name:<30} {value}" for name, value in look_rows(looks[0])]
    if len(looks) > 1:
        distance = look_distance(*looks)
        parts = sorted(distance.parts.items(), key=lambda item: -item[1])
        lines += ["", f"distance to the other look {distance.total:.2f}"]
        lines += [f"  {name} {value:.2f}" for name, value in parts[:4]]
    axes.text(0, 1, "\n".join(lines), va="top", family="DejaVu Sans Mono", size=7)
