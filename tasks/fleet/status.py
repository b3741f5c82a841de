"""The progress of each stage of a run."""

from __future__ import annotations

import time
from typing import Any

from ..run import Run
from ..stages.catalog import EXTRAS, STAGES, read_state, state_path
from ..storage.store import RunStore
from .attempts import failures, running
from .repair import count_repairs
from .signs import silence_s

_RATE_WINDOW_S = 600.0
_MAX_STRAGGLERS = 10
_QUIET_S = 60.0  # workers give a sign at least every 20 s


def status(run: Run) -> list[dict[str, Any]]:
    """Return one row per stage; a stage with its own command, such as link, has a row once it was begun.

    Keys of a row:
      stage, finished, halted: name, whether it is finished, and why it was halted, if it was.
      total, done: tasks in the plan (None until the stage is planned) and tasks with a receipt.
      leased: tasks held by a worker, or by one that died.
      failed, retrying: tasks that failed permanently, and failed tasks that are in the queue again.
      rate, eta_s: tasks per hour over the last minutes, and the remaining seconds at this rate.
      task_hours, cost: time of all tasks so far, and its price by the config.
      peak_gb: the largest memory of a worker.
      lost: how often in a row the messages left the queue and no task was done.
      repairs: tasks and steps that were repeated because what they had written was damaged or lost.
      no_worker_s: seconds without a sign of a worker; None if there is one, or no task is left to do.
      stragglers: index, host and minutes of the tasks that are held longest, if over three times the usual time.
    """
    prices, repairs, rows = run.config.prices, count_repairs(run.store), []
    begun = [stage for stage in EXTRAS if run.store.get(state_path(stage.name)) is not None]
    for stage in [*STAGES, *begun]:
        row = _stage_status(run, stage.name)
        row["repairs"] = repairs.get(stage.name, 0)
        row["cost"] = row["task_hours"] * (prices.gpu_hour if stage.gpu else prices.cpu_hour)
        rows.append(row)
    return rows


def _stage_status(run: Run, name: str) -> dict[str, Any]:
    store = run.store
    state = read_state(store, name)
    total, finished = state.get("total"), bool(state.get("finished"))
    seconds = state.get("task_seconds", 0.0)
    row = {"stage": name, "total": total, "done": total or 0, "finished": finished}
    row |= {"leased": 0, "failed": 0, "retrying": 0, "rate": None, "eta_s": None, "stragglers": []}
    row |= {"task_hours": round(seconds / 3600, 4), "halted": state.get("halted")}
    row |= {"peak_gb": state.get("peak_gb"), "lost": state.get("lost", 0), "no_worker_s": None}
    if finished or total is None:
        return row
    done = store.indices(f"receipts/{name}")
    open_failures = [f for index, f in failures(store, name).items() if index not in done]
    held = {index: record for index, record in running(store, name).items() if index not in done}
    failed = sum(failure["last"] for failure in open_failures)
    row |= {"done": len(done), "leased": len(held), "failed": failed}
    if len(done) < total and not row["halted"]:
        row["no_worker_s"] = _without_worker_s(store, state)
    row["retrying"] = len(open_failures) - failed
    rate = _tasks_per_second(state.get("history", []))
    if rate is not None:
        row |= {"rate": round(3600 * rate, 1), "eta_s": round((total - len(done) - failed) / rate)}
    row["stragglers"] = _stragglers(held, seconds / max(1, state.get("done", 0)))
    return row


def _without_worker_s(store: RunStore, state: dict[str, Any]) -> float | None:
    """Return the seconds since a worker was last seen; None if one was lately."""
    last = max(state.get("started", 0.0), state.get("progressed", 0.0))
    quiet_s = min(time.time() - last, silence_s(store, _QUIET_S))
    return round(quiet_s) if quiet_s > _QUIET_S else None


def _tasks_per_second(history: list[tuple[float, int]]) -> float | None:
    """Return the recent rate from pairs of time and tasks done; None if it is unknown or zero."""
    recent = [entry for entry in history if entry[0] > time.time() - _RATE_WINDOW_S]
    if len(recent) < 2 or recent[-1][1] <= recent[0][1]:
        return None
    return (recent[-1][1] - recent[0][1]) / (recent[-1][0] - recent[0][0])


def _stragglers(held: dict[int, dict[str, Any]], usual_s: float) -> list[dict[str, Any]]:
    held_s = {index: time.time() - record["started"] for index, record in held.items()}
    late = [
        {
            "index": index,
            "host": held[index]["host"],
            "minutes": round(seconds / 60, 1),
        }
        for index, seconds in held_s.items()
        if usual_s and seconds > 3 * usual_s + 60
    ]
    return sorted(late, key=lambda entry: -entry["minutes"])[:_MAX_STRAGGLERS]
