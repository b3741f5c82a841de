"""Boxes, blocks and the grid of blocks in a volume. Pure integer arithmetic in voxels, x, y, z.

A grid starts at the volume's first voxel, so any voxel offset works. Cores are disjoint and cover the volume
exactly. The read box is the core grown by a halo and clamped to the volume:

        bounds.lo                                   bounds.hi
        |  core 0   |  core 1   |  core 2   |  core 3  |
        |        |..........................|             <- read box of block 1 (core + halo)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TypeVar

from ...axes import MAX_VOXEL_NM, MIN_VOXEL_NM, Nm3, Vec3
from ...errors import UserError

T = TypeVar("T")


def vec3(values: Sequence[float]) -> Vec3:
    """Return three integers. Raises ValueError if the values are not three whole numbers."""
    x, y, z = values
    whole = int(x), int(y), int(z)
    if whole != (x, y, z):
        raise ValueError(f"expected three whole numbers, got {tuple(values)}")
    return whole


def voxel_size(values_nm: Sequence[float]) -> Nm3:
    """Return a voxel size, x, y, z, nm. Raises UserError if it is not one, for example because it is in um."""
    if len(values_nm) != 3 or not all(MIN_VOXEL_NM <= v <= MAX_VOXEL_NM for v in values_nm):
        raise UserError(
            f"a voxel size of {' '.join(f'{v:g}' for v in values_nm)} is not in nm: three numbers from "
            f"{MIN_VOXEL_NM:g} to {MAX_VOXEL_NM:g} are needed, x y z; convert it to nm"
        )
    x, y, z = map(float, values_nm)
    return x, y, z


def ceil_voxels(length_nm: float, voxel_nm: float) -> int:
    """Convert a length to whole voxels, rounded up."""
    return -int(-length_nm // voxel_nm)


def to_voxels(length_nm: float, resolution_nm: Sequence[float]) -> Vec3:
    """Convert a length to whole voxels along each axis, rounded up."""
    return vec3([ceil_voxels(length_nm, r) for r in resolution_nm])


def flip(values: Iterable[T]) -> tuple[T, T, T]:
    """Reverse the axis order: x, y, z to z, y, x, and back."""
    a, b, c = values
    return c, b, a


@dataclass(frozen=True)
class Box:
    """A half-open box of voxels, x, y, z: lo is inside, hi is outside."""

    lo: Vec3
    hi: Vec3

    @property
    def size(self) -> Vec3:
        (x0, y0, z0), (x1, y1, z1) = self.lo, self.hi
        return max(0, x1 - x0), max(0, y1 - y0), max(0, z1 - z0)

    @property
    def empty(self) -> bool:
        return 0 in self.size

    @property
    def voxels(self) -> int:
        return math.prod(self.size)

    def grow(self, by: Sequence[int]) -> Box:
        """Return the box with `by` more voxels on both sides of each axis."""
        (x0, y0, z0), (x1, y1, z1), (x, y, z) = self.lo, self.hi, by
        return Box((x0 - x, y0 - y, z0 - z), (x1 + x, y1 + y, z1 + z))

    def intersect(self, other: Box) -> Box:
        """Return the intersection; an empty box (lo = hi) if the boxes do not meet."""
        x0, y0, z0 = map(max, self.lo, other.lo)
        x1, y1, z1 = map(min, self.hi, other.hi)
        return Box((x0, y0, z0), (max(x0, x1), max(y0, y1), max(z0, z1)))

    def holds(self, point: Sequence[float]) -> bool:
        """Return whether a point, in voxels, lies inside."""
        return all(a <= p < b for a, p, b in zip(self.lo, point, self.hi))

    @classmethod
    def from_zyx(cls, lo: Sequence[int], hi: Sequence[int], origin: Vec3) -> Box:
        """Return the box between two corners, given as z, y, x from an origin (x, y, z)."""
        x, y, z = origin
        return cls(vec3([lo[2] + x, lo[1] + y, lo[0] + z]), vec3([hi[2] + x, hi[1] + y, hi[0] + z]))

    def corners_zyx(self, origin: Vec3) -> tuple[Vec3, Vec3]:
        """Return the first and past-last voxel, z, y, x from an origin (x, y, z)."""
        lo, hi = (
            vec3([a - o for a, o in zip(corner, origin)][::-1]) for corner in (self.lo, self.hi)
        )
        return lo, hi

    def slices_zyx(self, origin: Vec3) -> tuple[slice, slice, slice]:
        """Return the slices of this box in a z, y, x array whose first voxel is `origin` (x, y, z)."""
        x, y, z = (slice(a - o, b - o) for a, b, o in zip(self.lo, self.hi, origin))
        return z, y, x


@dataclass(frozen=True)
class Block:
    """A task's piece of the volume: the task writes `core` and may read `read`."""

    index: int
    position: Vec3
    core: Box
    read: Box


@dataclass(frozen=True)
class BlockGrid:
    """All blocks of a volume; the index runs x fastest from the volume's first voxel.

    Attributes:
      bounds: the volume, voxels.
      core_shape: voxels of a full core; a multiple of the output's chunk, so that no two tasks write one chunk.
      halo: voxels read around a core on each side.
    """

    bounds: Box
    core_shape: Vec3
    halo: Vec3

    def __post_init__(self) -> None:
        if self.bounds.empty or min(self.core_shape) < 1 or min(self.halo) < 0:
            raise ValueError(f"no blocks in {self.bounds} with cores of {self.core_shape}")

    @cached_property
    def shape(self) -> Vec3:
        """Number of blocks along x, y, z."""
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
        """Return the index of the block at a grid position; None outside the grid."""
        if not all(0 <= p < n for p, n in zip(position, self.shape)):
            return None
        nx, ny, _ = self.shape
        return position[0] + nx * (position[1] + ny * position[2])

    def count_faces(self, block: Block) -> int:
        """Return how many faces a block shares with other blocks."""
        return sum((p > 0) + (p < n - 1) for p, n in zip(block.position, self.shape))

    def upper_neighbours(self, index: int) -> Iterator[tuple[int, int]]:
        """Yield (axis, index) of the neighbours across the upper x, y and z faces."""
        position = self[index].position
        for axis in range(3):
            neighbour = vec3([p + (a == axis) for a, p in enumerate(position)])
            other = self.index_at(neighbour)
            if other is not None:
                yield axis, other

    def face_slab(self, index: int, axis: int, half: int) -> Box:
        """Return the slab around the block's upper face on `axis`, at most `half` voxels thick on each side.

        Both blocks that share the face read all of it if half <= halo.
        """
        core = self[index].core
        lo, hi, face = list(core.lo), list(core.hi), core.hi[axis]
        upper_end = min(face + self.core_shape[axis], self.bounds.hi[axis])
        lo[axis] = max(face - half, core.lo[axis])
        hi[axis] = min(face + half, upper_end)
        return Box(vec3(lo), vec3(hi))

    def count(self, box: Box) -> int:
        """Return the number of blocks whose core meets the box."""
        return math.prod(map(len, self._positions(box)))

    def reaching(self, box: Box) -> list[int]:
        """Return the indices of the blocks whose core meets the box, in order."""
        nx, ny, _ = self.shape
        xs, ys, zs = self._positions(box)
        return [x + nx * (y + ny * z) for z, y, x in product(zs, ys, xs)]

    def reaching_any(self, boxes: Iterable[Box]) -> list[int]:
        """Return the indices of the blocks whose core meets any of the boxes, in order."""
        return sorted({index for box in boxes for index in self.reaching(box)})

    def covering(self, box: Box) -> Box:
        """Return the smallest box of whole cores that holds a box, clamped to the volume."""
        spans = [
            (o + r.start * c, o + r.stop * c)
            for r, o, c in zip(self._positions(box), self.bounds.lo, self.core_shape)
        ]
        lo, hi = (vec3(corner) for corner in zip(*spans))
        return Box(lo, hi).intersect(self.bounds)

    def _positions(self, box: Box) -> tuple[range, range, range]:
        """Return the grid positions, along x, y, z, of the blocks whose core meets the box."""
        box = box.intersect(self.bounds)
        if box.empty:
            return range(0), range(0), range(0)
        x, y, z = (
            range((a - o) // c, (b - 1 - o) // c + 1)
            for a, b, o, c in zip(box.lo, box.hi, self.bounds.lo, self.core_shape)
        )
        return x, y, z
