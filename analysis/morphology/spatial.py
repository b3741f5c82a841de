"""Where somas lie: depth in the tissue, side of the brain and distances between them."""

from __future__ import annotations

import edt
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from ...axes import Nm3


def depths_below_surface(
    xyz_nm: np.ndarray, tissue: np.ndarray, voxel_nm: Nm3, first_nm: Nm3
) -> np.ndarray:
    """Return the depth of each point below the surface of the tissue in nm; 0 outside of the tissue.

    Args:
      xyz_nm: points, n, 3; x, y, z.
      tissue: bool, z, y, x; it is assumed to continue outside of the array.
      voxel_nm: voxel size of the tissue, x, y, z.
      first_nm: lower corner of its first voxel, x, y, z.
    """
    depth = edt.edt(np.ascontiguousarray(tissue), anisotropy=voxel_nm[::-1], black_border=False)
    position_vx = (xyz_nm - np.array(first_nm)) / np.array(voxel_nm) - 0.5
    depths = ndimage.map_coordinates(depth, position_vx[:, ::-1].T, order=1, mode="nearest")
    return np.asarray(depths, np.float64)


def sides_of_plane(xyz_nm: np.ndarray, point_nm: Nm3, normal: Nm3) -> np.ndarray:
    """Return 1 for each point (n, 3) on the side of a plane to which its normal points, and -1 on the other side."""
    return np.where((xyz_nm - np.array(point_nm)) @ np.array(normal) >= 0, 1, -1)


def count_neighbours(xyz_nm: np.ndarray, radius_nm: float) -> np.ndarray:
    """Count the other points within a radius of each point (n, 3)."""
    if len(xyz_nm) == 0:
        return np.zeros(0, np.int64)
    counts = cKDTree(xyz_nm).query_ball_point(xyz_nm, radius_nm, return_length=True)
    return np.asarray(counts, np.int64) - 1


def nearest_distances(xyz_nm: np.ndarray) -> np.ndarray:
    """Return the distance of each point (n, 3) to the nearest other point in nm; NaN for a single point."""
    if len(xyz_nm) < 2:
        return np.full(len(xyz_nm), np.nan)
    distance, _ = cKDTree(xyz_nm).query(xyz_nm, k=2)
    return np.asarray(distance[:, 1])
