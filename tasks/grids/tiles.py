"""The tiles in which both networks see a volume, and what is stored of each tile.

A tile of the localization network and the tile of the segmentation network with the same number are the same place.
What is stored:

    cores/N.zst     uint8, z, y, x: p(core) of tile N where it is at or above the threshold, 0 elsewhere
    fields/N.zst    uint8, z, y, x: p(interior) and p(boundary) of tile N, half a byte each (`encode_nibbles`)
    nucleus_fields/N.zst    the same: p(nucleus) and p(glia); only if the segmentation network predicts them

A tile that is not stored is 0; `stored/predict.npz` holds the numbers of those that are. Voxels are counted from the
volume's first voxel, z, y, x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import zstandard

from ...axes import Nm3, Zyx
from ...models.inference.lattice import Edges, Lattice, split_axis, split_evenly, window_size, zyx
from ..config import RunConfig
from ..storage.store import RunStore
from .geometry import BlockGrid, Box, ceil_voxels, flip

CORES, FIELDS, NUCLEUS_FIELDS = "cores", "fields", "nucleus_fields"
_LOCATE_MARGIN_NM = (1500.0, 1500.0, 1200.0)  # that the localization network sees around a tile
_LOCATE_PADDING_NM = 1500.0  # the margin at the volume's ends, filled by reflection
_ZSTD_LEVEL = 1  # level 3 takes nearly twice the time for 1 % fewer bytes


@dataclass(frozen=True)
class Tiles:
    """The lattices of both networks over one volume, and the grid of blocks of tiles."""

    coarse: Lattice
    fine: Lattice
    grid: BlockGrid

    @classmethod
    def of(cls, config: RunConfig, locate: Box, segment: Box, chunks_nm: tuple[Nm3, Nm3]) -> Tiles:
        """Cut a volume into tiles.

        Args:
          locate, segment: the volume's bounds at the resolutions of both networks.
          chunks_nm: first corner and size of the image's chunks; blocks are cut where few chunks belong to two.
        """
        block = flip(config.predict.block_tiles)
        coarse, fine = [], []
        for axis, tiles, largest, margin, padding in zip(
            (2, 1, 0), block, *config.predict.windows_zyx
        ):
            coarse_nm = config.locate.resolution_nm[axis]
            ratio = coarse_nm / config.segment.resolution_nm[axis]
            first = locate.lo[axis] * ratio - segment.lo[axis]
            chunks = _Chunks(
                chunks_nm[0][axis] / coarse_nm - locate.lo[axis],
                chunks_nm[1][axis] / coarse_nm,
                margin_nm(config)[axis] / coarse_nm,
            )
            cut = partial(_cut, locate.size[axis], tiles, chunks)
            edges_of = partial(_fine_edges, segment.size[axis], first, ratio, cut)
            edges, window = split_axis(edges_of, largest, margin, padding)
            fine.append(_Axis(edges, window, margin, padding))
            edges = cut(len(edges) - 1)
            margin = ceil_voxels(_LOCATE_MARGIN_NM[axis], coarse_nm)
            padding = ceil_voxels(_LOCATE_PADDING_NM, coarse_nm)
            coarse.append(_Axis(edges, window_size(edges, margin, padding), margin, padding))
        lattice = _lattice(fine, block)
        grid = BlockGrid(Box((0, 0, 0), flip(lattice.shape)), config.predict.block_tiles, (0, 0, 0))
        return cls(_lattice(coarse, block), lattice, grid)

    def in_block(self, index: int) -> list[Zyx]:
        """Return the tiles of a block, z, y, x."""
        core = self.grid[index].core
        return list(self.fine.tile_range(flip(core.lo), flip(core.hi)))


@dataclass(frozen=True)
class _Axis:
    """One axis of a lattice."""

    edges: Edges
    window: int
    margin: int
    padding: int


def _lattice(axes: Sequence[_Axis], block: Zyx) -> Lattice:
    z, y, x = axes
    return Lattice(
        (z.edges, y.edges, x.edges),
        (z.window, y.window, x.window),
        (z.margin, y.margin, x.margin),
        (z.padding, y.padding, x.padding),
        block,
    )


def margin_nm(config: RunConfig) -> Nm3:
    """Return how much of the image windows see around a block of tiles, x, y, z, nm."""
    x, y, z = (
        max(ceil_voxels(margin, coarse_nm) * coarse_nm, margin_vx * fine_nm)
        for margin, coarse_nm, margin_vx, fine_nm in zip(
            _LOCATE_MARGIN_NM,
            config.locate.resolution_nm,
            config.predict.margin_vx,
            config.segment.resolution_nm,
        )
    )
    return x, y, z


@dataclass(frozen=True)
class _Chunks:
    """The image's chunks along an axis, in voxels of the localization network.

    Attributes:
      first: the edge of a chunk.
      length: of a chunk.
      margin: read on both sides of a block.
    """

    first: float
    length: float
    margin: float

    def shared(self, edge: int) -> int:
        """Return how many chunks are read by both blocks that meet at an edge."""
        low, high = ((edge + side * self.margin - self.first) / self.length for side in (-1, 1))
        return math.ceil(high - 1e-6) - math.floor(low + 1e-6)


def _cut(size: int, block: int, chunks: _Chunks, count: int) -> Edges:
    """Return the edges of `count` tiles, as equal as possible once the blocks are cut.

    A block ends where the fewest chunks are shared, at most an eighth of its length and half a tile from an equal cut.
    """
    even_edges = split_evenly(size, count)
    play = size * min(block, 4) // count // 8
    ends = []
    for equal in even_edges[block:-1:block]:
        nearby = range(equal - play, equal + play + 1)
        ends.append(min((chunks.shared(edge), abs(edge - equal), edge) for edge in nearby)[-1])
    edges = [0]
    for first, past in pairwise([0, *ends, size]):
        tiles = min(block, count + 1 - len(edges))
        edges += [first + edge for edge in split_evenly(past - first, tiles)[1:]]
    return tuple(edges)


def _fine_edges(
    size: int, first: float, ratio: float, cut: Callable[[int], Edges], count: int
) -> Edges:
    """Cut an axis of `size` fine voxels at the edges of the coarse axis, which begins `first` fine voxels later."""
    inner = [round(first + edge * ratio) for edge in cut(count)[1:-1]]
    return 0, *inner, size


def any_in(mask: np.ndarray, spans: Sequence[Sequence[tuple[int, int]]]) -> np.ndarray:
    """Return whether a mask is set anywhere in each box of a grid of boxes.

    Args:
      spans: the boxes along each axis of the mask, half-open; they may overlap or be empty.

    Returns:
      bool, one value per box; its axes are those of the mask.
    """
    for axis, boxes in enumerate(spans):
        rows = np.moveaxis(mask, axis, 0)
        mask = np.moveaxis(np.stack([rows[a:b].any(axis=0) for a, b in boxes]), 0, axis)
    return mask


def blocks_near(tiles: np.ndarray, lattice: Lattice, grid: BlockGrid) -> list[int]:
    """Return the indices of the blocks whose read box meets any of the given tiles, in order.

    Args:
      tiles: bool, one value per tile of the grid's volume, z, y, x.
    """
    spans = []
    for axis, edges in zip((2, 1, 0), lattice.edges):
        size, core, halo = grid.bounds.size[axis], grid.core_shape[axis], grid.halo[axis]
        starts = np.arange(0, size, core)
        first = np.searchsorted(edges, np.maximum(starts - halo, 0), "right") - 1
        past = np.searchsorted(edges, np.minimum(starts + core + halo, size))
        spans.append(list(zip(first.tolist(), past.tolist())))
    blocks: list[int] = np.flatnonzero(any_in(tiles, spans)).tolist()
    return blocks


def count_tiles(lattice: Lattice, lo: Zyx, hi: Zyx) -> int:
    """Return the number of tiles that meet a box."""
    return sum(1 for _ in lattice.tiles_in_box(lo, hi))


def put_tile(store: RunStore, folder: str, number: int, values: np.ndarray) -> None:
    """Store the values (uint8, z, y, x) of a tile."""
    data = np.ascontiguousarray(values)
    store.put_sealed(_path(folder, number), zstandard.compress(data.data, _ZSTD_LEVEL))


def read_tiles(
    store: RunStore, folder: str, stored: np.ndarray, lattice: Lattice, lo: Zyx, hi: Zyx
) -> np.ndarray:
    """Read a box from the stored tiles: uint8, z, y, x.

    Args:
      stored: numbers of the tiles that are stored, ascending. The others are 0.
    Raises:
      DamagedObject: a stored tile is missing or has changed.
    """
    values = np.zeros(zyx(b - a for a, b in zip(lo, hi)), np.uint8)
    tiles = {lattice.number(tile): tile for tile in lattice.tiles_in_box(lo, hi)}
    numbers = np.intersect1d(list(tiles), stored).tolist()
    paths = {_path(folder, number): tiles[number] for number in numbers}
    for path, sealed in store.get_many(paths).items():
        first, past = lattice.tile_bounds(paths[path])
        data = zstandard.decompress(store.unseal(path, sealed))
        tile = np.frombuffer(data, np.uint8).reshape(zyx(b - a for a, b in zip(first, past)))
        both = [(max(a, f), min(b, p)) for a, f, b, p in zip(lo, first, hi, past)]
        target, source = (
            tuple(slice(a - o, b - o) for (a, b), o in zip(both, origin)) for origin in (lo, first)
        )
        values[target] = tile[source]
    return values


def missing_tiles(store: RunStore, folder: str, numbers: Iterable[int]) -> list[int]:
    """Return the numbers of the tiles that are not stored."""
    paths = {_path(folder, number): number for number in numbers}
    return [paths[path] for path, data in store.get_many(paths).items() if data is None]


def _path(folder: str, number: int) -> str:
    return f"{folder}/{number}.zst"
