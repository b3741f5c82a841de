"""What a run will ask for, and what it costs: the forecasts of its stages, with prices and timed windows."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from .config import Prices
from .run import Run, predictor
from .stages.catalog import STAGES, read_state
from .stages.stage import Forecast

_RECORDS = 3  # writes per task besides its results: attempt, receipt, end of the attempt
_PROBES = 3


def estimate(run: Run) -> list[dict[str, Any]]:
    """Return the forecast of each stage, in their order.

    Keys of a row (None: it depends on the somas found):
      stage: name.
      tasks, exact: number of tasks; an upper bound unless `exact`.
      dropped: blocks without tissue, which get no task.
      voxels: voxels that the tasks process.
      gb, gb_out: gigabytes read and written, uncompressed.
      reads, writes: requests to the store.
      times_read: how often predict reads a voxel of the image on average; None for other stages.
    """
    return [_row(kind.name, kind(run).forecast()) for kind in STAGES]


def _row(name: str, forecast: Forecast) -> dict[str, Any]:
    writes = forecast.writes
    return {
        "stage": name,
        "tasks": forecast.tasks,
        "exact": forecast.exact,
        "dropped": forecast.dropped,
        "voxels": forecast.voxels,
        "gb": None if forecast.bytes_in is None else forecast.bytes_in / 1e9,
        "gb_out": None if forecast.bytes_out is None else forecast.bytes_out / 1e9,
        "reads": forecast.reads,
        "writes": None if writes is None else writes + _RECORDS * (forecast.tasks or 0),
        "times_read": forecast.times_read,
    }


def add_prices(run: Run, rows: list[dict[str, Any]], probe: Run | None) -> str:
    """Add hours, money and past usage to each row of `estimate`, in place; returns the source of the hours.

    Args:
      probe: a finished run on a part of the volume or on a similar one, whose hours per voxel are used. None: windows
        of both networks are timed on this machine, and only predict has hours.
    """
    if probe is None:
        seconds, source = _time_windows(run, rows)
    else:
        seconds, source = _scale_probe(probe, rows), f"as in {probe.path}"
    gpu = {stage.name: stage.gpu for stage in STAGES}
    for row in rows:
        stage_seconds = seconds.get(row["stage"])
        row["hours"] = None if stage_seconds is None else stage_seconds / 3600
        row["money"] = _money(row, run.config.prices, gpu[row["stage"]])
        state = read_state(run.store, row["stage"])
        hours = state.get("task_seconds", 0) / 3600 if state.get("finished") else None
        row["actual_tasks"], row["actual_hours"] = state.get("done"), hours
    return source


def _money(row: dict[str, Any], prices: Prices, gpu: bool) -> float:
    hours = (row["hours"] or 0.0) * (prices.gpu_hour if gpu else prices.cpu_hour)
    traffic = (row["gb"] or 0.0) * prices.gb_read + (row["gb_out"] or 0.0) * prices.gb_written
    reads = (row["reads"] or 0) / 1e6 * prices.million_reads
    writes = (row["writes"] or 0) / 1e6 * prices.million_writes
    return hours + traffic + reads + writes


def _scale_probe(probe: Run, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Scale the seconds of a probe's stages by voxels.

    A stage whose voxels are unknown or 0 in the probe is scaled as segment is; report takes the same time for any
    number of somas.
    """
    probe_rows = {row["stage"]: row for row in estimate(probe)}
    voxels = {row["stage"]: row["voxels"] for row in rows}
    by_segment = voxels["segment"] / probe_rows["segment"]["voxels"]
    seconds = {}
    for name in voxels:
        state = read_state(probe.store, name)
        if state.get("finished"):
            probe_voxels = probe_rows[name]["voxels"]  # 0 in match if there is one block
            factor = voxels[name] / probe_voxels if probe_voxels else by_segment
            seconds[name] = state["task_seconds"] * (1.0 if name == "report" else factor)
    return seconds


def _time_windows(run: Run, rows: list[dict[str, Any]]) -> tuple[dict[str, float], str]:
    """Time windows of both networks, and multiply by the tiles of predict."""
    config, window_s = run.config, 0.0
    networks = [predictor(weights) for weights in (config.locate.weights, config.segment.weights)]
    for network, lattice in zip(networks, (run.tiles.coarse, run.tiles.fine)):
        shape = network.batch, *lattice.round_window(network.network.multiple).window
        batch = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        network(batch)
        start = time.perf_counter()
        for _ in range(_PROBES):
            network(batch)
        window_s += (time.perf_counter() - start) / _PROBES / network.batch
    tile = run.segment_grid.bounds.voxels / math.prod(run.tiles.fine.shape)
    source = f"windows timed here, on {networks[0].device}, a soma in every one; none for the other stages"
    return {"predict": window_s * rows[0]["voxels"] / tile}, source
