"""How good a segmentation is: every score from one table of shared voxels, so that blocks can be added up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import cc3d
import numpy as np

from ..errors import UserError
from .matching import IOU_THRESHOLDS, Matching, crowded, match
from .overlap import Contingency, contingency, dense_labels

PUBLISHED_MIN_VOXELS = 2000  # Liu et al., CVPR 2023 drop truth that is smaller
SIZE_BINS_UM3 = (14.0, 65.0)  # spheres of 3 and 5 um
_HELD_SHARE = 0.25  # of a true object's voxels: so much of it in a prediction counts as held


@dataclass(frozen=True)
class Scores:
    """All scores of one evaluation; fractions are in 0..1, 1 is perfect unless said otherwise.

    Attributes:
      truth, predicted: objects that count; truth_ignored, predicted_ignored: objects that do not.
      precision, recall, f1: objects that match at IoU >= 0.5.
      centroid_precision, centroid_recall, centroid_f1: true objects that hold a prediction's centroid;
        None when only a table was given.
      ap50, ap75, map: average precision at IoU 0.50, 0.75 and its mean over 0.50:0.05:0.95.
      ap: average precision for each of these IoUs.
      mean_iou: of the matched pairs.
      merges, splits: objects too many in one prediction, predictions too many in one object (0 is perfect).
      dice, jaccard: of the foreground.
      voi_split, voi_merge, arand: on the truth's foreground (0 is perfect).
      recall_by_size: bin in um3, (objects found, objects).
    """

    truth: int
    predicted: int
    truth_ignored: int
    predicted_ignored: int
    precision: float
    recall: float
    f1: float
    centroid_precision: float | None
    centroid_recall: float | None
    centroid_f1: float | None
    ap50: float
    ap75: float
    map: float
    ap: dict[str, float]
    mean_iou: float
    merges: int
    splits: int
    dice: float
    jaccard: float
    voi_split: float
    voi_merge: float
    arand: float
    recall_by_size: dict[str, tuple[int, int]]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        return asdict(self)

    def format(self) -> str:
        """A text table, one score a line."""
        rows: list[tuple[str, str]] = [
            ("objects in truth", _count(self.truth, self.truth_ignored)),
            ("objects predicted", _count(self.predicted, self.predicted_ignored)),
            ("detection (IoU >= 0.5)", _triple(self.precision, self.recall, self.f1)),
        ]
        if self.centroid_f1 is not None:
            three = self.centroid_precision, self.centroid_recall, self.centroid_f1
            rows.append(("detection (centroid)", _triple(*three)))
        rows += [
            ("AP50, AP75, mAP", f"{self.ap50:.3f}  {self.ap75:.3f}  {self.map:.3f}"),
            ("mean IoU of matches", f"{self.mean_iou:.3f}"),
            ("merges, splits", f"{self.merges}  {self.splits}"),
            ("foreground Dice, Jaccard", f"{self.dice:.3f}  {self.jaccard:.3f}"),
            ("VOI split, merge (bits)", f"{self.voi_split:.3f}  {self.voi_merge:.3f}"),
            ("ARAND error", f"{self.arand:.3f}"),
        ]
        rows += [(f"found, {k} um3", f"{n} of {m}") for k, (n, m) in self.recall_by_size.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def evaluate(
    pred: np.ndarray,
    truth: np.ndarray,
    voxel_nm: tuple[float, float, float],
    *,
    published: bool = False,
    min_truth_um3: float = 1.05,
    min_edge_truth_um3: float = 0.0,
) -> Scores:
    """Score a prediction against the truth.

    Args:
      pred, truth: labels z, y, x; 0 is background.
      voxel_nm: z, y, x.
      published: as in Liu et al., CVPR 2023: truth under 2000 voxels is dropped, as if it were background, and
        nothing is ignored.
      min_truth_um3: smaller true objects (crumbs at the volume's edge) are ignored: neither missed nor, where
        a prediction lies on them, false.
      min_edge_truth_um3: the same for true objects that touch the volume's border.
    Raises:
      UserError: shapes differ, arrays are not z, y, x, or labels are not whole numbers.
    """
    if pred.shape == truth.shape and pred.ndim != 3:
        raise UserError(f"labels must have three axes, z y x; got shape {pred.shape}")
    table = contingency(pred, truth)
    voxel_um3 = float(np.prod(voxel_nm)) * 1e-9
    under = _labels_under_centroids(pred, truth)
    if published:
        return score(_drop_small(table, PUBLISHED_MIN_VOXELS), voxel_um3, under_centroids=under)
    ids, voxels = table.sizes_b()
    ignore = ids[voxels * voxel_um3 < min_truth_um3]
    if min_edge_truth_um3 > 0:
        small = ids[voxels * voxel_um3 < min_edge_truth_um3]
        ignore = np.union1d(ignore, np.intersect1d(small, labels_at_border(truth)))
    return score(table, voxel_um3, ignore_truth=ignore, under_centroids=under)


def score(
    table: Contingency,
    voxel_um3: float,
    *,
    ignore_truth: Iterable[int] = (),
    under_centroids: dict[int, int] | None = None,
) -> Scores:
    """Score a table of shared voxels (`a` the prediction, `b` the truth), for instance a sum over blocks.

    Foreground and information scores use all truth, ignored or not. Where there is nothing to find and
    nothing is found, every fraction is 1.

    Args:
      voxel_um3: volume of a voxel.
      ignore_truth: true objects that are neither found nor missed.
      under_centroids: for each predicted object the true label under its centroid.
    """
    ignored = {int(i) for i in ignore_truth} - {0}
    matching = match(table, ignored)
    hits = int(matching.hits(0.5).sum())
    ap = {f"{t:.2f}": matching.average_precision(t) for t in IOU_THRESHOLDS}
    merges, splits = crowded(table, matching, _HELD_SHARE)
    dice, jaccard = foreground_overlap(table)
    voi_split, voi_merge = variation_of_information(table)
    centroid: tuple[float | None, ...] = (None, None, None)
    if under_centroids is not None:
        centroid = _centroid_detection(matching, under_centroids, ignored)
    precision, recall, f1 = _detection(hits, len(matching.pred), len(matching.truth))
    empty = len(matching.pred) == 0 and len(matching.truth) == 0
    return Scores(
        truth=len(matching.truth),
        predicted=len(matching.pred),
        truth_ignored=len(ignored & set(table.b.tolist())),
        predicted_ignored=len(matching.ignored_pred),
        precision=precision,
        recall=recall,
        f1=f1,
        centroid_precision=centroid[0],
        centroid_recall=centroid[1],
        centroid_f1=centroid[2],
        ap50=ap["0.50"],
        ap75=ap["0.75"],
        map=float(np.mean(list(ap.values()))),
        ap=ap,
        mean_iou=float(matching.pair_iou.mean()) if hits else float(empty),
        merges=merges,
        splits=splits,
        dice=dice,
        jaccard=jaccard,
        voi_split=voi_split,
        voi_merge=voi_merge,
        arand=adapted_rand_error(table),
        recall_by_size=_recall_by_size(matching, voxel_um3),
    )


def foreground_overlap(table: Contingency) -> tuple[float, float]:
    """Dice and Jaccard of the two foregrounds; 1 when both are empty."""
    pred = int(table.counts[table.a > 0].sum())
    truth = int(table.counts[table.b > 0].sum())
    both = int(table.counts[(table.a > 0) & (table.b > 0)].sum())
    if pred + truth == 0:
        return 1.0, 1.0
    return 2 * both / (pred + truth), both / (pred + truth - both)


def variation_of_information(table: Contingency) -> tuple[float, float]:
    """H(prediction | truth) and H(truth | prediction) in bits, over voxels that the truth calls foreground.

    The first grows with splits, the second with merges (Meila 2007). Prediction's background counts as one
    label.
    """
    n, of_a, of_b, total = _in_truth(table)
    if total == 0:
        return 0.0, 0.0
    split = -float((n * np.log2(n / of_b)).sum()) / total
    merge = -float((n * np.log2(n / of_a)).sum()) / total
    return max(split, 0.0), max(merge, 0.0)


def adapted_rand_error(table: Contingency) -> float:
    """1 - F of pairs of voxels, over voxels that the truth calls foreground (SNEMI3D; Arganda-Carreras 2015)."""
    n, of_a, of_b, total = _in_truth(table)
    together = float((n * (n - 1)).sum())
    in_pred = float((n * (of_a - 1)).sum())
    in_truth = float((n * (of_b - 1)).sum())
    if in_pred + in_truth == 0:
        return 0.0
    return 1.0 - 2.0 * together / (in_pred + in_truth)


def labels_at_border(labels: np.ndarray) -> np.ndarray:
    """Labels, sorted and without 0, that touch any face of the array."""
    faces = [np.unique(labels.take(end, axis)) for axis in range(labels.ndim) for end in (0, -1)]
    found = np.unique(np.concatenate(faces))
    return found[found > 0]


def _in_truth(table: Contingency) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Counts of the pairs in true foreground, the sizes there of both their labels, and the sum."""
    inside = table.where(table.b > 0)
    ids_a, sizes_a = inside.sizes_a()
    ids_b, sizes_b = inside.sizes_b()
    of_a = sizes_a[np.searchsorted(ids_a, inside.a)].astype(np.float64)
    of_b = sizes_b[np.searchsorted(ids_b, inside.b)].astype(np.float64)
    return inside.counts.astype(np.float64), of_a, of_b, inside.voxels


def _drop_small(table: Contingency, min_voxels: int) -> Contingency:
    """The table with true objects of fewer voxels made background."""
    ids, voxels = table.sizes_b()
    small = np.isin(table.b, ids[voxels < min_voxels])
    dropped = Contingency(table.a, np.where(small, np.uint64(0), table.b), table.counts)
    nothing = dropped.where(np.zeros(len(table.a), bool))
    return dropped + nothing


def _labels_under_centroids(pred: np.ndarray, truth: np.ndarray) -> dict[int, int]:
    """For each predicted label the true label of the voxel that holds its centre of mass."""
    ids, dense = dense_labels(pred)
    if len(ids) == 0:
        return {}
    if ids[0] > 0:  # no background: every place of `ids` is a label
        dense = dense + np.uint32(1)
        ids = np.insert(ids, 0, np.uint64(0))
    centres = cc3d.statistics(dense.reshape(pred.shape))["centroids"][1:]
    places = np.rint(centres).astype(np.int64)
    under = truth[tuple(places.T)]
    return {int(i): int(t) for i, t in zip(ids[1:], under, strict=True)}


def _centroid_detection(
    matching: Matching, under: dict[int, int], ignored: set[int]
) -> tuple[float, float, float]:
    everyone = [*matching.pred.tolist(), *matching.ignored_pred.tolist()]
    places = [under.get(int(i), 0) for i in everyone]
    counted = [t for t in places if t not in ignored]
    hits = len(set(counted) & set(matching.truth.tolist()))
    return _detection(hits, len(counted), len(matching.truth))


def _detection(hits: int, predicted: int, truth: int) -> tuple[float, float, float]:
    """Precision, recall and F1; all 1 when there is nothing and nothing is predicted."""
    if predicted + truth == 0:
        return 1.0, 1.0, 1.0
    return hits / max(predicted, 1), hits / max(truth, 1), 2 * hits / (predicted + truth)


def _recall_by_size(matching: Matching, voxel_um3: float) -> dict[str, tuple[int, int]]:
    small, large = SIZE_BINS_UM3
    names = (f"< {small:g}", f"{small:g} to {large:g}", f"> {large:g}")
    place = np.digitize(matching.truth_voxels * voxel_um3, SIZE_BINS_UM3)
    found = matching.found(0.5)
    return {
        name: (int(found[place == i].sum()), int((place == i).sum()))
        for i, name in enumerate(names)
    }


def _count(number: int, ignored: int) -> str:
    return f"{number}" + (f"  ({ignored} ignored)" if ignored else "")


def _triple(precision: float | None, recall: float | None, f1: float | None) -> str:
    assert precision is not None and recall is not None and f1 is not None
    return f"precision {precision:.3f}  recall {recall:.3f}  F1 {f1:.3f}"
