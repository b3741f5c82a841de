"""Downsampling an image to coarser voxels: each is the mean of what it covers. Boxes are x, y, z; arrays z, y, x.

Voxel i of a resolution r covers i*r to (i+1)*r nm from the origin of space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...axes import Nm3
from .geometry import Box, vec3

if TYPE_CHECKING:
    from torch import Tensor

Term = tuple[np.ndarray, np.ndarray]  # source voxels and their weights
_BATCH_VX = {"cpu": 2 << 20, "cuda": 64 << 20}  # what fits into a processor's cache


def source_box(box: Box, resolution_nm: Nm3, own_nm: Nm3, bounds: Box) -> Box:
    """Return the voxels of an image, within its bounds, that a box of another resolution covers."""
    lo, hi = [], []
    for axis in range(3):
        working, own = resolution_nm[axis], own_nm[axis]
        first, last = bounds.lo[axis], bounds.hi[axis]
        if is_same_length(working, own):
            lo.append(max(box.lo[axis], first))
            hi.append(min(box.hi[axis], last))
        else:
            start = math.floor(box.lo[axis] * working / own + 1e-9)
            lo.append(min(max(start, first), last - 1))
            hi.append(max(min(math.ceil(box.hi[axis] * working / own - 1e-9), last), lo[-1] + 1))
    return Box(vec3(lo), vec3(hi))


def resample(image: Tensor, source: Box, own_nm: Nm3, box: Box, resolution_nm: Nm3) -> Tensor:
    """Downsample an image to a box at a coarser resolution; the bytes are the same on every device.

    Args:
      image: uint8, z, y, x.
      source: the image's box at its own resolution.

    Returns:
      uint8, z, y, x, on the image's device.
    """
    x, y, z = (
        [] if is_same_length(working, own) else _terms(range(*given), range(*wanted), working, own)
        for given, wanted, working, own in zip(
            zip(source.lo, source.hi), zip(box.lo, box.hi), resolution_nm, own_nm
        )
    )
    if x or y:
        image = _average(image, 0, ((x, 2), (y, 1)), rounded=not z)
    return _average(image, 1, ((z, 0),), rounded=True) if z else image


def is_same_length(working: float, own: float) -> bool:
    """Return whether two voxels have the same length."""
    return abs(working - own) < 1e-6 * own


def _terms(given: range, wanted: range, working: float, own: float) -> list[Term]:
    """Return the weighted sum along one axis whose terms are, for all wanted voxels at once, the first source voxel
    that each covers, the second, and so on."""
    edges = np.array(wanted) * working
    first = np.floor(edges / own + 1e-6).astype(np.int64)
    most = int((np.ceil((edges + working) / own - 1e-6) - first).max())
    source = first + np.arange(most)[:, None]
    overlap = np.minimum(edges + working, (source + 1) * own) - np.maximum(edges, source * own)
    overlap[(overlap < 1e-6 * own) | (source < given.start) | (source >= given.stop)] = 0
    total = overlap.sum(axis=0)
    weights = (overlap / np.where(total > 0, total, 1)).astype(np.float32)
    return list(zip(np.clip(source - given.start, 0, len(given) - 1), weights))


def _average(
    image: Tensor, along: int, axes: Sequence[tuple[list[Term], int]], rounded: bool
) -> Tensor:
    """Average along some axes, in batches of rows `along` another one."""
    import torch

    rows = max(1, image.shape[along] * _BATCH_VX[image.device.type] // image.numel())
    batches = []
    for part in torch.split(image, rows, along):
        for terms, axis in axes:
            part = _weighted_sum(part, axis, terms) if terms else part
        batches.append(part.round_().byte() if rounded else part)
    return torch.cat(batches, along)


def _weighted_sum(image: Tensor, axis: int, terms: list[Term]) -> Tensor:
    """Return float32. Products and sums are separate operations in a fixed order, so that devices agree."""
    import torch

    shape = [-1 if axis == other else 1 for other in range(3)]
    products = (
        image.index_select(axis, torch.from_numpy(places).to(image.device))
        * torch.from_numpy(weights).to(image.device).view(shape)
        for places, weights in terms
    )
    total = next(products)
    for term in products:
        total.add_(term)
    return total
