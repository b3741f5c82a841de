"""Run a network over as much of a volume as its somas need, one fixed-size window at a time.

Windows lie on a lattice that is anchored at the volume's first voxel, the same for every block. Each window
*owns* the tile in its middle; the margin around it is context only:

        window        |--margin--|====tile====|--margin--|
        next window                      |--margin--|====tile====|--margin--|

A voxel's probability comes from the one window that owns it, so it does not depend on which block asked,
nor on which other windows were run: blockwise equals whole volume, to the byte. Second looks (`predict_around`) lie
where a seed or a face between two tiles puts them, which does not depend on the block either.

All coordinates are voxels from the volume's first voxel, z, y, x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import cc3d
import numpy as np
import torch

from .engines import BATCH, engines, start_engine
from .weights import Network

Zyx = tuple[int, int, int]
ReadImage = Callable[[Zyx, Zyx], np.ndarray]
_Window = tuple[
    Zyx, Zyx, Zyx
]  # where it starts, and the first and past-last voxel that it answers for
MARGIN_PART = 8  # a window's margin is an eighth of it, in training too
FULL = 255  # a probability of 1, as stored
_FACE_NM2 = 1e6  # area of a soma's end at a face between tiles that calls for a second look


@dataclass(frozen=True)
class Lattice:
    """Windows over a volume: `window` voxels each, of which all but `margin` a side are owned."""

    volume: Zyx
    window: Zyx
    margin: Zyx

    @property
    def tile(self) -> Zyx:
        return _zyx(w - 2 * m for w, m in zip(self.window, self.margin))

    @property
    def shape(self) -> Zyx:
        """Tiles along each axis."""
        return _zyx(-(-n // t) for n, t in zip(self.volume, self.tile))

    def start(self, index: Zyx) -> Zyx:
        """First voxel of a tile's window; may lie before the volume's."""
        return _zyx(i * t - m for i, t, m in zip(index, self.tile, self.margin))

    def owned(self, index: Zyx) -> tuple[Zyx, Zyx]:
        """First and past-last voxel of a tile, clamped to the volume."""
        lo = _zyx(i * t for i, t in zip(index, self.tile))
        return lo, _zyx(min(a + t, n) for a, t, n in zip(lo, self.tile, self.volume))

    def tiles_in(self, lo: Zyx, hi: Zyx) -> Iterator[Zyx]:
        """Tiles that own a voxel of a box."""
        ranges = [
            range(max(0, a // t), min(n, -(-b // t)))
            for a, b, t, n in zip(lo, hi, self.tile, self.shape)
        ]
        return product(*ranges)  # type: ignore[return-value]

    def holding(self, point: Iterable[float]) -> Zyx:
        """The tile that owns a point; points outside the volume go to the nearest tile."""
        return _zyx(
            min(max(int(p) // t, 0), n - 1) for p, t, n in zip(point, self.tile, self.shape)
        )

    def whole_tiles(self, lo: Zyx, hi: Zyx) -> tuple[Zyx, Zyx]:
        """The box of all tiles that own a voxel of a box."""
        last = (-(-b // t) * t for b, t in zip(hi, self.tile))
        return (
            _zyx(a // t * t for a, t in zip(lo, self.tile)),
            _zyx(min(b, n) for b, n in zip(last, self.volume)),
        )

    def span(self, lo: Zyx, hi: Zyx) -> tuple[Zyx, Zyx]:
        """The part of the volume that the windows of a box's tiles see."""
        first = [a // t * t - m for a, t, m in zip(lo, self.tile, self.margin)]
        last = [-(-b // t) * t + m for b, t, m in zip(hi, self.tile, self.margin)]
        return (
            _zyx(max(0, a) for a in first),
            _zyx(min(n, b) for b, n in zip(last, self.volume)),
        )


@dataclass
class Predictor:
    """A network ready to run on this machine: windows of uint8 in, class probabilities out.

    Attributes:
      batch: windows at a time, always as many, since the last digits of an answer depend on it; by default one on a
        processor. Halved for good when a GPU's memory does not hold them.
      engine: how the network is run; by default the fastest that this machine has.
    """

    network: Network
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    batch: int = 0
    engine: str = ""

    def __post_init__(self) -> None:
        self.batch = self.batch or BATCH[self.device]
        self.engine = self.engine or engines(self.device)[0]
        self.run = start_engine(self.engine, self.network, self.device)

    def lattice(self, volume: Zyx) -> Lattice:
        """The network's own lattice over a volume."""
        window = _zyx(self.network.spec.window)
        return Lattice(volume, window, _zyx(w // MARGIN_PART for w in window))

    @torch.inference_mode()
    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Probabilities of all classes but the first (background).

        Args:
          windows: uint8, n, z, y, x.
        Returns:
          uint8, n, classes - 1, z, y, x; 255 stands for 1.
        Raises torch.OutOfMemoryError when not even one window fits.
        """
        while True:
            try:
                starts = range(0, len(windows), self.batch)
                parts = [self._probabilities(windows[i : i + self.batch]) for i in starts]
                return np.concatenate(parts)
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
            self.batch //= 2
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def _probabilities(self, windows: np.ndarray) -> np.ndarray:
        missing = self.batch - len(windows)
        full = np.pad(windows, ((0, missing), *[(0, 0)] * 3)) if missing else windows
        batch = torch.from_numpy(full).to(self.device, non_blocking=True)[:, None].float()
        logits = self.run(self.network.spec.feed(batch))[: len(windows)]
        probability = torch.softmax(logits.float(), dim=1)[:, 1:]
        return probability.mul_(FULL).round_().to(torch.uint8).cpu().numpy()


def predict_all(predictor: Predictor, read: ReadImage, volume: Zyx, lo: Zyx, hi: Zyx) -> np.ndarray:
    """Probabilities of every voxel of a box: uint8, classes - 1, z, y, x.

    Args:
      read: gives the image of a box that lies in the volume, uint8 z, y, x.
      volume: size of the volume; lo, hi: the box in it.
    """
    field_ = _Field(predictor, read, volume, lo, hi)
    field_.run(field_.lattice.tiles_in(lo, hi))
    return field_.values


def predict_around(
    predictor: Predictor,
    read: ReadImage,
    volume: Zyx,
    box: tuple[Zyx, Zyx],
    seeds: np.ndarray,
    threshold: float,
) -> tuple[np.ndarray, int]:
    """Probabilities around seeds; where the first class reaches a tile's face the next tile is added.

    A soma in a corner of its window is sometimes overlooked. So where a seed lies in none, and where a soma ends
    at a face between two tiles, there is a second look: a window of its own. Where that finds a soma, the higher
    probability counts.

    What is found at a place is the same in every box that holds the seeds of the somas there.

    Args:
      box: first and past-last voxel of what is wanted. Second looks read up to a window's half beyond its tiles.
      seeds: n, 3 positions in the box.
      threshold: probability above which the first class (interior) spreads to the next tile.
    Returns:
      uint8 probabilities, classes - 1, z, y, x, zero where no soma reaches; and the number of windows run.
    """
    lo, hi = predictor.lattice(volume).whole_tiles(*box)
    field_ = _Field(predictor, read, volume, lo, hi)
    level = round(threshold * FULL)
    field_.spread({field_.lattice.holding(seed) for seed in seeds}, level)
    field_.look_at([seed for seed in seeds if field_.at(seed) < level], level)
    field_.spread({n for tile in field_.done for n in field_.spreads_to(tile, level)}, level)
    field_.look_at(list(field_.disagreements(level)), level)
    wanted = tuple(slice(a - first, b - first) for a, b, first in zip(*box, lo))
    return field_.values[(slice(None), *wanted)], field_.windows


class _Field:
    """Probabilities over a box, filled window by window."""

    def __init__(
        self, predictor: Predictor, read: ReadImage, volume: Zyx, lo: Zyx, hi: Zyx
    ) -> None:
        self.predictor, self.read, self.lo, self.hi = predictor, read, lo, hi
        self.lattice = predictor.lattice(volume)
        classes = len(predictor.network.spec.classes) - 1
        self.values = np.zeros((classes, *_zyx(b - a for a, b in zip(lo, hi))), np.uint8)
        self.done: set[Zyx] = set()
        self.windows = 0

    def run(self, tiles: Iterable[Zyx]) -> None:
        """The lattice's own windows."""
        windows = [(self.lattice.start(tile), *self.lattice.owned(tile)) for tile in tiles]
        for window, probability in zip(windows, self._run(windows)):
            self._keep(*window, probability)

    def spread(self, front: set[Zyx], level: int) -> None:
        """Run tiles, and those beside them that the first class reaches."""
        wanted = set(self.lattice.tiles_in(self.lo, self.hi))
        while front := front & wanted - self.done:
            self.run(sorted(front))
            self.done |= front
            front = {n for tile in front for n in self.spreads_to(tile, level)}

    def look_at(self, points: Sequence[np.ndarray], level: int) -> None:
        """Windows with a point in their middle, or as near to it as the volume lets them; they count when the first
        class is there."""
        lattice = self.lattice
        window, margin, volume = map(np.array, (lattice.window, lattice.margin, lattice.volume))
        middle = np.rint(points).astype(int).reshape(-1, 3)
        start = np.clip(middle - window // 2, 0, np.maximum(0, volume - window))
        lo = np.where(start > 0, start + margin, 0)
        hi = np.where(start + window < volume, start + window - margin, volume)
        windows = [(_zyx(s), _zyx(a), _zyx(b)) for s, a, b in zip(start, lo, hi)]
        marks = np.clip(middle - start, 0, window - 1)
        for place, mark, probability in zip(windows, marks, self._run(windows)):
            if probability[(0, *mark)] >= level:
                self._keep(*place, probability)

    def at(self, point: Iterable[float]) -> int:
        """The first class at a point, or at the nearest of the box."""
        index = (
            min(max(round(float(p)) - a, 0), n - 1)
            for p, a, n in zip(point, self.lo, self.values.shape[1:])
        )
        return int(self.values[0][tuple(index)])

    def disagreements(self, level: int) -> Iterator[np.ndarray]:
        """Middles of what of a face between two tiles the first class reaches on one side, and on the other is not."""
        voxel_nm = self.predictor.network.spec.voxel_nm
        for tile, axis in product(self.lattice.tiles_in(self.lo, self.hi), range(3)):
            first, past = (list(corner) for corner in self.lattice.owned(tile))
            if past[axis] == self.hi[axis]:
                continue
            first[axis], past[axis] = past[axis] - 1, past[axis] + 1
            face = self.values[0][self._inside(_zyx(first), _zyx(past))]
            ends = (face.max(axis) >= level) & (face.min(axis) < level // 2)
            pieces = cc3d.connected_components(ends[None], connectivity=26, out_dtype=np.uint32)
            found = cc3d.statistics(pieces)
            least = _FACE_NM2 * voxel_nm[axis] / float(np.prod(voxel_nm))
            for middle in found["centroids"][1:][found["voxel_counts"][1:] >= least]:
                yield np.insert(middle[1:], axis, 1) + first

    def _run(self, windows: Sequence[_Window]) -> Iterator[np.ndarray]:
        """Probabilities in each window."""
        self.windows += len(windows)
        first = 0
        while first < len(windows):
            batch = windows[first : first + self.predictor.batch]
            first += len(batch)
            yield from self.predictor(np.stack([self._image(start) for start, *_ in batch]))

    def spreads_to(self, tile: Zyx, level: int) -> Iterator[Zyx]:
        """Neighbours across the faces of a tile that the first class reaches."""
        values = self.values[0][self._inside(*self.lattice.owned(tile))]
        for axis, side in product(range(3), (0, -1)):
            if values.shape[axis] and values.take(side, axis).max(initial=0) >= level:
                step = [0, 0, 0]
                step[axis] = 1 if side else -1
                yield _zyx(t + s for t, s in zip(tile, step))

    def _image(self, start: Zyx) -> np.ndarray:
        lo = _zyx(max(0, a) for a in start)
        hi = _zyx(min(a + w, n) for a, w, n in zip(start, self.lattice.window, self.lattice.volume))
        image = self.read(lo, hi)
        pad = [(a - s, w - (b - s)) for a, b, s, w in zip(lo, hi, start, self.lattice.window)]
        return np.pad(image, pad, mode="symmetric")

    def _inside(self, lo: Zyx, hi: Zyx) -> tuple[slice, slice, slice]:
        z, y, x = (
            slice(max(a, s) - s, max(min(b, e), s) - s)
            for a, b, s, e in zip(lo, hi, self.lo, self.hi)
        )
        return z, y, x

    def _keep(self, start: Zyx, lo: Zyx, hi: Zyx, probability: np.ndarray) -> None:
        """The higher probability of each class counts, and the first class before the others."""
        inside = self._inside(lo, hi)
        z, y, x = (
            slice(s.start + a - o, s.stop + a - o) for s, a, o in zip(inside, self.lo, start)
        )
        here = self.values[(slice(None), *inside)]
        np.maximum(here, probability[:, z, y, x], out=here)
        np.minimum(here[1:], FULL - here[:1], out=here[1:])


def _zyx(values: Iterable[int]) -> Zyx:
    z, y, x = values
    return int(z), int(y), int(x)
