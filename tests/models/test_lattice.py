"""Lattices of tiles and windows, and storage of tiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flysoma.models.inference.lattice import make_lattice, split_axis, zyx
from flysoma.tasks.config import RunConfig
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.grids.tiles import Tiles, put_tile, read_tiles
from flysoma.tasks.storage.damage import DamagedObject
from flysoma.tasks.storage.store import RunStore

sizes = st.tuples(*[st.integers(1, 150)] * 3)


def all_tiles(lattice):
    return list(lattice.tiles_in_box((0, 0, 0), lattice.volume))


@given(volume=sizes, largest=st.tuples(*[st.integers(17, 80)] * 3), data=st.data())
@settings(max_examples=150, deadline=None)
def test_tiles_partition_the_volume_and_windows_include_the_margin(volume, largest, data):
    margin = tuple(data.draw(st.integers(0, (n - 1) // 2)) for n in largest)
    padding = tuple(data.draw(st.integers(0, m)) for m in margin)
    lattice = make_lattice(volume, largest, margin, padding)
    count = np.zeros(volume, np.uint8)
    for tile in all_tiles(lattice):
        lo, hi = lattice.tile_bounds(tile)
        count[tuple(slice(a, b) for a, b in zip(lo, hi))] += 1
        start = lattice.window_start(tile)
        for axis in range(3):
            first, past = start[axis], start[axis] + lattice.window[axis]
            low, high = -padding[axis], volume[axis] + padding[axis]
            assert first <= max(low, lo[axis] - margin[axis])
            assert past >= min(high, hi[axis] + margin[axis])
            assert first >= low and past <= max(high, low + lattice.window[axis])
        assert lattice.tile(lattice.number(tile)) == tile
    assert (count == 1).all()
    assert all(w <= n for w, n in zip(lattice.window, largest))


def test_a_window_without_room_for_a_localization_voxel_is_refused():
    with pytest.raises(ValidationError, match="leaves 6 voxels between margins of 29"):
        RunConfig(
            image="em", output="out", predict={"window_vx": (256, 256, 64), "margin_vx": (0, 0, 29)}
        )
    with pytest.raises(ValueError, match="leave nothing"):
        split_axis(lambda count: tuple(50 * i for i in range(3)), 40, 4, 4)


def test_a_volume_that_fits_a_window_is_one_tile_and_windows_without_tiles_are_refused():
    windows = (64, 64, 64), (10, 10, 10), (2, 2, 2)
    assert make_lattice((50, 60, 3), *windows).shape == (1, 1, 1)
    assert make_lattice((50, 61, 3), *windows).shape == (1, 2, 1)
    assert make_lattice((50, 60, 3), *windows).window == (54, 64, 7)
    assert make_lattice((50, 60, 3), *windows).round_window((16, 1, 32)).window == (64, 64, 32)
    with pytest.raises(ValueError, match="leave nothing"):
        make_lattice((50, 50, 50), (20, 20, 20), (4, 10, 4), (0, 0, 0))


@given(volume=sizes, data=st.data())
@settings(max_examples=50, deadline=None)
def test_tiles_in_box_are_the_tiles_that_intersect_it(volume, data):
    lattice = make_lattice(volume, (40, 31, 50), (3, 4, 5), (1, 2, 0))
    lo = tuple(data.draw(st.integers(0, n - 1)) for n in volume)
    hi = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(lo, volume))
    expected = [
        tile
        for tile in all_tiles(lattice)
        if all(
            a < end and b > first for a, b, first, end in zip(lo, hi, *lattice.tile_bounds(tile))
        )
    ]
    assert list(lattice.tiles_in_box(lo, hi)) == expected


def tiles_of(locate_nm, segment_nm, lo, size, block=(2, 1, 3), chunk=(64, 64, 64)):
    config = RunConfig(
        image="em",
        output="out",
        predict={"window_vx": (64, 70, 80), "margin_vx": (4, 5, 6), "block_tiles": block},
        locate={"resolution_nm": locate_nm},
        segment={"resolution_nm": segment_nm},
    )
    segment = Box(lo, tuple(a + n for a, n in zip(lo, size)))
    ratio = [b / a for a, b in zip(segment_nm, locate_nm)]
    locate = Box(
        tuple(int(np.floor(a / r)) for a, r in zip(segment.lo, ratio)),
        tuple(int(np.ceil(b / r)) for b, r in zip(segment.hi, ratio)),
    )
    chunks_nm = (tuple(a * nm for a, nm in zip(x, segment_nm)) for x in (lo, chunk))
    return Tiles.of(config, locate, segment, tuple(chunks_nm)), locate, segment, ratio


@given(
    lo=st.tuples(*[st.integers(-100, 100)] * 3),
    size=st.tuples(*[st.integers(30, 300)] * 3),
    z_nm=st.sampled_from([240.0, 200.0, 250.0, 100.0, 40.0]),
)
@settings(max_examples=60, deadline=None)
def test_tiles_of_both_networks_cover_the_same_places(lo, size, z_nm):
    tiles, locate, segment, ratio = tiles_of((64.0, 64.0, z_nm), (64.0, 64.0, 40.0), lo, size)
    assert tiles.coarse.shape == tiles.fine.shape
    assert tiles.coarse.volume == locate.size[::-1] and tiles.fine.volume == segment.size[::-1]
    for axis in range(3):
        coarse, fine = (np.array(x.edges[2 - axis]) for x in (tiles.coarse, tiles.fine))
        there = (coarse + locate.lo[axis]) * ratio[axis] - segment.lo[axis]
        assert np.abs(there - fine)[1:-1].max(initial=0) <= 0.5
        assert np.abs(there - fine)[[0, -1]].max() < ratio[axis]
    seen = sorted(tile for index in range(len(tiles.grid)) for tile in tiles.in_block(index))
    assert seen == all_tiles(tiles.fine)


@given(
    lo=st.tuples(*[st.integers(-100, 100)] * 3),
    size=st.tuples(*[st.integers(300, 2000)] * 3),
    chunk=st.tuples(*[st.sampled_from([32, 64, 128, 512])] * 3),
    block=st.tuples(*[st.integers(1, 6)] * 3),
)
@settings(max_examples=60, deadline=None)
def test_windows_see_at_most_the_margin_around_a_block(lo, size, chunk, block):
    tiles, *_ = tiles_of((64.0, 64.0, 240.0), (64.0, 64.0, 40.0), lo, size, block, chunk)
    for lattice in (tiles.coarse, tiles.fine):
        for axis, edges in enumerate(lattice.edges):
            window, margin, per = lattice.window[axis], lattice.margin[axis], lattice.block[axis]
            assert np.diff(edges).min() > 0
            for index in range(len(edges) - 1):
                tile = [0, 0, 0]
                tile[axis] = index
                start, block_at = lattice.window_start(zyx(tile))[axis], index - index % per
                low, high = edges[block_at], edges[min(block_at + per, len(edges) - 1)]
                padding = lattice.padding[axis]
                low, high = (
                    low - (margin if low else padding),
                    high + (margin if high < edges[-1] else padding),
                )
                assert start >= low and start + window <= max(high, low + window)
                assert start <= max(edges[index] - margin, -padding)
                past = min(edges[index + 1] + margin, edges[-1] + padding)
                assert start + window >= past


@pytest.mark.parametrize("lo", [(0, 0, 0), (7, -45, 31)])
@pytest.mark.parametrize("chunk, most", [((64, 64, 64), 1.3), ((128, 128, 32), 1.5)])
def test_blocks_of_a_brain_share_few_chunks(lo, chunk, most):
    nm, coarse_nm, size = (64.0, 64.0, 40.0), (64.0, 64.0, 240.0), (7000, 9548, 5020)
    segment = Box(lo, tuple(a + n for a, n in zip(lo, size)))
    locate = Box((*lo[:2], lo[2] // 6), (*segment.hi[:2], -(-segment.hi[2] // 6)))
    chunks_nm = tuple(tuple(a * b for a, b in zip(x, nm)) for x in (lo, chunk))
    tiles = Tiles.of(RunConfig(image="em", output="out"), locate, segment, chunks_nm)
    times = 1.0
    for axis in range(3):
        at, fetched, ratio = 2 - axis, 0, coarse_nm[axis] / nm[axis]
        for first in range(0, tiles.fine.shape[at], tiles.fine.block[at]):
            seen = []
            for index in range(first, min(first + tiles.fine.block[at], tiles.fine.shape[at])):
                tile = [0, 0, 0]
                tile[at] = index
                for lattice, scale, bounds in (
                    (tiles.coarse, ratio, locate),
                    (tiles.fine, 1, segment),
                ):
                    start = lattice.window_start(zyx(tile))[at] + bounds.lo[axis]
                    seen += [start * scale, (start + lattice.window[at]) * scale]
            low, high = (
                np.clip([min(seen), max(seen)], segment.lo[axis], segment.hi[axis]) - lo[axis]
            )
            fetched += np.ceil(high / chunk[axis]) - np.floor(low / chunk[axis])
        times *= fetched * chunk[axis] / size[axis]
    assert times < most


def test_stored_tiles_are_read_in_any_box(tmp_path):
    store = RunStore(str(tmp_path))
    lattice = make_lattice((50, 41, 67), (32, 32, 32), (4, 4, 4), (2, 2, 2))
    whole = np.random.default_rng(0).integers(0, 255, lattice.volume).astype(np.uint8)
    tiles = all_tiles(lattice)
    for tile in tiles[:-1]:  # one is not stored
        box = tuple(slice(a, b) for a, b in zip(*lattice.tile_bounds(tile)))
        put_tile(store, "fields", lattice.number(tile), whole[box])
    stored = np.sort([lattice.number(tile) for tile in tiles[:-1]])
    last = tuple(slice(a, b) for a, b in zip(*lattice.tile_bounds(all_tiles(lattice)[-1])))
    whole[last] = 0
    for lo, hi in (((0, 0, 0), lattice.volume), ((7, 5, 30), (43, 41, 66)), ((1, 1, 1), (2, 2, 2))):
        box = tuple(slice(a, b) for a, b in zip(lo, hi))
        assert (read_tiles(store, "fields", stored, lattice, lo, hi) == whole[box]).all()
    store.delete([f"fields/{stored[0]}.zst"])
    with pytest.raises(DamagedObject, match=rf"fields/{stored[0]}\.zst is missing"):
        read_tiles(store, "fields", stored, lattice, (0, 0, 0), lattice.volume)
