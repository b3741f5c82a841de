"""An image at coarser voxels: each the mean of what it covers. Boxes are x, y, z; arrays z, y, x.

A voxel i of a resolution r covers i*r to (i+1)*r nm, counted from the space's zero.
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

Cover = tuple[np.ndarray, np.ndarray]  # places and shares
_AT_ONCE = {"cpu": 2 << 20, "cuda": 64 << 20}  # voxels: what a processor's cache holds


def covered(box: Box, resolution_nm: Nm3, own_nm: Nm3, whole: Box) -> Box:
    """The voxels of an image, of those that there are, that a box of another resolution covers."""
    lo, hi = [], []
    for axis in range(3):
        working, own = resolution_nm[axis], own_nm[axis]
        first, last = whole.lo[axis], whole.hi[axis]
        if same(working, own):
            lo.append(max(box.lo[axis], first))
            hi.append(min(box.hi[axis], last))
        else:
            start = math.floor(box.lo[axis] * working / own + 1e-9)
            lo.append(min(max(start, first), last - 1))
            hi.append(max(min(math.ceil(box.hi[axis] * working / own - 1e-9), last), lo[-1] + 1))
    return Box(vec3(lo), vec3(hi))


def resample(image: Tensor, source: Box, own_nm: Nm3, box: Box, resolution_nm: Nm3) -> Tensor:
    """A box at a coarser resolution, of an image that is known in the box `source` of its own resolution.

    Both uint8, on one device; the bytes are the same on every device.
    """
    x, y, z = (
        [] if same(working, own) else _covers(range(*there), range(*wanted), working, own)
        for there, wanted, working, own in zip(
            zip(source.lo, source.hi), zip(box.lo, box.hi), resolution_nm, own_nm
        )
    )
    if x or y:
        image = _means(image, 0, ((x, 2), (y, 1)), rounded=not z)
    return _means(image, 1, ((z, 0),), rounded=True) if z else image


def same(working: float, own: float) -> bool:
    """Whether two voxels have one length."""
    return abs(working - own) < 1e-6 * own


def _covers(there: range, wanted: range, working: float, own: float) -> list[Cover]:
    """The voxels that each wanted one covers along an axis, and which share of it each of them is: the first ones,
    the second ones, ..."""
    edges = np.array(wanted) * working
    first = np.floor(edges / own + 1e-6).astype(np.int64)
    most = int((np.ceil((edges + working) / own - 1e-6) - first).max())
    source = first + np.arange(most)[:, None]
    overlap = np.minimum(edges + working, (source + 1) * own) - np.maximum(edges, source * own)
    overlap[(overlap < 1e-6 * own) | (source < there.start) | (source >= there.stop)] = 0
    total = overlap.sum(axis=0)
    shares = (overlap / np.where(total > 0, total, 1)).astype(np.float32)
    return list(zip(np.clip(source - there.start, 0, len(there) - 1), shares))


def _means(
    image: Tensor, along: int, covers: Sequence[tuple[list[Cover], int]], rounded: bool
) -> Tensor:
    """Means over some axes, so many rows `along` another one at a time."""
    import torch

    rows = image.shape[along] * _AT_ONCE[image.device.type] // image.numel()
    found = []
    for part in image.split(max(1, rows), along):
        for cover, axis in covers:
            part = _mean(part, axis, cover) if cover else part
        found.append(part.round_().byte() if rounded else part)
    return torch.cat(found, along)


def _mean(image: Tensor, axis: int, cover: list[Cover]) -> Tensor:
    """Floats. Products and sums are steps of their own, in one order, so that devices agree."""
    import torch

    shape = [-1 if axis == other else 1 for other in range(3)]
    parts = (
        image.index_select(axis, torch.from_numpy(places).to(image.device))
        * torch.from_numpy(shares).to(image.device).view(shape)
        for places, shares in cover
    )
    found = next(parts)
    for part in parts:
        found.add_(part)
    return found
