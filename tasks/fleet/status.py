"""How far each stage of a run is."""

from __future__ import annotations

import time
from typing import Any

from ..run import Run
from ..stages.catalog import STAGES, state_path
from ..store import index_of
from .attempts import failures

_RECENT_S = 600.0  # the time over which a stage's rate is averaged
_STRAGGLERS = 10


def status(run: Run) -> list[dict[str, Any]]:
    """How far each stage is: a row each.

    `total` is None until the stage is planned. `leased`: tasks that a worker has in hand, or had when it died;
    `failed`: for good; `retrying`: failed and in the queue again; `rate`: tasks an hour, of the last minutes;
    `eta_s`: seconds left at that rate; `task_hours`: what all tasks took; `cost`: at the config's prices;
    `peak_gb`: the most memory that a worker held;
    `stragglers`: index, host and minutes of those that have been in hand longest, when that is three times what a
    task takes.
    """
    prices = run.config.prices
    rows = []
    for stage in STAGES:
        row = _stage_status(run, stage.name)
        row["cost"] = row["task_hours"] * (prices.gpu_hour if stage.gpu else prices.cpu_hour)
        rows.append(row)
    return rows


def _stage_status(run: Run, name: str) -> dict[str, Any]:
    store = run.store
    state = store.get_json(state_path(name)) or {}
    total, finished = state.get("total"), bool(state.get("finished"))
    seconds = state.get("task_seconds", 0.0)
    row = {"stage": name, "total": total, "done": total or 0, "finished": finished}
    row |= {"leased": 0, "failed": 0, "retrying": 0, "rate": None, "eta_s": None, "stragglers": []}
    row |= {"task_hours": round(seconds / 3600, 4), "halted": state.get("halted")}
    row["peak_gb"] = state.get("peak_gb")
    if finished or total is None:
        return row
    done = store.indices(f"receipts/{name}")
    open_failures = [f for index, f in failures(store, name).items() if index not in done]
    running = {
        index_of(path): there
        for path, there in store.get_jsons(store.names(f"running/{name}/")).items()
        if index_of(path) not in done
    }
    failed = sum(failure["last"] for failure in open_failures)
    row |= {"done": len(done), "leased": len(running), "failed": failed}
    row["retrying"] = len(open_failures) - failed
    history = [entry for entry in state.get("history", []) if entry[0] > time.time() - _RECENT_S]
    if len(history) > 1 and history[-1][1] > history[0][1]:
        rate = (history[-1][1] - history[0][1]) / (history[-1][0] - history[0][0])
        row |= {"rate": round(3600 * rate, 1), "eta_s": round((total - len(done) - failed) / rate)}
    usual = seconds / max(1, state.get("done", 0))
    late = [
        {
            "index": index,
            "host": there["host"],
            "minutes": round((time.time() - there["started"]) / 60, 1),
        }
        for index, there in running.items()
        if usual and time.time() - there["started"] > 3 * usual + 60
    ]
    row["stragglers"] = sorted(late, key=lambda entry: -entry["minutes"])[:_STRAGGLERS]
    return row
