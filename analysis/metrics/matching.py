"""Which predicted object is which true object, and the average precision that follows.

Two objects match when their intersection over union reaches a threshold of at least 0.5. Objects of one
segmentation are disjoint, so above 0.5 an object has at most one partner. At exactly 0.5 it can have two, the
equal halves of which it consists; halves lie wholly in it and have no other partner. So taking pairs greedily
gives the largest one-to-one matching, the Hungarian method would find no more, and which half is taken
changes no count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .contingency import Contingency

IOU_THRESHOLDS = tuple(round(0.50 + 0.05 * step, 2) for step in range(10))
_RECALL_POINTS = np.linspace(0.0, 1.0, 101)
_EPSILON = 1e-9


@dataclass(frozen=True)
class Matching:
    """Objects of a prediction and of the truth, and the pairs of them that may match.

    Attributes:
      pred, pred_voxels: predicted objects that count; what lies in ignored truth is left out.
      pred_rank: by what they are ranked, the highest first.
      truth, truth_voxels: true objects that count.
      pair_pred, pair_truth: positions in `pred` and `truth` of the one-to-one pairs with IoU >= 0.5.
      pair_iou: their IoU.
      ignored_pred: predicted objects that are neither right nor wrong.
    """

    pred: np.ndarray
    pred_voxels: np.ndarray
    pred_rank: np.ndarray
    truth: np.ndarray
    truth_voxels: np.ndarray
    pair_pred: np.ndarray
    pair_truth: np.ndarray
    pair_iou: np.ndarray
    ignored_pred: np.ndarray

    def hits(self, iou: float) -> np.ndarray:
        """Whether each predicted object matches at an IoU (>= 0.5)."""
        found = np.zeros(len(self.pred), bool)
        found[self.pair_pred[self.pair_iou >= iou - _EPSILON]] = True
        return found

    def found(self, iou: float) -> np.ndarray:
        """Whether each true object is matched at an IoU (>= 0.5)."""
        found = np.zeros(len(self.truth), bool)
        found[self.pair_truth[self.pair_iou >= iou - _EPSILON]] = True
        return found

    def average_precision(self, iou: float, voxels: tuple[float, float] = (0.0, np.inf)) -> float:
        """AP as COCO has it: mean over 101 recall points of the best precision at that recall or more.

        Predictions of one rank enter together, so that ids decide nothing.

        Args:
          voxels: sizes, lowest and past-highest, to which this AP is confined. A prediction counts there when its
            partner does; without a partner, when its own size does.
        """
        partner = np.full(len(self.pred), -1)
        near = self.pair_iou >= iou - _EPSILON
        partner[self.pair_pred[near]] = self.pair_truth[near]
        size = np.where(partner < 0, self.pred_voxels, np.append(self.truth_voxels, 0)[partner])
        counts = (size >= voxels[0]) & (size < voxels[1])
        truth = int(((self.truth_voxels >= voxels[0]) & (self.truth_voxels < voxels[1])).sum())
        if truth == 0 or not counts.any():
            return float(truth == counts.sum())
        rank = -self.pred_rank[counts]
        order = np.argsort(rank, kind="stable")
        last = np.append(rank[order][1:] != rank[order][:-1], True)
        right = np.cumsum(partner[counts][order] >= 0)[last]
        taken = np.flatnonzero(last) + 1
        recall = right / truth
        envelope = np.maximum.accumulate((right / taken)[::-1])[::-1]
        place = np.searchsorted(recall, _RECALL_POINTS - _EPSILON)
        return float(np.append(envelope, 0.0)[place].mean())


def match(
    table: Contingency,
    ignore_truth: Iterable[int] = (),
    ignore_pred: Iterable[int] = (),
    confidence: Mapping[int, float] | None = None,
) -> Matching:
    """Match the objects of a table whose `a` is the prediction and whose `b` is the truth.

    A true object in `ignore_truth` is neither found nor missed; a prediction that matches no other object
    and has at least half of its voxels in ignored truth, or is in `ignore_pred`, is neither right nor wrong.

    Args:
      confidence: ranks the predicted objects; absent ones come last. None: the larger, the higher, as in the
        published evaluation.
    """
    pred, pred_voxels = _foreground(*table.sizes_a())
    truth, truth_voxels = _foreground(*table.sizes_b())
    both = table.where((table.a > 0) & (table.b > 0))
    row = np.searchsorted(pred, both.a)
    column = np.searchsorted(truth, both.b)
    ignored = np.isin(truth, np.array(list(ignore_truth), np.uint64))
    union = pred_voxels[row] + truth_voxels[column] - both.counts
    iou = both.counts / np.maximum(union, 1)
    kept = _one_to_one(row, column, np.where(ignored[column], 0.0, iou))
    inside = np.bincount(row, both.counts * ignored[column], len(pred))
    matched = np.zeros(len(pred), bool)
    matched[row[kept]] = True
    unjudged = np.isin(pred, np.array(list(ignore_pred), np.uint64))
    counts = matched | ((2 * inside < pred_voxels) & ~unjudged)
    rank = pred_voxels.astype(np.float64)
    if confidence is not None:
        rank = np.array([confidence.get(int(i), -np.inf) for i in pred])
    new_row, new_column = np.cumsum(counts) - 1, np.cumsum(~ignored) - 1
    return Matching(
        pred[counts],
        pred_voxels[counts],
        rank[counts],
        truth[~ignored],
        truth_voxels[~ignored],
        new_row[row[kept]],
        new_column[column[kept]],
        iou[kept],
        pred[~counts],
    )


def pooled(matchings: Sequence[Matching]) -> Matching:
    """One matching for several volumes; ids are those of each volume, so they occur more than once."""
    starts = np.cumsum([[0, 0], *([len(m.pred), len(m.truth)] for m in matchings)], axis=0)
    joined = {
        name: np.concatenate([getattr(m, name) for m in matchings])
        for name in Matching.__dataclass_fields__
    }
    for column, name in enumerate(("pair_pred", "pair_truth")):
        parts = [getattr(m, name) + start for m, start in zip(matchings, starts[:, column])]
        joined[name] = np.concatenate(parts)
    return Matching(**joined)


@dataclass(frozen=True)
class Crowd:
    """Objects of one segmentation that share one of the other: true ones in a prediction, or the reverse."""

    holder: int
    held: tuple[int, ...]

    @property
    def too_many(self) -> int:
        return len(self.held) - 1


def crowds(table: Contingency, matching: Matching, share: float) -> tuple[list[Crowd], list[Crowd]]:
    """Merges (predictions that hold several true objects) and splits (true objects held by several predictions).

    A prediction holds a true object when it has at least `share` of the object's voxels.
    """
    column = np.searchsorted(matching.truth, table.b)
    column = np.minimum(column, max(len(matching.truth) - 1, 0))
    known = (table.a > 0) & np.isin(table.b, matching.truth)
    row, column, counts = table.a[known], column[known], table.counts[known]
    held = counts >= share * matching.truth_voxels[column]
    preds, truths = row[held], matching.truth[column[held]]
    return _crowds(preds, truths), _crowds(truths, preds)


def _crowds(holders: np.ndarray, held: np.ndarray) -> list[Crowd]:
    ids, counts = np.unique(holders, return_counts=True)
    return [Crowd(int(i), tuple(held[holders == i].tolist())) for i in ids[counts > 1]]


def _one_to_one(row: np.ndarray, column: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Positions of the pairs with IoU >= 0.5, each object in one of them at most."""
    near = np.flatnonzero(iou >= 0.5 - _EPSILON)
    near = near[np.argsort(-iou[near], kind="stable")]
    near = near[np.sort(np.unique(row[near], return_index=True)[1])]
    near = near[np.sort(np.unique(column[near], return_index=True)[1])]
    return near


def _foreground(ids: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return ids[ids > 0], counts[ids > 0]
