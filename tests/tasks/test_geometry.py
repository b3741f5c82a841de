"""Blocks cover a volume exactly, for any offset and size."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flysoma.tasks.grids.geometry import BlockGrid, Box

triple = st.tuples(*[st.integers(1, 40)] * 3)
grids = st.builds(
    lambda lo, size, core, halo: BlockGrid(
        Box(lo, tuple(a + s for a, s in zip(lo, size))), core, halo
    ),
    st.tuples(*[st.integers(-30, 30)] * 3),
    triple,
    st.tuples(*[st.integers(5, 17)] * 3),
    st.tuples(*[st.integers(0, 9)] * 3),
)


@settings(max_examples=60, deadline=None)
@given(grids)
def test_cores_are_disjoint_and_cover_the_volume(grid):
    covered = np.zeros(grid.bounds.size[::-1], int)
    for block in grid:
        covered[block.core.slices_zyx(grid.bounds.lo)] += 1
        assert block.core == block.core.intersect(block.read)
        assert block.read == block.read.intersect(grid.bounds)
        assert all(
            (a - o) % c == 0 for a, o, c in zip(block.core.lo, grid.bounds.lo, grid.core_shape)
        )
        assert grid.index_at(block.position) == block.index
    assert (covered == 1).all()


@settings(max_examples=60, deadline=None)
@given(grids, st.tuples(*[st.integers(-35, 75)] * 3), triple)
def test_reaching_finds_the_blocks_whose_core_meets_a_box(grid, lo, size):
    box = Box(lo, tuple(a + s for a, s in zip(lo, size)))
    expected = [b.index for b in grid if not b.core.intersect(box).empty]
    assert sorted(grid.reaching(box)) == expected


@settings(max_examples=60, deadline=None)
@given(grids)
def test_both_blocks_at_a_face_can_read_its_slab(grid):
    for block in grid:
        for axis, other in grid.upper_neighbours(block.index):
            slab = grid.face_slab(block.index, axis, max(1, grid.halo[axis]))
            if grid.halo[axis]:
                assert slab == slab.intersect(block.read)
                assert slab == slab.intersect(grid[other].read)
            assert slab.lo[axis] < block.core.hi[axis] < slab.hi[axis]


def test_a_known_grid():
    grid = BlockGrid(Box((10, 0, 5), (20, 7, 9)), (4, 4, 4), (1, 1, 1))
    assert grid.shape == (3, 2, 1)
    assert grid[4].core == Box((14, 4, 5), (18, 7, 9))
    assert grid[4].read == Box((13, 3, 5), (19, 7, 9))
    assert list(grid.upper_neighbours(0)) == [(0, 1), (1, 3)]
