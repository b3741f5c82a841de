"""Sizes, centroids and bounding boxes of labelled objects, which add up over blocks. In voxels, z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np

from ...axes import Zyx
from .contingency import dense_labels


@dataclass(frozen=True)
class Objects:
    """Objects of a segmentation without background, sorted by id.

    Attributes:
      ids: uint64.
      voxels: voxel counts.
      sums: sums of the positions of their voxels, n, 3.
      lo, hi: first and past-last voxel of their bounding boxes, n, 3.
    """

    ids: np.ndarray
    voxels: np.ndarray
    sums: np.ndarray
    lo: np.ndarray
    hi: np.ndarray

    @property
    def centroids(self) -> np.ndarray:
        """Centroids, n, 3."""
        return self.sums / self.voxels[:, None]

    def row(self, label: int) -> int:
        """Return the row of an id that is present."""
        return int(np.searchsorted(self.ids, np.uint64(label)))

    def at_border(self, shape: Zyx) -> np.ndarray:
        """Return the ids of the objects that touch a face of the volume."""
        return self.ids[(self.lo == 0).any(axis=1) | (self.hi == np.array(shape)).any(axis=1)]


def find_objects(labels: np.ndarray, origin: Zyx = (0, 0, 0)) -> Objects:
    """Find the objects of an array whose first voxel lies at `origin`."""
    ids, dense = dense_labels(labels)
    if len(ids) and ids[0] > 0:  # without background, index 0 is an object
        ids, dense = np.insert(ids, 0, np.uint64(0)), dense + np.uint32(1)
    if len(ids) < 2:
        no_boxes = np.zeros((0, 3), np.int64)
        return Objects(
            np.zeros(0, np.uint64),
            np.zeros(0, np.int64),
            no_boxes.astype(float),
            no_boxes,
            no_boxes,
        )
    stats = cc3d.statistics(dense.reshape(labels.shape))
    voxels = stats["voxel_counts"][1:].astype(np.int64)
    sums = stats["centroids"][1:].astype(np.float64) * voxels[:, None]
    boxes = stats["bounding_boxes"][1:]
    lo, hi = (
        np.array([[getattr(s, end) for s in box] for box in boxes]) for end in ("start", "stop")
    )
    shift = np.array(origin)
    return Objects(ids[1:], voxels, np.rint(sums) + voxels[:, None] * shift, lo + shift, hi + shift)


def merge_objects(parts: Sequence[Objects]) -> Objects:
    """Combine the objects of disjoint pieces of a volume."""
    ids, index = np.unique(np.concatenate([p.ids for p in parts]), return_inverse=True)
    voxels, sums = np.zeros(len(ids), np.int64), np.zeros((len(ids), 3))
    lo, hi = np.full((len(ids), 3), np.iinfo(np.int64).max), np.zeros((len(ids), 3), np.int64)
    np.add.at(voxels, index, np.concatenate([p.voxels for p in parts]))
    np.add.at(sums, index, np.concatenate([p.sums for p in parts]))
    np.minimum.at(lo, index, np.concatenate([p.lo for p in parts]))
    np.maximum.at(hi, index, np.concatenate([p.hi for p in parts]))
    return Objects(ids, voxels, sums, lo, hi)
