"""Types of voxels: 8-bit grey values of images, whole numbers of labels. Arrays are z, y, x."""

from __future__ import annotations

import numpy as np

from ...errors import UserError

_OUTLIERS = 0.001  # share of voxels at either end of the grey values that do not count
_LEAST_CONTRAST = 8  # grey values of 255; with fewer, an image is as good as black


def check_grey(array: np.ndarray, source: str) -> None:
    """Raise UserError if an image does not have 8 bits."""
    if array.dtype != np.uint8:
        raise UserError(
            f"{source} holds {array.dtype} voxels and flysoma reads uint8; make an 8-bit copy"
        )


def check_type(array: np.ndarray, layer_type: str, source: str) -> None:
    """Raise UserError if an array cannot be kept in a layer of type "image" or "segmentation"."""
    if layer_type == "image":
        if array.dtype != np.uint8:
            low, high = _value_range(array, source)
            raise UserError(
                f"{source} holds {array.dtype} voxels and an image is kept as uint8; say which values become "
                f"0 and 255 with --rescale LOW HIGH (they go from {low:g} to {high:g} here)"
            )
    elif array.dtype.kind not in "bui":
        raise UserError(f"{source} holds {array.dtype} voxels; labels are whole numbers")
    elif array.dtype.kind == "i" and array.size and array.min() < 0:
        raise UserError(f"{source} holds labels below zero ({array.min()}); 0 is background")


def rescale_grey(array: np.ndarray, low: float, high: float, source: str) -> np.ndarray:
    """Map grey values low..high to 0..255, section by section to save memory; NaN becomes 0.

    Raises:
      UserError: low is not below high, or hardly any contrast is left.
    """
    if not high > low:
        raise UserError(f"--rescale {low:g} {high:g}: the second value should be the larger")
    darkest, brightest = _value_range(array, source)
    scaled = np.empty(array.shape, np.uint8)
    counts = np.zeros(256, np.int64)
    for z, section in enumerate(array):
        grey = (np.nan_to_num(section.astype(np.float32), nan=low) - low) * (255 / (high - low))
        scaled[z] = np.rint(np.clip(grey, 0, 255))
        counts += np.bincount(scaled[z].ravel(), minlength=256)
    shares = np.cumsum(counts) / array.size
    first, last = np.searchsorted(shares, [_OUTLIERS, 1 - _OUTLIERS])
    if last - first < _LEAST_CONTRAST and brightest > darkest:
        raise UserError(
            f"{source}: --rescale {low:g} {high:g} leaves grey values from {first} to {last} of 255, and the values "
            f"go from {darkest:g} to {brightest:g}; give the darkest and the brightest value that matter"
        )
    return scaled


def _value_range(array: np.ndarray, source: str) -> tuple[float, float]:
    """Return the least and the largest finite value."""
    if array.dtype.kind not in "buif":
        raise UserError(f"voxels of type {array.dtype} are not grey values; one channel is needed")
    if array.dtype.kind != "f":
        return float(array.min()), float(array.max())
    finite = np.isfinite(array)
    if not finite.any():
        raise UserError(f"{source} holds no number, only NaN or infinity; check the file")
    low = array.min(where=finite, initial=np.inf)
    return float(low), float(array.max(where=finite, initial=-np.inf))
