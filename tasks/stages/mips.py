"""downsample and thumbnail: mips of the somas and of their nuclei, by majority vote.

Mips are made in passes of up to three. A task makes, in each mip of its pass, the region of one chunk of the last mip.
An axis that fits into a chunk is not halved further. A mip may begin a few voxels before the volume: it begins where
the chunks of its pass's last mip begin, so that no two tasks write the same chunk, whatever the volume's offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise

import numpy as np
import tinybrain

from ...axes import Nm3, Vec3
from ..grids.geometry import BlockGrid, Box, vec3
from ..layers.precomputed import CHUNK, parse_chunk_name, scale_key
from ..run import Run, stored_kind
from .segment import SegmentStage
from .stage import ID_BYTES, STORED, Counters, Forecast, SimpleStage

_PASSES, _MIPS = 2, 3  # mips per pass: a task reads 512 x 512 x 512 voxels
_LAYER = 64  # voxels along z that are read at once; even


@dataclass(frozen=True)
class Mip:
    """A mip of a volume.

    Attributes:
      factor: voxels of the finest mip per voxel, along x, y, z.
    """

    resolution_nm: Nm3
    box: Box
    factor: Vec3


def passes(resolution_nm: Nm3, box: Box) -> Iterator[list[Mip]]:
    """Yield the mips of each pass over a volume that makes any: the mip that it reads, then those that it makes."""
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
            x, y, z = (r * f for r, f in zip(resolution_nm, factor))
            made.append(
                Mip((x, y, z), Box(_times(first, _ratio(factors[-1], factor)), past), factor)
            )
        yield made
        if len(factors) <= _MIPS:  # the last mip is a thumbnail
            return
        base = made[-1]


def all_mips(resolution_nm: Nm3, box: Box) -> list[Mip]:
    """Return the volume itself and the mips of all passes, finest first."""
    made = [mip for some in passes(resolution_nm, box) for mip in some[1:]]
    return [Mip(resolution_nm, box, (1, 1, 1)), *made]


def somas_mips(run: Run) -> list[Mip]:
    """Return the mips that a run's somas have in the end."""
    return all_mips(run.config.segment.resolution_nm, run.segment_grid.bounds)


def stage_of_mip(mip: int) -> str:
    """Return the stage that writes a mip of the somas."""
    return ("relabel", "downsample", "thumbnail")[-(-mip // _MIPS)]


class DownsampleStage(SimpleStage):
    """The first pass.

    Attributes:
      number: number of the pass.
    """

    name = "downsample"
    number = 0

    @cached_property
    def mips(self) -> list[Mip]:
        """The mip that the pass reads and those that it makes; empty if it makes none."""
        config = self.run.config
        made = list(passes(config.segment.resolution_nm, self.run.segment_grid.bounds))
        return made[self.number] if self.number < len(made) else []

    @cached_property
    def pieces(self) -> BlockGrid:
        """The chunks of the last mip; a task makes one."""
        return BlockGrid(self.mips[-1].box, CHUNK, (0, 0, 0))

    def prepare(self) -> None:
        made = [(mip.resolution_nm, mip.box) for mip in self.mips[1:]]
        for layer in self.run.layer_names:
            self.run.layer(layer).set_mips(self.number * _MIPS + 1, made)

    def plan(self) -> Sequence[int]:
        grid = self.run.segment_grid
        return self._pieces_of(grid[i].core for i in SegmentStage(self.run).plan())

    def forecast(self) -> Forecast:
        planned = self._pieces_of(block.core for block in self.run.blocks_near_tissue)
        if not planned:
            return Forecast(0, exact=True, voxels=0, bytes_in=0, bytes_out=0, reads=0, writes=0)
        base, *made = self.mips
        sources = [self._region(index, base) for index in planned]
        written = [(mip, self._region(index, mip)) for index in planned for mip in made]
        chunks = {mip.factor: BlockGrid(mip.box, CHUNK, (0, 0, 0)) for mip in self.mips}
        voxels, layers = sum(box.voxels for box in sources), 1 + self.run.has_nuclei
        return Forecast(
            tasks=len(planned),
            voxels=voxels,
            bytes_in=layers * voxels * ID_BYTES,
            bytes_out=layers * sum(box.voxels for _, box in written) * ID_BYTES,
            reads=layers * sum(chunks[base.factor].count(box) for box in sources),
            writes=layers * sum(chunks[mip.factor].count(box) for mip, box in written),
        )

    def _pieces_of(self, boxes: Iterable[Box]) -> list[int]:
        """Return the numbers of the pieces that hold any of the boxes."""
        if not self.mips:
            return []
        factor = self.mips[-1].factor
        return self.pieces.reaching_any(shrink(box, factor) for box in boxes)

    def _region(self, index: int, mip: Mip) -> Box:
        """Return the box of a piece in the voxels of a mip."""
        factor = _ratio(self.mips[-1].factor, mip.factor)
        return _enlarge(self.pieces[index].core, factor).intersect(mip.box)

    def work(self, index: int, data: None) -> Counters:
        source = self._region(index, self.mips[0])
        stored: dict[str, list[int]] = {}
        for layer in self.run.layer_names:
            stored |= self._downsample(layer, index, source)
        return {"voxels": source.voxels, STORED: stored}

    def _downsample(self, layer: str, index: int, source: Box) -> dict[str, list[int]]:
        """Make the region of a piece in each mip of a layer; return the numbers of the stored chunks by kind."""
        base, *made = self.mips
        number = self.number * _MIPS
        labels, lo = self._first(layer, source)
        stored = {}
        for before, mip in zip(self.mips, made):
            if before is not base:
                labels, lo = halve(labels, lo, _ratio(mip.factor, before.factor))
            box = self._region(index, mip)
            outside = [(a - b, 0) for a, b in zip(lo, box.lo)][::-1]
            number += 1
            written = self.run.layer(layer).write(box, np.pad(labels, outside), number)
            stored[stored_kind(layer, number)] = written
        return stored

    def finish(self) -> Counters:
        self.put_stored()
        self._complete()
        return {}

    def redo(self, boxes: Sequence[Box]) -> None:
        """Make the mips of boxes of the volume again, once their labels have changed."""
        again: dict[str, set[int]] = {}
        stored: dict[str, list[int]] = {}
        for index in self._pieces_of(boxes):
            for kind, numbers in self.work(index, None)[STORED].items():
                stored.setdefault(kind, []).extend(numbers)
            for mip, made in enumerate(self.mips[1:], start=self.number * _MIPS + 1):
                box = self._region(index, made)
                for layer in self.run.layer_names:
                    numbers = self.run.layer(layer).chunks_of(mip).reaching(box)
                    again.setdefault(stored_kind(layer, mip), set()).update(numbers)
        self.replace_stored(again, stored)
        self._complete()

    def _complete(self) -> None:
        before = self.number * _MIPS
        for mip in range(before + 1, before + len(self.mips)):
            for layer in self.run.layer_names:
                stored = self.run.stored_numbers(self.name, stored_kind(layer, mip))
                self.run.layer(layer).complete(mip, stored)

    def task_of(self, path: str) -> int | None:
        chunk = parse_chunk_name(path.removeprefix("somas/").removeprefix("nuclei/"))
        for mip in self.mips[1:]:
            if chunk is not None and chunk[0] == scale_key(mip.resolution_nm):
                factor = _ratio(self.mips[-1].factor, mip.factor)
                return next(iter(self.pieces.reaching(shrink(chunk[1], factor))), None)
        return None

    def _first(self, layer: str, source: Box) -> tuple[np.ndarray, Vec3]:
        """Make a box of the first mip layer by layer: read at once, it would double a task's memory."""
        factor, mip = _ratio(self.mips[1].factor, self.mips[0].factor), self.number * _MIPS
        (x, y, z), (past_x, past_y, past_z) = source.lo, source.hi
        cuts = [z, *range(z - z % 2 + _LAYER, past_z, _LAYER), past_z]
        boxes = [Box((x, y, a), (past_x, past_y, b)) for a, b in pairwise(cuts)]
        read = partial(self.run.read_labels, layer, mip=mip, stage=stage_of_mip(mip))
        made = [halve(read(box), box.lo, factor)[0] for box in boxes]
        return np.concatenate(made), _ratio(source.lo, factor)


class ThumbnailStage(DownsampleStage):
    """The second pass, down to a mip that a viewer shows first."""

    name = "thumbnail"
    number = 1


def halve(labels: np.ndarray, lo: Vec3, factor: Vec3) -> tuple[np.ndarray, Vec3]:
    """Halve labels along the axes whose factor is 2, by majority vote; voxels outside do not vote.

    Args:
      labels: z, y, x.
      lo: the first voxel, x, y, z.
      factor: 1 or 2 along x, y, z.

    Returns:
      The halved labels and their first voxel.
    """
    odd = [(a % f, 0) for a, f in zip(lo, factor)][::-1]
    if any(before for before, _ in odd):
        labels = np.pad(labels, odd, mode="edge")
    for axis, times in enumerate(factor[::-1]):
        if times == 1:  # tinybrain is fastest if it halves all axes
            labels = labels.repeat(2, axis)
    (halved,) = tinybrain.downsample_segmentation(labels.T, (2, 2, 2), num_mips=1)
    return halved.T, _ratio(lo, factor)


def _times(a: Vec3, b: Vec3) -> Vec3:
    return vec3([x * y for x, y in zip(a, b)])


def _ratio(a: Vec3, b: Vec3) -> Vec3:
    return vec3([x // y for x, y in zip(a, b)])


def _enlarge(box: Box, factor: Vec3) -> Box:
    """Return a box in voxels that are `factor` times smaller."""
    return Box(_times(box.lo, factor), _times(box.hi, factor))


def shrink(box: Box, factor: Vec3) -> Box:
    """Return the voxels, `factor` times larger, that hold a box."""
    return Box(_ratio(box.lo, factor), vec3([-(-b // f) for b, f in zip(box.hi, factor)]))
