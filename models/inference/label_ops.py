"""Operations on label arrays: pairs of labels, holes, parts, and growth. Arrays are z, y, x; 0 is background."""

from __future__ import annotations

from itertools import product

import cc3d
import fastremap
import numpy as np


def distinct_pairs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct pairs of labels at the same places of two arrays.

    Args:
      a, b: labels (uint32), n.
    Returns:
      pairs (uint32), 2, k, sorted; and the index of the pair at each place, n.
    """
    codes, index = fastremap.unique(
        a.astype(np.uint64) << np.uint64(32) | b.astype(np.uint64), return_inverse=True
    )
    pairs = np.stack([codes >> np.uint64(32), codes & np.uint64(0xFFFFFFFF)])
    return pairs.astype(np.uint32), index


def fill_holes(labels: np.ndarray) -> np.ndarray:
    """Fill background that is enclosed by a single label. Background that reaches the array's border stays."""
    empty = cc3d.connected_components(labels == 0, connectivity=6, out_dtype=np.uint32)
    closed = np.arange(int(empty.max()) + 1) > 0
    for axis in range(3):
        closed[empty.take((0, -1), axis)] = False
    voxels = np.flatnonzero(closed.take(empty))
    hole, flat = empty.ravel()[voxels], labels.ravel()
    steps = np.array(labels.strides) // labels.itemsize
    neighbours = np.concatenate([flat[voxels + step] for step in (*steps, *-steps)])
    labelled = neighbours > 0
    holes, label = distinct_pairs(np.tile(hole, 6)[labelled], neighbours[labelled])[0]
    of_hole, count = np.zeros(len(closed), labels.dtype), np.bincount(holes, minlength=len(closed))
    of_hole[holes] = label
    filled = labels.copy()
    filled.ravel()[voxels] = np.where(count == 1, of_hole, 0)[hole]
    return filled


def keep_largest_parts(labels: np.ndarray) -> np.ndarray:
    """Keep only the largest 6-connected part of each label."""
    parts = cc3d.connected_components(labels, connectivity=6, out_dtype=np.uint32)
    counts = np.bincount(parts.ravel())
    of_part = np.zeros(len(counts), labels.dtype)
    of_part[parts.ravel()] = labels.ravel()  # all voxels of a part have the same label
    order = np.lexsort((np.arange(len(counts)), -counts, of_part))
    largest = np.ones(len(order), bool)
    largest[1:] = of_part[order][1:] != of_part[order][:-1]
    of_part[order[~largest]] = 0
    return of_part.take(parts)


def grow_labels(labels: np.ndarray, mask: np.ndarray, steps: int) -> np.ndarray:
    """Grow labels into the background inside a mask, one voxel per step.

    A voxel gets the label of its 26 neighbours. If they have several labels, it gets the largest or the smallest
    of them, by majority vote.
    """
    padded = np.pad(labels, 1)
    strides = np.array(padded.strides) // padded.itemsize
    offsets = np.array(list(product((-1, 0, 1), repeat=3))) @ strides
    flat, free = padded.ravel(), (np.pad(mask, 1) & (padded == 0)).ravel()
    for _ in range(steps):
        chosen = _largest_neighbour(flat, strides)
        smallest = -_largest_neighbour(
            -flat, strides
        )  # unsigned negation keeps 0 as the least value
        ambiguous = np.flatnonzero(free & (chosen != smallest))
        large, small = chosen[ambiguous], smallest[ambiguous]
        votes = np.zeros(len(ambiguous), np.int8)
        for offset in offsets:
            neighbour = flat[ambiguous + offset]
            votes += neighbour == large
            votes -= neighbour == small
        chosen[ambiguous] = np.where(votes > 0, large, small)
        flat |= chosen * free
        free &= flat == 0
    return np.ascontiguousarray(padded[1:-1, 1:-1, 1:-1])


def _largest_neighbour(flat: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """Return the largest value of each voxel and its 26 neighbours, in a flattened array with a border of zeros."""
    largest = flat
    for stride in strides:
        before, largest = largest, np.zeros_like(flat)
        middle = largest[stride:-stride]
        np.maximum(before[: -2 * stride], before[stride:-stride], out=middle)
        np.maximum(middle, before[2 * stride :], out=middle)
    return largest
