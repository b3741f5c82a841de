"""Speed of predict, from image chunks to tiles, with processes that share the device, beside its networks alone."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from threading import Barrier

import numpy as np
import torch

from ...models.lattice import Lattice
from ...models.phantom import make_phantom
from ...models.predict import Predictor
from ...tasks.config import Predict, RunConfig
from ...tasks.pipeline import begin
from ...tasks.predict import PredictStage
from ...tasks.run import Run
from ...tasks.worker import do_task
from ..ingest import NewLayer, ingest_array
from .timing import Row, Timing

VOXEL = (40.0, 64.0, 64.0)
_UNIT = (192, 384, 384)  # of the image, which is so many of it along each axis
_UNITS = {"cpu": (1, 1, 1), "cuda": (2, 4, 4)}
_TILES = {"cpu": (1, 1, 1), "cuda": (2, 2, 1)}  # of a task, x, y, z
_SEED = 174
_PATIENCE_S = 1800.0


def predict_rows(timing: Timing) -> Iterator[Row]:
    """Rounds over one volume, by how many processes; then what its networks alone take."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as name:
        _repeated_phantom(Path(name) / "em", _UNITS[timing.device])
        config = RunConfig(
            image=f"{name}/em",
            output=f"{name}/run",
            predict=Predict(block_tiles=_TILES[timing.device]),
        )
        run = begin(config)
        _stage(run).prepare()
        found = {count: tuple(_rounds(timing, run.path, count)) for count in _counts()}
        alone = _alone(timing, run)
        voxels = run.segment_grid.bounds.voxels * 1e-6
    for count, seconds in found.items():
        name = f"{count} {'process' if count == 1 else 'processes'}"
        notes = {"times the networks alone": float(np.median(seconds) / np.median(alone))}
        yield Row(name, "Mvoxel/s", tuple(voxels / s for s in seconds), notes)
    yield Row("its networks alone", "Mvoxel/s", tuple(voxels / s for s in alone))


def _counts() -> list[int]:
    """One process, half as many as there are cores, and as many."""
    cores = len(os.sched_getaffinity(0))
    return sorted({1, max(1, cores // 2), cores})


def _repeated_phantom(path: Path, units: tuple[int, int, int]) -> None:
    """A layer that holds a phantom again and again: the same chunks by other names."""
    ingest_array(
        make_phantom(_UNIT, VOXEL, _SEED, "typical").image, NewLayer(str(path), VOXEL[::-1])
    )
    info = json.loads((path / "info").read_text())
    scale = info["scales"][0]
    edges = scale["size"]
    scale["size"] = [n * count for n, count in zip(edges, units[::-1])]
    (path / "info").write_text(json.dumps(info | {"scales": [scale]}))
    for place in list((path / scale["key"]).iterdir()):
        name, dot, end = place.name.partition(".")
        spans = [[int(v) for v in axis.split("-")] for axis in name.split("_")]
        for unit in product(*(range(count) for count in units[::-1])):
            moved = [
                [v + i * n for v in span] for span, i, n in zip(spans, unit, edges) if any(unit)
            ]
            if moved:
                other = "_".join(f"{a}-{b}" for a, b in moved) + dot + end
                os.link(place, place.with_name(other))


def _rounds(timing: Timing, path: str, count: int) -> Iterator[float]:
    """Seconds of each round of all tasks of a run's predict, shared by so many processes."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count + 1)
    work = [
        context.Process(target=_work, args=(path, number, count, timing.repeats, barrier))
        for number in range(count)
    ]
    for process in work:
        process.start()
    name = f"{count} processes"
    for number in range(timing.repeats):
        timing.bars(name, number, timing.repeats)
        barrier.wait(_PATIENCE_S)
        start = time.perf_counter()
        barrier.wait(_PATIENCE_S)
        yield time.perf_counter() - start
    timing.bars(name, timing.repeats, timing.repeats)
    for process in work:
        process.join()


def _work(path: str, number: int, count: int, rounds: int, barrier: Barrier) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // count))
    try:
        stage = _stage(Run.open(path))
        tasks = stage.plan()[number::count]
        do_task(stage, tasks[0])  # for nothing: the networks are made ready
        for _ in range(rounds):
            barrier.wait(_PATIENCE_S)
            for task in tasks:
                do_task(stage, task)
            barrier.wait(_PATIENCE_S)
    except BaseException:
        barrier.abort()
        raise


def _stage(run: Run) -> PredictStage:
    """With networks as for a large volume."""
    stage = PredictStage(run)
    stage.many_tiles = 0
    return stage


@torch.inference_mode()
def _alone(timing: Timing, run: Run) -> tuple[float, ...]:
    """Seconds of as many batches as the tasks had, of both networks, on what is on the device already."""
    stage, total = _stage(run), np.zeros(timing.repeats)
    receipts = run.store.get_jsons(run.store.names("receipts/predict/")).values()
    for predictor, lattice, counter in zip(stage.networks, stage.lattices, ("tiles", "windows")):
        counts = [receipt["counters"][counter] for receipt in receipts]
        batches = sum(math.ceil(count / predictor.batch) for count in counts)
        work = _batch(timing, predictor, lattice)
        total += batches * np.array(timing.seconds(f"{counter} alone", work))
    return tuple(total.tolist())


def _batch(timing: Timing, predictor: Predictor, lattice: Lattice) -> Callable[[], object]:
    grey = torch.randint(0, 255, (predictor.batch, 1, *lattice.window), device=timing.device)
    fed = predictor.network.spec.feed(grey.float())
    return lambda: predictor.run(fed)
