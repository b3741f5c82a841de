"""`flysoma bench fleet`: a brain's worth of tasks on machines that are taken back, played through in seconds."""

from __future__ import annotations

import heapq
import json
from collections import deque
from dataclasses import asdict, dataclass

import click
import numpy as np

from ...errors import UserError
from ...tasks.fleet.worker import WorkerOptions
from ...tasks.run import Run


@dataclass(frozen=True)
class Fleet:
    """Workers and what befalls them; times in seconds.

    Attributes:
      life_s: a machine is taken back after so long, on average (exponential).
      silent: share of them that go without a signal: their tasks come back when the lease is over.
      replace_s: until another machine stands in for one that is gone.
      twice: share of messages that the queue delivers twice.
    """

    workers: int = 500
    life_s: float = 1800.0
    silent: float = 0.1
    replace_s: float = 180.0
    twice: float = 0.01
    lease_s: float = WorkerOptions.lease_s
    grace_s: float = WorkerOptions.grace_s


@dataclass
class Outcome:
    """Hours until the last task was done; hours of work that counted and that did not; what happened how often."""

    makespan_h: float = 0.0
    useful_h: float = 0.0
    wasted_h: float = 0.0
    idle_h: float = 0.0
    machines_lost: int = 0
    given_back: int = 0
    leases_run_out: int = 0
    done_twice: int = 0


def simulate(seconds: np.ndarray, fleet: Fleet, seed: int = 0) -> Outcome:
    """Play through tasks that take so many seconds each.

    A worker that is taken back finishes its task when that takes no longer than its grace, and gives it back
    otherwise. A message that comes a second time costs nothing once there is a receipt, and a task's time before.
    Which of the workers that wait gets a message is chance.
    """
    dice = np.random.default_rng(seed)
    messages = deque(range(len(seconds)))
    messages.extend(np.flatnonzero(dice.random(len(seconds)) < fleet.twice).tolist())
    later: list[tuple[float, int]] = []  # messages that are not free yet
    done_at = np.full(len(seconds), np.inf)
    found = Outcome()
    free: list[tuple[float, float, float]] = []  # from when, in which order, to when

    def wait(since: float, end: float) -> None:
        heapq.heappush(free, (since, dice.random(), end))

    def replace(gone: float) -> None:
        start = gone + fleet.replace_s
        wait(start, start + dice.exponential(fleet.life_s))

    for _ in range(fleet.workers):
        wait(0.0, dice.exponential(fleet.life_s))
    while messages or later:
        now, _, end = heapq.heappop(free)
        while later and later[0][0] <= now:
            messages.append(heapq.heappop(later)[1])
        if not messages:
            found.idle_h += (later[0][0] - now) / 3600
            wait(later[0][0], end)
            continue
        if now >= end:
            replace(now)
            found.machines_lost += 1
            continue
        task = messages.popleft()
        if done_at[task] <= now:
            wait(now, end)
            continue
        finish = now + seconds[task]
        silent = finish > end and dice.random() < fleet.silent
        if finish <= end + (0.0 if silent else fleet.grace_s):
            found.done_twice += bool(np.isfinite(done_at[task]))
            if np.isfinite(done_at[task]):
                found.wasted_h += seconds[task] / 3600
            done_at[task] = min(done_at[task], finish)
            wait(finish, end)
            continue
        gone = end if silent else end + fleet.grace_s
        back = end + fleet.lease_s * dice.uniform(2 / 3, 1) if silent else gone
        found.leases_run_out += silent
        found.given_back += not silent
        found.wasted_h += (gone - now) / 3600
        found.machines_lost += 1
        heapq.heappush(later, (back, task))
        replace(gone)
    found.makespan_h = float(done_at.max(initial=0.0)) / 3600
    found.useful_h = float(seconds.sum()) / 3600
    return found


@click.command("fleet")
@click.argument("path", metavar="RUN")
@click.option(
    "--stage", default="predict", show_default=True, help="Whose receipts tell how long tasks take."
)
@click.option("--tasks", default=919, show_default=True, type=click.IntRange(1))
@click.option("--workers", default=Fleet.workers, show_default=True, type=click.IntRange(1))
@click.option(
    "--life-minutes", default=Fleet.life_s / 60, show_default=True, type=click.FloatRange(0.1)
)
@click.option(
    "--slower",
    default=1.0,
    show_default=True,
    help="Tasks take so many times what they took in RUN.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    path: str,
    stage: str,
    tasks: int,
    workers: int,
    life_minutes: float,
    slower: float,
    as_json: bool,
) -> None:
    """Play through TASKS tasks on machines that are taken back, with the durations that RUN has recorded."""
    store = Run.open(path).store
    receipts = store.get_jsons(store.names(f"receipts/{stage}/"))
    if not receipts:
        raise UserError(
            f"{path} has no receipts of stage {stage}: name a run that has been through it"
        )
    recorded = np.array([receipt["seconds"] for receipt in receipts.values()]) * slower
    seconds = np.random.default_rng(0).choice(recorded, tasks)
    rows = {
        name: asdict(simulate(seconds, Fleet(workers=workers, life_s=life)))
        for name, life in (("never taken back", 1e12), ("taken back", life_minutes * 60))
    }
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo(f"{tasks} tasks of {recorded.mean():.1f} s on average, {workers} workers")
    click.echo(" ".join([f"{'':18}", *(f"{key:>14}" for key in next(iter(rows.values())))]))
    for name, row in rows.items():
        click.echo(
            " ".join(
                [
                    f"{name:18}",
                    *(f"{value:14,.2f}".removesuffix(".00").rjust(14) for value in row.values()),
                ]
            )
        )
