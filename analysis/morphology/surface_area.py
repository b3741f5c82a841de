"""Surface area of labels, as whole numbers that blocks can add up. Arrays are z, y, x.

By the Cauchy-Crofton formula it is the number of times that lines enter or leave an object, weighted by what each
direction stands for. The lines run along the 49 directions to voxels at most two steps away along each axis. A
pair of voxels on a line is counted by the block whose core holds the first voxel of the box around the pair, so that
a block needs REACH voxels beyond its upper faces and none beyond the lower ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from math import gcd

import numpy as np
from scipy.optimize import nnls

from ...axes import Nm3, Zyx

REACH = 2  # voxels
UNIT_NM2 = 1e-3  # of the sums
# one of each pair of opposite steps, and of those along one line the shortest
DIRECTIONS: tuple[Zyx, ...] = tuple(
    (z, y, x)
    for z, y, x in product(range(-REACH, REACH + 1), repeat=3)
    if (z, y, x) > (0, 0, 0) and gcd(z, y, x) == 1
)
_NORMALS = 4000  # orientations of faces, spread evenly over the sphere


def surface_sums(dense: np.ndarray, n: int, core_stop: Sequence[int], voxel_nm: Nm3) -> np.ndarray:
    """Surface of labels 0..n-1 in UNIT_NM2, int64, from pairs whose box begins before `core_stop` on every axis."""
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
        here, there = dense[tuple(one)], dense[tuple(two)]
        differ = here != there
        for side in (here, there):
            total += weight * np.bincount(side[differ], minlength=n)
    return total


@cache
def crossing_weights(voxel_nm: Nm3) -> tuple[int, ...]:
    """Surface in UNIT_NM2 that a crossing in each of DIRECTIONS stands for; some may stand for nothing.

    A line along a step has, of all such lines, a cross-section of one voxel's volume over the step's length; the
    surface is twice the mean over all directions of crossings times cross-section. Each direction's share in that
    mean, the same for mirror images, is chosen by least squares so that flat faces of every orientation have their
    area, those along the voxels, where a volume cuts somas, above all: at 40 x 64 x 64 nm they do to 0.4 %, others
    with a deviation of 1.3 %. A sphere comes out exactly.
    """
    steps = np.array(DIRECTIONS, np.float64) * np.array(voxel_nm, np.float64)
    length = np.linalg.norm(steps, axis=1)
    along = np.arange(_NORMALS) + 0.5
    height, turn = 1.0 - 2.0 * along / _NORMALS, np.pi * (1.0 + 5.0**0.5) * along
    ring = np.sqrt(1.0 - height**2)
    normals = np.stack([height, ring * np.sin(turn), ring * np.cos(turn)], axis=1)
    counts = np.append(
        np.ones(_NORMALS), np.full(3, _NORMALS**0.5)
    )  # a face along the voxels: as much as all others
    shown = 2.0 * np.abs(np.concatenate([normals, np.eye(3)]) @ (steps / length[:, None]).T)
    _, kind = np.unique(np.abs(DIRECTIONS), axis=0, return_inverse=True)
    mirrored = np.eye(kind.max() + 1)[kind.ravel()]
    of_kind, _ = nnls(counts[:, None] * (shown @ mirrored), counts)
    share = mirrored @ of_kind
    weights = 2.0 * share / share.sum() * np.prod(voxel_nm) / length
    return tuple(np.rint(weights / UNIT_NM2).astype(int).tolist())
