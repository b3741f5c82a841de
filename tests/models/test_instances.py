"""Seeds, instances and label operations."""

import cc3d
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.segmentation import watershed

from flysoma.models.inference.instances import _FLOOD_LEVELS, _flood, make_instances
from flysoma.models.inference.label_ops import fill_holes, grow_labels
from flysoma.models.inference.seeds import drop_duplicates, find_seeds

VOXEL = (40.0, 64.0, 64.0)


def ball(shape, centre, radius_nm, voxel=VOXEL):
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return sum(((g - c) * v) ** 2 for g, c, v in zip(grid, centre, voxel)) < radius_nm**2


def two_touching():
    shape = (110, 60, 110)
    one, two = ball(shape, (55, 30, 35), 2000), ball(shape, (55, 30, 72), 2000)
    return shape, one, two


def test_cores_that_touch_at_a_low_threshold_get_a_seed_each():
    shape, one, two = two_touching()
    probability = np.zeros(shape, np.uint8)
    probability[one | two] = 150
    probability[ball(shape, (55, 30, 35), 1100) | ball(shape, (55, 30, 72), 1100)] = 240
    seeds = find_seeds(probability, VOXEL, 0.5, 0.2)
    assert len(seeds) == 2
    assert np.abs(np.sort(seeds.positions[:, 2]) - [35, 72]).max() < 1
    assert (seeds.scores > 0.9).all()


def test_small_components_give_no_seeds():
    probability = np.zeros((20, 20, 20), np.uint8)
    probability[3:5, 3:5, 3:5] = 255
    assert len(find_seeds(probability, VOXEL, 0.5, 0.2)) == 0
    assert len(find_seeds(np.zeros((5, 5, 5), np.uint8), VOXEL, 0.5, 0.2)) == 0


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 30))
def test_the_best_of_duplicate_seeds_is_kept_in_any_order(seed, n):
    rng = np.random.default_rng(seed)
    positions, scores = rng.uniform(0, 5000, (n, 3)), rng.uniform(size=n)
    keep = drop_duplicates(positions, scores, 1500)
    order = rng.permutation(n)
    assert (drop_duplicates(positions[order], scores[order], 1500) == keep[order]).all()
    kept = positions[keep]
    apart = np.linalg.norm(kept[:, None] - kept[None], axis=2)
    assert (apart[~np.eye(len(kept), dtype=bool)] > 1500).all()
    for dropped in np.flatnonzero(~keep):
        near = np.linalg.norm(kept - positions[dropped], axis=1) <= 1500
        assert scores[keep][near].max() >= scores[dropped]


def test_seeds_split_two_touching_somas():
    shape, one, two = two_touching()
    interior = np.where(one | two, 255, 0).astype(np.uint8)
    seeds = np.array([[55.0, 30, 35], [55, 30, 72]])
    labels, owner, one_body = make_instances(
        interior, np.zeros_like(interior), seeds, VOXEL, 0.5, 1.05
    )
    assert sorted(owner) == [0, 1] and not len(one_body)
    for number, body in ((0, one & ~two), (1, two & ~one)):
        label = int(np.flatnonzero(owner == number)[0]) + 1
        assert (labels[body] == label).mean() > 0.97


def test_seeds_without_membrane_or_neck_between_them_are_in_one_body():
    shape = (110, 60, 110)
    body = ball(shape, (55, 30, 50), 1900)
    interior = np.where(body, 255, 0).astype(np.uint8)
    boundary = np.zeros_like(interior)
    seeds = np.array([[3.0, 3, 108], [55, 30, 65], [55, 30, 36]])
    pairs = make_instances(interior, boundary, seeds, VOXEL, 0.5, 1.05)[2]
    assert pairs.tolist() == [[1, 2]]
    wall = body.copy()
    wall[:, :, :50] = wall[:, :, 51:] = False
    boundary[wall] = interior[wall] = 127
    assert not len(make_instances(interior, boundary, seeds, VOXEL, 0.3, 1.05)[2])


def test_a_piece_without_a_seed_gets_a_label_without_a_seed():
    shape = (60, 60, 130)
    one, two = ball(shape, (30, 30, 30), 1500), ball(shape, (30, 30, 95), 1500)
    interior = np.where(one | two, 255, 0).astype(np.uint8)
    labels, owner, _ = make_instances(
        interior, np.zeros_like(interior), np.array([[30.0, 30, 30]]), VOXEL, 0.5, 1.05
    )
    assert labels[30, 30, 30] != labels[30, 30, 95] != 0
    assert owner[labels[30, 30, 95] - 1] == -1 and owner[labels[30, 30, 30] - 1] == 0


def test_the_boundary_is_restored_up_to_the_surface_and_not_beyond():
    shape = (70, 60, 60)
    body, inner = ball(shape, (35, 30, 30), 1270), ball(shape, (35, 30, 30), 1160)
    around = ball(shape, (35, 30, 30), 1450) & ~body
    interior = np.where(inner, 255, 0).astype(np.uint8)
    boundary = np.where(body & ~inner, 240, np.where(around, 190, 0)).astype(np.uint8)
    labels, _, _ = make_instances(interior, boundary, np.array([[35.0, 30, 30]]), VOXEL, 0.8, 1.05)
    assert ((labels > 0) == body).all()


def test_a_seed_on_a_fragment_marks_the_body_around_it():
    shape = (60, 60, 60)
    body, hollow = ball(shape, (30, 30, 30), 1500), ball(shape, (30, 30, 30), 350)
    interior = np.where(body & ~hollow, 255, 0).astype(np.uint8)
    interior[29:32, 29:32, 29:32] = 255  # a fragment at the seed, separate from the body
    labels, owner, _ = make_instances(
        interior, np.zeros_like(interior), np.array([[30.0, 30, 30]]), VOXEL, 0.5, 1.05
    )
    assert owner.tolist() == [0] and (labels[body] == 1).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 6), st.sampled_from([1.0, 3.0, 6.0]))
def test_flooding_components_at_once_agrees_with_the_watershed(seed, n, scale):
    rng = np.random.default_rng(seed)
    height = ndimage.gaussian_filter(rng.normal(size=(30, 26, 28)), scale)
    height = 300 * (height - height.mean()) / np.abs(height).max() - 200
    here = height < np.quantile(height, 0.9)
    markers = np.zeros(height.shape, np.uint32)
    for number in range(1, n + 1):
        markers[tuple(rng.integers(0, s) for s in height.shape)] = number
    markers = ndimage.grey_dilation(markers, 3) * here
    differ = _flood(height, markers, here) != watershed(height, markers, mask=here)
    deep = cc3d.connected_components((height <= _FLOOD_LEVELS[-1]) & here, connectivity=6)
    marked = np.setdiff1d(deep[markers > 0], 0)
    assert not differ[np.isin(deep, marked)].any()
    assert differ.mean() < 0.005  # walls of one voxel, and what only they enclose


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([np.uint8, np.uint16, np.uint32]))
def test_growth_follows_the_majority_of_the_neighbours(seed, dtype):
    rng = np.random.default_rng(seed)
    soma = rng.random((9, 8, 10)) < 0.7
    labels = rng.choice([0, 0, 0, 0, 7, 255], soma.shape).astype(dtype) * soma
    expected = labels.copy()
    for _ in range(3):
        padded = np.pad(expected, 1)
        for place in zip(*np.nonzero(soma & (expected == 0))):
            near = padded[tuple(slice(p, p + 3) for p in place)]
            expected[place] = (
                255 if (near == 255).sum() > (near == 7).sum() else 7 if near.any() else 0
            )
    assert (grow_labels(labels, soma, 3) == expected).all()


def test_the_boundary_class_is_restored():
    shape = (60, 60, 60)
    whole, inner = ball(shape, (30, 30, 30), 1500), ball(shape, (30, 30, 30), 1380)
    interior = np.where(inner, 255, 0).astype(np.uint8)
    boundary = np.where(whole & ~inner, 255, 0).astype(np.uint8)
    labels, _, _ = make_instances(interior, boundary, np.array([[30.0, 30, 30]]), VOXEL, 0.5, 1.05)
    assert ((labels > 0) == whole).all()


def test_enclosed_holes_are_filled_and_open_ones_stay():
    labels = np.zeros((12, 12, 24), np.uint32)
    labels[1:11, 1:11, 1:11] = 5
    labels[1:11, 1:11, 12:24] = 6
    labels[4:6, 4:6, 4:6] = 0
    labels[4:6, 4:6, 20:24] = 0  # open to the array's border
    filled = fill_holes(labels)
    assert (filled[4:6, 4:6, 4:6] == 5).all()
    assert (filled[4:6, 4:6, 20:24] == 0).all()


def test_empty_input_gives_no_labels():
    empty = np.zeros((20, 20, 20), np.uint8)
    labels, owner, one_body = make_instances(empty, empty, np.zeros((0, 3)), VOXEL, 0.5, 1.05)
    assert not labels.any() and len(owner) == 0 and one_body.shape == (0, 2)
