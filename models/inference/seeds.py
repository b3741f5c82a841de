"""Probabilities of the localization network to seeds: one point in each soma. Arrays are z, y, x."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from scipy.spatial import cKDTree

from .pairs import distinct_pairs

_HIGHER = (0.7, 0.9)  # raised thresholds at which the cores of touching somas come apart


@dataclass(frozen=True)
class Seeds:
    """n seeds: `positions` in voxels z, y, x (n, 3), `scores` in 0..1, `volumes_um3` of their cores."""

    positions: np.ndarray
    scores: np.ndarray
    volumes_um3: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)


def find_seeds(
    probability: np.ndarray, voxel_nm: tuple[float, float, float], threshold: float, min_um3: float
) -> Seeds:
    """Connected cores above a threshold, each split where a higher threshold parts it.

    Args:
      probability: uint8 z, y, x, 255 = 1.
      voxel_nm: z, y, x.
      min_um3: cores smaller than this are no seeds.
    """
    voxel_um3 = float(np.prod(voxel_nm)) * 1e-9
    least = max(1, round(min_um3 / voxel_um3))
    cores = _cores(probability, threshold, least)
    for higher in _HIGHER:
        if higher > threshold:
            cores = _split(cores, _cores(probability, higher, least))
    stats = cc3d.statistics(cores)
    counts = stats["voxel_counts"][1:].astype(np.int64)
    sums = np.bincount(cores.ravel(), weights=probability.ravel(), minlength=len(counts) + 1)[1:]
    keep = counts > 0
    return Seeds(
        stats["centroids"][1:][keep],
        sums[keep] / (255.0 * counts[keep]),
        counts[keep] * voxel_um3,
    )


def drop_duplicates(
    positions_nm: np.ndarray, scores: np.ndarray, min_distance_nm: float
) -> np.ndarray:
    """Which seeds stay (bool, n): of two nearer than a distance the one with the higher score.

    Equal scores: the lower position, so that the answer does not depend on the order given.
    """
    order = np.lexsort((*positions_nm.T, -scores))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    keep = np.ones(len(order), bool)
    pairs = cKDTree(positions_nm).query_pairs(min_distance_nm) if len(order) else set()
    worse = sorted((max(rank[a], rank[b]), min(rank[a], rank[b])) for a, b in pairs)
    for low, high in worse:  # by rank: what drops another has itself been decided before
        if keep[order[high]]:
            keep[order[low]] = False
    return keep


def _cores(probability: np.ndarray, threshold: float, least: int) -> np.ndarray:
    """26-connected components at or above a threshold, of at least `least` voxels; uint32."""
    cores = cc3d.connected_components(
        probability >= round(threshold * 255), connectivity=26, out_dtype=np.uint32
    )
    small = cc3d.statistics(cores)["voxel_counts"] < least
    small[0] = False
    return np.where(small, 0, np.arange(len(small), dtype=np.uint32))[cores]


def _split(cores: np.ndarray, finer: np.ndarray) -> np.ndarray:
    """Cores in which two or more finer ones lie are replaced by these."""
    inside = finer > 0
    pairs, _ = distinct_pairs(cores[inside], finer[inside])
    parents, children = np.unique(pairs[0], return_counts=True)
    parted = np.isin(cores, parents[children > 1]) & (cores > 0)
    raised = np.where(inside, finer.astype(np.uint32) + cores.max(initial=0), 0)
    return np.where(parted, raised, cores).astype(np.uint32)
