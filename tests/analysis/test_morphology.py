"""Shapes of bodies with known formulas at anisotropic voxels; blocks add up to the whole exactly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import elliprg

from flysoma.analysis.morphology.moments import MOMENTS, block_moments, merge_moments
from flysoma.analysis.morphology.shapes import (
    convexity,
    largest_inscribed_ball,
    shapes_from_moments,
)
from flysoma.analysis.morphology.spatial import (
    count_neighbours,
    depths_below_surface,
    nearest_distances,
    sides_of_plane,
)
from flysoma.analysis.morphology.surface_area import REACH

VOXEL_NM = (40.0, 64.0, 64.0)


def grey(shape):
    """Grey values that differ from voxel to voxel."""
    return (np.arange(np.prod(shape)).reshape(shape) * 7919 % 256).astype(np.uint8)


def whole_moments(labels, origin=(0, 0, 0), voxel_nm=VOXEL_NM):
    everything = tuple(slice(0, n) for n in labels.shape)
    bounds = origin, tuple(o + n for o, n in zip(origin, labels.shape))
    moments = block_moments(labels, everything, origin, bounds, voxel_nm, grey(labels.shape))
    return merge_moments([moments])


def blockwise_moments(labels, cuts, origin=(0, 0, 0), lower_halo=0):
    """Cut at the given places of each axis; read REACH voxels beyond upper faces (and some below)."""
    spans = [list(zip([0, *at], [*at, n])) for at, n in zip(cuts, labels.shape)]
    bounds = origin, tuple(o + n for o, n in zip(origin, labels.shape))
    image = grey(labels.shape)
    parts = []
    for z in spans[0]:
        for y in spans[1]:
            for x in spans[2]:
                low = [max(0, a - lower_halo) for a, _ in (z, y, x)]
                read = tuple(slice(a, b + REACH) for a, (_, b) in zip(low, (z, y, x)))
                core = tuple(slice(a - c, b - c) for c, (a, b) in zip(low, (z, y, x)))
                start = tuple(o + c for o, c in zip(origin, low))
                own = image[tuple(slice(a, b) for a, b in (z, y, x))]
                parts.append(block_moments(labels[read], core, start, bounds, VOXEL_NM, own))
    return parts


def ellipsoid(radii_nm, voxel_nm=VOXEL_NM, margin=3, shift=(0.3, -0.2, 0.45)):
    """A mask of an axis-aligned ellipsoid whose centre is off the grid by `shift` voxels."""
    half = [int(np.ceil(r / v)) + margin for r, v in zip(radii_nm, voxel_nm)]
    z, y, x = np.ogrid[tuple(slice(-h, h + 1) for h in half)]
    r2 = sum(
        ((axis - s) * v / r) ** 2 for axis, s, v, r in zip((z, y, x), shift, voxel_nm, radii_nm)
    )
    return (r2 <= 1).astype(np.uint64), [h + s + 0.5 for h, s in zip(half, shift)]


@pytest.mark.parametrize("voxel_nm", [VOXEL_NM, (64.0, 64.0, 64.0), (240.0, 64.0, 64.0)])
@pytest.mark.parametrize("radius_nm", [1500.0, 2500.0, 4000.0])
def test_sphere(radius_nm, voxel_nm):
    mask, centre = ellipsoid((radius_nm,) * 3, voxel_nm)
    row = shapes_from_moments(whole_moments(mask, voxel_nm=voxel_nm), voxel_nm).iloc[0]
    r = radius_nm * 1e-3
    coarse = 1.5 if voxel_nm[0] > 100 else 1.0
    assert row.volume_um3 == pytest.approx(4 / 3 * np.pi * r**3, rel=0.01)
    assert row.surface_um2 == pytest.approx(4 * np.pi * r**2, rel=0.015 * coarse)
    assert row.sphericity == pytest.approx(1, abs=0.02 * coarse)
    assert row.equivalent_diameter_um == pytest.approx(2 * r, rel=0.005)
    axes = [row.semi_axis_a_um, row.semi_axis_b_um, row.semi_axis_c_um]
    assert axes == pytest.approx([r] * 3, rel=0.01) and axes == sorted(axes, reverse=True)
    expected = [c * v for c, v in zip(centre, voxel_nm)]
    assert [row.z_nm, row.y_nm, row.x_nm] == pytest.approx(expected, abs=0.1 * max(voxel_nm))


def test_ellipsoid_axes_and_surface():
    radii = (1800.0, 2600.0, 4100.0)
    mask, _ = ellipsoid(radii)
    row = shapes_from_moments(whole_moments(mask), VOXEL_NM).iloc[0]
    assert [row.semi_axis_c_um, row.semi_axis_b_um, row.semi_axis_a_um] == pytest.approx(
        [r * 1e-3 for r in radii], rel=0.01
    )
    inverse = [1e6 / r**2 for r in radii]
    area = 4 * np.pi * np.prod(radii) * 1e-9 * elliprg(*inverse)
    assert row.surface_um2 == pytest.approx(area, rel=0.02)


def test_axes_do_not_depend_on_orientation():
    n, turn = 40, np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0], [0.48, 0.64, 0.6]])
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 3, indexing="ij"), -1)
    turned = (grid * np.array(VOXEL_NM)) @ turn.T / (1000.0, 1200.0, 1500.0)
    mask = ((turned**2).sum(-1) <= 1).astype(np.uint8)
    row = shapes_from_moments(whole_moments(mask), VOXEL_NM).iloc[0]
    axes = [row.semi_axis_a_um, row.semi_axis_b_um, row.semi_axis_c_um]
    assert axes == pytest.approx([1.5, 1.2, 1.0], rel=0.01)
    assert [row.elongation, row.flatness] == pytest.approx([1.25, 1.2], rel=0.01)
    for name, along in (("a", turn[2]), ("c", turn[0])):
        axis = np.array([row[f"axis_{name}_{a}"] for a in "zyx"])
        assert abs(axis @ along) > 0.999
        assert axis[np.abs(axis).argmax()] > 0


def test_grey_values_are_those_of_the_soma():
    labels = np.zeros((20, 30, 25), np.uint32)
    labels[3:15, 4:20, 5:21] = 3
    labels[16:19, 2:9, 1:4] = 4
    table = shapes_from_moments(whole_moments(labels), VOXEL_NM).set_index("id")
    for label in (3, 4):
        inside = grey(labels.shape)[labels == label].astype(float)
        assert table.loc[label, "grey_mean"] == pytest.approx(inside.mean(), rel=1e-12)
        assert table.loc[label, "grey_spread"] == pytest.approx(inside.std(), rel=1e-9)
    everything = tuple(slice(0, n) for n in labels.shape)
    blind = block_moments(labels, everything, (0, 0, 0), ((0, 0, 0), labels.shape), VOXEL_NM)
    assert shapes_from_moments(blind, VOXEL_NM)[["grey_mean", "grey_spread"]].isna().all(axis=None)


@pytest.mark.parametrize("radius_nm", [1500.0, 3000.0])
def test_convexity_of_a_ball_a_box_and_a_dumbbell(radius_nm):
    ball, _ = ellipsoid((radius_nm,) * 3)
    assert convexity(ball > 0, VOXEL_NM) == pytest.approx(1, abs=0.02)
    assert convexity(np.ones((20, 12, 9), bool), VOXEL_NM) == pytest.approx(1, abs=0.02)
    two = np.concatenate([ball, ball], axis=2) > 0
    r = radius_nm
    apart = ball.shape[2] * VOXEL_NM[2]
    hull = 4 / 3 * np.pi * r**3 + np.pi * r**2 * apart
    assert convexity(two, VOXEL_NM) == pytest.approx(8 / 3 * np.pi * r**3 / hull, rel=0.02)
    assert np.isnan(convexity(np.zeros((3, 3, 3), bool), VOXEL_NM))


def test_depth_side_and_density():
    tissue = np.zeros((10, 40, 10), bool)
    tissue[:, 15:] = True  # y from 15 on
    points = np.array([[2000.0, 20_000.0, 3000.0], [2000, 10_000, 3000], [2000, 33_500, 3000]])
    depths = depths_below_surface(points, tissue, (1000.0, 1000.0, 1000.0), (0.0, 1000.0, 0.0))
    assert depths == pytest.approx([4500, 0, 18_000], abs=501)
    assert sides_of_plane(points, (0, 15_000, 0), (0, 1, 0)).tolist() == [1, -1, 1]
    assert count_neighbours(points, 10_500).tolist() == [1, 1, 0]
    assert count_neighbours(points[:0], 1).tolist() == []


def test_box_has_exact_volume_extent_and_centre():
    labels = np.zeros((30, 40, 50), np.uint32)
    labels[5:25, 10:30, 8:48] = 9
    row = shapes_from_moments(whole_moments(labels, (100, -20, 7)), VOXEL_NM).iloc[0]
    assert (row.id, row.voxels, bool(row.touches_edge)) == (9, 16000, False)
    assert row.volume_um3 == pytest.approx(16000 * 40 * 64 * 64e-9)
    assert (row.bb_start_z_nm, row.bb_end_z_nm) == (105 * 40, 125 * 40)
    assert (row.bb_start_y_nm, row.bb_end_y_nm) == (-10 * 64, 10 * 64)
    assert (row.bb_start_x_nm, row.bb_end_x_nm) == (15 * 64, 55 * 64)
    assert (row.z_nm, row.y_nm, row.x_nm) == pytest.approx((115 * 40, 0, 35 * 64))


@pytest.mark.parametrize("edges_vx", [(75, 47, 47), (75, 78, 156), (125, 78, 78), (150, 63, 47)])
def test_the_surface_of_a_box_of_3_to_10_um_is_right_in_any_orientation(edges_vx):
    row = shapes_from_moments(whole_moments(np.ones(edges_vx, np.uint8)), VOXEL_NM).iloc[0]
    a, b, c = (n * v * 1e-3 for n, v in zip(edges_vx, VOXEL_NM))
    area = 2 * (a * b + b * c + a * c)
    assert row.surface_um2 == pytest.approx(area, rel=0.03)
    turn = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0], [0.48, 0.64, 0.6]])
    reach = (np.abs(turn).T @ (a, b, c) * 500 // VOXEL_NM).astype(int) + 2
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1)
    inside = (np.abs((grid * np.array(VOXEL_NM)) @ turn.T) <= np.array((a, b, c)) * 500).all(-1)
    row = shapes_from_moments(whole_moments(inside.astype(np.uint8)), VOXEL_NM).iloc[0]
    assert row.volume_um3 == pytest.approx(a * b * c, rel=0.01)
    assert row.surface_um2 == pytest.approx(area, rel=0.03)


def test_a_soma_cut_by_the_volume_is_closed_by_the_cut_and_flagged():
    mask, _ = ellipsoid((2500.0,) * 3, shift=(0, 0, 0))
    half = mask[mask.shape[0] // 2 :]
    row = shapes_from_moments(whole_moments(half), VOXEL_NM).iloc[0]
    assert bool(row.touches_edge)
    assert row.surface_um2 == pytest.approx(3 * np.pi * 2.5**2, rel=0.02)
    assert not shapes_from_moments(whole_moments(mask), VOXEL_NM).iloc[0].touches_edge


def test_touching_somas_both_own_the_face_between_them():
    labels = np.zeros((20, 20, 40), np.uint8)
    labels[5:15, 5:15, 10:20], labels[5:15, 5:15, 20:30] = 1, 2
    alone = np.where(labels == 1, labels, 0)
    both = shapes_from_moments(whole_moments(labels), VOXEL_NM)
    single = shapes_from_moments(whole_moments(alone), VOXEL_NM)
    assert both.surface_um2[0] == pytest.approx(single.surface_um2[0])
    assert both.surface_um2[0] == pytest.approx(both.surface_um2[1])


@settings(deadline=None, max_examples=25)
@given(
    hnp.arrays(np.uint64, (7, 9, 8), elements=st.sampled_from([0, 0, 0, 3, 4, 2**60 + 1])),
    st.lists(st.integers(1, 6), max_size=2, unique=True),
    st.lists(st.integers(1, 8), max_size=2, unique=True),
    st.lists(st.integers(1, 7), max_size=2, unique=True),
    st.integers(0, 2),
    st.permutations(range(27)),
)
def test_blocks_add_up_to_the_whole(labels, cut_z, cut_y, cut_x, halo, order):
    origin = (1000, -37, 5)
    cuts = [sorted(c) for c in (cut_z, cut_y, cut_x)]
    parts = blockwise_moments(labels, cuts, origin, halo)
    shuffled = [parts[i] for i in order if i < len(parts)]
    pd.testing.assert_frame_equal(merge_moments(shuffled), whole_moments(labels, origin))


def test_awkward_blocks_of_a_real_shape_add_up_to_the_whole():
    mask, _ = ellipsoid((900.0, 1300.0, 1100.0))
    labels = np.concatenate([mask, 2 * mask], axis=2)
    cuts = [[3, 17, 18], [1, 30], [20, 47]]
    merged = merge_moments(blockwise_moments(labels, cuts))
    pd.testing.assert_frame_equal(merged, whole_moments(labels))


def test_merging_in_stages_equals_merging_at_once():
    labels = np.random.default_rng(3).integers(0, 3, (8, 8, 8)).astype(np.uint8)
    parts = blockwise_moments(labels, [[4], [3], [5]])
    staged = merge_moments([merge_moments(parts[:3]), merge_moments(parts[3:])])
    pd.testing.assert_frame_equal(staged, merge_moments(parts))


def test_positions_far_from_zero_keep_full_precision():
    mask, _ = ellipsoid((1500.0,) * 3)
    near, far = whole_moments(mask), whole_moments(mask, (200_000, 200_000, 200_000))
    here, there = (
        shapes_from_moments(near, VOXEL_NM).iloc[0],
        shapes_from_moments(far, VOXEL_NM).iloc[0],
    )
    assert there.semi_axis_a_um == here.semi_axis_a_um
    assert there.x_nm - here.x_nm == pytest.approx(200_000 * 64)


def test_a_block_without_its_upper_neighbours_is_refused():
    labels = np.ones((4, 4, 4), np.uint8)
    core = (slice(0, 4),) * 3
    with pytest.raises(ValueError, match="2 are needed"):
        block_moments(labels, core, (0, 0, 0), ((0, 0, 0), (8, 4, 4)), VOXEL_NM)


def test_no_labels_give_an_empty_table_with_all_columns():
    empty = whole_moments(np.zeros((4, 5, 6), np.uint64))
    assert list(empty.columns) == MOMENTS and len(empty) == 0
    assert "semi_axis_a_um" in shapes_from_moments(empty, VOXEL_NM)


def test_inscribed_ball_of_a_sphere_and_of_a_soma_with_a_neurite():
    mask, centre = ellipsoid((2000.0,) * 3)
    radius, place = largest_inscribed_ball(mask > 0, VOXEL_NM)
    assert radius == pytest.approx(2.0, rel=0.03)
    off = [(p + 0.5 - c) * v for p, c, v in zip(place, centre, VOXEL_NM)]
    assert np.linalg.norm(off) < 130
    tailed = np.concatenate([mask > 0, np.zeros_like(mask, bool)], axis=2)
    tailed[50:54, 30:34, 40:] = True  # leaves the crop, where the mask has no background
    assert largest_inscribed_ball(tailed, VOXEL_NM)[0] == pytest.approx(2.0, rel=0.04)


def test_inscribed_ball_assumes_that_the_object_continues_beyond_the_crop():
    slab = np.zeros((20, 9, 9), bool)
    slab[5:16] = True  # 11 sections thick
    radius, place = largest_inscribed_ball(slab, VOXEL_NM)
    assert radius == pytest.approx(0.24) and place[0] == 10
    assert largest_inscribed_ball(np.zeros((3, 3, 3), bool), VOXEL_NM)[0] == 0
    assert largest_inscribed_ball(np.ones((9, 3, 9), bool), VOXEL_NM)[0] == pytest.approx(0.128)


def test_nearest_neighbours():
    points = np.array([[0, 0, 0], [3000, 4000, 0], [0, 0, 1000.0]])
    assert nearest_distances(points).tolist() == pytest.approx([1000, 5000, 1000])
    assert np.isnan(nearest_distances(points[:1])).all()
    assert len(nearest_distances(points[:0])) == 0
