"""match: which labels of neighbouring blocks are one soma.

`match_slab` compares, at each face, the labels of two blocks in the slab that both have read. `resolve` joins labels
into somas, largest overlap first. Its guards refuse a join of the seeds of two bodies, and a join that makes a soma
too large or too long.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import crackle
import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from ...analysis.metrics.contingency import overlap_table
from ...analysis.morphology.classes import OTHER
from ...analysis.morphology.nuclei import classify
from ...models.inference.encoding import FULL
from ..config import Soma, Stitch
from ..grids.geometry import flip
from ..run import ID_BITS
from .segment import SegmentStage
from .stage import LABEL_BYTES, Counters, Forecast, SimpleStage

RESOLVED = "stitch/somas.npz"
REMAP = "stitch/remap.npz"
LOW = (1 << ID_BITS) - 1
_MAX_ELONGATION = 2.0  # a soma may be so many times longer than the largest ball


def match_slab(
    lower: np.ndarray, upper: np.ndarray, voxel_um3: float, rule: Stitch
) -> dict[str, np.ndarray]:
    """Find the pairs of labels that overlap in a slab, and decide which pairs join.

    A pair joins if it overlaps by more than `min_overlap_um3` and either by more than `single_ratio` of one label,
    each being the other's largest overlap, or by more than `dual_ratio` of both labels. The ratios are those of
    Liu et al., CVPR 2023.

    Args:
      lower, upper: labels of the slab, z, y, x, by the lower and by the upper block.

    Returns:
      a, b: labels of the lower and the upper block; overlap_um3; ratio: the larger of the two shares; joins: bool.
    """
    a, b, counts = overlap_table(lower, upper)
    sizes_a = np.bincount(lower.ravel(), minlength=int(a.max(initial=0)) + 1)
    sizes_b = np.bincount(upper.ravel(), minlength=int(b.max(initial=0)) + 1)
    share_a, share_b = counts / sizes_a[a], counts / sizes_b[b]
    best = _is_best(a, counts) & _is_best(b, counts)
    single = (np.maximum(share_a, share_b) > rule.single_ratio) & best
    dual = (share_a > rule.dual_ratio) & (share_b > rule.dual_ratio)
    return {
        "a": a,
        "b": b,
        "overlap_um3": counts * voxel_um3,
        "ratio": np.maximum(share_a, share_b),
        "joins": (counts * voxel_um3 > rule.min_overlap_um3) & (single | dual),
    }


class MatchStage(SimpleStage):
    """One task per block compares the slabs at its upper faces; `finish` resolves all pairs."""

    name = "match"
    scratch = ("stitch/pairs/",)
    reduced = (REMAP, RESOLVED)

    def plan(self) -> Sequence[int]:
        return SegmentStage(self.run).plan()

    @cached_property
    def _segmented(self) -> set[int]:
        return set(self.plan())

    def forecast(self) -> Forecast:
        run, grid = self.run, self.run.segment_grid
        blocks = {block.index for block in run.blocks_near_tissue}
        slabs = [
            grid.face_slab(index, axis, run.overlap_vx[axis]).voxels
            for index in blocks
            for axis, other in grid.upper_neighbours(index)
            if other in blocks
        ]
        return Forecast(
            tasks=len(blocks),
            voxels=2 * sum(slabs),
            bytes_in=2 * sum(slabs) * LABEL_BYTES,
            reads=2 * len(slabs) + 2 * len(blocks),
            writes=len(blocks),
        )

    @property
    def voxel_um3(self) -> float:
        return math.prod(self.run.config.segment.resolution_nm) * 1e-9

    def work(self, index: int, data: None) -> Counters:
        faces: list[dict[str, np.ndarray]] = []
        for axis, other in self.run.segment_grid.upper_neighbours(index):
            if other not in self._segmented:
                continue
            lower = self._slab(f"slabs/{index}-{axis}-upper.ckl")
            upper = self._slab(f"slabs/{other}-{axis}-lower.ckl")
            pairs = match_slab(lower, upper, self.voxel_um3, self.run.config.stitch)
            pairs["a"] = label_ids(index, pairs["a"])
            pairs["b"] = label_ids(other, pairs["b"])
            faces.append(pairs)
        names = ("a", "b", "overlap_um3", "ratio", "joins")
        merged = {n: np.concatenate([p[n] for p in faces]) for n in names} if faces else {}
        self.run.store.put_arrays(f"stitch/pairs/{index}.npz", merged)
        joins = merged.get("joins", np.zeros(0, bool))
        large = merged.get("overlap_um3", np.zeros(0)) > self.run.config.stitch.min_overlap_um3
        return {
            "pairs": len(joins),
            "joining": int(joins.sum()),
            "disagreements": int((large & ~joins).sum()),
        }

    def _slab(self, path: str) -> np.ndarray:
        return crackle.decompress(self.run.store.get_sealed(path))

    def finish(self) -> Counters:
        store, config = self.run.store, self.run.config
        planned = self.plan()
        blocks = list(zip(planned, store.get_many_arrays(f"blocks/{i}.npz" for i in planned)))
        labels = _gather(blocks)
        one_body = np.concatenate([np.zeros((0, 2), np.int64), *(t["one_body"] for _, t in blocks)])
        pairs = [p for p in store.get_many_arrays(f"stitch/pairs/{i}.npz" for i in planned) if p]
        pair = (
            {n: np.concatenate([p[n] for p in pairs]) for n in ("a", "b", "overlap_um3", "joins")}
            if pairs
            else {n: np.zeros(0, np.uint64) for n in ("a", "b", "overlap_um3", "joins")}
        )
        cap_um3 = math.pi / 6 * (config.soma.max_diameter_nm * 1e-3) ** 3
        reach, classes = self._reach(labels.ids), config.classes if self.run.has_nuclei else None
        group, apart = resolve(labels, pair, one_body, self.voxel_um3, cap_um3, reach)
        somas, final = _number_somas(labels, group, apart, self.voxel_um3, config.soma, classes)
        store.put_arrays(REMAP, {"id": labels.ids, "soma": final})
        store.put_arrays(RESOLVED, somas)
        return {
            "somas": len(somas["id"]),
            "labels": len(labels.ids),
            "joined": int(pair["joins"].astype(bool).sum()),
            "left_apart": int(somas["suspicious"].sum()),
        }

    def _reach(self, ids: np.ndarray) -> Reach:
        grid, config = self.run.segment_grid, self.run.config
        block = (ids >> np.uint64(ID_BITS)).astype(np.int64)
        position = np.stack(np.unravel_index(block, flip(grid.shape))[::-1], axis=1)
        core_nm = np.array(grid.core_shape) * config.segment.resolution_nm
        return Reach(position, 1 + _MAX_ELONGATION * config.soma.max_diameter_nm // core_nm)


@dataclass(frozen=True)
class Reach:
    """How far the labels of a soma may lie apart, in blocks, which bounds its length.

    Attributes:
      position: grid position of each label's block, (n, 3).
      most: largest difference of the positions along each axis.
    """

    position: np.ndarray
    most: np.ndarray


@dataclass(frozen=True)
class Labels:
    """All labels of all blocks: one row per label, sorted by id.

    Attributes:
      seed: number of the seed, from 1; 0: none.
      certainty: sum of the probability of the interior, and the number of voxels that it is over; see `certainty_sums`.
      nucleus: voxels of the nucleus, and the sum of the probability of glia; see `nucleus_sums`.
      cut: whether the label reaches the end of what is segmented.
    """

    ids: np.ndarray
    seed: np.ndarray
    voxels: np.ndarray
    certainty: np.ndarray
    nucleus: np.ndarray
    cut: np.ndarray


def resolve(
    labels: Labels,
    pair: dict[str, np.ndarray],
    one_body: np.ndarray,
    voxel_um3: float,
    cap_um3: float,
    reach: Reach | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Join labels into somas: a union-find over all pairs, with guards.

    Labels that grew from the same seed are one soma, and so are labels of seeds in one body. Then the pairs that
    join are taken, largest overlap first. A join is refused if it puts seeds of two bodies into one soma, or if it
    makes a soma larger than `cap_um3` or longer than `reach` allows.

    Args:
      pair: columns a, b (ids), overlap_um3, joins; see `match_slab`.
      one_body: pairs of seeds that lie in one body, (k, 2).

    Returns:
      group: for each label the row of its soma's first label; apart: rows of the labels whose join was refused.
    """
    joins = pair["joins"].astype(bool)
    a, b = (np.searchsorted(labels.ids, pair[name][joins]) for name in ("a", "b"))
    seeds, first, of_seed = np.unique(labels.seed, return_index=True, return_inverse=True)
    parent = np.where(labels.seed > 0, first[of_seed], np.arange(len(labels.ids)))
    known = np.isin(one_body, seeds).all(axis=1)  # a seed without a label joins nothing
    bodies = first[np.searchsorted(seeds, np.unique(one_body[known], axis=0))]
    if reach is None:
        reach = Reach(np.zeros((len(parent), 3), np.int64), np.zeros(3))
    parent, open_ = _join_unguarded(parent, (a, b), bodies, labels, cap_um3 / voxel_um3, reach)
    a, b, overlap = (values[open_[a]] for values in (a, b, pair["overlap_um3"][joins]))
    order = np.lexsort((b, a, -overlap))
    lows, highs = (ends.tolist() for ends in _ends(reach.position, parent))
    parent, most = parent.tolist(), reach.most.tolist()
    volume = np.bincount(parent, labels.voxels * voxel_um3, len(parent)).tolist()
    seed = labels.seed.tolist()
    refused: list[int] = []

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def join(a: int, b: int, one_body: bool) -> None:
        one, two = sorted((root(a), root(b)))
        if one == two:
            return
        two_bodies = seed[one] and seed[two] and not one_body
        low, high = list(map(min, lows[one], lows[two])), list(map(max, highs[one], highs[two]))
        too_long = any(b - a > m for a, b, m in zip(low, high, most))
        if two_bodies or too_long or volume[one] + volume[two] > cap_um3:
            refused.extend((a, b))
            return
        parent[two], lows[one], highs[one] = one, low, high
        volume[one] += volume[two]
        seed[one] = seed[one] or seed[two]

    for x, y in bodies[open_[bodies[:, 0]]].tolist():
        join(x, y, one_body=True)
    for x, y in zip(a[order].tolist(), b[order].tolist()):
        join(x, y, one_body=False)
    group = np.array([root(row) for row in range(len(parent))], np.int64)
    return group, np.unique(np.array(refused, np.int64))


def _join_unguarded(
    parent: np.ndarray,
    pair: tuple[np.ndarray, np.ndarray],
    bodies: np.ndarray,
    labels: Labels,
    cap: float,
    reach: Reach,
) -> tuple[np.ndarray, np.ndarray]:
    """Join at once the connected components in which no guard can refuse a join: one body, not too large or too long.

    Returns:
      The new parents, and for each row whether its joins are left to be made in order.
    """
    count = len(parent)
    certain = [(np.arange(count), parent), (bodies[:, 0], bodies[:, 1])]
    body = _connected(certain, count)
    whole = _connected([*certain, pair], count)
    size = np.bincount(whole, labels.voxels, count)
    several = _distinct(whole, np.where(labels.seed > 0, body, -1), count) > 1
    low, high = _ends(reach.position, whole)
    open_ = (several | (size > cap) | (high - low > reach.most).any(axis=1))[whole]
    first = np.full(count, count)
    np.minimum.at(first, whole, np.arange(count))
    return np.where(open_, parent, first[whole]), open_


def _ends(position: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the largest position of each group, (n, 3); a number without rows has a negative span."""
    far = np.iinfo(np.int64).max // 4
    low, high = np.full_like(position, far), np.full_like(position, -far)
    np.minimum.at(low, group, position)
    np.maximum.at(high, group, position)
    return low, high


def _connected(edges: list[tuple[np.ndarray, np.ndarray]], count: int) -> np.ndarray:
    """Return the number of each row's connected component."""
    start, end = (np.concatenate(side) for side in zip(*edges))
    graph = sparse.coo_matrix((np.ones(len(start), bool), (start, end)), (count, count))
    return connected_components(graph, directed=False)[1]


def label_ids(block: int, labels: np.ndarray) -> np.ndarray:
    """Return the ids, unique in a run, of a block's labels."""
    return (np.uint64(block) << np.uint64(ID_BITS)) | labels.astype(np.uint64)


def _is_best(label: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return whether each row is the largest overlap of its label."""
    largest = np.zeros(int(label.max(initial=0)) + 1, counts.dtype)
    np.maximum.at(largest, label, counts)
    return counts == largest[label]


def _distinct(group: np.ndarray, value: np.ndarray, count: int) -> np.ndarray:
    """Count the distinct values of each group, without the negative ones."""
    pairs = np.unique(np.stack([group, value])[:, value >= 0], axis=1)
    return np.bincount(pairs[0], minlength=count)


def _gather(blocks: list[tuple[int, dict[str, np.ndarray]]]) -> Labels:
    ids = [label_ids(i, np.arange(1, len(t["seed"]) + 1)) for i, t in blocks]
    columns = {
        name: np.concatenate([np.zeros(0), *(t[name] for _, t in blocks)])
        for name in ("seed", "voxels", "cut")
    }
    sums = {
        name: np.concatenate([np.zeros((0, 2), np.int64), *(t[name] for _, t in blocks)])
        for name in ("certainty", "nucleus")
    }
    return Labels(
        np.concatenate([np.zeros(0, np.uint64), *ids]),
        columns["seed"].astype(np.int64),
        columns["voxels"].astype(np.int64),
        sums["certainty"],
        sums["nucleus"],
        columns["cut"].astype(bool),
    )


def _number_somas(
    labels: Labels,
    group: np.ndarray,
    apart: np.ndarray,
    voxel_um3: float,
    limits: Soma,
    classes: Sequence[str] | None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Number the somas from 1 in the order of their seeds, which is by position; others become 0.

    A group of labels is a soma if it has a seed, is large and certain enough, and belongs to one of `classes`; None:
    nuclei are not known, so somas have no class. The nucleus of a soma that is cut may lie outside, so it is kept.

    Returns:
      The table of somas, and for each label the id of its soma.
    """
    count = len(group)
    voxels = np.bincount(group, labels.voxels, count)
    certainty, off_boundary = (np.bincount(group, sums, count) for sums in labels.certainty.T)
    confidence = certainty / np.maximum(off_boundary * FULL, 1)
    seed = np.zeros(count, np.int64)
    np.maximum.at(seed, group, labels.seed)
    block = (labels.ids >> np.uint64(ID_BITS)).astype(np.int64)
    blocks = _distinct(group, np.where(labels.voxels > 0, block, -1), count)
    seeds = _distinct(group, labels.seed - 1, count)
    refused = np.zeros(count, bool)
    refused[group[apart]] = True
    nucleus, glia = (np.bincount(group, sums, count) for sums in labels.nucleus.T)
    p_glia = glia / np.maximum(voxels * FULL, 1)
    kind = classify(nucleus * voxel_um3 >= limits.min_nucleus_um3, p_glia)
    kept = (seed > 0) & (voxels > 0) & (voxels * voxel_um3 >= limits.min_volume_um3)
    kept &= confidence >= limits.min_confidence
    if classes is not None:
        cut = np.bincount(group, labels.cut, count) > 0
        kept &= np.isin(kind, classes) | (cut & (kind == OTHER))
    roots = np.flatnonzero(kept)
    roots = roots[np.lexsort((roots, seed[roots]))]
    final = np.zeros(count, np.uint64)
    final[roots] = np.arange(1, len(roots) + 1)
    somas = {
        "id": final[roots],
        "seed": seed[roots],
        "voxels": voxels[roots].astype(np.int64),
        "confidence": confidence[roots],
        "n_seeds": seeds[roots],
        "crosses_seam": blocks[roots] > 1,
        "suspicious": refused[roots],
    }
    if classes is not None:
        somas |= {"p_glia": p_glia[roots], "class": kind[roots]}
    return somas, final[group]
