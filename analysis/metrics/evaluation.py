"""A segmentation against its truth, block by block: scores, and the objects that are not right, worst first.

Everything is z, y, x, in voxels, unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np

from ...axes import Voxel, Zyx
from ...errors import UserError
from .surface_distance import surface_distances
from .matching import Matching, crowds, match
from .objects import Objects, find_objects, merge_objects
from .contingency import Contingency, contingency, merge
from .scores import HELD_SHARE, PUBLISHED_MIN_VOXELS, Scores, drop_small, score

Box = tuple[Zyx, Zyx]
BLOCK = (256, 512, 512)
MIN_TRUTH_UM3 = 1.05
MIN_EDGE_UM3 = 14.0  # a ball of 3 um: where ours is judged, what the edge cuts to less is left out


class Labels(Protocol):
    """A volume of labels that can be read box by box, first and past-last voxel."""

    @property
    def shape(self) -> Zyx: ...

    def read(self, lo: Zyx, hi: Zyx) -> np.ndarray: ...


@dataclass(frozen=True)
class ArrayLabels:
    """Labels that are in memory."""

    array: np.ndarray

    @property
    def shape(self) -> Zyx:
        z, y, x = self.array.shape
        return z, y, x

    def read(self, lo: Zyx, hi: Zyx) -> np.ndarray:
        return self.array[tuple(slice(a, b) for a, b in zip(lo, hi))]


@dataclass(frozen=True)
class Case:
    """An object that is not plainly right.

    Attributes:
      kind: missed, false, merge (one prediction holds several true objects), split (several predictions share a
        true object) or border (found, with another outline).
      pred, truth: the objects it is about.
      wrong_um3: volume that is labelled wrongly.
      iou: of the pair, the best there is.
      centre, box: where it lies.
    """

    kind: str
    pred: tuple[int, ...]
    truth: tuple[int, ...]
    wrong_um3: float
    iou: float
    centre: Zyx
    box: Box


@dataclass(frozen=True)
class Evaluation:
    """scores; cases: objects that are not right, the greatest wrong volume first; matching: who is whose partner."""

    scores: Scores
    cases: list[Case]
    matching: Matching


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
    """Score a prediction against the truth.

    Args:
      pred, truth: labels of one shape; 0 is background.
      voxel_nm: size of a voxel.
      published: as in Liu et al., CVPR 2023: truth under 2000 voxels is dropped, as if it were background, and
        nothing is ignored.
      min_truth_um3: smaller true objects (crumbs at the volume's edge) are ignored: neither missed nor, where
        a prediction lies on them, false.
      min_edge_um3: smaller objects that touch the volume's border are ignored: true ones, and predicted ones
        without a partner.
      confidence: of the predicted objects, which ranks them; None: by size.
      block: how much is read at once; decides nothing else.
      progress: told how many blocks of how many are read.
    Raises:
      UserError: shapes differ, or labels are not whole numbers.
    """
    if pred.shape != truth.shape:
        raise UserError(
            "two segmentations of one volume are needed, got shapes "
            f"{pred.shape} and {truth.shape} (z, y, x)"
        )
    boxes = list(_boxes(truth.shape, block))
    tables, of_pred, of_truth = [], [], []
    for number, (lo, hi) in enumerate(boxes, start=1):
        one, two = pred.read(lo, hi), truth.read(lo, hi)
        tables.append(contingency(one, two))
        of_pred.append(find_objects(one, lo))
        of_truth.append(find_objects(two, lo))
        if progress:
            progress(number, len(boxes))
    table = merge(tables)
    there = merge_objects(of_pred), merge_objects(of_truth)
    voxel_um3 = float(np.prod(voxel_nm)) * 1e-9
    ignored: list[set[int]] = [set(), set()]
    if published:
        table = drop_small(table, PUBLISHED_MIN_VOXELS)
    else:
        ignored = [
            _too_small(objects, truth.shape, voxel_um3, least, min_edge_um3)
            for objects, least in zip(there, (0.0, min_truth_um3))
        ]
    matching = match(table, ignored[1], ignored[0], confidence)
    distances = _boundaries(pred, truth, matching, there, voxel_nm)
    scores = score(table, matching, voxel_um3, _under_centroids(there[0], truth, boxes), distances)
    return Evaluation(scores, _cases(table, matching, there, truth.shape, voxel_um3), matching)


def evaluate_arrays(
    pred: np.ndarray, truth: np.ndarray, voxel_nm: Voxel, **options: object
) -> Evaluation:
    """`evaluate` of two arrays."""
    for array in (pred, truth):
        if array.ndim != 3:
            raise UserError(f"labels must have three axes, z y x; got shape {array.shape}")
    return evaluate(ArrayLabels(pred), ArrayLabels(truth), voxel_nm, **options)  # type: ignore[arg-type]


def match_arrays(
    pred: np.ndarray,
    truth: np.ndarray,
    voxel_nm: Voxel,
    min_edge_um3: float,
    ignore: Collection[int] = (),
) -> Matching:
    """Only the matching of two arrays; `ignore` names true objects that do not count either."""
    voxel_um3 = float(np.prod(voxel_nm)) * 1e-9
    small = [
        _too_small(find_objects(labels), ArrayLabels(labels).shape, voxel_um3, least, min_edge_um3)
        for labels, least in ((pred, 0.0), (truth, MIN_TRUTH_UM3))
    ]
    return match(contingency(pred, truth), {*small[1], *ignore}, small[0])


def _too_small(
    objects: Objects, shape: Zyx, voxel_um3: float, min_um3: float, min_edge_um3: float
) -> set[int]:
    """Ids of objects that do not count."""
    um3 = objects.voxels * voxel_um3
    small = (um3 < min_edge_um3) & np.isin(objects.ids, objects.at_border(shape))
    return set(objects.ids[small | (um3 < min_um3)].tolist())


def _boxes(shape: Zyx, block: Zyx) -> Iterator[Box]:
    for lo in product(*(range(0, n, b) for n, b in zip(shape, block))):
        z, y, x = (min(a + b, n) for a, b, n in zip(lo, block, shape))
        yield (lo[0], lo[1], lo[2]), (z, y, x)


def _under_centroids(objects: Objects, truth: Labels, boxes: list[Box]) -> dict[int, int]:
    """For each predicted object the true label of the voxel that holds its centre of mass."""
    places = np.rint(objects.centroids).astype(np.int64)
    found: dict[int, int] = {}
    for lo, hi in boxes:
        inside = ((places >= lo) & (places < hi)).all(axis=1)
        if inside.any():
            labels = truth.read(lo, hi)[tuple((places[inside] - lo).T)]
            found.update(zip(objects.ids[inside].tolist(), labels.tolist()))
    return found


def _boundaries(
    pred: Labels,
    truth: Labels,
    matching: Matching,
    there: tuple[Objects, Objects],
    voxel_nm: Voxel,
) -> np.ndarray:
    """Mean and 95th percentile of the surfaces' distance, nm, of every matched pair that has surfaces."""
    found = []
    for row, column in zip(matching.pair_pred, matching.pair_truth):
        pair = int(matching.pred[row]), int(matching.truth[column])
        lo, hi = _around(there, pair[:1], pair[1:], truth.shape)
        one, two = (part.read(lo, hi) == np.uint64(i) for part, i in zip((pred, truth), pair))
        distances = surface_distances(one, two, voxel_nm)
        if len(distances):
            found.append((distances.mean(), np.percentile(distances, 95)))
    return np.array(found).reshape(-1, 2)


def _around(
    there: tuple[Objects, Objects], pred: tuple[int, ...], truth: tuple[int, ...], shape: Zyx
) -> Box:
    """The box of objects with a voxel around it, within the volume."""
    rows = [(there[0], there[0].place(i)) for i in pred] + [
        (there[1], there[1].place(i)) for i in truth
    ]
    lo = np.min([objects.lo[row] for objects, row in rows], axis=0) - 1
    hi = np.max([objects.hi[row] for objects, row in rows], axis=0) + 1
    a, b = np.maximum(lo, 0).tolist(), np.minimum(hi, shape).tolist()
    return (a[0], a[1], a[2]), (b[0], b[1], b[2])


def _cases(
    table: Contingency,
    matching: Matching,
    there: tuple[Objects, Objects],
    shape: Zyx,
    voxel_um3: float,
) -> list[Case]:
    both = table.where((table.a > 0) & (table.b > 0))
    of_pred = dict(zip(there[0].ids.tolist(), there[0].voxels.tolist()))
    of_truth = dict(zip(there[1].ids.tolist(), there[1].voxels.tolist()))
    shared = {(int(a), int(b)): int(n) for a, b, n in zip(both.a, both.b, both.counts)}
    best: dict[tuple[str, int], tuple[float, int]] = {}
    for (a, b), n in shared.items():
        iou = n / (of_pred[a] + of_truth[b] - n)
        best["pred", a] = max(best.get(("pred", a), (0.0, 0)), (iou, b))
        best["truth", b] = max(best.get(("truth", b), (0.0, 0)), (iou, a))
    cases: list[Case] = []

    def add(
        kind: str, pred: tuple[int, ...], truth: tuple[int, ...], wrong: float, iou: float
    ) -> None:
        objects, label = (there[1], truth[0]) if truth else (there[0], pred[0])
        z, y, x = np.rint(objects.centroids[objects.place(label)]).astype(int).tolist()
        box = _around(there, pred, truth, shape)
        cases.append(Case(kind, pred, truth, wrong * voxel_um3, iou, (z, y, x), box))

    merges, splits = crowds(table, matching, HELD_SHARE)
    told: set[tuple[str, int]] = set()
    for crowd in merges:
        sizes = sorted(shared[crowd.holder, t] for t in crowd.held)
        iou = best["pred", crowd.holder][0]
        add("merge", (crowd.holder,), crowd.held, sum(sizes[:-1]), iou)
        told |= {("pred", crowd.holder), *(("truth", t) for t in crowd.held)}
    for crowd in splits:
        sizes = sorted(shared[p, crowd.holder] for p in crowd.held)
        iou = best["truth", crowd.holder][0]
        add("split", crowd.held, (crowd.holder,), sum(sizes[:-1]), iou)
        told |= {("truth", crowd.holder), *(("pred", p) for p in crowd.held)}
    for row, column, iou in zip(matching.pair_pred, matching.pair_truth, matching.pair_iou):
        a, b = int(matching.pred[row]), int(matching.truth[column])
        if iou < 1 and not {("pred", a), ("truth", b)} & told:
            wrong = of_pred[a] + of_truth[b] - 2 * shared[a, b]
            add("border", (a,), (b,), wrong, float(iou))
        told |= {("pred", a), ("truth", b)}
    for b in matching.truth.tolist():
        if ("truth", b) not in told:
            iou, a = best.get(("truth", b), (0.0, 0))
            add("missed", (), (b,), of_truth[b] - shared.get((a, b), 0), iou)
    for a in matching.pred.tolist():
        if ("pred", a) not in told:
            iou, b = best.get(("pred", a), (0.0, 0))
            add("false", (a,), (), of_pred[a] - shared.get((a, b), 0), iou)
    return sorted(cases, key=lambda case: (-case.wrong_um3, case.pred, case.truth))
