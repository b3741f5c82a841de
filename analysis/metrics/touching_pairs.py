"""Pairs of true somas that touch, and how many of them a prediction separates. Arrays are z, y, x."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ...axes import Voxel

MIN_FACE_UM2 = 1.0


def find_touching_pairs(
    labels: np.ndarray, voxel_nm: Voxel, min_um2: float = MIN_FACE_UM2
) -> set[tuple[int, int]]:
    """Return the pairs of labels (the lower first) whose shared voxel faces have at least a minimum total area."""
    um = np.array(voxel_nm) * 1e-3
    pairs, areas = [], []
    for axis in range(3):
        low, high = (
            tuple(s if a == axis else slice(None) for a in range(3))
            for s in (slice(-1), slice(1, None))
        )
        one, two = labels[low], labels[high]
        touch = (one != two) & (one > 0) & (two > 0)
        pairs.append(np.sort(np.stack([one[touch], two[touch]], axis=1), axis=1))
        areas.append(np.full(int(touch.sum()), float(np.prod(um)) / um[axis]))
    unique, index = np.unique(np.concatenate(pairs), axis=0, return_inverse=True)
    area = np.bincount(index.ravel(), np.concatenate(areas), len(unique))
    return {(int(a), int(b)) for a, b in unique[area >= min_um2]}


def count_separated(pairs: set[tuple[int, int]], merged: Iterable[tuple[int, ...]]) -> int:
    """Count the pairs that are not both in one of the groups of true somas that a prediction merges."""
    together = {(a, b) for group in merged for a in group for b in group if (a, b) in pairs}
    return len(pairs) - len(together)
