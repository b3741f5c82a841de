"""Scores of a segmentation, all computed from one contingency table, which adds up over blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .contingency import Contingency, merge
from .matching import IOU_THRESHOLDS, Matching, find_conflicts

PUBLISHED_MIN_VOXELS = 2000  # Liu et al., CVPR 2023, discard smaller true objects
SIZE_BINS_UM3 = (14.0, 65.0)  # spheres of 3 and 5 um diameter
COVERED_SHARE = 0.25  # a prediction covers a true object if it contains this share of its voxels


@dataclass(frozen=True)
class SizeScores:
    """Scores of the somas in one size bin: number of true somas, number found, average precision."""

    truth: int
    found: int
    ap50: float
    ap75: float
    map: float


@dataclass(frozen=True)
class Scores:
    """All scores of an evaluation. Fractions range from 0 to 1; 1 is perfect unless stated otherwise.

    Attributes:
      truth, predicted: numbers of objects that count.
      truth_ignored, predicted_ignored: numbers of objects that do not count.
      precision, recall, f1: detection of objects at IoU >= 0.5.
      centroid_precision, centroid_recall, centroid_f1: detection if a true object is found when it contains the
        centroid of a prediction; None if the centroids are not known.
      ap50, ap75, map: average precision at IoU 0.50 and 0.75, and its mean over 0.50:0.05:0.95.
      ap: average precision at each of these IoUs.
      mean_iou: mean IoU of the matched pairs.
      merges, splits: excess true objects in predictions, and excess predictions in true objects (0 is perfect).
      dice, jaccard: overlap of the foregrounds.
      voi_split, voi_merge, arand: variation of information and adapted Rand error in the true foreground (0 is
        perfect).
      by_size: scores of each size bin, named by its limits in um3.
      boundary_mean_nm, boundary_p95_nm: mean and 95th percentile of the surface distance of a matched pair, averaged
        over the pairs; None if it is not known or nothing matches.
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
    by_size: dict[str, SizeScores]
    boundary_mean_nm: float | None = None
    boundary_p95_nm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as numbers ready for JSON."""
        return asdict(self)

    def format(self) -> str:
        """Return a text table with one score per line."""
        rows: list[tuple[str, str]] = [
            ("true objects", _count(self.truth, self.truth_ignored)),
            ("predicted objects", _count(self.predicted, self.predicted_ignored)),
            ("detection (IoU >= 0.5)", _triple(self.precision, self.recall, self.f1)),
        ]
        if self.centroid_f1 is not None:
            scores = self.centroid_precision, self.centroid_recall, self.centroid_f1
            rows.append(("detection (centroid)", _triple(*scores)))
        rows += [
            ("AP50, AP75, mAP", f"{self.ap50:.3f}  {self.ap75:.3f}  {self.map:.3f}"),
            ("mean IoU of matches", f"{self.mean_iou:.3f}"),
            ("merges, splits", f"{self.merges}  {self.splits}"),
            ("foreground Dice, Jaccard", f"{self.dice:.3f}  {self.jaccard:.3f}"),
            ("VOI split, merge (bits)", f"{self.voi_split:.3f}  {self.voi_merge:.3f}"),
            ("ARAND error", f"{self.arand:.3f}"),
        ]
        if self.boundary_mean_nm is not None:
            distance = f"{self.boundary_mean_nm:.0f}  {self.boundary_p95_nm:.0f}"
            rows.append(("boundary distance: mean, 95th percentile (nm)", distance))
        rows += [
            (
                f"{name} um3: found; AP50, AP75, mAP",
                f"{s.found} of {s.truth}  {s.ap50:.3f}  {s.ap75:.3f}  {s.map:.3f}",
            )
            for name, s in self.by_size.items()
            if s.truth
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def score(
    table: Contingency,
    matching: Matching,
    voxel_um3: float,
    truth_at_centroids: Mapping[int, int] | None = None,
    boundaries_nm: np.ndarray | None = None,
) -> Scores:
    """Compute all scores from a contingency table, for instance a sum over blocks.

    Overlap and information scores use all of the truth, including ignored objects. If there is nothing to find and
    nothing is predicted, every fraction is 1.

    Args:
      table: `a` is the prediction, `b` the truth.
      matching: matching of the objects of this table; defines which true objects are ignored.
      voxel_um3: volume of a voxel.
      truth_at_centroids: true label at the centroid of each predicted object.
      boundaries_nm: mean and 95th percentile of the surface distance of each matched pair, n, 2.
    """
    ids, _ = table.sizes_b()
    ignored = set(ids[ids > 0].tolist()) - set(matching.truth.tolist())
    hits = int(matching.matched_pred(0.5).sum())
    ap = {f"{t:.2f}": matching.average_precision(t) for t in IOU_THRESHOLDS}
    conflicts = find_conflicts(table, matching, COVERED_SHARE)
    merges, splits = (sum(conflict.excess for conflict in kind) for kind in conflicts)
    dice, jaccard = foreground_overlap(table)
    voi_split, voi_merge = variation_of_information(table)
    centroid = _centroid_detection(matching, truth_at_centroids, ignored)
    boundary: tuple[float | None, ...] = (None, None)
    if boundaries_nm is not None and len(boundaries_nm):
        boundary = tuple(boundaries_nm.mean(axis=0).tolist())
    precision, recall, f1 = _detection(hits, len(matching.pred), len(matching.truth))
    empty = len(matching.pred) == 0 and len(matching.truth) == 0
    return Scores(
        truth=len(matching.truth),
        predicted=len(matching.pred),
        truth_ignored=len(ignored),
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
        by_size=_by_size(matching, voxel_um3),
        boundary_mean_nm=boundary[0],
        boundary_p95_nm=boundary[1],
    )


def foreground_overlap(table: Contingency) -> tuple[float, float]:
    """Return the Dice and Jaccard coefficients of the two foregrounds; 1 if both are empty."""
    pred = int(table.counts[table.a > 0].sum())
    truth = int(table.counts[table.b > 0].sum())
    both = int(table.counts[(table.a > 0) & (table.b > 0)].sum())
    if pred + truth == 0:
        return 1.0, 1.0
    return 2 * both / (pred + truth), both / (pred + truth - both)


def variation_of_information(table: Contingency) -> tuple[float, float]:
    """Return H(prediction | truth) and H(truth | prediction) in bits, over the voxels of the true foreground.

    The first increases with splits, the second with merges (Meila 2007). The background of the prediction counts as
    one label.
    """
    n, of_a, of_b, total = _in_truth(table)
    if total == 0:
        return 0.0, 0.0
    split = -float((n * np.log2(n / of_b)).sum()) / total
    merge = -float((n * np.log2(n / of_a)).sum()) / total
    return max(split, 0.0), max(merge, 0.0)


def adapted_rand_error(table: Contingency) -> float:
    """Return 1 - F of voxel pairs over the true foreground (SNEMI3D; Arganda-Carreras et al., 2015)."""
    n, of_a, of_b, _ = _in_truth(table)
    together = float((n * (n - 1)).sum())
    in_pred = float((n * (of_a - 1)).sum())
    in_truth = float((n * (of_b - 1)).sum())
    if in_pred + in_truth == 0:
        return 0.0
    return 1.0 - 2.0 * together / (in_pred + in_truth)


def _in_truth(table: Contingency) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return the pair counts in the true foreground, the sizes of both labels of each pair there, and the total."""
    inside = table.where(table.b > 0)
    ids_a, sizes_a = inside.sizes_a()
    ids_b, sizes_b = inside.sizes_b()
    of_a = sizes_a[np.searchsorted(ids_a, inside.a)].astype(np.float64)
    of_b = sizes_b[np.searchsorted(ids_b, inside.b)].astype(np.float64)
    return inside.counts.astype(np.float64), of_a, of_b, inside.voxels


def drop_small(table: Contingency, min_voxels: int) -> Contingency:
    """Return the table with smaller true objects turned into background."""
    ids, voxels = table.sizes_b()
    small = np.isin(table.b, ids[voxels < min_voxels])
    dropped = Contingency(table.a, np.where(small, np.uint64(0), table.b), table.counts)
    return merge([dropped])  # adds up the pairs that coincide now


def _centroid_detection(
    matching: Matching, truth_at_centroids: Mapping[int, int] | None, ignored: set[int]
) -> tuple[float, float, float] | tuple[None, None, None]:
    """Return precision, recall and F1; predictions whose centroid lies in an ignored object do not count."""
    if truth_at_centroids is None:
        return None, None, None
    predicted = [*matching.pred.tolist(), *matching.ignored_pred.tolist()]
    labels = [truth_at_centroids.get(int(i), 0) for i in predicted]
    counted = [t for t in labels if t not in ignored]
    hits = len(set(counted) & set(matching.truth.tolist()))
    return _detection(hits, len(counted), len(matching.truth))


def _detection(hits: int, predicted: int, truth: int) -> tuple[float, float, float]:
    """Return precision, recall and F1; all are 1 if there are neither true nor predicted objects."""
    if predicted + truth == 0:
        return 1.0, 1.0, 1.0
    return hits / max(predicted, 1), hits / max(truth, 1), 2 * hits / (predicted + truth)


def _by_size(matching: Matching, voxel_um3: float) -> dict[str, SizeScores]:
    small, large = SIZE_BINS_UM3
    names = (f"< {small:g}", f"{small:g} to {large:g}", f"> {large:g}")
    edges = np.array([0, small, large, np.inf]) / voxel_um3
    found, scores = matching.matched_truth(0.5), {}
    for name, low, high in zip(names, edges, edges[1:]):
        in_bin = (matching.truth_voxels >= low) & (matching.truth_voxels < high)
        ap = [matching.average_precision(t, (low, high)) for t in IOU_THRESHOLDS]
        at_75 = ap[IOU_THRESHOLDS.index(0.75)]
        scores[name] = SizeScores(
            int(in_bin.sum()), int(found[in_bin].sum()), ap[0], at_75, float(np.mean(ap))
        )
    return scores


def _count(number: int, ignored: int) -> str:
    return f"{number}" + (f"  ({ignored} ignored)" if ignored else "")


def _triple(precision: float | None, recall: float | None, f1: float | None) -> str:
    assert precision is not None and recall is not None and f1 is not None
    return f"precision {precision:.3f}  recall {recall:.3f}  F1 {f1:.3f}"
