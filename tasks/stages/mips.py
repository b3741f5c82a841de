"""Stage 4: mips of the somas, each voxel the label that most of those of the mip before have.

They are made in passes of up to three. A task makes, in all mips of a pass, what becomes one chunk of the last. An
axis that fits into a chunk is halved no more. A mip may begin a few voxels before the volume does: where the chunks
of its pass's last mip begin, so that no two tasks write the same chunk, whatever the volume's offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import tinybrain

from ...axes import Nm3, Vec3
from ..run import Run
from ..volumes.geometry import BlockGrid, Box, vec3
from ..volumes.precomputed import CHUNK
from .stage import Stage

_PASSES, _MIPS = 2, 3  # in a pass, of which a task sees 512 x 512 x 512 voxels
_LAYER = 64  # even: of so many voxels along z at a time
# what is meshed is told here, where a plan learns it without igneous
MESH_TASK_VX = 256  # edge of the piece of volume that a task meshes
_MESHED_NM = 128.0  # voxels that are meshed are no longer: 24 of them across a soma of 3 um


@dataclass(frozen=True)
class Mip:
    """One of a volume's; `factor` is how many voxels of the finest one of its has, along x, y, z."""

    resolution_nm: Nm3
    box: Box
    factor: Vec3


def passes(resolution_nm: Nm3, box: Box) -> Iterator[list[Mip]]:
    """Mips that are made of a volume: of each pass that makes any its mips, after the one that it begins with."""
    base = Mip(resolution_nm, box, (1, 1, 1))
    for _ in range(_PASSES):
        sizes, factors = base.box.size, [base.factor]
        while len(factors) <= _MIPS and any(n > c for n, c in zip(sizes, CHUNK)):
            halved = vec3([2 if n > c else 1 for n, c in zip(sizes, CHUNK)])
            factors.append(_times(factors[-1], halved))
            sizes = vec3([-(-n // h) for n, h in zip(sizes, halved)])
        if len(factors) == 1:
            return
        whole = _ratio(factors[-1], base.factor)
        first = _ratio(base.box.lo, whole)
        made = [base]
        for factor in factors[1:]:
            ratio = _ratio(factor, base.factor)
            past = vec3([-(-b // r) for b, r in zip(base.box.hi, ratio)])
            nm = tuple(r * f for r, f in zip(resolution_nm, factor))
            made.append(Mip(nm, Box(_times(first, _ratio(factors[-1], factor)), past), factor))
        yield made
        if len(factors) <= _MIPS:  # that was a thumbnail
            return
        base = made[-1]


def all_mips(resolution_nm: Nm3, box: Box) -> list[Mip]:
    """Those of all passes and the volume itself, finest first."""
    made = [mip for some in passes(resolution_nm, box) for mip in some[1:]]
    return [Mip(resolution_nm, box, (1, 1, 1)), *made]


def somas_mips(run: Run) -> list[Mip]:
    """Those that a run's somas have when it is over."""
    return all_mips(run.config.segment.resolution_nm, run.segment_grid.bounds)


def mesh_mip(run: Run) -> int:
    """The mip of the somas that is meshed: the coarsest whose voxels are not too long."""
    fine = [all(r <= _MESHED_NM for r in mip.resolution_nm) for mip in somas_mips(run)]
    return max(0, sum(fine) - 1)


class DownsampleStage(Stage):
    """The first pass.

    Attributes:
      number: of the pass.
    """

    name = "downsample"
    number = 0

    @cached_property
    def mips(self) -> list[Mip]:
        """The one that the pass begins with and those that it makes; none where there is nothing to make."""
        config = self.run.config
        made = list(passes(config.segment.resolution_nm, self.run.segment_grid.bounds))
        return made[self.number] if self.number < len(made) else []

    @cached_property
    def pieces(self) -> BlockGrid:
        """Of which a task makes one: chunks of the last mip."""
        return BlockGrid(self.mips[-1].box, CHUNK, (0, 0, 0))

    def prepare(self) -> None:
        made = [(mip.resolution_nm, mip.box) for mip in self.mips[1:]]
        self.run.somas.set_mips(self.number * _MIPS + 1, made)

    def plan(self) -> Sequence[int]:
        return self.pieces_with(self.run.store.indices("receipts/segment"))

    def pieces_with(self, blocks: Iterable[int]) -> list[int]:
        """Numbers of the pieces that hold any of the blocks that are named."""
        grid, found = self.run.segment_grid, set[int]()
        for index in blocks if self.mips else ():
            found.update(self.pieces.reaching(_shrunk(grid[index].core, self.mips[-1].factor)))
        return sorted(found)

    def work(self, index: int, data: Any) -> dict[str, Any]:
        base, *made = self.mips
        piece, number = self.pieces[index].core, self.number * _MIPS
        source = _grown(piece, _ratio(made[-1].factor, base.factor)).intersect(base.box)
        labels, lo = self._first(source)
        for before, mip in zip(self.mips, made):
            if before is not base:
                labels, lo = halve(labels, lo, _ratio(mip.factor, before.factor))
            box = _grown(piece, _ratio(made[-1].factor, mip.factor)).intersect(mip.box)
            empty = [(a - b, 0) for a, b in zip(lo, box.lo)][::-1]
            number += 1
            self.run.somas.write(box, np.pad(labels, empty), number)
        return {"voxels": source.voxels}

    def _first(self, source: Box) -> tuple[np.ndarray, Vec3]:
        """A box in the first mip, made layer by layer: read at once it would take a task's memory twice."""
        factor, mip = _ratio(self.mips[1].factor, self.mips[0].factor), self.number * _MIPS
        (x, y, z), (past_x, past_y, past_z) = source.lo, source.hi
        cuts = [z, *range(z - z % 2 + _LAYER, past_z, _LAYER), past_z]
        layers = [Box((x, y, a), (past_x, past_y, b)) for a, b in pairwise(cuts)]
        made = [halve(self.run.somas.read(box, mip), box.lo, factor)[0] for box in layers]
        return np.concatenate(made), _ratio(source.lo, factor)


class ThumbnailStage(DownsampleStage):
    """The second pass, down to what a viewer shows first."""

    name = "thumbnail"
    number = 1


def halve(labels: np.ndarray, lo: Vec3, factor: Vec3) -> tuple[np.ndarray, Vec3]:
    """Labels (z, y, x, the first one at `lo`, x, y, z) of half as many voxels along the axes whose factor is 2.

    A voxel that is partly outside has what most of those inside have.
    """
    odd = [(a % f, 0) for a, f in zip(lo, factor)][::-1]
    if any(before for before, _ in odd):
        labels = np.pad(labels, odd, mode="edge")
    for axis, times in enumerate(factor[::-1]):
        if times == 1:  # tinybrain is at its best when it halves all axes
            labels = labels.repeat(2, axis)
    (found,) = tinybrain.downsample_segmentation(labels.T, (2, 2, 2), num_mips=1)
    return found.T, _ratio(lo, factor)


def _times(a: Vec3, b: Vec3) -> Vec3:
    return vec3([x * y for x, y in zip(a, b)])


def _ratio(a: Vec3, b: Vec3) -> Vec3:
    return vec3([x // y for x, y in zip(a, b)])


def _grown(box: Box, factor: Vec3) -> Box:
    """A box in voxels that are so many times smaller."""
    return Box(_times(box.lo, factor), _times(box.hi, factor))


def _shrunk(box: Box, factor: Vec3) -> Box:
    """The voxels, so many times larger, that hold a box."""
    return Box(_ratio(box.lo, factor), vec3([-(-b // f) for b, f in zip(box.hi, factor)]))
