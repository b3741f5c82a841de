"""Distance between the surfaces of two objects. Masks are z, y, x."""

from __future__ import annotations

import edt
import numpy as np
from scipy import ndimage

from ...axes import Voxel


def surface(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of a mask that have a face neighbour outside of it; the mask continues beyond the array."""
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def surface_distances(one: np.ndarray, two: np.ndarray, voxel_nm: Voxel) -> np.ndarray:
    """Return the distance of each surface voxel of either mask to the nearest surface voxel of the other, in nm.

    Distances are between voxel centres. The mean is the average symmetric surface distance, the maximum the Hausdorff
    distance. The array is empty if one of the masks has no surface.
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
