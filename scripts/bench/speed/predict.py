"""Speed of predict, from image chunks to tiles, with processes that share the device, beside its networks alone."""

from __future__ import annotations

import gzip
import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, product
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import Empty
from threading import Barrier
from typing import Any

import numpy as np
import torch

from ....models.inference.lattice import Lattice
from ....models.inference.windows import Predictor
from ....models.phantom.make import make_phantom
from ....tasks.config import Predict, RunConfig
from ....tasks.fleet.worker import do_task
from ....tasks.pipeline import begin
from ....tasks.run import Run
from ....tasks.stages.predict import PredictStage
from ....tasks.volumes.ingest import NewLayer, ingest_array
from .timing import Row, Timing

VOXEL = (40.0, 64.0, 64.0)
_UNIT = (192, 384, 384)  # of the image, which is that again and again
_SHAPE = {
    "cpu": _UNIT,
    "cuda": (768, 2944, 2944),
}  # blocks of one size, met in the middle of chunks
_TILES = {"cpu": (1, 1, 1), "cuda": Predict().block_tiles}  # of a task, x, y, z
_ENCODINGS = ("raw", "raw in gzip")  # of chunks
_BATCHES = {"cpu": 1, "cuda": 8}  # one after the other, as a task has them
_SEED = 174
_PATIENCE_S = 1800.0

Receipt = dict[str, Any]


def predict_rows(timing: Timing) -> Iterator[Row]:
    """Rounds of as many tasks as there are processes, which go on and on; beside them their networks alone."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as name:
        batch_s = None
        for encoding in _ENCODINGS:
            run = _run(Path(name) / encoding.replace(" ", "-"), encoding, timing.device)
            batch_s = batch_s or _batch_seconds(timing, run)
            for count in _counts():
                title = f"{encoding}, {count} {'process' if count == 1 else 'processes'}"
                rounds = list(_rounds(timing, run.path, count, title))
                yield _row(title, rounds, batch_s)
        receipts = [receipt for _, some in rounds for receipt in some]
        seconds = sum(map(batch_s, receipts))
        yield Row("its networks alone", "Mvoxel/s", (1e-6 * _voxels(receipts) / seconds,))


def _row(
    title: str, rounds: list[tuple[float, list[Receipt]]], batch_s: Callable[[Receipt], float]
) -> Row:
    """What rounds have done a second; how a process spent its time."""
    times = [seconds / sum(map(batch_s, receipts)) for seconds, receipts in rounds]
    receipts = [receipt for _, some in rounds for receipt in some]
    spent = {
        name: sum(receipt["phases"][name] for receipt in receipts)
        for name in ("read", "work", "write")
    }
    whole = sum(spent.values())
    notes = {"times the networks alone": float(np.median(times))}
    notes |= {name: seconds / whole for name, seconds in spent.items()}
    rates = tuple(1e-6 * _voxels(some) / seconds for seconds, some in rounds)
    return Row(title, "Mvoxel/s", rates, notes)


def _voxels(receipts: list[Receipt]) -> int:
    return sum(receipt["counters"]["voxels"] for receipt in receipts)


def _counts() -> list[int]:
    """One process, half as many as there are cores, and as many."""
    cores = len(os.sched_getaffinity(0))
    return sorted({1, max(1, cores // 2), cores})


def _run(folder: Path, encoding: str, device: str) -> Run:
    """A run whose predict can be done."""
    _repeated_phantom(folder / "em", _SHAPE[device], "gzip" in encoding)
    predict = Predict(block_tiles=_TILES[device])
    run = begin(RunConfig(image=f"{folder}/em", output=f"{folder}/run", predict=predict))
    _stage(run).prepare()
    return run


def _repeated_phantom(path: Path, shape: tuple[int, int, int], compressed: bool) -> None:
    """A layer, of whole chunks, that holds a phantom again and again: the same chunks by other names."""
    unit = make_phantom(_UNIT, VOXEL, _SEED, "typical").image
    ingest_array(unit, NewLayer(str(path), VOXEL[::-1]))
    info = json.loads((path / "info").read_text())
    scale = info["scales"][0]
    step, folder = scale["chunk_sizes"][0], path / scale["key"]
    if not compressed:
        for place in list(folder.iterdir()):
            place.with_suffix("").write_bytes(gzip.decompress(place.read_bytes()))
            place.unlink()
    scale["size"] = list(shape[::-1])
    (path / "info").write_text(json.dumps(info | {"scales": [scale]}))
    end = ".gz" if compressed else ""
    for first in product(*(range(0, n, s) for n, s in zip(shape[::-1], step))):
        same = [a % n for a, n in zip(first, unit.shape[::-1])]
        if list(first) != same:
            one, other = (
                folder / ("_".join(f"{a}-{a + s}" for a, s in zip(at, step)) + end)
                for at in (same, first)
            )
            os.link(one, other)


def _rounds(
    timing: Timing, path: str, count: int, title: str
) -> Iterator[tuple[float, list[Receipt]]]:
    """Seconds in which so many tasks came to their end, and their receipts; the first round, in which all begin at
    once, is left out."""
    context = multiprocessing.get_context("spawn")
    ready, over, done = context.Barrier(count), context.Event(), context.Queue()
    work = [
        context.Process(target=_work, args=(path, number, count, ready, over, done), daemon=True)
        for number in range(count)
    ]
    for process in work:
        process.start()
    before = 0.0
    for number in range(timing.repeats + 1):
        timing.bars(title, number, timing.repeats + 1)
        receipts = [_next(done, work) for _ in range(count)]
        now = time.perf_counter()
        if number:
            yield now - before, receipts
        before = now
    timing.bars(title, 1, 1)
    over.set()
    for process in work:
        process.join()


def _next(done: Queue[Receipt], work: list[SpawnProcess]) -> Receipt:
    while True:
        try:
            return done.get(timeout=2)
        except Empty:
            if not all(process.is_alive() for process in work):
                raise RuntimeError("a process of the benchmark failed; it has said why") from None


def _work(
    path: str, number: int, count: int, ready: Barrier, over: Event, done: Queue[Receipt]
) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    stage = _stage(Run.open(path))
    tasks = stage.plan()
    first = number % len(tasks)
    do_task(stage, tasks[first])  # for nothing: the networks are made ready
    ready.wait(_PATIENCE_S)
    for index in cycle([*tasks[first:], *tasks[:first]]):
        del stage.run.image  # with the chunks that it remembers
        receipt = do_task(stage, index)
        if over.is_set():
            return
        done.put(receipt)


def _stage(run: Run) -> PredictStage:
    """With networks as for a large volume."""
    stage = PredictStage(run)
    stage.many_tiles = 0
    return stage


@torch.inference_mode()
def _batch_seconds(timing: Timing, run: Run) -> Callable[[Receipt], float]:
    """What the networks alone need for the batches of a task, on what is on the device already."""
    stage = _stage(run)
    batch_s = {
        counter: float(np.median(timing.seconds(f"{counter} alone", _batches(timing, *pair))))
        / _BATCHES[timing.device]
        for counter, *pair in zip(("tiles", "windows"), stage.networks, stage.lattices)
    }
    size = stage.networks[0].batch
    return lambda receipt: sum(
        math.ceil(receipt["counters"][counter] / size) * seconds
        for counter, seconds in batch_s.items()
    )


def _batches(timing: Timing, predictor: Predictor, lattice: Lattice) -> Callable[[], object]:
    grey = torch.randint(0, 255, (predictor.batch, 1, *lattice.window), device=timing.device)
    fed = predictor.network.spec.feed(grey.float())
    return lambda: [predictor.run(fed).shape for _ in range(_BATCHES[timing.device])]
