"""Measures of neighbouring sections: shift, correlation, change of grey value, spectrum along z. Arrays are z, y, x."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from .stats import AcrossStats

_PAIRS = 6  # of sections, in each sample
_SMOOTH_PX = 1.5  # removes noise, which is independent between sections, before registration
_UPSAMPLING = 10  # registers to a tenth of a pixel
_COLUMNS = 4096  # lines along z, in each sample
_MIN_SECTIONS = 8  # for a spectrum
_BINS = 8


def measure_across(images: Sequence[np.ndarray], section_nm: float) -> AcrossStats | None:
    """Compare neighbouring sections of images (grey values); None if no image has two sections.

    Args:
      section_nm: section thickness.
    """
    pairs = [pair for image in images for pair in _pairs(image)]
    if not pairs:
        return None
    measures = np.array([_compare(*pair) for pair in pairs])
    shift, correlation, change = np.median(measures, axis=0).tolist()
    deep = [image for image in images if len(image) >= _MIN_SECTIONS]
    per_um, density = _spectrum(deep, section_nm)
    return AcrossStats(shift, correlation, change, per_um, density)


def _pairs(image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return evenly spaced pairs of neighbouring sections."""
    if len(image) < 2 or min(image.shape[1:]) < 32:
        return []
    firsts = np.unique(np.linspace(0, len(image) - 2, _PAIRS).round().astype(int))
    return [(image[z].astype(float), image[z + 1].astype(float)) for z in firsts]


def _compare(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Return the length of the shift, the correlation without it, and the change of the median grey value."""
    change = abs(float(np.median(a) - np.median(b)))
    window = np.outer(*(np.hanning(n) for n in a.shape))
    tapered = [(section - section.mean()) * window for section in (a, b)]
    if min(np.ptp(section) for section in tapered) == 0:
        return 0.0, 0.0, change
    smooth = [ndimage.gaussian_filter(section, _SMOOTH_PX) for section in tapered]
    shift, _, _ = phase_cross_correlation(  # type: ignore[no-untyped-call]
        *smooth, upsample_factor=_UPSAMPLING, normalization=None
    )
    limit = np.array(a.shape) // 4
    y, x = np.clip(np.rint(shift).astype(int), -limit, limit)
    a, b = _overlap(a, y, x), _overlap(b, -y, -x)
    flat = np.ptp(a) == 0 or np.ptp(b) == 0
    correlation = 0.0 if flat else float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    return float(np.hypot(*shift)), correlation, change


def _overlap(section: np.ndarray, y: int, x: int) -> np.ndarray:
    """Return the part of a section that overlaps another one shifted by (y, x)."""
    rows, columns = section.shape
    return section[max(0, y) : rows + min(0, y), max(0, x) : columns + min(0, x)]


def _spectrum(
    images: Sequence[np.ndarray], section_nm: float
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return frequencies in cycles per um, and log10 of the power spectral density along z."""
    if not images:
        return (), ()
    depth, section_um = min(len(image) for image in images), section_nm * 1e-3
    window = np.hanning(depth)[:, None]
    total = np.zeros(depth // 2 + 1)
    for image in images:
        lines = image[:depth].reshape(depth, -1).astype(float)
        lines = lines[:, :: max(1, lines.shape[1] // _COLUMNS)]
        lines = (lines - lines.mean(axis=0)) * window
        total += (np.abs(np.fft.rfft(lines, axis=0)) ** 2).mean(axis=1)
    density = total / len(images) / (window**2).sum() * section_um
    per_px = np.fft.rfftfreq(depth)
    groups = np.array_split(np.arange(1, len(per_px)), min(_BINS, len(per_px) - 1))
    per_um = tuple(float(per_px[g].mean() / section_um) for g in groups)
    return per_um, tuple(float(np.log10(max(density[g].mean(), 1e-9))) for g in groups)
