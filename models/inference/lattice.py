"""Cut a volume into tiles, each in the middle of a window that a network sees.

        window        |--margin--|====tile====|--margin--|
        next window                      |--margin--|====tile====|--margin--|

The probability of a voxel comes from the window whose tile holds the voxel. All windows have the same size. Around a
block of tiles, windows see at most the margin. At the ends of the volume they reach `padding` voxels beyond it, where
the image is mirrored, so that a soma at the end of the volume does not also lie at the end of the window.

Coordinates are voxels from the volume's first voxel, z, y, x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np

from ...axes import Zyx

Part = tuple[slice, slice, slice]
WHOLE: Part = (slice(None), slice(None), slice(None))
Edges = tuple[int, ...]  # first voxels of the tiles along an axis, and the end of the last tile


@dataclass(frozen=True)
class Lattice:
    """The tiles of a volume and their windows.

    Attributes:
      edges: tile edges along each axis.
      window: size of a window.
      margin: voxels that a window sees at least on each side of its tile, and at most beyond its block. Only a window
        that is larger than the block with its margins sees more, at the upper side.
      padding: the same at the ends of the volume.
      block: tiles per block along each axis.
    """

    edges: tuple[Edges, Edges, Edges]
    window: Zyx
    margin: Zyx
    padding: Zyx
    block: Zyx

    @property
    def shape(self) -> Zyx:
        """Number of tiles along each axis."""
        return zyx(len(edges) - 1 for edges in self.edges)

    @property
    def volume(self) -> Zyx:
        """Size of the volume."""
        return zyx(edges[-1] for edges in self.edges)

    def window_start(self, tile: Zyx) -> Zyx:
        """Return the first voxel of a tile's window; it can be negative."""
        axes = zip(tile, self.edges, self.window, self.margin, self.padding, self.block)
        start = []
        for i, edges, window, margin, padding, tiles in axes:
            block = i - i % tiles
            first, past = edges[block], edges[min(block + tiles, len(edges) - 1)]
            low = first - (margin if first else padding)
            high = past + (margin if past < edges[-1] else padding)
            middle = edges[i] - (window - edges[i + 1] + edges[i]) // 2
            start.append(max(min(middle, high - window), low))
        return zyx(start)

    def tile_bounds(self, tile: Zyx) -> tuple[Zyx, Zyx]:
        """Return the first and past-last voxel of a tile."""
        return (
            zyx(edges[i] for i, edges in zip(tile, self.edges)),
            zyx(edges[i + 1] for i, edges in zip(tile, self.edges)),
        )

    def tile_in_window(self, tile: Zyx) -> Part:
        """Return the slices of a tile in its window."""
        start, (lo, hi) = self.window_start(tile), self.tile_bounds(tile)
        z, y, x = (slice(a - s, b - s) for a, b, s in zip(lo, hi, start))
        return z, y, x

    def tiles_in_box(self, lo: Sequence[int], hi: Sequence[int]) -> Iterator[Zyx]:
        """Iterate over the tiles that intersect a box of voxels."""
        z, y, x = (
            range(
                max(0, int(np.searchsorted(edges, a, "right")) - 1),
                min(len(edges) - 1, int(np.searchsorted(edges, b))),
            )
            for a, b, edges in zip(lo, hi, self.edges)
        )
        return product(z, y, x)

    @staticmethod
    def tile_range(first: Zyx, past: Zyx) -> Iterator[Zyx]:
        """Iterate over the tiles from `first` up to, but not including, `past` along each axis."""
        z, y, x = (range(a, b) for a, b in zip(first, past))
        return product(z, y, x)

    def number(self, tile: Zyx) -> int:
        """Return the number of a tile; x varies fastest."""
        return int(np.ravel_multi_index(tile, self.shape))

    def tile(self, number: int) -> Zyx:
        """Return the tile with a number."""
        return zyx(np.unravel_index(number, self.shape))

    def round_window(self, multiple: Zyx) -> Lattice:
        """Return the lattice with its window size rounded up to whole multiples."""
        return replace(self, window=zyx(-(-w // m) * m for w, m in zip(self.window, multiple)))


def make_lattice(volume: Zyx, largest: Zyx, margin: Zyx, padding: Zyx) -> Lattice:
    """Cut a volume into the fewest tiles of nearly equal size, as one block.

    Args:
      volume: its size.
      largest: largest window.
      margin, padding: as in `Lattice`.
    Raises:
      ValueError: a window is not larger than its margins.
    """
    axes = [
        split_axis(partial(split_evenly, size), *limits)
        for size, *limits in zip(volume, largest, margin, padding)
    ]
    z, y, x = (edges for edges, _ in axes)
    window = zyx(window for _, window in axes)
    return Lattice((z, y, x), window, margin, padding, zyx(map(len, (z, y, x))))


def split_axis(
    edges_of: Callable[[int], Edges], largest: int, margin: int, padding: int
) -> tuple[Edges, int]:
    """Return the edges of the fewest tiles along an axis whose windows are not too large, and the window size.

    Args:
      edges_of: returns the edges for a number of tiles.
      largest: largest window.
    Raises:
      ValueError: a window is not larger than its margins.
    """
    size = edges_of(1)[-1]
    for count in range(max(1, size // largest), size + 1):
        edges = edges_of(count)
        window = window_size(edges, margin, padding)
        if window <= largest:
            return edges, window
    raise ValueError(f"windows of {largest} voxels leave nothing between margins of {margin}")


def window_size(edges: Edges, margin: int, padding: int) -> int:
    """Return the size of the smallest window that fits each tile with its margins or the volume's padding."""
    return max(
        past - first + (margin if first else padding) + (margin if past < edges[-1] else padding)
        for first, past in pairwise(edges)
    )


def split_evenly(size: int, count: int) -> Edges:
    """Return the edges of `count` parts of a length, which differ by at most one voxel."""
    return tuple(i * size // count for i in range(count + 1))


def zyx(values: Iterable[Any]) -> Zyx:
    """Convert three numbers to integers."""
    z, y, x = map(int, values)
    return z, y, x
