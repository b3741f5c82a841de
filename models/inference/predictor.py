"""Run a network over windows of an image. Arrays are z, y, x."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ...axes import Zyx
from ..networks.engines import BATCH, available_engines, choose_device, start_engine
from ..networks.network import Network
from .encoding import Encoder, decode_nibbles, encode_bytes, encode_fields
from .lattice import WHOLE, Part, make_lattice, zyx
from .windows import View

Request = tuple[Tensor, Part]  # a window (uint8, on any device) and the part to return
Results = Callable[[], Iterable[np.ndarray]]  # waits for a batch


@dataclass
class Predictor:
    """A network that is ready to run on this machine: windows of uint8 in, class probabilities out.

    Attributes:
      network: the network.
      device: `cpu` or `cuda`; by default the GPU if there is one.
      batch: windows per batch; by default one on a CPU. Every batch has this size, because the last digits of a
        result depend on it. It is halved permanently when a batch does not fit into GPU memory.
      engine: one of `available_engines`; by default the first.
      allow_compile: as in `available_engines`.
      busy_s: seconds that the network has run.
    """

    network: Network
    device: str = field(default_factory=choose_device)
    batch: int = 0
    engine: str = ""
    allow_compile: bool = False
    busy_s: float = 0.0

    def __post_init__(self) -> None:
        self.batch = self.batch or BATCH[self.device]
        self.engine = self.engine or available_engines(self.device, self.allow_compile)[0]
        self.run = start_engine(self.engine, self.network, self.device)

    def predict(
        self, requests: Iterable[Request], encode: Encoder = encode_bytes
    ) -> Iterator[np.ndarray]:
        """Predict the probabilities of all channels but the first (background).

        While the caller consumes the results of one batch, a GPU works on the next batch.

        Args:
          requests: windows of one size, each with the part to return.
          encode: converts probabilities (classes - 1, z, y, x) to uint8.
        Yields:
          encoded probabilities of each part.
        Raises:
          torch.OutOfMemoryError: a single window does not fit into GPU memory.
        """
        remaining = iter(requests)
        running: list[Results] = []
        while batch := list(islice(remaining, self.batch)):
            started = self._start(batch, encode)
            for results in running:
                yield from results()
            running = started
        for results in running:
            yield from results()

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Predict whole windows (n, z, y, x): uint8, n, classes - 1, z, y, x."""
        return np.stack(list(self.predict((torch.from_numpy(window), WHOLE) for window in windows)))

    def view(self, image: np.ndarray, first: Zyx = (0, 0, 0)) -> View:
        """Return a view of a part of a volume (uint8), on the network's device if it fits into its memory."""
        values = torch.from_numpy(image)
        with suppress(torch.OutOfMemoryError):
            values = values.to(self.device)
        return View(values, first)

    @torch.inference_mode()
    def _start(self, requests: list[Request], encode: Encoder) -> list[Results]:
        """Start the network on requests, in smaller batches if memory is short."""
        while True:
            try:
                starts = range(0, len(requests), self.batch)
                return [self._launch(requests[i : i + self.batch], encode) for i in starts]
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
            self.batch //= 2
            if self.device == "cuda":
                torch.cuda.empty_cache()

    def _launch(self, requests: list[Request], encode: Encoder) -> Results:
        """Start the network on one batch. The returned function waits for the results."""
        on_gpu = self.device == "cuda"
        shape = self.batch, 1, *requests[0][0].shape
        batch = torch.zeros(shape, dtype=torch.uint8, device=self.device)
        for place, (window, _) in zip(batch, requests):
            place[0] = window
        clock = _GpuClock() if on_gpu else _Clock()
        logits = self.run(self.network.spec.preprocess(batch.float()))
        encoded = [
            encode(self.network.spec.probabilities(window[(slice(None), *part)]))
            for window, (_, part) in zip(logits, requests)
        ]
        finite = torch.isfinite(logits).all() if self.engine.endswith("fp16") else None
        if on_gpu:
            encoded = [_copy_to_host(values) for values in encoded]
            finite = None if finite is None else _copy_to_host(finite)
        clock.stop()

        def results() -> Iterator[np.ndarray]:
            self.busy_s += clock.seconds()
            if finite is not None and not finite:  # fp16 overflowed
                exact = Predictor(self.network, self.device, self.batch, "torch float32")
                yield from exact.predict(requests, encode)
                self.busy_s += exact.busy_s
            else:
                yield from (
                    values.numpy().copy() if on_gpu else values.numpy() for values in encoded
                )

        return results


def predict_all(
    predictor: Predictor,
    image: np.ndarray,
    largest: Zyx,
    margin: Zyx,
    padding: Zyx,
    threshold: float | None = None,
) -> np.ndarray:
    """Predict the probabilities of every voxel of an image.

    Args:
      image: uint8, z, y, x.
      largest, margin, padding: of the windows, as in `make_lattice`.
      threshold: of a segmentation; if given, the result is p(interior) and p(boundary) as a run stores them.
    Returns:
      uint8, classes - 1, z, y, x.
    """
    channels = len(predictor.network.spec.classes) - 1
    encode: Encoder = encode_bytes
    if threshold is not None:
        channels = 2
        encode = partial(encode_fields, threshold)
    shape = zyx(image.shape)
    lattice = make_lattice(shape, largest, margin, padding)
    lattice = lattice.round_window(predictor.network.multiple)
    probabilities = np.empty((channels, *shape), np.uint8)
    tiles = list(lattice.tiles_in_box((0, 0, 0), shape))
    view = predictor.view(image)
    requests = (
        (view.window(lattice.window_start(tile), lattice.window), lattice.tile_in_window(tile))
        for tile in tiles
    )
    for tile, encoded in zip(tiles, predictor.predict(requests, encode)):
        lo, hi = lattice.tile_bounds(tile)
        probability = encoded if threshold is None else decode_nibbles(encoded[0])
        probabilities[(slice(None), *(slice(a, b) for a, b in zip(lo, hi)))] = probability
    return probabilities


def _copy_to_host(values: Tensor) -> Tensor:
    """Start an asynchronous copy to pinned memory."""
    return torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)


class _Clock:
    """Measures the time from its construction until `stop`."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def stop(self) -> None:
        self._stopped = time.perf_counter()

    def seconds(self) -> float:
        return self._stopped - self._started


class _GpuClock:
    """Measures the time that a GPU spends; `seconds` waits for the GPU without use of the CPU."""

    def __init__(self) -> None:
        self._started, self._stopped = (
            torch.cuda.Event(True, blocking=True)  # type: ignore[no-untyped-call]
            for _ in range(2)
        )
        self._started.record()

    def stop(self) -> None:
        self._stopped.record()

    def seconds(self) -> float:
        self._stopped.synchronize()
        return 1e-3 * self._started.elapsed_time(self._stopped)
