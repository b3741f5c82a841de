"""Stitching: blockwise equals whole on consistent labels, and the guards hold."""

from unittest import mock

import cc3d
import crackle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flysoma.tasks.config import Soma, Stitch
from flysoma.tasks.grids.geometry import BlockGrid, Box
from flysoma.tasks.run import ID_BITS
from flysoma.tasks.stages import match as stitch
from flysoma.tasks.stages.match import Labels, Reach, _number_somas, match_slab, resolve

APART = np.zeros((0, 2), np.int64)  # no seeds in one body


def stitch_blockwise(volume, core, halo):
    """Cut a labelled volume (z, y, x) into blocks with their own labels, stitch them, and assemble the volume."""
    grid = BlockGrid(
        Box((5, -7, 3), tuple(a + n for a, n in zip((5, -7, 3), volume.shape[::-1]))), core, halo
    )
    local, pairs, rows = {}, [], []
    for block in grid:
        part = volume[block.read.slices_zyx(grid.bounds.lo)]
        _, renumbered = np.unique(part, return_inverse=True)
        renumbered = renumbered.reshape(part.shape) + (0 if (part == 0).any() else 1)
        local[block.index] = renumbered.astype(np.uint32)
        inside = renumbered[block.core.slices_zyx(block.read.lo)]
        counts = np.bincount(inside.ravel(), minlength=int(renumbered.max()) + 1)[1:]
        ids = (block.index << ID_BITS) + np.arange(1, len(counts) + 1)
        rows.append((ids, counts))
    for block in grid:
        for axis, other in grid.upper_neighbours(block.index):
            slab = grid.face_slab(block.index, axis, halo[axis])
            matches = match_slab(
                local[block.index][slab.slices_zyx(block.read.lo)],
                local[other][slab.slices_zyx(grid[other].read.lo)],
                1.0,
                Stitch(min_overlap_um3=0.0),
            )
            matches["a"] = (np.uint64(block.index) << np.uint64(ID_BITS)) | matches["a"].astype(
                np.uint64
            )
            matches["b"] = (np.uint64(other) << np.uint64(ID_BITS)) | matches["b"].astype(np.uint64)
            pairs.append(matches)
    ids = np.concatenate([r[0] for r in rows]).astype(np.uint64)
    labels = Labels(
        ids,
        np.zeros(len(ids), int),
        np.concatenate([r[1] for r in rows]),
        np.zeros((len(ids), 2), int),
        np.zeros((len(ids), 2), int),
        np.zeros(len(ids), bool),
    )
    pair = {n: np.concatenate([p[n] for p in pairs]) for n in ("a", "b", "overlap_um3", "joins")}
    group, _ = resolve(labels, pair, APART, 1.0, 1e18)
    out = np.zeros(volume.shape, np.int64)
    for block in grid:
        table = np.zeros(int(local[block.index].max()) + 1, np.int64)
        mine = (ids >> np.uint64(ID_BITS)) == block.index
        table[1:] = group[mine] + 1
        inside = local[block.index][block.core.slices_zyx(block.read.lo)]
        out[block.core.slices_zyx(grid.bounds.lo)] = table[inside]
    return out


def same_partition(a, b):
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))


@pytest.mark.parametrize("core", [(16, 16, 16), (13, 29, 17), (64, 20, 64)])
def test_blockwise_equals_whole(core):
    rng = np.random.default_rng(2)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (41, 37, 53)], indexing="ij"), -1)
    volume = np.zeros(grid.shape[:3], np.int64)
    centres = rng.uniform(0, grid.shape[:3], (25, 3))
    distance = np.linalg.norm(grid[..., None, :] - centres, axis=-1)
    volume = np.where(distance.min(-1) < 9, distance.argmin(-1) + 1, 0)
    assert same_partition(stitch_blockwise(volume, core, (6, 6, 6)), volume)


def test_blockwise_equals_whole_on_a_real_segmentation(shared_data):
    path = shared_data("labels/pinky40_32x32x40nm_xyz.ckl")
    whole = crackle.decompress(path.read_bytes())[200:330, 180:300, 210:330].T
    pieces = cc3d.connected_components(whole, connectivity=6)
    assert pieces.max() > 200
    assert same_partition(stitch_blockwise(pieces, (53, 47, 41), (6, 6, 6)), pieces)


def labels(seeds, voxels):
    n = len(seeds)
    return Labels(
        np.arange(1, n + 1).astype(np.uint64),
        np.array(seeds),
        np.array(voxels),
        np.full((n, 2), [255, 1]),
        np.zeros((n, 2), int),
        np.zeros(n, bool),
    )


def pair(a, b, overlap):
    n = len(a)
    return {
        "a": np.array(a, np.uint64),
        "b": np.array(b, np.uint64),
        "overlap_um3": np.array(overlap, float),
        "joins": np.ones(n, bool),
    }


def test_two_seeds_never_become_one_soma_and_are_listed():
    group, apart = resolve(
        labels([1, 2, 0], [9, 9, 9]), pair([1, 2], [2, 3], [5, 4]), APART, 1.0, 1e9
    )
    assert group.tolist() == [0, 1, 1] and apart.tolist() == [0, 1]


def test_a_chain_of_joins_stops_at_the_size_limit():
    group, apart = resolve(
        labels([0] * 4, [4] * 4), pair([1, 2, 3], [2, 3, 4], [3, 2, 1]), APART, 1.0, 9.0
    )
    assert group.tolist() == [0, 0, 2, 2] and apart.tolist() == [1, 2]


def test_a_chain_of_joins_stops_at_the_largest_length():
    reach = Reach(np.array([[0, n, 0] for n in range(5)]), np.array([9, 2, 9]))
    some, chain = labels([0] * 5, [1] * 5), pair([1, 2, 3, 4], [2, 3, 4, 5], [4, 3, 2, 1])
    group, apart = resolve(some, chain, APART, 1.0, 1e9, reach)
    assert group.tolist() == [0, 0, 0, 3, 3] and apart.tolist() == [2, 3]
    assert not resolve(some, chain, APART, 1.0, 1e9)[0].any()


def test_labels_of_one_seed_are_one_soma():
    group, _ = resolve(labels([3, 0, 3], [1, 1, 1]), pair([], [], []), APART, 1.0, 1e9)
    assert group.tolist() == [0, 1, 0]


def test_seeds_in_one_body_are_one_soma_up_to_the_size_limit():
    some = labels([5, 3, 8, 0], [9, 9, 9, 1])
    group, apart = resolve(some, pair([4], [3], [1]), np.array([[3, 5], [3, 5]]), 1.0, 1e9)
    assert group.tolist() == [0, 0, 2, 2] and not len(apart)
    group, apart = resolve(some, pair([], [], []), np.array([[3, 5]]), 1.0, 17.0)
    assert group.tolist() == [0, 1, 2, 3] and apart.tolist() == [0, 1]


def test_a_seed_without_a_label_joins_nothing():
    group, _ = resolve(
        labels([5, 3], [9, 9]), pair([], [], []), np.array([[3, 9], [1, 5]]), 1.0, 1e9
    )
    assert group.tolist() == [0, 1]


def test_a_soma_has_voxels_even_if_none_are_needed():
    some = labels([1, 2], [9, 0])
    limits = Soma(min_volume_um3=0.0)
    somas, final = _number_somas(some, np.array([0, 1]), np.zeros(0, int), 1.0, limits, None)
    assert somas["id"].tolist() == [1] and final.tolist() == [1, 0]


def test_the_published_ratios_decide():
    lower, upper = np.zeros((1, 10, 30), np.uint32), np.zeros((1, 10, 30), np.uint32)
    lower[0, :, :10], upper[0, :, 7:27] = 1, 1  # overlap 0.3 of one, 0.15 of the other
    assert not match_slab(lower, upper, 1.0, Stitch())["joins"].any()
    upper[0, :, 5:27] = 1  # half of the lower one
    assert match_slab(lower, upper, 1.0, Stitch())["joins"].all()
    assert not match_slab(lower, upper, 1e-9, Stitch())["joins"].any()  # too small in um3


@given(st.integers(0, 2**32), st.integers(20, 200))
def test_joins_at_once_equal_joins_in_order(seed, cap):
    rng = np.random.default_rng(seed)
    n, k = 25, int(rng.integers(0, 60))
    some = labels(rng.permutation(n) * (rng.random(n) < 0.3), rng.integers(1, 9, n))
    bodies = rng.choice(some.seed[some.seed > 0], (2, 2)) if some.seed.any() else APART
    joins = pair(*rng.integers(1, n + 1, (2, k)), rng.integers(1, 20, k))
    joins["joins"] = rng.random(k) < 0.8
    at_once = resolve(some, joins, bodies, 1.0, float(cap))
    nothing = mock.patch.object(
        stitch, "_join_unguarded", lambda parent, *_: (parent, np.ones(n, bool))
    )
    with nothing:
        in_order = resolve(some, joins, bodies, 1.0, float(cap))
    assert all(np.array_equal(a, b) for a, b in zip(at_once, in_order))
