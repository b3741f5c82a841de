"""Bodies at points: divided at membranes, at equal distance without one, and outside what is there already."""

import numpy as np
import pytest

from flysoma.models.inference.bodies import find_bodies, part_body

VOXEL_NM = (100.0, 100.0, 100.0)


def cuboid(membrane=None):
    """Probabilities of a cuboid of interior, with a membrane across x; and its mask."""
    body = np.zeros((20, 20, 60), bool)
    body[4:16, 4:16, 4:56] = True
    interior, boundary = np.where(body, 255, 0).astype(np.uint8), np.zeros(body.shape, np.uint8)
    if membrane is not None:
        interior[..., membrane : membrane + 2], boundary[..., membrane : membrane + 2] = 0, 255
        boundary[~body] = 0
    return np.stack([interior, boundary]), body


POINTS = np.array([[10, 10, 10], [10, 10, 50]])


@pytest.mark.parametrize("membrane, first", [(None, 30), (18, 19)])
def test_a_body_is_parted_at_its_membrane_or_in_the_middle(membrane, first):
    fields, body = cuboid(membrane)
    parts = part_body(fields, body, POINTS, VOXEL_NM, 0.5)
    assert ((parts > 0) == body).all()
    left, right = (np.flatnonzero((parts == n).any(axis=(0, 1))) for n in (1, 2))
    assert left[0] == 4 and right[-1] == 55
    assert abs(left[-1] - first) <= 1 and abs(right[0] - first) <= 2


def test_a_part_in_which_no_point_lies_goes_to_the_largest():
    fields, body = cuboid()
    body[0, 0, 0] = True
    parts = part_body(fields, body, np.array([[10, 10, 8], [10, 10, 50]]), VOXEL_NM, 0.5)
    sizes = np.bincount(parts[body])[1:]
    assert parts[0, 0, 0] == sizes.argmax() + 1 and sizes.sum() == body.sum()


def test_a_body_is_found_outside_of_others_and_once_for_two_points():
    fields, body = cuboid()
    free = np.ones(body.shape, bool)
    free[..., :30] = False
    assert (find_bodies(fields, free, POINTS[1:], VOXEL_NM, 0.5, 0.1) == (body & free)).all()
    near = np.array([[8, 10, 43], [12, 10, 43]])
    assert (find_bodies(fields, free, near, VOXEL_NM, 0.5, 0.1) == (body & free)).all()
    fields, body = cuboid(membrane=30)
    found = find_bodies(fields, np.ones(body.shape, bool), POINTS, VOXEL_NM, 0.5, 0.1)
    assert found[10, 10, 10] == 1 and found[10, 10, 50] == 2
