"""Contingency tables of two segmentations, which add up over blocks. Exact for any 64-bit id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import fastremap
import numpy as np

from ...errors import UserError

_DENSE_CELLS = 1 << 22  # larger tables are counted by sorting instead of in one array


@dataclass(frozen=True)
class Contingency:
    """Numbers of voxels shared by label `a[i]` of one segmentation and `b[i]` of another; 0 is background.

    Pairs are unique and sorted by a, then b. Pairs that share no voxel are absent.
    """

    a: np.ndarray
    b: np.ndarray
    counts: np.ndarray

    def __add__(self, other: Contingency) -> Contingency:
        """Return the table of the union of two disjoint pieces of a volume."""
        return merge([self, other])

    @property
    def voxels(self) -> int:
        return int(self.counts.sum())

    def sizes_a(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted labels of the first segmentation, including background, and their voxel counts."""
        return _totals(self.a, self.counts)

    def sizes_b(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the sorted labels of the second segmentation, including background, and their voxel counts."""
        return _totals(self.b, self.counts)

    def where(self, keep: np.ndarray) -> Contingency:
        """Return only the pairs that a bool array selects."""
        return Contingency(self.a[keep], self.b[keep], self.counts[keep])


def contingency(a: np.ndarray, b: np.ndarray) -> Contingency:
    """Count the voxels of every pair of labels that occurs at the same position, including background.

    Args:
      a, b: integer or bool labels of the same shape, with any number of axes.

    Raises:
      UserError: the shapes differ, or the labels are not non-negative integers.
    """
    if a.shape != b.shape:
        raise UserError(
            f"both segmentations must have the same shape; got {a.shape} and {b.shape} (z, y, x)"
        )
    ids_a, dense_a = dense_labels(a)
    ids_b, dense_b = dense_labels(b)
    codes = dense_a.astype(np.uint64)
    codes *= np.uint64(len(ids_b))
    codes += dense_b
    if len(ids_a) * len(ids_b) <= _DENSE_CELLS:
        table = np.bincount(codes.view(np.int64), minlength=1)
        pairs = np.flatnonzero(table)
        counts = table[pairs]
    else:
        pairs, counts = fastremap.unique(codes, return_counts=True)
    row, column = np.divmod(pairs.astype(np.int64), len(ids_b))
    return Contingency(ids_a[row], ids_b[column], counts.astype(np.int64))


def overlap_table(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels a, labels b (uint64) and shared voxels of all pairs of foreground labels."""
    table = contingency(a, b)
    both = table.where((table.a > 0) & (table.b > 0))
    return both.a, both.b, both.counts


def merge(tables: Sequence[Contingency]) -> Contingency:
    """Add up the tables of disjoint pieces of a volume; the order of the pieces does not matter."""
    if not tables:
        no_labels = np.zeros(0, np.uint64)
        return Contingency(no_labels, no_labels, np.zeros(0, np.int64))
    a = np.concatenate([t.a for t in tables])
    b = np.concatenate([t.b for t in tables])
    counts = np.concatenate([t.counts for t in tables])
    order = np.lexsort((b, a))
    a, b, counts = a[order], b[order], counts[order]
    first = np.ones(len(a), bool)
    first[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    starts = np.flatnonzero(first)
    summed = np.add.reduceat(counts, starts) if len(starts) else counts
    return Contingency(a[starts], b[starts], summed)


def dense_labels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted ids (uint64) and, for every voxel of the flattened array, the index of its id."""
    if labels.dtype == bool:
        labels = labels.view(np.uint8)
    if labels.dtype.kind not in "ui":
        raise UserError(f"labels must be whole numbers, got {labels.dtype}")
    if labels.dtype.kind == "i" and labels.size and int(labels.min()) < 0:
        raise UserError(f"labels must not be negative, got {int(labels.min())}")
    flat = np.ascontiguousarray(labels).ravel()
    if flat.size == 0:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    # renumber assigns 1, 2, ... in order of occurrence and keeps 0; sort the ids for a deterministic table
    renumbered, mapping = fastremap.renumber(flat, preserve_zero=True)
    old = np.fromiter(mapping.keys(), np.uint64, len(mapping))
    new = np.fromiter(mapping.values(), np.int64, len(mapping))
    order = np.argsort(old)
    rank = np.zeros(int(new.max()) + 1, np.uint32)
    rank[new[order]] = np.arange(len(order), dtype=np.uint32)
    return old[order], rank[renumbered]


def _totals(ids: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, index = np.unique(ids, return_inverse=True)
    totals = np.zeros(len(unique), np.int64)
    np.add.at(totals, index, counts)
    return unique, totals
