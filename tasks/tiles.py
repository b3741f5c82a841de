"""The tiles that both networks see a volume in, and what they say of each, kept in the run's store.

A tile of the localization network and one of the segmentation network are the same place. What is kept:

    cores/N.zst     uint8, z y x: p(core) of tile N where it is at or above the threshold, 0 elsewhere
    fields/N.zst    uint8, z y x: p(interior) and p(boundary) of tile N, each in half a byte (`as_nibbles`)

A tile that is not there is 0. Voxels are counted from the volume's first, z, y, x.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import zstandard

from ..models.lattice import Edges, Lattice, Zyx, cut_axis, even, window_over, zyx
from .config import RunConfig
from .geometry import BlockGrid, Box, vec3
from .store import RunStore

CORES, FIELDS = "cores", "fields"
SEEN_NM = 1500.0  # what the localization network sees around a tile, of the mirror image at the volume's ends
_LEVEL = 1  # of zstandard: 3 takes nearly twice as long for 1 % less


@dataclass(frozen=True)
class Tiles:
    """Both networks' lattices over one volume, and the grid of blocks of tiles."""

    coarse: Lattice
    fine: Lattice
    grid: BlockGrid

    @classmethod
    def of(cls, config: RunConfig, locate: Box, segment: Box) -> Tiles:
        """Those of a volume, whose bounds at the resolutions of both networks are given."""
        coarse, fine = [], []
        for axis, (largest, margin, beyond) in zip((2, 1, 0), zip(*config.predict.windows_zyx)):
            coarse_nm = config.locate.resolution_nm[axis]
            ratio = coarse_nm / config.segment.resolution_nm[axis]
            first = locate.lo[axis] * ratio - segment.lo[axis]
            edges_of = partial(_edges, locate.size[axis], segment.size[axis], first, ratio)
            edges, window = cut_axis(edges_of, largest, margin, beyond)
            fine.append((edges, window, beyond))
            edges = even(locate.size[axis], len(edges) - 1)
            seen = -int(-SEEN_NM // coarse_nm)
            coarse.append((edges, window_over(edges, seen, seen), seen))
        lattices = [Lattice(*zip(*axes)) for axes in (coarse, fine)]
        shape = vec3(lattices[1].shape[::-1])
        grid = BlockGrid(Box((0, 0, 0), shape), config.predict.block_tiles, (0, 0, 0))
        return cls(*lattices, grid)

    def in_block(self, index: int) -> list[Zyx]:
        """The tiles of a block, z, y, x."""
        core = self.grid[index].core
        return list(self.fine.within(core.lo[::-1], core.hi[::-1]))


def _edges(coarse: int, fine: int, first: float, ratio: float, count: int) -> Edges:
    """An axis of `fine` voxels cut where one of so many `coarse` ones is, that begins `first` fine voxels later."""
    inner = [round(first + edge * ratio) for edge in even(coarse, count)[1:-1]]
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
