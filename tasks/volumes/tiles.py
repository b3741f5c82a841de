"""The tiles that both networks see a volume in, and what they say of each, kept in the run's store.

A tile of the localization network and one of the segmentation network are the same place. What is kept:

    cores/N.zst     uint8, z y x: p(core) of tile N where it is at or above the threshold, 0 elsewhere
    fields/N.zst    uint8, z y x: p(interior) and p(boundary) of tile N, each in half a byte (`as_nibbles`)

A tile that is not there is 0. Voxels are counted from the volume's first, z, y, x.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import zstandard

from ...axes import Nm3, Zyx
from ...models.inference.lattice import Edges, Lattice, cut_axis, even, window_over, zyx
from ..config import RunConfig
from ..store import RunStore
from .geometry import BlockGrid, Box, vec3

CORES, FIELDS = "cores", "fields"
_SEEN_NM = (1500.0, 1500.0, 1200.0)  # that the localization network sees around a tile, x, y, z
_BEYOND_NM = 1500.0  # the same of the mirror image at the volume's ends
_LEVEL = 1  # of zstandard: 3 takes nearly twice as long for 1 % less


@dataclass(frozen=True)
class Tiles:
    """Both networks' lattices over one volume, and the grid of blocks of tiles."""

    coarse: Lattice
    fine: Lattice
    grid: BlockGrid

    @classmethod
    def of(cls, config: RunConfig, locate: Box, segment: Box, chunks_nm: tuple[Nm3, Nm3]) -> Tiles:
        """Those of a volume.

        Args:
          locate, segment: its bounds at the resolutions of both networks.
          chunks_nm: the first corner and the size of the chunks that its image is read in; blocks are cut where few
            chunks belong to two.
        """
        coarse, fine = [], []
        block = config.predict.block_tiles[::-1]
        for axis, tiles, largest, margin, beyond in zip(
            (2, 1, 0), block, *config.predict.windows_zyx
        ):
            coarse_nm = config.locate.resolution_nm[axis]
            ratio = coarse_nm / config.segment.resolution_nm[axis]
            first = locate.lo[axis] * ratio - segment.lo[axis]
            chunks = _Chunks(
                chunks_nm[0][axis] / coarse_nm - locate.lo[axis],
                chunks_nm[1][axis] / coarse_nm,
                seen_nm(config)[axis] / coarse_nm,
            )
            cut = partial(_cut, locate.size[axis], tiles, chunks)
            edges_of = partial(_edges, segment.size[axis], first, ratio, cut)
            edges, window = cut_axis(edges_of, largest, margin, beyond)
            fine.append((edges, window, margin, beyond))
            edges = cut(len(edges) - 1)
            seen, beyond = (_voxels(nm, coarse_nm) for nm in (_SEEN_NM[axis], _BEYOND_NM))
            coarse.append((edges, window_over(edges, seen, beyond), seen, beyond))
        lattices = [Lattice(*zip(*axes), block) for axes in (coarse, fine)]
        shape = vec3(lattices[1].shape[::-1])
        grid = BlockGrid(Box((0, 0, 0), shape), config.predict.block_tiles, (0, 0, 0))
        return cls(*lattices, grid)

    def in_block(self, index: int) -> list[Zyx]:
        """The tiles of a block, z, y, x."""
        core = self.grid[index].core
        return list(self.fine.within(core.lo[::-1], core.hi[::-1]))


def seen_nm(config: RunConfig) -> Nm3:
    """How far beyond a block of tiles windows see, x, y, z."""
    coarse, fine = config.locate.resolution_nm, config.segment.resolution_nm
    x, y, z = (
        max(_voxels(seen, coarse_nm) * coarse_nm, margin * fine_nm)
        for seen, coarse_nm, margin, fine_nm in zip(
            _SEEN_NM, coarse, config.predict.margin_vx, fine
        )
    )
    return x, y, z


def _voxels(length_nm: float, voxel_nm: float) -> int:
    return math.ceil(length_nm / voxel_nm)


@dataclass(frozen=True)
class _Chunks:
    """An image's chunks along an axis, in voxels of the localization network: where they begin, and their length."""

    first: float
    length: float
    seen: float

    def shared(self, edge: int) -> int:
        """How many two blocks read that meet here and see so far."""
        low, high = ((edge + side * self.seen - self.first) / self.length for side in (-1, 1))
        return math.ceil(high - 1e-6) - math.floor(low + 1e-6)


def _cut(size: int, block: int, chunks: _Chunks, count: int) -> Edges:
    """Edges of so many tiles, as equal as they can be when the blocks of so many are cut where the fewest chunks are
    shared, an eighth of their length away at most, and half a tile."""
    even_edges = even(size, count)
    play = size * min(block, 4) // count // 8
    ends = [
        min(
            range(at - play, at + play + 1), key=lambda e, at=at: (chunks.shared(e), abs(e - at), e)
        )
        for at in even_edges[block:-1:block]
    ]
    edges = [0]
    for first, past in pairwise([0, *ends, size]):
        tiles = min(block, count + 1 - len(edges))
        edges += [first + edge for edge in even(past - first, tiles)[1:]]
    return tuple(edges)


def _edges(fine: int, first: float, ratio: float, cut: Callable[[int], Edges], count: int) -> Edges:
    """An axis of `fine` voxels cut where one of coarse voxels is, that begins `first` fine voxels later."""
    inner = [round(first + edge * ratio) for edge in cut(count)[1:-1]]
    return 0, *inner, fine


def put_tile(store: RunStore, folder: str, number: int, values: np.ndarray) -> None:
    """Keep what is known in a tile."""
    data = np.ascontiguousarray(values)
    store.put(f"{folder}/{number}.zst", zstandard.compress(data.data, _LEVEL))


def read_tiles(store: RunStore, folder: str, lattice: Lattice, lo: Zyx, hi: Zyx) -> np.ndarray:
    """What is known in a box: uint8, z, y, x."""
    found = np.zeros(zyx(b - a for a, b in zip(lo, hi)), np.uint8)
    paths = {f"{folder}/{lattice.number(t)}.zst": t for t in lattice.meeting(lo, hi)}
    for path, data in store.get_many(paths).items():
        if data is None:
            continue
        first, past = lattice.owned(paths[path])
        shape = zyx(b - a for a, b in zip(first, past))
        tile = np.frombuffer(zstandard.decompress(data), np.uint8).reshape(shape)
        both = [(max(a, f), min(b, p)) for a, f, b, p in zip(lo, first, hi, past)]
        here, there = (
            tuple(slice(a - o, b - o) for (a, b), o in zip(both, origin)) for origin in (lo, first)
        )
        found[here] = tile[there]
    return found
