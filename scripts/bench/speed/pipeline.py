"""Speed of all stages of a run, by how many blocks and workers there are; every worker has one thread."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....models.phantom.make import make_phantom
from ....tasks.config import Predict, RunConfig, Segment
from ....tasks.run import Run
from ....tasks.stages.catalog import STAGES, state_path
from ....tasks.volumes.ingest import NewLayer, ingest_array
from .timing import Row, Timing

EDGE = 128  # of a block, voxels
VOXEL = (40.0, 64.0, 64.0)
_SEED = 173
_UNIT = 2  # blocks along an edge of the phantom, whose mirror images fill the rest


@dataclass(frozen=True)
class Taken:
    """What a run took, of all its stages: seconds of its workers and of their networks, and what they had to do.

    Attributes:
      wall_s, predict_s: from the first plan to the last step, and those of predict alone.
      work_s: phases in which a worker did not only read or write.
      task_s: all phases of the tasks, by stage.
      network_s: of predict's work, in networks.
      seen: voxels that segment read.
    """

    wall_s: float
    predict_s: float
    work_s: float
    task_s: dict[str, float]
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
        cases = [*((edge, 1) for edge in edges), (edges[-1], 2)]
        found: dict[tuple[int, int], list[Taken]] = {case: [] for case in cases}
        for number in range(timing.repeats):  # in turns, to and fro: who grows slower is so for all
            order = cases if number % 2 == 0 else cases[::-1]
            for place, (edge, workers) in enumerate(order):
                timing.bars("runs", number * len(cases) + place, timing.repeats * len(cases))
                config = _small_blocks(
                    f"{folder}/{edge}", f"{folder}/run-{edge}-{workers}-{number}"
                )
                found[edge, workers].append(run_apart(config, workers))
        timing.bars("runs", timing.repeats * len(cases), timing.repeats * len(cases))
        for edge, workers in cases:
            yield _row(edge, workers, found[edge, workers], found[edge, 1])
        yield _straight({edge: found[edge, 1] for edge in edges})


def _small_blocks(image: str, output: str) -> RunConfig:
    """Blocks of which a small phantom holds many."""
    return RunConfig(
        image=image,
        output=output,
        predict=Predict(window_vx=(192, 192, 160), block_tiles=(1, 1, 1)),
        segment=Segment(block_vx=(EDGE, EDGE, EDGE)),
    )


def run_apart(config: RunConfig, workers: int) -> Taken:
    """One run, in processes of its own, a thread each."""
    asked = Path(f"{config.output.removeprefix('file://')}.yaml")
    asked.write_text(config.to_yaml())
    command = [sys.executable, "-m", "flysoma.scripts.cli", "run", str(asked)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += ["--workers", str(workers)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return taken(Run.open(config.output))


def taken(run: Run) -> Taken:
    """What a finished run took."""
    states = {stage.name: run.store.get_json(state_path(stage.name)) for stage in STAGES}
    receipts = {name: _receipts(run, name) for name in states}
    every = [receipt for some in receipts.values() for receipt in some]
    walls = {name: state["ended"] - state["started"] for name, state in states.items()}
    return Taken(
        wall_s=sum(walls.values()),
        predict_s=walls["predict"],
        work_s=sum(receipt["phases"]["work"] for receipt in every),
        task_s={name: sum(r["seconds"] for r in some) for name, some in receipts.items()},
        network_s=sum(receipt["counters"]["network_s"] for receipt in receipts["predict"]),
        tasks=len(every),
        seen=sum(block.read.voxels for block in run.segment_grid),
    )


def _receipts(run: Run, stage: str) -> list[dict[str, Any]]:
    return list(run.store.get_jsons(run.store.names(f"receipts/{stage}/")).values())


def _row(edge: int, workers: int, found: list[Taken], alone: list[Taken]) -> Row:
    """Speed, and how it compares with that of one worker."""
    voxels = (EDGE * edge) ** 3 / 1e6
    notes = {
        "s": _median(t.wall_s for t in found),
        "network busy in predict": _median(t.network_s / t.predict_s / workers for t in found),
        "s a task not worked": _median((workers * t.wall_s - t.work_s) / t.tasks for t in found),
        "task-seconds a block": _median(_task_s(t) / edge**3 for t in found),
        "a million voxels read to segment": _median(1e6 * _task_s(t) / t.seen for t in found),
    }
    if workers > 1:
        notes["efficiency"] = _median(
            one.wall_s / both.wall_s / workers for one, both in zip(alone, found)
        )
    for stage in found[0].task_s:
        notes[f"part of {stage}"] = _median(t.task_s[stage] / _task_s(t) for t in found)
    name = f"{edge**3} blocks, {workers} {'worker' if workers == 1 else 'workers'}"
    return Row(name, "Mvoxel/s", tuple(voxels / t.wall_s for t in found), notes)


def _straight(alone: dict[int, list[Taken]]) -> Row:
    """Whether cost grows with the number of blocks: what a run costs at once and what each block adds, a round each."""
    blocks = np.array([edge**3 for edge in alone])
    rounds = np.array([[_task_s(t) for t in some] for some in zip(*alone.values())])
    fits = np.array([np.polyfit(blocks, costs, 1, w=1 / costs) for costs in rounds])
    off = (fits[:, :1] * blocks + fits[:, 1:]) / rounds - 1
    notes = {
        "at once, s": float(np.median(fits[:, 1])),
        "most off a straight line": float(np.abs(np.median(off, axis=0)).max()),
        "in the worst round": float(np.abs(off).max()),
    }
    return Row("each block adds", "s", tuple(fits[:, 0].tolist()), notes)


def _task_s(taken: Taken) -> float:
    return sum(taken.task_s.values())


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))
