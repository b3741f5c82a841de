"""One-to-one matching of predicted and true objects, and the average precision that follows from it.

Two objects match if their intersection over union (IoU) reaches a threshold of at least 0.5. The objects of one
segmentation are disjoint, so that an object has at most one partner above 0.5. At exactly 0.5 it can have two: equal
halves, which lie inside it and have no other partner. Greedy matching therefore finds as many pairs as the Hungarian
method, and the choice between two halves does not change any count.
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
    """Predicted and true objects, and their one-to-one pairs.

    Attributes:
      pred, pred_voxels: ids and sizes of the predicted objects that count.
      pred_rank: score by which they are ranked, highest first.
      truth, truth_voxels: ids and sizes of the true objects that count.
      pair_pred, pair_truth: indices into `pred` and `truth` of the one-to-one pairs with IoU >= 0.5.
      pair_iou: IoU of each pair.
      ignored_pred: ids of predicted objects that count neither as right nor as wrong.
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

    @property
    def volume_bias(self) -> float:
        """Median over the pairs of the predicted volume divided by the true one, minus 1; 0 without pairs."""
        ratio = self.pred_voxels[self.pair_pred] / self.truth_voxels[self.pair_truth]
        return float(np.median(ratio)) - 1 if len(ratio) else 0.0

    def matched_pred(self, iou: float) -> np.ndarray:
        """Return whether each predicted object matches at an IoU threshold (>= 0.5)."""
        return self._matched(self.pair_pred, len(self.pred), iou)

    def matched_truth(self, iou: float) -> np.ndarray:
        """Return whether each true object is matched at an IoU threshold (>= 0.5)."""
        return self._matched(self.pair_truth, len(self.truth), iou)

    def _matched(self, indices: np.ndarray, n: int, iou: float) -> np.ndarray:
        matched = np.zeros(n, bool)
        matched[indices[self.pair_iou >= iou - _EPSILON]] = True
        return matched

    def average_precision(self, iou: float, voxels: tuple[float, float] = (0.0, np.inf)) -> float:
        """Return the average precision (AP) as defined by COCO.

        It is the mean over 101 recall values of the best precision at that recall or above. Predictions of equal rank
        enter together, so that the order of ids does not matter.

        Args:
          iou: IoU threshold of a match.
          voxels: range of object sizes to which the AP is restricted, upper limit excluded. A prediction is selected
            by the size of its partner, or by its own size if it has none.
        """
        partner = np.full(len(self.pred), -1)
        matched = self.pair_iou >= iou - _EPSILON
        partner[self.pair_pred[matched]] = self.pair_truth[matched]
        size = np.where(partner < 0, self.pred_voxels, np.append(self.truth_voxels, 0)[partner])
        counts = (size >= voxels[0]) & (size < voxels[1])
        truth = int(((self.truth_voxels >= voxels[0]) & (self.truth_voxels < voxels[1])).sum())
        if truth == 0 or not counts.any():
            return float(truth == counts.sum())
        rank = -self.pred_rank[counts]
        order = np.argsort(rank, kind="stable")
        last = np.append(rank[order][1:] != rank[order][:-1], True)
        true_positives = np.cumsum(partner[counts][order] >= 0)[last]
        predictions = np.flatnonzero(last) + 1
        recall = true_positives / truth
        envelope = np.maximum.accumulate((true_positives / predictions)[::-1])[::-1]
        index = np.searchsorted(recall, _RECALL_POINTS - _EPSILON)
        return float(np.append(envelope, 0.0)[index].mean())


def match(
    table: Contingency,
    ignore_truth: Iterable[int] = (),
    ignore_pred: Iterable[int] = (),
    confidence: Mapping[int, float] | None = None,
) -> Matching:
    """Match the objects of a contingency table.

    Args:
      table: `a` is the prediction, `b` the truth.
      ignore_truth: true objects that count neither as found nor as missed. A prediction without a partner is ignored
        as well if at least half of its voxels lie in them.
      ignore_pred: predicted objects that count only if they match.
      confidence: ranks the predicted objects; objects without a confidence come last. None: rank by size, as the
        published evaluation does.
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
    ignorable = np.isin(pred, np.array(list(ignore_pred), np.uint64))
    counts = matched | ((2 * inside < pred_voxels) & ~ignorable)
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


def pool_matchings(matchings: Sequence[Matching]) -> Matching:
    """Concatenate the matchings of several volumes; ids of different volumes may coincide."""
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
class Conflict:
    """One object of a segmentation that corresponds to several objects of the other.

    Attributes:
      single: id of the one object: a prediction in a merge, a true object in a split.
      several: ids of the objects of the other segmentation.
    """

    single: int
    several: tuple[int, ...]

    @property
    def excess(self) -> int:
        return len(self.several) - 1


def find_conflicts(
    table: Contingency, matching: Matching, share: float
) -> tuple[list[Conflict], list[Conflict]]:
    """Find merges (a prediction covers several true objects) and splits (several predictions cover a true object).

    A prediction covers a true object if it contains at least `share` of its voxels.
    """
    column = np.searchsorted(matching.truth, table.b)
    column = np.minimum(column, max(len(matching.truth) - 1, 0))
    counted = (table.a > 0) & np.isin(table.b, matching.truth)
    row, column, counts = table.a[counted], column[counted], table.counts[counted]
    covered = counts >= share * matching.truth_voxels[column]
    preds, truths = row[covered], matching.truth[column[covered]]
    return _conflicts(preds, truths), _conflicts(truths, preds)


def _conflicts(singles: np.ndarray, partners: np.ndarray) -> list[Conflict]:
    ids, counts = np.unique(singles, return_counts=True)
    return [Conflict(int(i), tuple(partners[singles == i].tolist())) for i in ids[counts > 1]]


def _one_to_one(row: np.ndarray, column: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Return the indices of pairs with IoU >= 0.5, such that each object occurs in at most one of them."""
    pairs = np.flatnonzero(iou >= 0.5 - _EPSILON)
    pairs = pairs[np.argsort(-iou[pairs], kind="stable")]
    pairs = pairs[np.sort(np.unique(row[pairs], return_index=True)[1])]
    pairs = pairs[np.sort(np.unique(column[pairs], return_index=True)[1])]
    return pairs


def _foreground(ids: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return ids[ids > 0], counts[ids > 0]
