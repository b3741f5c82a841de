"""Where there is tissue: by the mask layer if there is one, otherwise where the image's coarsest mip is not black."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...axes import Nm3
from .geometry import Box, vec3
from .image import ImageLayer
from .labels import LabelLayer

_COARSE_LIMIT = 1 << 29  # voxels of the coarsest mip above which tissue is not looked for


class Tissue:
    """The tissue of a volume, as coarse as it is known.

    Args:
      image: cloudpath of the image.
      mask: cloudpath of a segmentation that is 0 where there is no tissue; None: black means none.
    """

    def __init__(self, image: str, mask: str | None) -> None:
        self._tissue: np.ndarray | None = None
        if mask is None:
            layer = ImageLayer(image, fill_missing=True)
            self._coarse_nm, self._whole = layer.coarsest()
            if self._whole.voxels <= _COARSE_LIMIT:
                self._tissue = layer.read(self._whole, self._coarse_nm) > 0
        else:
            labels = LabelLayer(mask)
            self._coarse_nm, self._whole = labels.resolution_nm, labels.bounds
            self._tissue = labels.read(self._whole) > 0

    @property
    def mask(self) -> tuple[np.ndarray, Nm3, Nm3]:
        """The mask layer (bool, z, y, x), its voxels and its lower corner, x, y, z, nm."""
        assert self._tissue is not None
        first = tuple(v * r for v, r in zip(self._whole.lo, self._coarse_nm))
        return self._tissue, self._coarse_nm, first  # type: ignore[return-value]

    def meets(self, box: Box, resolution_nm: Sequence[float]) -> bool:
        """Whether a box may hold tissue."""
        if self._tissue is None:
            return True
        ratio = [r / c for r, c in zip(resolution_nm, self._coarse_nm)]
        part = Box(
            vec3([int(a * q // 1) for a, q in zip(box.lo, ratio)]),
            vec3([-int(-b * q // 1) for b, q in zip(box.hi, ratio)]),
        ).intersect(self._whole)
        return not part.empty and bool(self._tissue[part.slices_zyx(self._whole.lo)].any())
