"""Measures of single sections: noise and its grain, blur, contrast of membranes, spectrum, compression blocks, resin.

Sections are (y, x) arrays of float32 grey levels; `valid` is a boolean array of the same shape, False where pixels are
left out.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

TILE_PX = 12  # tiles in which noise is measured
_FLATTEST = 0.05  # share of the tiles, those with the least structure
_COARSE_PX = 3  # structure is what is left after averaging so many pixels
_LEAST_Q, _LARGEST_Q = 0.03, 0.97  # correlation of neighbours: white below, not noise above
_WINDOW_PX = 64  # windows of the spectrum
_BINS = 12
_SHARP_PX, _SOFT_PX = 1.0, 2.0  # the two Gaussians between which edges are compared
_STEEPEST = 0.02  # share of the pixels, those of the strongest edges
_BLOCK_PX = 8  # of JPEG
_MEMBRANE_NM = 240.0  # thin is what is narrower
_RESIN_NM = 1000.0  # windows in which resin is looked for
_RESIN_SHARE = 0.15  # of the contrast of tissue: less is flat
_SMOOTH_NM = 80.0
_MIN_RESIN_UM2 = 4.0


def membrane_and_cytoplasm(
    section: np.ndarray, valid: np.ndarray, pixel_nm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Grey levels of the pixels of thin dark lines, and of those that are not dark and thin.

    What a grey closing of 240 nm fills in by more than Otsu's threshold is a thin dark line.
    """
    size = max(3, 2 * round(_MEMBRANE_NM / pixel_nm / 2) + 1)
    filled = ndimage.grey_closing(section, size=(size, size)) - section
    if not valid.any() or np.ptp(filled[valid]) == 0:
        return section[:0].ravel(), section[valid]
    thin = filled > threshold_otsu(filled[valid])  # type: ignore[no-untyped-call]
    return section[valid & thin], section[valid & ~thin]


def tiles(section: np.ndarray, valid: np.ndarray, size_px: int) -> np.ndarray:
    """The whole tiles (n, size, size) of a section of which every pixel is valid."""
    rows, columns = (n // size_px for n in section.shape)
    shape = (rows, size_px, columns, size_px)
    cut = tuple(slice(n * size_px) for n in (rows, columns))
    parts = section[cut].reshape(shape).swapaxes(1, 2)
    whole = valid[cut].reshape(shape).swapaxes(1, 2).all(axis=(2, 3))
    return parts[whole]


def noise(parts: np.ndarray) -> tuple[float, float]:
    """Standard deviation of the noise, and its grain: sigma in pixels, 0 for white noise.

    Measured in the twentieth of the tiles with the least structure, from how much pixels differ that are one and two
    pixels apart. White noise that a Gaussian of sigma s smoothed has, d pixels apart, a correlation of q^(d^2) with
    q = exp(-1 / (4 s^2)); so the mean squares of these differences are as 1 to (1 + q) (1 + q^2).

    Args:
      parts: (n, 12, 12) tiles.
    """
    if not len(parts):
        return 0.0, 0.0
    size = TILE_PX // _COARSE_PX
    coarse = parts.reshape(-1, size, _COARSE_PX, size, _COARSE_PX).mean(axis=(2, 4))
    structure = _without_plane(coarse).var(axis=(1, 2))
    count = max(1, round(_FLATTEST * len(parts)))
    flat = _without_plane(parts[np.argsort(structure, kind="stable")[:count]])
    one, two = (
        float(
            np.mean(
                [
                    ((flat[:, d:] - flat[:, :-d]) ** 2).mean(),
                    ((flat[..., d:] - flat[..., :-d]) ** 2).mean(),
                ]
            )
        )
        for d in (1, 2)
    )
    if one <= 1e-6:
        return 0.0, 0.0
    q = np.linspace(0, _LARGEST_Q, 1000)
    likely = float(np.interp(two / one, (1 + q) * (1 + q**2), q))
    grain = float(np.sqrt(-1 / (4 * np.log(likely)))) if likely > _LEAST_Q else 0.0
    return float(np.sqrt(one / 2 / (1 - likely))), grain


def _without_plane(parts: np.ndarray) -> np.ndarray:
    """Square tiles (n, size, size) without their least-squares plane."""
    line = np.arange(parts.shape[1]) - (parts.shape[1] - 1) / 2
    flat = parts.astype(np.float64) - parts.mean(axis=(1, 2), keepdims=True)
    power = (line**2).sum() * len(line)
    for slope in (line[:, None], line[None, :]):
        flat = flat - (flat * slope).sum(axis=(1, 2), keepdims=True) / power * slope
    return np.asarray(flat)


def edge_ratios(section: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """How much steeper the strongest edges are after a Gaussian of 1 px than after one of 2 px, squared."""
    sharp, soft = (
        ndimage.gaussian_gradient_magnitude(section, sigma) for sigma in (_SHARP_PX, _SOFT_PX)
    )
    inside = ndimage.binary_erosion(valid, iterations=6, border_value=0)
    if not inside.any():
        return np.zeros(0)
    steep = inside & (soft >= np.quantile(soft[inside], 1 - _STEEPEST)) & (soft > 0.5)
    return np.asarray((sharp[steep] / soft[steep]) ** 2)


def blur_px(ratios: np.ndarray) -> float:
    """Sigma of the Gaussian that has blurred steps, from the median of `edge_ratios`.

    A step that a Gaussian of sigma s blurred has, after another of sigma a, a slope in proportion to
    1 / sqrt(s^2 + a^2). Thin lines have a smaller sigma than steps that are as blurred.
    """
    if not len(ratios):
        return 0.0
    ratio = max(float(np.median(ratios)), 1.0 + 1e-3)
    return math.sqrt(max(0.0, (_SOFT_PX**2 - ratio * _SHARP_PX**2) / (ratio - 1)))


def block_steps(section: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Mean change of grey level between neighbours, for each of the 8 places of a grid: (2, 8), along y and x."""
    found = np.full((2, _BLOCK_PX), np.nan)
    for axis in (0, 1):
        step = np.abs(np.diff(section, axis=axis))
        both = np.delete(valid, -1, axis) & np.delete(valid, 0, axis)
        for place in range(_BLOCK_PX):
            at = tuple(slice(place, None, _BLOCK_PX) if a == axis else slice(None) for a in (0, 1))
            if both[at].any():
                found[axis, place] = step[at][both[at]].mean()
    return found


def block_strength(steps: np.ndarray) -> float:
    """How much larger the change at the place of the grid where it is largest is than elsewhere, as a share.

    The grid is sought in all sections together; noise alone gives nearly 0.

    Args:
      steps: (n, 2, 8), `block_steps` of n sections.
    """
    if not len(steps) or np.isnan(steps).any():
        return 0.0
    strengths = []
    for along in steps.mean(axis=0):
        order = np.sort(along)
        if order[:-1].mean() > 0:  # the second largest tells how much chance gives
            strengths.append((order[-1] - order[-2]) / order[:-1].mean())
    return float(np.mean(strengths)) if strengths else 0.0


def spectrum(parts: np.ndarray, pixel_nm: float) -> tuple[np.ndarray, np.ndarray]:
    """Power spectral density in the plane: frequencies in cycles per um, and grey levels squared times um2.

    White noise of standard deviation s has the density s^2 * pixel area throughout.

    Args:
      parts: (n, 64, 64) windows.
    """
    size, pixel_um = _WINDOW_PX, pixel_nm * 1e-3
    window = np.outer(np.hanning(size), np.hanning(size))
    centred = parts - parts.mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(centred * window)) ** 2).mean(axis=0) / (window**2).sum()
    per_px = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    edges = np.geomspace(1.5 / size, 0.5, _BINS + 1)
    place = np.digitize(per_px.ravel(), edges) - 1
    inside = (place >= 0) & (place < _BINS)
    counts = np.bincount(place[inside], minlength=_BINS)
    sums = np.bincount(place[inside], power.ravel()[inside], minlength=_BINS)
    middle = np.bincount(place[inside], per_px.ravel()[inside], minlength=_BINS)
    there = counts > 0
    density = sums[there] / counts[there] * pixel_um**2
    return middle[there] / counts[there] / pixel_um, density


def local_contrast(section: np.ndarray, pixel_nm: float) -> np.ndarray:
    """Standard deviation of the grey levels, smoothed by 80 nm, in the window of 1 um around each pixel."""
    smooth = ndimage.gaussian_filter(section.astype(np.float64), _SMOOTH_NM / pixel_nm)
    size = max(3, round(_RESIN_NM / pixel_nm))
    mean = ndimage.uniform_filter(smooth, size)
    return np.sqrt(np.maximum(0.0, ndimage.uniform_filter(smooth**2, size) - mean**2))


def flat_areas(contrast: np.ndarray, tissue_contrast: float, pixel_nm: float) -> np.ndarray:
    """Boolean array of the areas of 4 um2 or more without structure, as resin is.

    Args:
      contrast: `local_contrast` of the section.
      tissue_contrast: that of tissue in this image.
    """
    flat = contrast < _RESIN_SHARE * tissue_contrast
    pieces, _ = ndimage.label(flat)
    sizes = np.bincount(pieces.ravel()) * pixel_nm**2 * 1e-6
    sizes[0] = 0
    large = sizes[pieces] >= _MIN_RESIN_UM2
    # windows at the border of resin hold tissue too: give half a window back
    grown = ndimage.binary_dilation(large, iterations=max(1, round(_RESIN_NM / pixel_nm / 2)))
    return np.asarray(grown if large.any() else large)
