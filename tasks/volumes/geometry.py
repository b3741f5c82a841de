"""Boxes, blocks and the grid that cuts a volume into them. Pure arithmetic on integers, in voxels, x, y, z.

A grid starts at the volume's own origin, so any voxel offset works. Cores are disjoint and cover the
volume exactly; the read box is the core grown by a halo and clamped to the volume:

        bounds.lo                                   bounds.hi
        |  core 0   |  core 1   |  core 2   |  core 3  |
        |        |..........................|             <- read box of block 1 (core + halo)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...axes import Vec3


def vec3(values: Sequence[float]) -> Vec3:
    """Three integers; raises ValueError when there are not three whole numbers."""
    x, y, z = values
    if any(int(v) != v for v in (x, y, z)):
        raise ValueError(f"expected three whole numbers, got {tuple(values)}")
    return int(x), int(y), int(z)


def voxels(length_nm: float, resolution_nm: Sequence[float]) -> Vec3:
    """A length in whole voxels of each axis, rounded up."""
    return vec3([-int(-length_nm // r) for r in resolution_nm])


def flip(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    """x, y, z to z, y, x, and back."""
    a, b, c = values
    return c, b, a


@dataclass(frozen=True)
class Box:
    """A half-open box of voxels, lo inclusive, hi exclusive, x, y, z."""

    lo: Vec3
    hi: Vec3

    @property
    def size(self) -> Vec3:
        return vec3([max(0, b - a) for a, b in zip(self.lo, self.hi)])

    @property
    def empty(self) -> bool:
        return 0 in self.size

    @property
    def voxels(self) -> int:
        return math.prod(self.size)

    def grow(self, by: Sequence[int]) -> Box:
        """The box with `by` voxels more on both sides of each axis."""
        return Box(
            vec3([a - g for a, g in zip(self.lo, by)]), vec3([b + g for b, g in zip(self.hi, by)])
        )

    def intersect(self, other: Box) -> Box:
        """What both boxes hold; an empty box (lo = hi) when they do not meet."""
        lo = vec3([max(a, b) for a, b in zip(self.lo, other.lo)])
        hi = vec3([min(a, b) for a, b in zip(self.hi, other.hi)])
        return Box(lo, vec3([max(a, b) for a, b in zip(lo, hi)]))

    def holds(self, point: Sequence[float]) -> bool:
        """Whether a point, in voxels, lies inside."""
        return all(a <= p < b for a, p, b in zip(self.lo, point, self.hi))

    @classmethod
    def from_zyx(cls, lo: Sequence[int], hi: Sequence[int], origin: Vec3) -> Box:
        """The box between two corners that are given as z, y, x from an origin (x, y, z)."""
        x, y, z = origin
        return cls(vec3([lo[2] + x, lo[1] + y, lo[0] + z]), vec3([hi[2] + x, hi[1] + y, hi[0] + z]))

    def corners_zyx(self, origin: Vec3) -> tuple[Vec3, Vec3]:
        """First and past-last voxel, z, y, x from an origin (x, y, z)."""
        lo, hi = (
            vec3([a - o for a, o in zip(corner, origin)][::-1]) for corner in (self.lo, self.hi)
        )
        return lo, hi

    def slices_zyx(self, origin: Vec3) -> tuple[slice, slice, slice]:
        """Slices of this box in a z, y, x array whose first voxel is `origin` (x, y, z)."""
        x, y, z = (slice(a - o, b - o) for a, b, o in zip(self.lo, self.hi, origin))
        return z, y, x


@dataclass(frozen=True)
class Block:
    """A task's piece of the volume: it writes `core` and may read `read`."""

    index: int
    position: Vec3
    core: Box
    read: Box


@dataclass(frozen=True)
class BlockGrid:
    """All blocks of a volume; index runs x fastest from the volume's origin.

    Attributes:
      bounds: the volume, voxels.
      core_shape: voxels of a full core; a multiple of the output's chunk, so that writers never share one.
      halo: voxels read beyond a core on each side.
    """

    bounds: Box
    core_shape: Vec3
    halo: Vec3

    def __post_init__(self) -> None:
        if self.bounds.empty or min(self.core_shape) < 1 or min(self.halo) < 0:
            raise ValueError(f"no blocks in {self.bounds} with cores of {self.core_shape}")

    @property
    def shape(self) -> Vec3:
        """Blocks along x, y, z."""
        return vec3([-(-n // c) for n, c in zip(self.bounds.size, self.core_shape)])

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __iter__(self) -> Iterator[Block]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Block:
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of a grid of {len(self)}")
        nx, ny, _ = self.shape
        position = (index % nx, index // nx % ny, index // (nx * ny))
        lo = vec3([o + p * c for o, p, c in zip(self.bounds.lo, position, self.core_shape)])
        core = Box(lo, vec3([a + c for a, c in zip(lo, self.core_shape)])).intersect(self.bounds)
        return Block(index, position, core, core.grow(self.halo).intersect(self.bounds))

    def index_at(self, position: Vec3) -> int | None:
        """Index of the block at a grid position; None outside the grid."""
        if not all(0 <= p < n for p, n in zip(position, self.shape)):
            return None
        nx, ny, _ = self.shape
        return position[0] + nx * (position[1] + ny * position[2])

    def upper_neighbours(self, index: int) -> Iterator[tuple[int, int]]:
        """(axis, index) of the blocks across the upper x, y and z faces, where there are any."""
        position = self[index].position
        for axis in range(3):
            there = vec3([p + (a == axis) for a, p in enumerate(position)])
            other = self.index_at(there)
            if other is not None:
                yield axis, other

    def face_slab(self, index: int, axis: int, half: int) -> Box:
        """The slab around the block's upper face on `axis`, up to `half` voxels thick on each side.

        Both blocks that share the face can read all of it when half <= halo.
        """
        core = self[index].core
        lo, hi = list(core.lo), list(core.hi)
        lo[axis], hi[axis] = core.hi[axis] - half, core.hi[axis] + half
        other = self.index_at(vec3([p + (a == axis) for a, p in enumerate(self[index].position)]))
        pair = [core] if other is None else [core, self[other].core]
        lo[axis] = max(lo[axis], pair[0].lo[axis])
        hi[axis] = min(hi[axis], pair[-1].hi[axis])
        return Box(vec3(lo), vec3(hi))

    def reaching(self, box: Box) -> list[int]:
        """Indices of the blocks whose core meets the box, in order."""
        box = box.intersect(self.bounds)
        if box.empty:
            return []
        first = [(a - o) // c for a, o, c in zip(box.lo, self.bounds.lo, self.core_shape)]
        last = [(b - 1 - o) // c for b, o, c in zip(box.hi, self.bounds.lo, self.core_shape)]
        ranges = [range(f, t + 1) for f, t in zip(first, last)]
        found = [self.index_at((x, y, z)) for z in ranges[2] for y in ranges[1] for x in ranges[0]]
        return [i for i in found if i is not None]
