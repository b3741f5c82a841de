"""Measures of single sections: noise and its grain, blur, contrast of membranes, spectrum, JPEG blocks, resin.

Sections are (y, x) arrays of float32 grey values; `valid` is a boolean array of the same shape, False where pixels are
excluded.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

PATCH_PX = 12  # edge of the patches in which noise is measured
_FLATTEST = 0.05  # share of the patches: those with the least structure
_COARSE_PX = 3  # structure is the variation of means over this many pixels
_MIN_Q, _MAX_Q = 0.03, 0.97  # correlation of neighbours: white noise below, structure above
_WINDOW_PX = 64  # edge of the windows of the spectrum
_BINS = 12
_SHARP_PX, _SOFT_PX = 1.0, 2.0  # sigmas of the two Gaussians that the estimate of blur compares
_STEEPEST = 0.02  # share of the pixels: those of the strongest edges
_BLOCK_PX = 8  # edge of a JPEG block
_MEMBRANE_NM = 240.0  # maximum width of a thin line
_RESIN_NM = 1000.0  # edge of the windows of the local contrast
_RESIN_SHARE = 0.15  # of the contrast of tissue: areas with less are flat
_SMOOTH_NM = 80.0
_MIN_RESIN_UM2 = 4.0


def membrane_and_cytoplasm(
    section: np.ndarray, valid: np.ndarray, pixel_nm: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the grey values of the pixels of thin dark lines, and of all other pixels.

    A thin dark line is where a grey closing of 240 nm raises the image by more than Otsu's threshold.
    """
    size = max(3, 2 * round(_MEMBRANE_NM / pixel_nm / 2) + 1)
    filled = ndimage.grey_closing(section, size=(size, size)) - section
    if not valid.any() or np.ptp(filled[valid]) == 0:
        return section[:0].ravel(), section[valid]
    thin = filled > threshold_otsu(filled[valid])  # type: ignore[no-untyped-call]
    return section[valid & thin], section[valid & ~thin]


def cut_patches(section: np.ndarray, valid: np.ndarray, size_px: int) -> np.ndarray:
    """Return the patches (n, size, size) of a regular grid in which all pixels are valid."""
    rows, columns = (n // size_px for n in section.shape)
    shape = (rows, size_px, columns, size_px)
    cut = tuple(slice(n * size_px) for n in (rows, columns))
    parts = section[cut].reshape(shape).swapaxes(1, 2)
    whole = valid[cut].reshape(shape).swapaxes(1, 2).all(axis=(2, 3))
    return parts[whole]


def estimate_noise(patches: np.ndarray) -> tuple[float, float]:
    """Return the standard deviation of the noise, and its grain: a sigma in pixels, 0 for white noise.

    Uses the 5 % of the patches with the least structure, and the differences of pixels at distances of one and two
    pixels. White noise smoothed by a Gaussian of sigma s has the correlation q^(d^2) at distance d, with
    q = exp(-1 / (4 s^2)), so the mean squares of the two differences have the ratio 1 : (1 + q) (1 + q^2).

    Args:
      patches: (n, 12, 12).
    """
    if not len(patches):
        return 0.0, 0.0
    size = PATCH_PX // _COARSE_PX
    coarse = patches.reshape(-1, size, _COARSE_PX, size, _COARSE_PX).mean(axis=(2, 4))
    structure = _without_plane(coarse).var(axis=(1, 2))
    count = max(1, round(_FLATTEST * len(patches)))
    flat = _without_plane(patches[np.argsort(structure, kind="stable")[:count]])
    near, far = (
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
    if near <= 1e-6:
        return 0.0, 0.0
    q = np.linspace(0, _MAX_Q, 1000)
    estimate = float(np.interp(far / near, (1 + q) * (1 + q**2), q))
    grain = float(np.sqrt(-1 / (4 * np.log(estimate)))) if estimate > _MIN_Q else 0.0
    return float(np.sqrt(near / 2 / (1 - estimate))), grain


def _without_plane(patches: np.ndarray) -> np.ndarray:
    """Subtract the least-squares plane from each square patch (n, size, size)."""
    line = np.arange(patches.shape[1]) - (patches.shape[1] - 1) / 2
    flat = patches.astype(np.float64) - patches.mean(axis=(1, 2), keepdims=True)
    power = (line**2).sum() * len(line)
    for slope in (line[:, None], line[None, :]):
        flat = flat - (flat * slope).sum(axis=(1, 2), keepdims=True) / power * slope
    return np.asarray(flat)


def edge_ratios(section: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the squared ratio of the gradients after Gaussians of 1 px and of 2 px, at the strongest edges."""
    sharp, soft = (
        ndimage.gaussian_gradient_magnitude(section, sigma) for sigma in (_SHARP_PX, _SOFT_PX)
    )
    inside = ndimage.binary_erosion(valid, iterations=6, border_value=0)
    if not inside.any():
        return np.zeros(0)
    steep = inside & (soft >= np.quantile(soft[inside], 1 - _STEEPEST)) & (soft > 0.5)
    return np.asarray((sharp[steep] / soft[steep]) ** 2)


def estimate_blur(ratios: np.ndarray) -> float:
    """Return the sigma, in pixels, of the Gaussian that blurred the steps, from the median of `edge_ratios`.

    A step blurred by a Gaussian of sigma s has, after another Gaussian of sigma a, a slope proportional to
    1 / sqrt(s^2 + a^2). Thin lines give a smaller sigma than steps with the same blur.
    """
    if not len(ratios):
        return 0.0
    ratio = max(float(np.median(ratios)), 1.0 + 1e-3)
    return math.sqrt(max(0.0, (_SOFT_PX**2 - ratio * _SHARP_PX**2) / (ratio - 1)))


def block_steps(section: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return the mean change of grey value between neighbours at each of 8 grid offsets: (2, 8), along y and x."""
    steps = np.full((2, _BLOCK_PX), np.nan)
    for axis in (0, 1):
        step = np.abs(np.diff(section, axis=axis))
        both = np.delete(valid, -1, axis) & np.delete(valid, 0, axis)
        for offset in range(_BLOCK_PX):
            at = tuple(slice(offset, None, _BLOCK_PX) if a == axis else slice(None) for a in (0, 1))
            if both[at].any():
                steps[axis, offset] = step[at][both[at]].mean()
    return steps


def block_strength(steps: np.ndarray) -> float:
    """Return by how much the largest change of the 8 grid offsets exceeds the others, relative to their mean.

    All sections share one grid. Noise alone gives nearly 0.

    Args:
      steps: (n, 2, 8), `block_steps` of n sections.
    """
    if not len(steps) or np.isnan(steps).any():
        return 0.0
    strengths = []
    for along in steps.mean(axis=0):
        order = np.sort(along)
        if order[:-1].mean() > 0:  # subtracting the second largest removes the effect of chance
            strengths.append((order[-1] - order[-2]) / order[:-1].mean())
    return float(np.mean(strengths)) if strengths else 0.0


def power_spectrum(patches: np.ndarray, pixel_nm: float) -> tuple[np.ndarray, np.ndarray]:
    """Return frequencies in cycles per um, and the power spectral density in grey values squared times um2.

    White noise of standard deviation s has the density s^2 * pixel area at all frequencies.

    Args:
      patches: (n, 64, 64).
    """
    size, pixel_um = _WINDOW_PX, pixel_nm * 1e-3
    window = np.outer(np.hanning(size), np.hanning(size))
    centred = patches - patches.mean(axis=(1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(centred * window)) ** 2).mean(axis=0) / (window**2).sum()
    per_px = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    edges = np.geomspace(1.5 / size, 0.5, _BINS + 1)
    group = np.digitize(per_px.ravel(), edges) - 1
    inside = (group >= 0) & (group < _BINS)
    counts = np.bincount(group[inside], minlength=_BINS)
    sums = np.bincount(group[inside], power.ravel()[inside], minlength=_BINS)
    middle = np.bincount(group[inside], per_px.ravel()[inside], minlength=_BINS)
    there = counts > 0
    density = sums[there] / counts[there] * pixel_um**2
    return middle[there] / counts[there] / pixel_um, density


def local_contrast(section: np.ndarray, pixel_nm: float) -> np.ndarray:
    """Return the standard deviation of the grey values, smoothed by 80 nm, in a window of 1 um around each pixel."""
    smooth = ndimage.gaussian_filter(section.astype(np.float64), _SMOOTH_NM / pixel_nm)
    size = max(3, round(_RESIN_NM / pixel_nm))
    mean = ndimage.uniform_filter(smooth, size)
    return np.sqrt(np.maximum(0.0, ndimage.uniform_filter(smooth**2, size) - mean**2))


def flat_areas(contrast: np.ndarray, tissue_contrast: float, pixel_nm: float) -> np.ndarray:
    """Return a boolean array of the areas of at least 4 um2 without structure, such as resin.

    Args:
      contrast: `local_contrast` of the section.
      tissue_contrast: typical local contrast of tissue in this image.
    """
    flat = contrast < _RESIN_SHARE * tissue_contrast
    pieces, _ = ndimage.label(flat)
    sizes = np.bincount(pieces.ravel()) * pixel_nm**2 * 1e-6
    sizes[0] = 0
    large = sizes[pieces] >= _MIN_RESIN_UM2
    # windows at the border of resin contain tissue, too: extend the area by half a window
    grown = ndimage.binary_dilation(large, iterations=max(1, round(_RESIN_NM / pixel_nm / 2)))
    return np.asarray(grown if large.any() else large)
