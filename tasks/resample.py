"""An image at coarser voxels: each the mean of what it covers. Boxes are x, y, z; arrays z, y, x.

A voxel i of a resolution r covers i*r to (i+1)*r nm, counted from the space's zero.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import sparse

from .geometry import Box, vec3

Nm3 = tuple[float, float, float]
_SLAB = 16  # sections or rows that are floats at a time


def covered(box: Box, resolution_nm: Nm3, own_nm: Nm3, whole: Box) -> Box:
    """The voxels of an image, of those that there are, that a box of another resolution covers."""
    lo, hi = [], []
    for axis in range(3):
        working, own = resolution_nm[axis], own_nm[axis]
        first, last = whole.lo[axis], whole.hi[axis]
        if _same(working, own):
            lo.append(max(box.lo[axis], first))
            hi.append(min(box.hi[axis], last))
        else:
            start = math.floor(box.lo[axis] * working / own + 1e-9)
            lo.append(min(max(start, first), last - 1))
            hi.append(max(min(math.ceil(box.hi[axis] * working / own - 1e-9), last), lo[-1] + 1))
    return Box(vec3(lo), vec3(hi))


def resample(
    image: np.ndarray, source: Box, own_nm: Nm3, box: Box, resolution_nm: Nm3
) -> np.ndarray:
    """A box at a coarser resolution, uint8, of an image that is known in the box `source` of its own resolution."""
    x, y, z = (
        None if _same(working, own) else _coverage(range(*there), range(*wanted), working, own)
        for there, wanted, working, own in zip(
            zip(source.lo, source.hi), zip(box.lo, box.hi), resolution_nm, own_nm
        )
    )
    if x is not None or y is not None:
        sections = range(0, len(image), _SLAB)
        parts = [_apply(y, _apply(x, image[i : i + _SLAB], 2), 1) for i in sections]
        image = np.concatenate(parts)
    if z is None:
        return image if image.dtype == np.uint8 else np.rint(image).astype(np.uint8)
    found = np.empty((z.shape[0], *image.shape[1:]), np.uint8)
    for i in range(0, image.shape[1], _SLAB):
        found[:, i : i + _SLAB] = np.rint(_apply(z, image[:, i : i + _SLAB], 0))
    return found


def _same(working: float, own: float) -> bool:
    return abs(working - own) < 1e-6 * own


def _coverage(there: range, wanted: range, working: float, own: float) -> sparse.csr_matrix:
    """How much of each voxel that is there every wanted one covers, as rows that sum to 1."""
    source = np.array(there)
    edges = np.array(wanted)[:, None] * working
    overlap = np.minimum(edges + working, (source + 1) * own) - np.maximum(edges, source * own)
    overlap[overlap < 1e-6 * own] = 0
    total = overlap.sum(axis=1, keepdims=True)
    overlap = overlap / np.where(total > 0, total, 1)
    return sparse.csr_matrix(overlap.astype(np.float32))


def _apply(matrix: sparse.csr_matrix | None, image: np.ndarray, axis: int) -> np.ndarray:
    if matrix is None:
        return image
    moved = np.moveaxis(image, axis, 0)
    flat = np.ascontiguousarray(moved, np.float32).reshape(moved.shape[0], -1)
    return np.moveaxis((matrix @ flat).reshape(-1, *moved.shape[1:]), 0, axis)
