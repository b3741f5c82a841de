"""A volume cut into tiles, each in the middle of a window that a network sees.

        window        |--margin--|====tile====|--margin--|
        next window                      |--margin--|====tile====|--margin--|

A voxel's probability comes from the one window whose tile holds it. All windows are of one size; around a block of
tiles they see no more than the margin, and at the volume's ends they reach `beyond` it, where they see its mirror
image, so that what the end cuts is not the end of what is seen.
All coordinates are voxels from the volume's first voxel, z, y, x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np

from ...axes import Zyx

Part = tuple[slice, slice, slice]
WHOLE: Part = (slice(None), slice(None), slice(None))
Edges = tuple[int, ...]  # first voxels of the tiles along an axis, and the end of the last


@dataclass(frozen=True)
class Lattice:
    """The tiles of a volume, and the windows that go around them.

    Attributes:
      edges: of the tiles along each axis.
      window: its size.
      margin: the least that a window sees on each side of its tile, and the most that it sees of other blocks, unless
        it is larger than the block with its margins; then more at the upper side.
      beyond: the same at the volume's ends.
      block: tiles of a block along each axis.
    """

    edges: tuple[Edges, Edges, Edges]
    window: Zyx
    margin: Zyx
    beyond: Zyx
    block: Zyx

    @property
    def shape(self) -> Zyx:
        """Tiles along each axis."""
        return zyx(len(edges) - 1 for edges in self.edges)

    @property
    def volume(self) -> Zyx:
        return zyx(edges[-1] for edges in self.edges)

    def start(self, tile: Zyx) -> Zyx:
        """First voxel of a tile's window."""
        axes = zip(tile, self.edges, self.window, self.margin, self.beyond, self.block)
        found = []
        for i, edges, window, margin, beyond, tiles in axes:
            block = i - i % tiles
            first, past = edges[block], edges[min(block + tiles, len(edges) - 1)]
            low = first - (margin if first else beyond)
            high = past + (margin if past < edges[-1] else beyond)
            middle = edges[i] - (window - edges[i + 1] + edges[i]) // 2
            found.append(max(min(middle, high - window), low))
        return zyx(found)

    def owned(self, tile: Zyx) -> tuple[Zyx, Zyx]:
        """First and past-last voxel of a tile."""
        return (
            zyx(edges[i] for i, edges in zip(tile, self.edges)),
            zyx(edges[i + 1] for i, edges in zip(tile, self.edges)),
        )

    def own_part(self, tile: Zyx) -> Part:
        """Where in a tile's window the tile itself is."""
        start, (lo, hi) = self.start(tile), self.owned(tile)
        z, y, x = (slice(a - s, b - s) for a, b, s in zip(lo, hi, start))
        return z, y, x

    def meeting(self, lo: Sequence[int], hi: Sequence[int]) -> Iterator[Zyx]:
        """Tiles that hold a voxel of a box."""
        ranges = [
            range(
                max(0, int(np.searchsorted(edges, a, "right")) - 1),
                min(len(edges) - 1, int(np.searchsorted(edges, b))),
            )
            for a, b, edges in zip(lo, hi, self.edges)
        ]
        return product(*ranges)  # type: ignore[return-value]

    def within(self, first: Sequence[int], past: Sequence[int]) -> Iterator[Zyx]:
        """Tiles of a box that is given in tiles."""
        return product(*(range(a, b) for a, b in zip(first, past)))  # type: ignore[return-value]

    def number(self, tile: Zyx) -> int:
        """A tile's place among all, x fastest."""
        return int(np.ravel_multi_index(tile, self.shape))

    def tile(self, number: int) -> Zyx:
        """The tile of a number."""
        return zyx(np.unravel_index(number, self.shape))

    def fitted(self, multiple: Zyx) -> Lattice:
        """With the window enlarged to whole multiples."""
        return replace(self, window=zyx(-(-w // m) * m for w, m in zip(self.window, multiple)))


def cut(volume: Zyx, largest: Zyx, margin: Zyx, beyond: Zyx) -> Lattice:
    """The fewest tiles whose windows are not too large, as equal as whole voxels allow, and all of them a block.

    Raises ValueError where a window is no larger than its margins.
    """
    axes = [
        cut_axis(lambda count, n=n: even(n, count), *asked)  # type: ignore[misc]
        for n, *asked in zip(volume, largest, margin, beyond)
    ]
    edges: Any = tuple(edges for edges, _ in axes)
    block = zyx(map(len, edges))
    return Lattice(edges, zyx(window for _, window in axes), margin, beyond, block)


def cut_axis(
    edges_of: Callable[[int], Edges], largest: int, margin: int, beyond: int
) -> tuple[Edges, int]:
    """Edges and window along an axis, of the fewest tiles; `edges_of` gives the edges of so many."""
    size = edges_of(1)[-1]
    for count in range(max(1, size // largest), size + 1):
        edges = edges_of(count)
        window = window_over(edges, margin, beyond)
        if window <= largest:
            return edges, window
    raise ValueError(f"windows of {largest} voxels leave nothing between margins of {margin}")


def window_over(edges: Edges, margin: int, beyond: int) -> int:
    """What a window holds around the largest tile: a margin where there is another tile, or what lies beyond."""
    return max(
        past - first + (margin if first else beyond) + (margin if past < edges[-1] else beyond)
        for first, past in pairwise(edges)
    )


def even(size: int, count: int) -> Edges:
    """A length cut into equal parts, as far as whole numbers allow."""
    return tuple(i * size // count for i in range(count + 1))


def zyx(values: Iterable[Any]) -> Zyx:
    """Three integers."""
    z, y, x = map(int, values)
    return z, y, x
