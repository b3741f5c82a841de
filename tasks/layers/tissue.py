"""Where a volume has tissue: by the mask layer if there is one, else where the image's coarsest mip is not black."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from ...axes import Nm3
from ...errors import UserError
from ...models.inference.lattice import Lattice
from ..grids.geometry import Box
from ..grids.tiles import any_in
from .image import ImageLayer
from .labels import LabelLayer

_MAX_COARSE_VX = 1 << 29  # a larger coarsest mip is not read: all of the volume counts as tissue
_MAX_MASK_VX = 1 << 28  # a byte each


class Tissue:
    """A coarse mask of a volume's tissue.

    Args:
      image: cloudpath of the image.
      mask: cloudpath of a segmentation that is 0 where there is no tissue; None: where the image is black.
    """

    def __init__(self, image: str, mask: str | None) -> None:
        self._tissue: np.ndarray | None = None
        if mask is None:
            layer = ImageLayer(image, fill_missing=True)
            self._coarse_nm, self._bounds = layer.coarsest()
            if self._bounds.voxels <= _MAX_COARSE_VX:
                self._tissue = layer.read(self._bounds, self._coarse_nm) > 0
        else:
            self._coarse_nm, self._bounds, self._tissue = _read_mask(LabelLayer(mask))

    @property
    def mask(self) -> tuple[np.ndarray, Nm3, Nm3]:
        """The mask (bool, z, y, x), its voxel size and its lower corner, x, y, z, nm."""
        assert self._tissue is not None
        x, y, z = (v * r for v, r in zip(self._bounds.lo, self._coarse_nm))
        return self._tissue, self._coarse_nm, (x, y, z)

    def tiles(self, lattice: Lattice, bounds: Box, resolution_nm: Nm3) -> np.ndarray:
        """Return which tiles of a volume may hold tissue: bool, one value per tile, z, y, x.

        Args:
          bounds: the volume at `resolution_nm`, whose first voxel is the lattice's.
        """
        if self._tissue is None:
            return np.ones(lattice.shape, bool)
        spans = []
        for axis, edges in zip((2, 1, 0), lattice.edges):
            ratio = resolution_nm[axis] / self._coarse_nm[axis]
            lo = self._bounds.lo[axis]
            ends = [(edge + bounds.lo[axis]) * ratio for edge in edges]
            coarse = [(math.floor(a) - lo, math.ceil(b) - lo) for a, b in pairwise(ends)]
            spans.append([(max(a, 0), max(b, 0)) for a, b in coarse])
        return any_in(self._tissue, spans)


def _read_mask(labels: LabelLayer) -> tuple[Nm3, Box, np.ndarray]:
    """Return voxel size, bounds and content (bool, z, y, x) of the finest mip of a mask that fits into memory.

    A voxel of a coarser mip is the majority of what it covers. So that no tissue is lost, tissue grows by one voxel
    there.
    """
    fitting = [mip for mip, box in enumerate(labels.mip_bounds) if box.voxels <= _MAX_MASK_VX]
    if not fitting:
        raise UserError(
            f"the mask {labels.cloudpath} has {labels.mip_bounds[-1].voxels:,d} voxels in its coarsest mip, and at "
            f"most {_MAX_MASK_VX:,d} are read; give it coarser mips"
        )
    mip = fitting[0]
    bounds = labels.mip_bounds[mip]
    tissue = np.zeros(bounds.size[::-1], bool)
    (x0, y0, z0), (x1, y1, z1) = bounds.lo, bounds.hi
    step = labels.chunks.core_shape[2]
    for z in range(z0, z1, step):  # the labels have up to 8 bytes a voxel
        past = min(z + step, z1)
        tissue[z - z0 : past - z0] = labels.read(Box((x0, y0, z), (x1, y1, past)), mip) > 0
    return labels.mip_resolutions_nm[mip], bounds, _grow(tissue) if mip else tissue


def _grow(mask: np.ndarray) -> np.ndarray:
    """Grow a mask by one voxel along each axis, in both directions."""
    for axis in range(mask.ndim):
        grown = mask.copy()
        before, after = np.moveaxis(grown, axis, 0), np.moveaxis(mask, axis, 0)
        before[1:] |= after[:-1]
        before[:-1] |= after[1:]
        mask = grown
    return mask
