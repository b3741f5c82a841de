"""Speed of all stages of a run, by how many blocks and workers there are; every worker has one thread."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...models.phantom import make_phantom
from ...tasks.config import Predict, RunConfig, Segment
from ...tasks.pipeline import STAGES, state_path
from ...tasks.run import Run
from ..ingest import NewLayer, ingest_array
from .timing import Row, Timing

EDGE = 128  # of a block, voxels
VOXEL = (40.0, 64.0, 64.0)
_SEED = 173
_UNIT = 2  # blocks along an edge of the phantom, whose mirror images fill the rest


@dataclass(frozen=True)
class Taken:
    """What a run took, of all its stages: seconds of its workers and of their networks, and what they had to do."""

    wall_s: float
    work_s: float
    task_s: float
    predict_s: float
    network_s: float
    tasks: int
    seen: int


def pipeline_rows(timing: Timing, edges: tuple[int, ...] = (2, 3, 4)) -> Iterator[Row]:
    """Runs over brains of so many blocks along an edge with one worker, and over the largest with two."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as name:
        folder = Path(name)
        image = make_phantom((EDGE * _UNIT,) * 3, VOXEL, _SEED, "typical").image
        for edge in edges:
            width = [(0, EDGE * max(0, edge - _UNIT))] * 3
            brain = np.pad(image, width, mode="symmetric")[(slice(EDGE * edge),) * 3]
            ingest_array(brain, NewLayer(f"{folder}/{edge}", VOXEL[::-1]))
        alone = [Taken(0, 0, 0, 0, 0, 0, 0)]
        for edge, workers in [*((edge, 1) for edge in edges), (edges[-1], 2)]:
            told = f"{edge**3} blocks, {workers} {'worker' if workers == 1 else 'workers'}"
            found = []
            for number in range(timing.repeats):
                timing.bars(told, number, timing.repeats)
                found.append(_run(folder, edge, workers, f"{edge}-{workers}-{number}"))
            timing.bars(told, timing.repeats, timing.repeats)
            yield _row(told, edge, workers, found, alone)
            alone = found


def _run(folder: Path, edge: int, workers: int, name: str) -> Taken:
    """One run, in processes of its own."""
    config = RunConfig(
        image=f"{folder}/{edge}",
        output=f"{folder}/run-{name}",
        predict=Predict(window_vx=(192, 192, 160), block_tiles=(1, 1, 1)),
        segment=Segment(block_vx=(EDGE, EDGE, EDGE)),
    )
    asked = folder / f"{name}.yaml"
    asked.write_text(config.to_yaml())
    command = [sys.executable, "-m", "flysoma.scripts.cli", "run", str(asked)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--workers", str(workers)], check=True, env=environment)
    return taken(Run.open(config.output))


def taken(run: Run) -> Taken:
    """What a finished run took."""
    states = {stage.name: run.store.get_json(state_path(stage.name)) for stage in STAGES}
    receipts = {name: _receipts(run, name) for name in states}
    every = [receipt for some in receipts.values() for receipt in some]
    walls = {name: state["ended"] - state["started"] for name, state in states.items()}
    return Taken(
        sum(walls.values()),
        sum(receipt["phases"]["work"] for receipt in every),
        sum(receipt["seconds"] for receipt in every),
        walls["predict"],
        sum(receipt["counters"]["network_s"] for receipt in receipts["predict"]),
        len(every),
        sum(block.read.voxels for block in run.segment_grid),
    )


def _receipts(run: Run, stage: str) -> list[dict[str, Any]]:
    return list(run.store.get_jsons(run.store.names(f"receipts/{stage}/")).values())


def _row(name: str, edge: int, workers: int, found: list[Taken], alone: list[Taken]) -> Row:
    """Speed, and how it compares with what came before: fewer blocks, or one worker."""
    voxels = (EDGE * edge) ** 3 / 1e6

    def median(values: Any) -> float:
        return float(np.median(list(values)))

    notes = {
        "s": median(t.wall_s for t in found),
        "network busy in predict": median(t.network_s / t.predict_s / workers for t in found),
        "s a task not worked": median((workers * t.wall_s - t.work_s) / t.tasks for t in found),
        "task-seconds a block": median(t.task_s for t in found) / edge**3,
        "task-seconds a million voxels read to segment": median(t.task_s / t.seen for t in found)
        * 1e6,
    }
    if workers > 1:
        notes["efficiency"] = median(t.wall_s for t in alone) / notes["s"] / workers
    return Row(name, "Mvoxel/s", tuple(voxels / t.wall_s for t in found), notes)
