"""How far the surfaces of two objects lie apart. Masks are z, y, x."""

from __future__ import annotations

import edt
import numpy as np
from scipy import ndimage

from ...axes import Voxel


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask with a neighbour across a face that is not in it; the array's faces count as going on."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def surface_distances(one: np.ndarray, two: np.ndarray, voxel_nm: Voxel) -> np.ndarray:
    """Distance in nm from each surface voxel of either mask to the nearest one of the other, between centres.

    Empty where one of them has no surface. Its mean is the average symmetric surface distance, its maximum that of
    Hausdorff.
    """
    surfaces = surface(one), surface(two)
    if not (surfaces[0].any() and surfaces[1].any()):
        return np.zeros(0)
    return np.concatenate(
        [
            edt.edt(~other, anisotropy=voxel_nm, parallel=1)[own]
            for own, other in (surfaces, surfaces[::-1])
        ]
    )
