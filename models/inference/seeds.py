"""Find seeds, one point in each soma, in the probabilities of the localization network. Arrays are z, y, x."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from scipy.spatial import cKDTree

from ...axes import Voxel
from .label_ops import distinct_pairs

_SPLIT_THRESHOLDS = (0.7, 0.9)  # the soma cores of touching somas separate at these


@dataclass(frozen=True)
class Seeds:
    """A list of n seeds.

    Attributes:
      positions: n, 3; voxels, z, y, x.
      scores: mean probability of the soma core, 0 to 1.
      volumes_um3: volume of the soma core.
    """

    positions: np.ndarray
    scores: np.ndarray
    volumes_um3: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)


def find_seeds(probability: np.ndarray, voxel_nm: Voxel, threshold: float, min_um3: float) -> Seeds:
    """Find the centroids of connected soma cores.

    A soma core is a 26-connected component above the threshold. It is replaced by its parts where a higher threshold
    separates it.

    Args:
      probability: uint8, z, y, x; 255 stands for 1.
      voxel_nm: size of a voxel, z, y, x.
      threshold: least probability of a soma core, 0 to 1.
      min_um3: least volume of a soma core.
    """
    voxel_um3 = float(np.prod(voxel_nm)) * 1e-9
    min_voxels = max(1, round(min_um3 / voxel_um3))
    cores = _find_cores(probability, threshold, min_voxels)
    for higher in _SPLIT_THRESHOLDS:
        if higher > threshold:
            cores = _split(cores, _find_cores(probability, higher, min_voxels))
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
    """Return which seeds to keep: of two seeds that are too close, the one with the higher score.

    Seeds with equal scores are ordered by position, so the result does not depend on the order of the input.

    Args:
      positions_nm: n, 3.
      scores: n.
      min_distance_nm: least distance of two seeds.
    Returns:
      bool, n.
    """
    order = np.lexsort((*positions_nm.T, -scores))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    keep = np.ones(len(order), bool)
    pairs = cKDTree(positions_nm).query_pairs(min_distance_nm) if len(order) else set()
    ranked = sorted((max(rank[a], rank[b]), min(rank[a], rank[b])) for a, b in pairs)
    for worse, better in ranked:  # by rank, so that `better` has already been decided
        if keep[order[better]]:
            keep[order[worse]] = False
    return keep


def _find_cores(probability: np.ndarray, threshold: float, min_voxels: int) -> np.ndarray:
    """Label the 26-connected components at or above a threshold that have at least `min_voxels`; uint32."""
    cores = cc3d.connected_components(
        probability >= round(threshold * 255), connectivity=26, out_dtype=np.uint32
    )
    small = cc3d.statistics(cores)["voxel_counts"] < min_voxels
    small[0] = False
    return np.where(small, 0, np.arange(len(small), dtype=np.uint32))[cores]


def _split(cores: np.ndarray, finer: np.ndarray) -> np.ndarray:
    """Replace each core that contains two or more finer cores by these."""
    inside = finer > 0
    pairs, _ = distinct_pairs(cores[inside], finer[inside])
    parents, children = np.unique(pairs[0], return_counts=True)
    replaced = np.isin(cores, parents[children > 1]) & (cores > 0)
    renumbered = np.where(inside, finer.astype(np.uint32) + cores.max(initial=0), 0)
    return np.where(replaced, renumbered, cores).astype(np.uint32)
