"""Neurites that leave a soma are detected and traced; corners of somas are not mistaken for neurites."""

import numpy as np
import pytest

from flysoma.analysis.morphology.shapes import largest_inscribed_ball
from flysoma.analysis.morphology.stubs import find_stubs
from flysoma.tasks.stages.skeleton import direction, trace

VOXEL = np.array([40.0, 64.0, 64.0])
RADIUS = 1500.0


def away_from(centre, shape):
    """Return the position of each voxel centre relative to `centre`, nm; z, y, x."""
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return (grid + 0.5) * VOXEL - centre


def ball_with(arms, shape=(170, 104, 104), radius=RADIUS):
    """Return a ball with arms, each given by direction, length from the centre of the ball and radius at its end."""
    centre = np.array(shape) * VOXEL / 2
    away = away_from(centre, shape)
    mask = (away**2).sum(-1) < radius**2
    for along, length, end in arms:
        far = away @ np.array(along)
        width = end + 0.25 * np.maximum(length - far, 0) * (end > 150)  # thick arms are cones
        mask |= ((away**2).sum(-1) - far**2 < width**2) & (far > 0) & (far < length)
    return mask, centre


def some_directions(n, seed):
    vectors = np.random.default_rng(seed).normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("end", "length"), [(100.0, 3200.0), (200.0, 2200.0), (200.0, 3000.0)])
def test_a_neurite_in_any_direction_is_found_and_traced(end, length):
    for along in some_directions(4, round(end)):
        mask, centre = ball_with([(along, length, end)])
        (stub,) = find_stubs(mask, tuple(VOXEL), RADIUS)
        assert direction([stub], VOXEL[::-1], centre[::-1]) @ along[::-1] > 0.98
        skeleton = trace(mask, VOXEL[::-1], centre[::-1], RADIUS, [stub])
        places = skeleton.vertices - centre[::-1]
        assert abs(np.linalg.norm(places, axis=1).max() - length) < 250
        assert np.linalg.norm(np.cross(places, along[::-1]), axis=1).max() < 300
        assert skeleton.cable_length() < 1.4 * length  # along voxels
        from_centre = np.linalg.norm(places, axis=1)
        assert skeleton.radius[from_centre.argmin()] == pytest.approx(RADIUS, rel=0.1)
        beyond = RADIUS + 500
        in_arm = skeleton.radius[from_centre > beyond]
        base = end + 0.25 * (length - beyond) * (end > 150)  # of the cone
        assert 0.6 * end < np.median(in_arm) < base + 80  # a voxel


def test_the_longest_of_several_comes_first():
    first, second, _ = np.eye(3)
    mask, centre = ball_with([(first, 2300.0, 100.0), (-second, 3000.0, 100.0)])
    stubs = find_stubs(mask, tuple(VOXEL), RADIUS)
    assert len(stubs) == 2 and stubs[0].length_nm > stubs[1].length_nm
    assert direction(stubs, VOXEL[::-1], centre[::-1]) @ (0, -1, 0) > 0.98
    assert np.isnan(direction([], VOXEL[::-1], centre[::-1])).all()


def faces(normals, half_nm, centre_nm, shape):
    """Return a polyhedron with pairs of faces at a distance of `half_nm` from its centre along each normal."""
    away = away_from(centre_nm, shape)
    unit = np.array(normals) / np.linalg.norm(normals, axis=1, keepdims=True)
    return (np.abs(away @ unit.T) <= half_nm).all(-1)


def test_corners_of_packed_bodies_are_no_neurites():
    """Packed balls become rhombic dodecahedra; test some orientations, and a cube."""
    shape = (150, 94, 94)
    centre = np.array(shape) * VOXEL / 2
    dodecahedron = [(1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1)]
    for turn in some_directions(4, 0):
        across, _ = np.linalg.qr(np.stack([turn, *np.eye(3)[:2]]).T)
        body = faces(np.array(dodecahedron) @ across, RADIUS, centre, shape)
        assert body.sum() * VOXEL.prod() == pytest.approx(4 * 2**0.5 * RADIUS**3, rel=0.01)
        assert find_stubs(body, tuple(VOXEL), RADIUS) == []
    assert find_stubs(np.pad(np.ones((75, 47, 47), bool), 1), tuple(VOXEL), RADIUS) == []


@pytest.mark.parametrize("left_nm", [(600, 4000), (1000, 1000), (1500, 1500), (2000, 2500)])
def test_a_body_that_the_edge_cuts_has_no_neurites_at_its_rim(left_nm):
    """Cut a ball so that the given lengths remain in z and y."""
    radius = 2500
    middle = np.array([*(left - radius for left in left_nm), 2560])  # the volume begins at 0
    mask = (away_from(middle, (130, 110, 80)) ** 2).sum(-1) < radius**2
    depth_um, _ = largest_inscribed_ball(mask, tuple(VOXEL))
    cut = ((True, False), (left_nm[1] < 2 * radius, False), (False, False))
    assert find_stubs(mask, tuple(VOXEL), 1000 * depth_um, cut) == []
    # without the information about the cut, the rim would be detected
    assert find_stubs(mask, tuple(VOXEL), 1000 * depth_um) != []


def test_a_single_voxel_has_no_neurites():
    lone = np.zeros((3, 3, 3), bool)
    lone[1, 1, 1] = True
    assert find_stubs(lone, tuple(VOXEL), 40.0) == []
    assert trace(lone, VOXEL[::-1], np.full(3, 90.0), 40.0, []).vertices.tolist() == [[90, 90, 90]]
