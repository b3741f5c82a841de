"""Run a network over windows of an image. Arrays are z, y, x."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch

from .engines import BATCH, engines, start_engine
from .lattice import Zyx, cut
from .weights import Network

FULL = 255  # a probability of 1, as stored


@dataclass
class Predictor:
    """A network ready to run on this machine: windows of uint8 in, class probabilities out.

    Attributes:
      batch: windows at a time, always as many, since the last digits of an answer depend on it; by default one on a
        processor. Halved for good when a GPU's memory does not hold them.
      engine: how the network is run; by default the fastest that this machine has.
      busy_s: seconds that it has run.
    """

    network: Network
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    batch: int = 0
    engine: str = ""
    busy_s: float = 0.0

    def __post_init__(self) -> None:
        self.batch = self.batch or BATCH[self.device]
        self.engine = self.engine or engines(self.device)[0]
        self.run = start_engine(self.engine, self.network, self.device)

    @torch.inference_mode()
    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Probabilities of all classes but the first (background).

        Args:
          windows: uint8, n, z, y, x.
        Returns:
          uint8, n, classes - 1, z, y, x; 255 stands for 1.
        Raises torch.OutOfMemoryError when not even one window fits.
        """
        begun = time.perf_counter()
        while True:
            try:
                starts = range(0, len(windows), self.batch)
                parts = [self._probabilities(windows[i : i + self.batch]) for i in starts]
                self.busy_s += time.perf_counter() - begun
                return np.concatenate(parts)
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
            self.batch //= 2
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def each(self, windows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same for one window after the other, as many at a time as a batch holds."""
        coming = iter(windows)
        while some := list(islice(coming, self.batch)):
            yield from self(np.stack(some))

    def _probabilities(self, windows: np.ndarray) -> np.ndarray:
        missing = self.batch - len(windows)
        full = np.pad(windows, ((0, missing), *[(0, 0)] * 3)) if missing else windows
        batch = torch.from_numpy(full).to(self.device, non_blocking=True)[:, None].float()
        logits = self.run(self.network.spec.feed(batch))[: len(windows)]
        probability = torch.softmax(logits.float(), dim=1)[:, 1:]
        return probability.mul_(FULL).round_().to(torch.uint8).cpu().numpy()


@dataclass(frozen=True)
class View:
    """The part of a volume that is in memory: an image (z, y, x) and its first voxel."""

    image: np.ndarray
    first: Zyx = (0, 0, 0)

    def window(self, start: Zyx, size: Zyx) -> np.ndarray:
        """A window; what lies beyond the image is its mirror image."""
        lo = [a - f for a, f in zip(start, self.first)]
        image = self.image[tuple(slice(max(a, 0), a + n) for a, n in zip(lo, size))]
        missing = [
            (max(-a, 0), max(a + n - end, 0)) for a, n, end in zip(lo, size, self.image.shape)
        ]
        return np.pad(image, missing, mode="symmetric") if np.any(missing) else image


def predict_all(
    predictor: Predictor, image: np.ndarray, largest: Zyx, margin: Zyx, beyond: Zyx
) -> np.ndarray:
    """Probabilities of every voxel of an image (uint8): uint8, classes - 1, z, y, x; windows as in `lattice.cut`."""
    lattice = cut(image.shape, largest, margin, beyond).fitted(predictor.network.multiple)  # type: ignore[arg-type]
    found = np.empty((len(predictor.network.spec.classes) - 1, *image.shape), np.uint8)
    tiles = list(lattice.meeting((0, 0, 0), image.shape))
    windows = (View(image).window(lattice.start(tile), lattice.window) for tile in tiles)
    for tile, probability in zip(tiles, predictor.each(windows)):
        lo, hi = lattice.owned(tile)
        box = (slice(None), *(slice(a, b) for a, b in zip(lo, hi)))
        found[box] = lattice.own_part(tile, probability)
    return found
