"""Speed of a whole run, by the number of blocks and workers; each worker has one thread."""

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

EDGE = 128  # of a block, in voxels
VOXEL = (40.0, 64.0, 64.0)
_SEED = 173
_UNIT = 2  # blocks along an edge of the phantom; its mirror images fill the rest


@dataclass(frozen=True)
class RunTimes:
    """Times and amounts of work of a whole run.

    Attributes:
      wall_s, predict_s: duration of all stages, and of predict alone.
      work_s: phases in which a worker computed, not only read or wrote.
      task_s: all phases of the tasks, by stage.
      network_s: time of the networks in predict.
      voxels_read: by segment.
    """

    wall_s: float
    predict_s: float
    work_s: float
    task_s: dict[str, float]
    network_s: float
    tasks: int
    voxels_read: int


def pipeline_rows(timing: Timing, edges: tuple[int, ...] = (2, 3, 4)) -> Iterator[Row]:
    """Yield the speed of runs with one worker, and of the largest with two.

    Args:
      edges: numbers of blocks along an edge of the volume.
    """
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as name:
        folder = Path(name)
        image = make_phantom((EDGE * _UNIT,) * 3, VOXEL, _SEED, "typical").image
        for edge in edges:
            width = [(0, EDGE * max(0, edge - _UNIT))] * 3
            volume = np.pad(image, width, mode="symmetric")[(slice(EDGE * edge),) * 3]
            ingest_array(volume, NewLayer(f"{folder}/{edge}", VOXEL[::-1]))
        cases = [*((edge, 1) for edge in edges), (edges[-1], 2)]
        times: dict[tuple[int, int], list[RunTimes]] = {case: [] for case in cases}
        for number in range(timing.repeats):  # alternate the order, so that drift affects all cases
            order = cases if number % 2 == 0 else cases[::-1]
            for place, (edge, workers) in enumerate(order):
                timing.bars("runs", number * len(cases) + place, timing.repeats * len(cases))
                config = _small_blocks(
                    f"{folder}/{edge}", f"{folder}/run-{edge}-{workers}-{number}"
                )
                times[edge, workers].append(execute_apart(config, workers))
        timing.bars("runs", timing.repeats * len(cases), timing.repeats * len(cases))
        for edge, workers in cases:
            yield _row(edge, workers, times[edge, workers], times[edge, 1])
        yield _linear_fit({edge: times[edge, 1] for edge in edges})


def _small_blocks(image: str, output: str) -> RunConfig:
    """Return a config of blocks so small that a small volume holds many."""
    return RunConfig(
        image=image,
        output=output,
        predict=Predict(window_vx=(192, 192, 160), block_tiles=(1, 1, 1)),
        segment=Segment(block_vx=(EDGE, EDGE, EDGE)),
    )


def execute_apart(config: RunConfig, workers: int) -> RunTimes:
    """Execute a run in processes of its own, with one thread each."""
    file = Path(f"{config.output.removeprefix('file://')}.yaml")
    file.write_text(config.to_yaml())
    command = [sys.executable, "-m", "flysoma.scripts.cli", "run", str(file)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += ["--workers", str(workers)]
    subprocess.run(command, check=True, env=environment, capture_output=True)
    return read_times(Run.open(config.output))


def read_times(run: Run) -> RunTimes:
    """Return the times that a finished run has recorded."""
    states = {stage.name: run.store.get_json(state_path(stage.name)) for stage in STAGES}
    receipts = {name: _receipts(run, name) for name in states}
    all_receipts = [receipt for of_stage in receipts.values() for receipt in of_stage]
    walls = {name: state["ended"] - state["started"] for name, state in states.items()}
    return RunTimes(
        wall_s=sum(walls.values()),
        predict_s=walls["predict"],
        work_s=sum(receipt["phases"]["work"] for receipt in all_receipts),
        task_s={name: sum(r["seconds"] for r in of_stage) for name, of_stage in receipts.items()},
        network_s=sum(receipt["counters"]["network_s"] for receipt in receipts["predict"]),
        tasks=len(all_receipts),
        voxels_read=sum(block.read.voxels for block in run.segment_grid),
    )


def _receipts(run: Run, stage: str) -> list[dict[str, Any]]:
    return list(run.store.get_jsons(run.store.names(f"receipts/{stage}/")).values())


def _row(edge: int, workers: int, times: list[RunTimes], single: list[RunTimes]) -> Row:
    """Return the speed, and the efficiency compared with a single worker."""
    voxels = (EDGE * edge) ** 3 / 1e6
    notes = {
        "s": _median(t.wall_s for t in times),
        "network busy in predict": _median(t.network_s / t.predict_s / workers for t in times),
        "s per task not worked": _median((workers * t.wall_s - t.work_s) / t.tasks for t in times),
        "task-seconds per block": _median(_task_s(t) / edge**3 for t in times),
        "per million voxels read": _median(1e6 * _task_s(t) / t.voxels_read for t in times),
    }
    if workers > 1:
        notes["efficiency"] = _median(
            one.wall_s / both.wall_s / workers for one, both in zip(single, times)
        )
    for stage in times[0].task_s:
        notes[f"share of {stage}"] = _median(t.task_s[stage] / _task_s(t) for t in times)
    name = f"{edge**3} blocks, {workers} {'worker' if workers == 1 else 'workers'}"
    return Row(name, "Mvoxel/s", tuple(voxels / t.wall_s for t in times), notes)


def _linear_fit(single: dict[int, list[RunTimes]]) -> Row:
    """Fit task time to the number of blocks, round by round: a constant, and what each block adds."""
    blocks = np.array([edge**3 for edge in single])
    rounds = np.array([[_task_s(t) for t in one_round] for one_round in zip(*single.values())])
    fits = np.array([np.polyfit(blocks, costs, 1, w=1 / costs) for costs in rounds])
    errors = (fits[:, :1] * blocks + fits[:, 1:]) / rounds - 1
    notes = {
        "constant, s": float(np.median(fits[:, 1])),
        "largest error of the fit": float(np.abs(np.median(errors, axis=0)).max()),
        "in the worst round": float(np.abs(errors).max()),
    }
    return Row("each block adds", "s", tuple(fits[:, 0].tolist()), notes)


def _task_s(times: RunTimes) -> float:
    return sum(times.task_s.values())


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))
