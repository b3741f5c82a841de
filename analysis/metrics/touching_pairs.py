"""True somas that touch: how many of the pairs a prediction keeps apart. Arrays are z, y, x."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...axes import Voxel

MIN_FACE_UM2 = 1.0


def touching_pairs(
    labels: np.ndarray, voxel_nm: Voxel, min_um2: float = MIN_FACE_UM2
) -> set[tuple[int, int]]:
    """Pairs of labels, the lower first, that share faces of voxels of at least this area."""
    um = np.array(voxel_nm) * 1e-3
    pairs, areas = [], []
    for axis in range(3):
        low, high = (
            tuple(s if a == axis else slice(None) for a in range(3))
            for s in (slice(-1), slice(1, None))
        )
        one, two = labels[low], labels[high]
        meet = (one != two) & (one > 0) & (two > 0)
        pairs.append(np.sort(np.stack([one[meet], two[meet]], axis=1), axis=1))
        areas.append(np.full(int(meet.sum()), float(np.prod(um)) / um[axis]))
    unique, place = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
    area = np.bincount(place.ravel(), np.concatenate(areas), len(unique))
    return {(int(a), int(b)) for a, b in unique[area >= min_um2]}


def kept_apart(pairs: set[tuple[int, int]], merged: Iterable[tuple[int, ...]]) -> int:
    """How many of the pairs are not together in one of the groups that predictions have merged."""
    together = {(a, b) for group in merged for a in group for b in group if (a, b) in pairs}
    return len(pairs) - len(together)
