"""Run a network over windows of an image. Arrays are z, y, x."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ...axes import Zyx
from ..networks.engines import BATCH, engines, start_engine
from ..networks.weights import Network
from .lattice import WHOLE, Part, cut
from .levels import Form, as_bytes

Asked = tuple[Tensor, Part]  # a window (uint8, anywhere) and the part of it that is wanted
Answers = Callable[[], Iterable[np.ndarray]]


@dataclass(frozen=True)
class View:
    """The part of a volume that is in memory: an image (z, y, x) and its first voxel."""

    image: Tensor
    first: Zyx = (0, 0, 0)

    def window(self, start: Zyx, size: Zyx) -> Tensor:
        """A window; what lies beyond the image is its mirror image."""
        axes = [(a - f, n) for a, f, n in zip(start, self.first, size)]
        found, ends = self.image, []
        for axis, (first, count) in enumerate(axes):
            if 0 <= first <= found.shape[axis] - count:
                found = found.narrow(axis, first, count)
            else:
                ends.append(axis)
        for axis in ends:
            found = _mirrored(found, axis, *axes[axis])
        return found


def _mirrored(image: Tensor, axis: int, first: int, count: int) -> Tensor:
    """A part of an image along an axis that reaches beyond its ends, mirrored there."""
    there = image.shape[axis]
    folded = np.arange(first, first + count) % (2 * there)
    places = torch.from_numpy(np.minimum(folded, 2 * there - 1 - folded)).to(image.device)
    low, high = max(-first, 0), min(there - first, count)
    before, after = (image.index_select(axis, some) for some in (places[:low], places[high:]))
    return torch.cat([before, image.narrow(axis, first + low, high - low), after], axis)


@dataclass
class Predictor:
    """A network ready to run on this machine: windows of uint8 in, class probabilities out.

    Attributes:
      lasting: as in `engines`: whether it will see so many windows that a GPU may take its time to get ready.
      batch: windows at a time, always as many, since the last digits of an answer depend on it; by default one on a
        processor. Halved for good when a GPU's memory does not hold them.
      engine: how the network is run; by default the fastest that this machine has.
      busy_s: seconds that it has run.
    """

    network: Network
    device: str = field(default_factory=lambda: "cuda" if torch.cuda.is_available() else "cpu")
    batch: int = 0
    engine: str = ""
    lasting: bool = False
    busy_s: float = 0.0

    def __post_init__(self) -> None:
        self.batch = self.batch or BATCH[self.device]
        self.engine = self.engine or engines(self.device, self.lasting)[0]
        self.run = start_engine(self.engine, self.network, self.device)

    def each(self, asked: Iterable[Asked], form: Form = as_bytes) -> Iterator[np.ndarray]:
        """Probabilities of all classes but the first (background); while one is taken, a GPU works on the next batch.

        Args:
          asked: windows of one size, each with the part of it that is wanted.
        Yields:
          uint8, of that part, as `form` makes it.
        Raises torch.OutOfMemoryError when not even one window fits.
        """
        coming = iter(asked)
        under_way: list[Answers] = []
        while some := list(islice(coming, self.batch)):
            begun = self._begin(some, form)
            for answers in under_way:
                yield from answers()
            under_way = begun
        for answers in under_way:
            yield from answers()

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """The same of whole windows, n, z, y, x: uint8, n, classes - 1, z, y, x."""
        return np.stack(list(self.each((torch.from_numpy(window), WHOLE) for window in windows)))

    def view(self, image: np.ndarray, first: Zyx = (0, 0, 0)) -> View:
        """A part of a volume (uint8), for windows of it; on the network's device if its memory holds it."""
        values = torch.from_numpy(image)
        with suppress(torch.OutOfMemoryError):
            values = values.to(self.device)
        return View(values, first)

    @torch.inference_mode()
    def _begin(self, asked: list[Asked], form: Form) -> list[Answers]:
        while True:
            try:
                starts = range(0, len(asked), self.batch)
                return [self._launch(asked[i : i + self.batch], form) for i in starts]
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
            self.batch //= 2
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def _launch(self, asked: list[Asked], form: Form) -> Answers:
        """Set a network to work; what it returns waits until that is done."""
        on_gpu = self.device == "cuda"
        shape = self.batch, 1, *asked[0][0].shape
        batch = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        for place, (window, _) in zip(batch, asked):
            place[0] = window
        clock = _GpuClock() if on_gpu else _Clock()
        logits = self.run(self.network.spec.feed(batch.float()))
        levels = [
            form(_probability(one[(slice(None), *part)])) for one, (_, part) in zip(logits, asked)
        ]
        finite = torch.isfinite(logits).all() if self.engine.endswith("fp16") else None
        if on_gpu:
            levels = [_to_host(level) for level in levels]
            finite = None if finite is None else _to_host(finite)
        clock.stop()

        def answers() -> Iterator[np.ndarray]:
            self.busy_s += clock.seconds()
            if finite is not None and not finite:  # beyond what fp16 can hold
                wider = Predictor(self.network, self.device, self.batch, "torch float32")
                yield from wider.each(asked, form)
                self.busy_s += wider.busy_s
            else:
                yield from (level.numpy().copy() if on_gpu else level.numpy() for level in levels)

        return answers


def _probability(logits: Tensor) -> Tensor:
    """Of all classes but the first, of a window's logits (classes, z, y, x)."""
    return torch.softmax(logits.float(), dim=0)[1:]


def _to_host(values: Tensor) -> Tensor:
    """A copy that is on its way."""
    return torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)


class _Clock:
    """Seconds from its making until it is stopped."""

    def __init__(self) -> None:
        self._begun = time.perf_counter()

    def stop(self) -> None:
        self._ended = time.perf_counter()

    def seconds(self) -> float:
        return self._ended - self._begun


class _GpuClock:
    """The same on a GPU, which works on while the program goes on; `seconds` waits for it, without use of the
    processor, which others need."""

    def __init__(self) -> None:
        self._begun, self._ended = (torch.cuda.Event(True, blocking=True) for _ in range(2))
        self._begun.record()

    def stop(self) -> None:
        self._ended.record()

    def seconds(self) -> float:
        self._ended.synchronize()
        return 1e-3 * self._begun.elapsed_time(self._ended)


def predict_all(
    predictor: Predictor, image: np.ndarray, largest: Zyx, margin: Zyx, beyond: Zyx
) -> np.ndarray:
    """Probabilities of every voxel of an image (uint8): uint8, classes - 1, z, y, x; windows as in `lattice.cut`."""
    lattice = cut(image.shape, largest, margin, beyond).fitted(predictor.network.multiple)  # type: ignore[arg-type]
    found = np.empty((len(predictor.network.spec.classes) - 1, *image.shape), np.uint8)
    tiles = list(lattice.meeting((0, 0, 0), image.shape))
    view = predictor.view(image)
    asked = ((view.window(lattice.start(t), lattice.window), lattice.own_part(t)) for t in tiles)
    for tile, probability in zip(tiles, predictor.each(asked)):
        lo, hi = lattice.owned(tile)
        found[(slice(None), *(slice(a, b) for a, b in zip(lo, hi)))] = probability
    return found
