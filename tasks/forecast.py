"""What a run will ask for, before anything is computed; and afterwards, what it has taken."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from .config import Prices
from .run import Run
from .stages.catalog import STAGES, state_path
from .stages.mips import MESH_TASK_VX, DownsampleStage, ThumbnailStage, mesh_mip, somas_mips
from .stages.predict import PredictStage
from .volumes.geometry import Box
from .volumes.tiles import seen_nm
from .volumes.tissue import Tissue

_LABEL_BYTES = 8
_FIELD_BYTES = 1
_RECORDS = (
    3  # requests a task besides its results: it is in hand, its receipt, it is no more in hand
)
_PROBES = 3


def estimate(run: Run) -> list[dict[str, Any]]:
    """A row for each stage, in their order.

    `tasks` is the most that there can be, `dropped` how many blocks hold no tissue; how many are needed depends on
    where somas are found. `tasks` is None for a stage whose tasks are batches of somas. `voxels` are read, `gb` are
    gigabytes of them unpacked, `gb_out` those written, `reads` and `writes` are requests to the store. `times_read`, of
    predict alone: how often it reads a byte of the image, as blocks of tiles share chunks.
    """
    config, grid = run.config, run.segment_grid
    tissue, looked = Tissue(config.image, config.mask), config.locate.resolution_nm
    tiled = [run.predict_box(index) for index in range(len(run.tiles.grid))]
    tiled = [box for box in tiled if tissue.meets(box, config.segment.resolution_nm)]
    located = [block.read for block in run.locate_grid if tissue.meets(block.read, looked)]
    kept = {b.index for b in grid if tissue.meets(b.read, config.segment.resolution_nm)}
    blocks = [grid[index] for index in sorted(kept)]
    cores = sum(block.core.voxels for block in blocks)
    pairs = [
        grid.face_slab(block.index, axis, run.overlap_vx[axis]).voxels
        for block in blocks
        for axis, other in grid.upper_neighbours(block.index)
        if other in kept
    ]
    read = sum(block.read.voxels for block in blocks)
    rows = [_predict_row(run, tiled)]
    chunks = -(-cores // 64**3)
    pieces, further = (
        len(kind(run).pieces_with(kept)) for kind in (DownsampleStage, ThumbnailStage)
    )
    coarse = cores // 8**3 if further else 0
    meshed = cores // math.prod(somas_mips(run)[mesh_mip(run)].factor)
    meshes = -(-meshed // MESH_TASK_VX**3)
    labels = _LABEL_BYTES
    for stage, tasks, seen, each, writes in (
        ("locate", len(located), sum(box.voxels for box in located), 1, len(located)),
        ("segment", len(blocks), read, _FIELD_BYTES, 8 * len(blocks)),
        ("match", len(blocks), 2 * sum(pairs), labels, len(blocks)),
        ("relabel", len(blocks), cores, labels, chunks),
        ("downsample", pieces, cores, labels, chunks // 7),
        ("thumbnail", further, coarse, labels, chunks // 7 // 8**3),
        ("measure", len(blocks), cores, labels + 1, len(blocks)),
        ("shape", None, None, labels, None),
        ("mesh", meshes, meshed, labels, meshes),
        ("mesh_merge", None, None, labels, None),
        ("skeleton", None, None, labels, None),
        ("report", 1, None, labels, 10),
    ):
        rows.append(
            {
                "stage": stage,
                "tasks": tasks,
                "dropped": None,
                "voxels": seen,
                "gb": None if seen is None else seen * each / 1e9,
                "gb_out": cores * _LABEL_BYTES / 1e9 if stage == "relabel" else None,
                "reads": None if seen is None else -(-seen // 64**3),
                "writes": None if writes is None else writes + _RECORDS * (tasks or 0),
            }
        )
    return rows


def _predict_row(run: Run, seen: list[Box]) -> dict[str, Any]:
    resolution_nm = run.config.segment.resolution_nm
    margin = [math.ceil(seen / nm) for seen, nm in zip(seen_nm(run.config), resolution_nm)]
    bounds = run.segment_grid.bounds
    read = [box.grow(margin).intersect(bounds) for box in seen]
    fetched = [run.image.fetched(box, resolution_nm) for box in read]
    voxels_in = sum(box.voxels for box in seen)
    bytes_in = sum(voxels for _, voxels in fetched)
    source_nm = run.image.resolutions_nm[run.image.source_mip(resolution_nm)]
    source_in = voxels_in * math.prod(resolution_nm) / math.prod(source_nm)
    tiles = len(seen) * math.prod(run.config.predict.block_tiles)
    return {
        "stage": "predict",
        "tasks": len(seen),
        "dropped": len(run.tiles.grid) - len(seen),
        "voxels": voxels_in,
        "gb": bytes_in / 1e9,
        "times_read": bytes_in / source_in if seen else None,
        "gb_out": _FIELD_BYTES * voxels_in / 1e9,
        "reads": sum(chunks for chunks, _ in fetched),
        "writes": 2 * tiles + _RECORDS * len(seen),
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
            seen = there[row["stage"]]["voxels"]  # 0 in match with one block
            more = row["voxels"] / seen if seen else blocks
            if row["stage"] == "report":  # one task: mostly a report, as long for any number
                more = 1.0
            found[row["stage"]] = state["task_seconds"] * more
    return found


def _timed_windows(run: Run, rows: list[dict[str, Any]]) -> tuple[dict[str, float], str]:
    stage, each = PredictStage(run), 0.0
    for network, lattice in zip(stage.networks, stage.lattices):
        shape = network.batch, *lattice.window
        batch = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        network(batch)
        start = time.perf_counter()
        for _ in range(_PROBES):
            network(batch)
        each += (time.perf_counter() - start) / _PROBES / network.batch
    tile = run.segment_grid.bounds.voxels / math.prod(run.tiles.fine.shape)
    told = f"windows timed here, on {stage.networks[0].device}, a soma in every one; none for the other stages"
    return {"predict": each * rows[0]["voxels"] / tile}, told
