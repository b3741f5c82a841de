"""What a run will ask for, before anything is computed; and afterwards, what it has taken."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from .config import Prices
from .finish import MESH_TASK_VX
from .geometry import BlockGrid
from .locate import tissue_blocks
from .pipeline import STAGES, state_path
from .run import Run, flip, predictor

_LABEL_BYTES = 8
_RECORDS = (
    3  # requests a task besides its results: it is in hand, its receipt, it is no more in hand
)
_PROBES = 3


def estimate(run: Run) -> list[dict[str, Any]]:
    """A row for each stage, in their order.

    `tasks` is the most that there can be, `dropped` how many blocks hold no tissue; how many are needed depends on
    where somas are found. `tasks` is None for a stage whose tasks are batches of somas. `voxels` are read, `gb` are
    gigabytes of them unpacked, `gb_out` those written, `reads` and `writes` are requests to the store.
    """
    config, grid = run.config, run.segment_grid
    located = set(tissue_blocks(run, run.locate_grid, config.locate.resolution_nm))
    kept = set(tissue_blocks(run, grid, config.segment.resolution_nm, with_halo=True))
    blocks = [grid[index] for index in sorted(kept)]
    cores = sum(block.core.voxels for block in blocks)
    pairs = [
        grid.face_slab(block.index, axis, run.overlap_vx[axis]).voxels
        for block in blocks
        for axis, other in grid.upper_neighbours(block.index)
        if other in kept
    ]
    rows = [
        _image_row(run, "locate", run.locate_grid, located, config.locate),
        _image_row(run, "segment", grid, kept, config.segment),
    ]
    chunks = -(-cores // 64**3)
    meshes = -(-cores // MESH_TASK_VX**3)
    for stage, tasks, voxels, writes in (
        ("match", len(blocks), 2 * sum(pairs), len(blocks)),
        ("relabel", len(blocks), cores, chunks),
        ("downsample", len(blocks), cores, chunks // 6),
        ("measure", len(blocks), cores, len(blocks)),
        ("shape", None, None, None),
        ("mesh", meshes, cores, meshes),
        ("mesh_merge", None, None, None),
        ("skeleton", None, None, None),
        ("publish", 1, None, 10),
    ):
        rows.append(
            {
                "stage": stage,
                "tasks": tasks,
                "dropped": None,
                "voxels": voxels,
                "gb": None if voxels is None else voxels * _LABEL_BYTES / 1e9,
                "gb_out": cores * _LABEL_BYTES / 1e9 if stage == "relabel" else None,
                "reads": None if voxels is None else -(-voxels // 64**3),
                "writes": None if writes is None else writes + _RECORDS * (tasks or 0),
            }
        )
    return rows


def _image_row(
    run: Run, stage: str, grid: BlockGrid, kept: set[int], config: Any
) -> dict[str, Any]:
    source, voxels, chunk = 0, 0, run.image.chunk_voxels(config.resolution_nm)
    for block in (grid[index] for index in kept):
        source += run.image.source_voxels(block.read, config.resolution_nm)
        voxels += block.read.voxels
    return {
        "stage": stage,
        "tasks": len(kept),
        "dropped": len(grid) - len(kept),
        "voxels": voxels,
        "gb": source / 1e9,
        "gb_out": None,
        "reads": -(-source // chunk),
        "writes": (1 if stage == "locate" else 8) * len(kept) + _RECORDS * len(kept),
    }


def add_prices(run: Run, rows: list[dict[str, Any]], probe: Run | None) -> str:
    """Hours and money of each row, in place; returns where the hours come from.

    Args:
      probe: a run that is over, on a part of the volume or one like it: what a voxel took there, it takes here.
        None: windows of both networks are timed on this machine, and the other stages have no hours.
    """
    prices = run.config.prices
    if probe is None:
        seconds, source = _timed_windows(run, rows)
    else:
        seconds, source = _as_in(probe, rows), f"as in {probe.path}"
    gpu = {stage.name: stage.gpu for stage in STAGES}
    for row in rows:
        taken = seconds.get(row["stage"])
        row["hours"] = None if taken is None else taken / 3600
        row["money"] = _money(row, prices, gpu[row["stage"]])
        state = run.store.get_json(state_path(row["stage"])) or {}
        hours = state.get("task_seconds", 0) / 3600 if state.get("finished") else None
        row["actual_tasks"], row["actual_hours"] = state.get("done"), hours
    return source


def _money(row: dict[str, Any], prices: Prices, gpu: bool) -> float:
    hours = (row["hours"] or 0.0) * (prices.gpu_hour if gpu else prices.cpu_hour)
    traffic = (row["gb"] or 0.0) * prices.gb_read + (row["gb_out"] or 0.0) * prices.gb_written
    reads = (row["reads"] or 0) / 1e6 * prices.million_reads
    writes = (row["writes"] or 0) / 1e6 * prices.million_writes
    return hours + traffic + reads + writes


def _as_in(probe: Run, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of each stage, when a voxel takes what it took in a probe; by tasks of the segment stage where none
    are known."""
    there = {row["stage"]: row for row in estimate(probe)}
    blocks = {row["stage"]: row["voxels"] for row in rows}["segment"] / there["segment"]["voxels"]
    found = {}
    for row in rows:
        state = probe.store.get_json(state_path(row["stage"])) or {}
        if state.get("finished"):
            more = row["voxels"] / there[row["stage"]]["voxels"] if row["voxels"] else blocks
            found[row["stage"]] = state["task_seconds"] * more
    return found


def _timed_windows(run: Run, rows: list[dict[str, Any]]) -> tuple[dict[str, float], str]:
    found, device = {}, ""
    grids = {"locate": run.locate_grid, "segment": run.segment_grid}
    for row in rows[:2]:
        network = predictor(getattr(run.config, row["stage"]).weights)
        device = network.device
        lattice = network.lattice(flip(grids[row["stage"]].bounds.size))
        batch = np.random.default_rng(0).integers(
            0, 255, (network.batch, *lattice.window), np.uint8
        )
        network(batch)
        start = time.perf_counter()
        for _ in range(_PROBES):
            network(batch)
        each = (time.perf_counter() - start) / _PROBES / network.batch
        found[row["stage"]] = each * row["voxels"] / float(np.prod(lattice.tile))
    return found, f"windows timed here, on {device}, a soma in every one; none for the other stages"
