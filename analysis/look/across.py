"""Measures of neighbouring sections: shift, likeness, change of grey level, spectrum along z."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from .stats import Across

_PAIRS = 6  # of each block
_SMOOTH_PX = 1.5  # before the shift is sought: noise has none in common
_FINE = 10  # shifts are told to a tenth of a pixel
_COLUMNS = 4096  # along z, of each block
_LEAST_SECTIONS = 8  # for a spectrum
_BINS = 8


def measure_across(blocks: Sequence[np.ndarray], section_nm: float) -> Across | None:
    """Compare neighbouring sections of blocks (z, y, x; grey levels); None where no block has two sections."""
    pairs = [pair for block in blocks for pair in _pairs(block)]
    if not pairs:
        return None
    found = np.array([_compare(*pair) for pair in pairs])
    shift, correlation, change = np.median(found, axis=0).tolist()
    per_um, density = _spectrum([b for b in blocks if len(b) >= _LEAST_SECTIONS], section_nm)
    return Across(shift, correlation, change, per_um, density)


def _pairs(block: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Some pairs of neighbouring sections, evenly spread."""
    if len(block) < 2 or min(block.shape[1:]) < 32:
        return []
    firsts = np.unique(np.linspace(0, len(block) - 2, _PAIRS).round().astype(int))
    return [(block[z].astype(float), block[z + 1].astype(float)) for z in firsts]


def _compare(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Length of the shift, correlation without it, change of the median grey level."""
    window = np.outer(*(np.hanning(n) for n in one.shape))
    tapered = [(section - section.mean()) * window for section in (one, other)]
    if min(np.ptp(section) for section in tapered) == 0:
        return 0.0, 0.0, abs(float(np.median(one) - np.median(other)))
    smooth = [ndimage.gaussian_filter(section, _SMOOTH_PX) for section in tapered]
    shift, _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        *smooth, upsample_factor=_FINE, normalization=None
    )
    limit = np.array(one.shape) // 4
    y, x = np.clip(np.rint(shift).astype(int), -limit, limit)
    a, b = (_overlap(section, s * y, s * x) for section, s in ((one, 1), (other, -1)))
    flat = np.ptp(a) == 0 or np.ptp(b) == 0
    correlation = 0.0 if flat else float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    return float(np.hypot(*shift)), correlation, abs(float(np.median(one) - np.median(other)))


def _overlap(section: np.ndarray, y: int, x: int) -> np.ndarray:
    """The part of a section that lies over another that is moved by (y, x)."""
    rows, columns = section.shape
    return section[max(0, y) : rows + min(0, y), max(0, x) : columns + min(0, x)]


def _spectrum(
    blocks: Sequence[np.ndarray], section_nm: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Frequencies in cycles per um, and log10 of the density along z."""
    if not blocks:
        return (), ()
    depth, section_um = min(len(block) for block in blocks), section_nm * 1e-3
    window = np.hanning(depth)[:, None]
    total = np.zeros(depth // 2 + 1)
    for block in blocks:
        lines = block[:depth].reshape(depth, -1).astype(float)
        lines = lines[:, :: max(1, lines.shape[1] // _COLUMNS)]
        lines = (lines - lines.mean(axis=0)) * window
        total += (np.abs(np.fft.rfft(lines, axis=0)) ** 2).mean(axis=1)
    density = total / len(blocks) / (window**2).sum() * section_um
    per_px = np.fft.rfftfreq(depth)
    groups = np.array_split(np.arange(1, len(per_px)), min(_BINS, len(per_px) - 1))
    per_um = tuple(float(per_px[g].mean() / section_um) for g in groups)
    return per_um, tuple(float(np.log10(max(density[g].mean(), 1e-9))) for g in groups)
