"""Speed of predict, from image chunks to tiles, with processes that share a device, beside the networks alone."""

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
from ....models.inference.predictor import Predictor
from ....models.phantom.make import make_phantom
from ....tasks.config import Predict, RunConfig
from ....tasks.fleet.job import do_task
from ....tasks.pipeline import begin
from ....tasks.run import Run
from ....tasks.stages.predict import PredictStage
from ....tasks.volumes.ingest import NewLayer, ingest_array
from .timing import Row, Timing

VOXEL = (40.0, 64.0, 64.0)
_UNIT = (192, 384, 384)  # z, y, x, of the phantom that the image repeats
_SHAPE = {"cpu": _UNIT, "cuda": (768, 2944, 2944)}  # blocks of equal size, not aligned with chunks
_TILES = {"cpu": (1, 1, 1), "cuda": Predict().block_tiles}  # per task, x, y, z
_ENCODINGS = ("raw", "raw in gzip")  # of chunks
_BATCHES = {"cpu": 1, "cuda": 8}  # timed together, as a task runs them
_SEED = 174
_TIMEOUT_S = 1800.0

Receipt = dict[str, Any]


def predict_rows(timing: Timing) -> Iterator[Row]:
    """Yield the speed of rounds with one task per process, for some numbers of processes, and of the networks alone."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as name:
        runs = {
            encoding: _make_run(Path(name) / encoding.replace(" ", "-"), encoding, timing.device)
            for encoding in _ENCODINGS
        }
        network_s = _time_networks(timing, runs[_ENCODINGS[0]])
        for encoding, run in runs.items():
            for count in _counts():
                title = f"{encoding}, {count} {'process' if count == 1 else 'processes'}"
                rounds = list(_rounds(timing, run.path, count, title))
                yield _row(title, rounds, network_s)
        receipts = [receipt for _, done in rounds for receipt in done]
        seconds = sum(map(network_s, receipts))
        yield Row("networks alone", "Mvoxel/s", (1e-6 * _voxels(receipts) / seconds,))


def _row(
    title: str, rounds: list[tuple[float, list[Receipt]]], network_s: Callable[[Receipt], float]
) -> Row:
    """Return the speed of the rounds, and the shares of a process's time."""
    times = [seconds / sum(map(network_s, receipts)) for seconds, receipts in rounds]
    receipts = [receipt for _, done in rounds for receipt in done]
    spent = {
        name: sum(receipt["phases"][name] for receipt in receipts)
        for name in ("read", "work", "write")
    }
    total = sum(spent.values())
    notes = {"times the networks alone": float(np.median(times))}
    notes |= {name: seconds / total for name, seconds in spent.items()}
    rates = tuple(1e-6 * _voxels(done) / seconds for seconds, done in rounds)
    return Row(title, "Mvoxel/s", rates, notes)


def _voxels(receipts: list[Receipt]) -> int:
    return sum(receipt["counters"]["voxels"] for receipt in receipts)


def _counts() -> list[int]:
    """Return the numbers of processes: one, half the cores, and all cores."""
    cores = len(os.sched_getaffinity(0))
    return sorted({1, max(1, cores // 2), cores})


def _make_run(folder: Path, encoding: str, device: str) -> Run:
    """Begin a run on a repeated phantom, and prepare its predict stage."""
    _write_repeated_phantom(folder / "em", _SHAPE[device], "gzip" in encoding)
    predict = Predict(block_tiles=_TILES[device])
    run = begin(RunConfig(image=f"{folder}/em", output=f"{folder}/run", predict=predict))
    _stage(run).prepare()
    return run


def _write_repeated_phantom(path: Path, shape: tuple[int, int, int], compressed: bool) -> None:
    """Write a layer that repeats a phantom, as hard links to its chunks."""
    unit = make_phantom(_UNIT, VOXEL, _SEED, "typical").image
    ingest_array(unit, NewLayer(str(path), VOXEL[::-1]))
    info = json.loads((path / "info").read_text())
    scale = info["scales"][0]
    step, folder = scale["chunk_sizes"][0], path / scale["key"]
    if compressed:
        for place in list(folder.iterdir()):
            place.with_name(f"{place.name}.gz").write_bytes(gzip.compress(place.read_bytes()))
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
    """Yield the seconds in which `count` tasks finish, and their receipts, without the first round."""
    context = multiprocessing.get_context("spawn")
    ready, stop, done = context.Barrier(count), context.Event(), context.Queue()
    processes = [
        context.Process(target=_work, args=(path, number, count, ready, stop, done), daemon=True)
        for number in range(count)
    ]
    for process in processes:
        process.start()
    before = 0.0
    for number in range(timing.repeats + 1):
        timing.bars(title, number, timing.repeats + 1)
        receipts = [_next_receipt(done, processes) for _ in range(count)]
        now = time.perf_counter()
        if number:
            yield now - before, receipts
        before = now
    timing.bars(title, 1, 1)
    stop.set()
    for process in processes:
        process.join()


def _next_receipt(done: Queue[Receipt], processes: list[SpawnProcess]) -> Receipt:
    while True:
        try:
            return done.get(timeout=2)
        except Empty:
            if not all(process.is_alive() for process in processes):
                raise RuntimeError(
                    "a process of the benchmark failed; its error is above"
                ) from None


def _work(
    path: str, number: int, count: int, ready: Barrier, stop: Event, done: Queue[Receipt]
) -> None:
    run = Run.open(path)
    threads = max(1, torch.get_num_threads() // count)
    predict = run.config.predict.model_copy(update={"threads": threads})
    run.config = run.config.model_copy(update={"predict": predict})
    stage = _stage(run)
    tasks = stage.plan()
    first = number % len(tasks)
    do_task(stage, tasks[first])  # untimed: loads and compiles the networks
    ready.wait(_TIMEOUT_S)
    for index in cycle([*tasks[first:], *tasks[:first]]):
        del stage.run.image  # and its cache of chunks
        receipt = do_task(stage, index)
        if stop.is_set():
            return
        done.put(receipt)


def _stage(run: Run) -> PredictStage:
    """Return the stage with compiled networks, as for a large volume."""
    stage = PredictStage(run)
    stage.min_tiles_to_compile = 0
    return stage


@torch.inference_mode()
def _time_networks(timing: Timing, run: Run) -> Callable[[Receipt], float]:
    """Return a function from a receipt to the time of its networks alone, on data that is on the device."""
    stage = _stage(run)
    batch_s = {}
    for counter, predictor, lattice in zip(("tiles", "windows"), stage.networks, stage.lattices):
        seconds = timing.seconds(f"{counter} alone", _run_batches(timing, predictor, lattice))
        batch_s[counter] = float(np.median(seconds)) / _BATCHES[timing.device]
    size = stage.networks[0].batch
    return lambda receipt: sum(
        math.ceil(receipt["counters"][counter] / size) * seconds
        for counter, seconds in batch_s.items()
    )


def _run_batches(timing: Timing, predictor: Predictor, lattice: Lattice) -> Callable[[], object]:
    """Return a function that runs a network on random windows, some batches at a time."""
    grey = torch.randint(0, 255, (predictor.batch, 1, *lattice.window), device=timing.device)
    inputs = predictor.network.spec.preprocess(grey.float())
    return lambda: [predictor.run(inputs).shape for _ in range(_BATCHES[timing.device])]
