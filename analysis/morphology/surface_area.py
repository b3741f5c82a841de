"""Surface area of labels as integers that add up over blocks. Arrays are z, y, x.

By the Cauchy-Crofton formula, the surface area is a weighted count of how often lines enter or leave an object. The
lines follow the 49 directions to voxels at most two steps away along each axis. Each pair of voxels on a line is
counted by the block whose core contains the first voxel of the pair's bounding box, so that a block needs REACH
voxels beyond its upper faces and none beyond its lower faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from math import gcd

import numpy as np
from scipy.optimize import nnls

from ...axes import Voxel, Zyx

REACH = 2  # voxels
UNIT_NM2 = 1e-3  # unit of the integer sums
# one of each pair of opposite steps, and the shortest of the steps along one line
DIRECTIONS: tuple[Zyx, ...] = tuple(
    (z, y, x)
    for z, y, x in product(range(-REACH, REACH + 1), repeat=3)
    if (z, y, x) > (0, 0, 0) and gcd(z, y, x) == 1
)
_NORMALS = 4000  # face orientations of the fit, evenly distributed on the sphere


def surface_sums(
    dense: np.ndarray, n: int, core_stop: Sequence[int], voxel_nm: Voxel
) -> np.ndarray:
    """Return the surface area of labels 0..n-1 in units of UNIT_NM2, int64.

    Args:
      dense: labels 0..n-1.
      n: number of labels.
      core_stop: past-last voxel of the core; only pairs whose bounding box starts before it on every axis count.
      voxel_nm: voxel size, z, y, x.
    """
    dense = dense.astype(np.min_scalar_type(n - 1))
    total = np.zeros(n, np.int64)
    for step, weight in zip(DIRECTIONS, crossing_weights(voxel_nm)):
        if weight == 0:
            continue
        one, two = [], []
        for d, size, stop in zip(step, dense.shape, core_stop):
            length = max(min(size - abs(d), stop), 0)
            one.append(slice(max(0, -d), max(0, -d) + length))
            two.append(slice(max(0, d), max(0, d) + length))
        first, second = dense[tuple(one)], dense[tuple(two)]
        differ = first != second
        for side in (first, second):
            total += weight * np.bincount(side[differ], minlength=n)
    return total


@cache
def crossing_weights(voxel_nm: Voxel) -> tuple[int, ...]:
    """Return the surface area in units of UNIT_NM2 that one crossing along each of DIRECTIONS represents; may be 0.

    The lines along one step cover the volume, so that each has a cross-section of one voxel volume divided by the
    length of the step. The surface area is twice the mean over all directions of crossings times cross-section. The
    weight of each direction in that mean is the same for mirror images and fitted by least squares, so that planes of
    every orientation have the right area. Axis-aligned planes have the largest weight in the fit, because the volume
    cuts somas there: at 40 x 64 x 64 nm their area is within 0.4 %, and the standard deviation of the others is
    1.3 %. The area of a sphere is exact.
    """
    steps = np.array(DIRECTIONS, np.float64) * np.array(voxel_nm, np.float64)
    length = np.linalg.norm(steps, axis=1)
    step = np.arange(_NORMALS) + 0.5  # Fibonacci lattice
    height, angle = 1.0 - 2.0 * step / _NORMALS, np.pi * (1.0 + 5.0**0.5) * step
    radius = np.sqrt(1.0 - height**2)
    normals = np.stack([height, radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    # each axis-aligned plane weighs as much as all other planes together
    plane_weights = np.append(np.ones(_NORMALS), np.full(3, _NORMALS**0.5))
    projected = 2.0 * np.abs(np.concatenate([normals, np.eye(3)]) @ (steps / length[:, None]).T)
    _, group = np.unique(np.abs(DIRECTIONS), axis=0, return_inverse=True)
    mirrored = np.eye(group.max() + 1)[group.ravel()]
    group_share, _ = nnls(plane_weights[:, None] * (projected @ mirrored), plane_weights)
    share = mirrored @ group_share
    weights = 2.0 * share / share.sum() * np.prod(voxel_nm) / length
    return tuple(np.rint(weights / UNIT_NM2).astype(int).tolist())
