"""Errors of a segmentation: missed and false objects, merges, splits and differing outlines.

Arrays and positions are z, y, x, in voxels, unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...axes import Zyx
from .contingency import Contingency
from .matching import Conflict, Matching, find_conflicts
from .objects import Objects
from .scores import COVERED_SHARE

Box = tuple[Zyx, Zyx]


@dataclass(frozen=True)
class Case:
    """An error of a segmentation.

    Attributes:
      kind: missed, false, merge (one prediction covers several true objects), split (several predictions cover one
        true object) or border (a matched pair with different outlines).
      pred, truth: ids of the objects involved.
      wrong_um3: mislabelled volume.
      iou: IoU of the pair; the best IoU of the single object in other cases.
      centre, box: position and bounding box.
    """

    kind: str
    pred: tuple[int, ...]
    truth: tuple[int, ...]
    wrong_um3: float
    iou: float
    centre: Zyx
    box: Box


def find_cases(
    table: Contingency,
    matching: Matching,
    both: tuple[Objects, Objects],
    shape: Zyx,
    voxel_um3: float,
) -> list[Case]:
    """List the errors, the largest mislabelled volume first."""
    errors = _Cases(table, both, shape, voxel_um3)
    merges, splits = find_conflicts(table, matching, COVERED_SHARE)
    for merged in merges:
        errors.add_conflict("merge", merged)
    for split in splits:
        errors.add_conflict("split", split)
    for row, column, iou in zip(matching.pair_pred, matching.pair_truth, matching.pair_iou):
        errors.add_pair(int(matching.pred[row]), int(matching.truth[column]), float(iou))
    for label in matching.truth.tolist():
        errors.add_unmatched(1, label)
    for label in matching.pred.tolist():
        errors.add_unmatched(0, label)
    return sorted(errors.cases, key=lambda case: (-case.wrong_um3, case.pred, case.truth))


def padded_box(
    both: tuple[Objects, Objects], pred: tuple[int, ...], truth: tuple[int, ...], shape: Zyx
) -> Box:
    """Return the joint bounding box of objects, padded by one voxel within the volume."""
    rows = [(objects, objects.row(i)) for objects, ids in zip(both, (pred, truth)) for i in ids]
    lo = np.min([objects.lo[row] for objects, row in rows], axis=0) - 1
    hi = np.max([objects.hi[row] for objects, row in rows], axis=0) + 1
    a, b = np.maximum(lo, 0).tolist(), np.minimum(hi, shape).tolist()
    return (a[0], a[1], a[2]), (b[0], b[1], b[2])


class _Cases:
    """Collects the errors of a segmentation; each object appears in the first kind of error that applies."""

    def __init__(
        self, table: Contingency, both: tuple[Objects, Objects], shape: Zyx, voxel_um3: float
    ) -> None:
        self.cases: list[Case] = []
        self._both, self._shape, self._voxel_um3 = both, shape, voxel_um3
        self._sizes = [dict(zip(o.ids.tolist(), o.voxels.tolist())) for o in both]
        foreground = table.where((table.a > 0) & (table.b > 0))
        pairs = zip(foreground.a, foreground.b, foreground.counts)
        self._shared = {(int(a), int(b)): int(n) for a, b, n in pairs}
        self._best: tuple[dict[int, tuple[float, int]], ...] = {}, {}  # IoU and best partner
        for (a, b), n in self._shared.items():
            iou = n / (self._sizes[0][a] + self._sizes[1][b] - n)
            self._best[0][a] = max(self._best[0].get(a, (0.0, 0)), (iou, b))
            self._best[1][b] = max(self._best[1].get(b, (0.0, 0)), (iou, a))
        self._listed: tuple[set[int], set[int]] = set(), set()

    def add_conflict(self, kind: str, conflict: Conflict) -> None:
        """Add a merge or a split; all but the largest part are wrong."""
        single, several = (conflict.single,), conflict.several
        pred, truth = (single, several) if kind == "merge" else (several, single)
        sizes = sorted(self._shared[a, b] for a in pred for b in truth)
        iou, _ = self._best[0 if kind == "merge" else 1][conflict.single]
        self._add(kind, pred, truth, sum(sizes[:-1]), iou)

    def add_pair(self, a: int, b: int, iou: float) -> None:
        """Add a matched pair if its outlines differ."""
        if iou < 1 and a not in self._listed[0] and b not in self._listed[1]:
            wrong = self._sizes[0][a] + self._sizes[1][b] - 2 * self._shared[a, b]
            self._add("border", (a,), (b,), wrong, iou)
        self._listed[0].add(a)
        self._listed[1].add(b)

    def add_unmatched(self, side: int, label: int) -> None:
        """Add a false prediction (side 0) or a missed true object (side 1)."""
        if label in self._listed[side]:
            return
        iou, partner = self._best[side].get(label, (0.0, 0))
        pair = (label, partner) if side == 0 else (partner, label)
        wrong = self._sizes[side][label] - self._shared.get(pair, 0)
        pred, truth = ((label,), ()) if side == 0 else ((), (label,))
        self._add("missed" if side else "false", pred, truth, wrong, iou)

    def _add(
        self, kind: str, pred: tuple[int, ...], truth: tuple[int, ...], wrong: float, iou: float
    ) -> None:
        objects, label = (self._both[1], truth[0]) if truth else (self._both[0], pred[0])
        z, y, x = np.rint(objects.centroids[objects.row(label)]).astype(int).tolist()
        box = padded_box(self._both, pred, truth, self._shape)
        wrong_um3 = wrong * self._voxel_um3
        self.cases.append(Case(kind, pred, truth, wrong_um3, iou, (z, y, x), box))
        self._listed[0].update(pred)
        self._listed[1].update(truth)
