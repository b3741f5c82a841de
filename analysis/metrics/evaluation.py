"""Block-wise evaluation of a segmentation: scores and a list of the errors, the largest first.

Arrays and positions are z, y, x, in voxels, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np

from ...axes import Voxel, Zyx
from ...errors import UserError
from .cases import Box, Case, find_cases, padded_box
from .contingency import contingency, merge
from .matching import Matching, match
from .objects import Objects, find_objects, merge_objects
from .scores import PUBLISHED_MIN_VOXELS, Scores, drop_small, score
from .surface_distance import surface_distances

BLOCK = (256, 512, 512)
MIN_TRUTH_UM3 = 1.05  # smaller true objects are ignored
MIN_EDGE_UM3 = 14.0  # a ball of 3 um diameter; the benchmarks ignore smaller remains of somas at the volume border


class Labels(Protocol):
    """A label volume that is read box by box; boxes are first and past-last voxel."""

    @property
    def shape(self) -> Zyx: ...

    def read(self, lo: Zyx, hi: Zyx) -> np.ndarray: ...


@dataclass(frozen=True)
class ArrayLabels:
    """Labels in memory."""

    array: np.ndarray

    @property
    def shape(self) -> Zyx:
        z, y, x = self.array.shape
        return z, y, x

    def read(self, lo: Zyx, hi: Zyx) -> np.ndarray:
        return self.array[tuple(slice(a, b) for a, b in zip(lo, hi))]


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    Attributes:
      scores: all scores.
      cases: errors, the largest mislabelled volume first.
      matching: pairs of predicted and true objects.
      cut: how many predicted and true objects count although the volume's border cuts them to less than MIN_EDGE_UM3.
    """

    scores: Scores
    cases: list[Case]
    matching: Matching
    cut: tuple[int, int] = (0, 0)


def evaluate(
    pred: Labels,
    truth: Labels,
    voxel_nm: Voxel,
    *,
    published: bool = False,
    min_truth_um3: float = MIN_TRUTH_UM3,
    min_edge_um3: float = 0.0,
    confidence: Mapping[int, float] | None = None,
    block: Zyx = BLOCK,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluate a prediction against ground truth.

    Args:
      pred, truth: labels of the same shape; 0 is background.
      voxel_nm: voxel size.
      published: evaluate as in Liu et al., CVPR 2023: true objects of less than 2000 voxels become background, and
        no object is ignored.
      min_truth_um3: true objects with less volume (fragments at the border of the volume) are ignored: they do not
        count as missed, and predictions on them do not count as false.
      min_edge_um3: objects with less volume that touch the border of the volume are ignored, predicted ones only if
        they have no partner.
      confidence: confidence of predicted objects, by which they are ranked; None: rank by size.
      block: size of the blocks that are read; does not affect the result.
      progress: called with the number of blocks read so far and in total.

    Raises:
      UserError: the shapes differ, or the labels are not integers.
    """
    if pred.shape != truth.shape:
        raise UserError(
            f"both segmentations must have the same shape; got {pred.shape} and {truth.shape} "
            "(z, y, x)"
        )
    boxes = list(_boxes(truth.shape, block))
    tables, pred_parts, truth_parts = [], [], []
    for number, (lo, hi) in enumerate(boxes, start=1):
        one, two = pred.read(lo, hi), truth.read(lo, hi)
        tables.append(contingency(one, two))
        pred_parts.append(find_objects(one, lo))
        truth_parts.append(find_objects(two, lo))
        if progress:
            progress(number, len(boxes))
    table = merge(tables)
    both = merge_objects(pred_parts), merge_objects(truth_parts)
    voxel_um3 = float(np.prod(voxel_nm)) * 1e-9
    ignored: list[set[int]] = [set(), set()]
    if published:
        table = drop_small(table, PUBLISHED_MIN_VOXELS)
    else:
        ignored = [
            _too_small(objects, truth.shape, voxel_um3, least, min_edge_um3)
            for objects, least in zip(both, (0.0, min_truth_um3))
        ]
    matching = match(table, ignored[1], ignored[0], confidence)
    distances = _boundary_distances(pred, truth, matching, both, voxel_nm)
    at_centroids = _truth_at_centroids(both[0], truth, boxes)
    scores = score(table, matching, voxel_um3, at_centroids, distances)
    cut_pred, cut_truth = (
        len(
            _too_small(objects, truth.shape, voxel_um3, 0.0, MIN_EDGE_UM3).intersection(
                ids.tolist()
            )
        )
        for objects, ids in zip(both, (matching.pred, matching.truth))
    )
    cases = find_cases(table, matching, both, truth.shape, voxel_um3)
    return Evaluation(scores, cases, matching, (cut_pred, cut_truth))


def evaluate_arrays(
    pred: np.ndarray, truth: np.ndarray, voxel_nm: Voxel, **options: Any
) -> Evaluation:
    """Evaluate two arrays; see `evaluate` for the options."""
    for array in (pred, truth):
        if array.ndim != 3:
            raise UserError(f"labels must have three axes (z, y, x); got shape {array.shape}")
    return evaluate(ArrayLabels(pred), ArrayLabels(truth), voxel_nm, **options)


def match_arrays(
    pred: np.ndarray,
    truth: np.ndarray,
    voxel_nm: Voxel,
    min_edge_um3: float,
    ignore: Collection[int] = (),
) -> Matching:
    """Match the objects of two arrays; the true objects in `ignore` do not count."""
    voxel_um3 = float(np.prod(voxel_nm)) * 1e-9
    small = [
        _too_small(find_objects(labels), ArrayLabels(labels).shape, voxel_um3, least, min_edge_um3)
        for labels, least in ((pred, 0.0), (truth, MIN_TRUTH_UM3))
    ]
    return match(contingency(pred, truth), {*small[1], *ignore}, small[0])


def _too_small(
    objects: Objects, shape: Zyx, voxel_um3: float, min_um3: float, min_edge_um3: float
) -> set[int]:
    """Return the ids of objects that are too small to count."""
    um3 = objects.voxels * voxel_um3
    small = (um3 < min_edge_um3) & np.isin(objects.ids, objects.at_border(shape))
    return set(objects.ids[small | (um3 < min_um3)].tolist())


def _boxes(shape: Zyx, block: Zyx) -> Iterator[Box]:
    for lo in product(*(range(0, n, b) for n, b in zip(shape, block))):
        z, y, x = (min(a + b, n) for a, b, n in zip(lo, block, shape))
        yield (lo[0], lo[1], lo[2]), (z, y, x)


def _truth_at_centroids(objects: Objects, truth: Labels, boxes: list[Box]) -> dict[int, int]:
    """Return for each predicted object the true label at its centroid."""
    centroids = np.rint(objects.centroids).astype(np.int64)
    label_at: dict[int, int] = {}
    for lo, hi in boxes:
        inside = ((centroids >= lo) & (centroids < hi)).all(axis=1)
        if inside.any():
            labels = truth.read(lo, hi)[tuple((centroids[inside] - lo).T)]
            label_at.update(zip(objects.ids[inside].tolist(), labels.tolist()))
    return label_at


def _boundary_distances(
    pred: Labels,
    truth: Labels,
    matching: Matching,
    both: tuple[Objects, Objects],
    voxel_nm: Voxel,
) -> np.ndarray:
    """Return mean and 95th percentile of the surface distance in nm (n, 2) of the matched pairs that have surfaces."""
    statistics = []
    for row, column in zip(matching.pair_pred, matching.pair_truth):
        pair = int(matching.pred[row]), int(matching.truth[column])
        lo, hi = padded_box(both, pair[:1], pair[1:], truth.shape)
        one, two = (part.read(lo, hi) == np.uint64(i) for part, i in zip((pred, truth), pair))
        distances = surface_distances(one, two, voxel_nm)
        if len(distances):
            statistics.append((distances.mean(), np.percentile(distances, 95)))
    return np.array(statistics).reshape(-1, 2)
