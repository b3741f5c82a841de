"""`flysoma bench fleet`: a simulation of a run on preemptible machines."""

from __future__ import annotations

import heapq
import json
from collections import deque
from dataclasses import asdict, dataclass, field

import click
import numpy as np

from ...errors import UserError
from ...tasks.fleet.worker import WorkerOptions
from ...tasks.run import Run
from ..options import Finite


@dataclass(frozen=True)
class Fleet:
    """Workers and their failures; times in seconds.

    Attributes:
      life_s: mean time until a machine is preempted (exponentially distributed).
      silent: share of machines that stop without a signal; their tasks return when the lease expires.
      replace_s: time until another machine replaces a lost one.
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
    """Hours until the last task, hours of useful, wasted and idle time, and counts of events."""

    makespan_h: float = 0.0
    useful_h: float = 0.0
    wasted_h: float = 0.0
    idle_h: float = 0.0
    machines_lost: int = 0
    given_back: int = 0
    leases_run_out: int = 0
    done_twice: int = 0


def simulate(seconds: np.ndarray, fleet: Fleet, seed: int = 0) -> Outcome:
    """Simulate a fleet that executes tasks of these durations.

    A preempted worker finishes its task within its grace period, or returns it to the queue. A message that is
    delivered again costs nothing if the task has a receipt, and the duration of the task otherwise. The worker that
    gets a message is drawn at random from those that wait.
    """
    return _Simulation(seconds, fleet, np.random.default_rng(seed)).run()


@dataclass
class _Simulation:
    """The state of a simulated queue and fleet; times in seconds since the start."""

    seconds: np.ndarray
    fleet: Fleet
    rng: np.random.Generator
    outcome: Outcome = field(default_factory=Outcome)
    returned: list[tuple[float, int]] = field(default_factory=list)  # heap: time of return, task
    free: list[tuple[float, float, float]] = field(default_factory=list)  # heap: since, order, end

    def __post_init__(self) -> None:
        count = len(self.seconds)
        self.messages = deque(range(count))
        twice = self.rng.random(count) < self.fleet.twice
        self.messages.extend(np.flatnonzero(twice).tolist())
        self.done_at = np.full(count, np.inf)

    def run(self) -> Outcome:
        for _ in range(self.fleet.workers):
            self._wait(0.0, self.rng.exponential(self.fleet.life_s))
        while self.messages or self.returned:
            now, _, end = heapq.heappop(self.free)
            while self.returned and self.returned[0][0] <= now:
                self.messages.append(heapq.heappop(self.returned)[1])
            if not self.messages:
                back = self.returned[0][0]
                self.outcome.idle_h += (back - now) / 3600
                self._wait(back, end)
            elif now >= end:
                self._replace(now)
            else:
                self._execute(self.messages.popleft(), now, end)
        self.outcome.makespan_h = float(self.done_at.max(initial=0.0)) / 3600
        self.outcome.useful_h = float(self.seconds.sum()) / 3600
        return self.outcome

    def _execute(self, task: int, now: float, end: float) -> None:
        """Execute a task on a machine that is preempted at `end`."""
        if self.done_at[task] <= now:
            self._wait(now, end)
            return
        finish = now + self.seconds[task]
        silent = finish > end and self.rng.random() < self.fleet.silent
        if finish <= end + (0.0 if silent else self.fleet.grace_s):
            if np.isfinite(self.done_at[task]):
                self.outcome.done_twice += 1
                self.outcome.wasted_h += self.seconds[task] / 3600
            self.done_at[task] = min(self.done_at[task], finish)
            self._wait(finish, end)
            return
        gone = back = end if silent else end + self.fleet.grace_s
        if silent:
            back = end + self.fleet.lease_s * self.rng.uniform(2 / 3, 1)
        self.outcome.leases_run_out += silent
        self.outcome.given_back += not silent
        self.outcome.wasted_h += (gone - now) / 3600
        heapq.heappush(self.returned, (back, task))
        self._replace(gone)

    def _wait(self, since: float, end: float) -> None:
        heapq.heappush(self.free, (since, self.rng.random(), end))

    def _replace(self, gone: float) -> None:
        self.outcome.machines_lost += 1
        start = gone + self.fleet.replace_s
        self._wait(start, start + self.rng.exponential(self.fleet.life_s))


@click.command("fleet")
@click.argument("path", metavar="RUN")
@click.option(
    "--stage", default="predict", show_default=True, help="Stage of RUN to take durations from."
)
@click.option(
    "--tasks",
    default=919,
    show_default=True,
    type=click.IntRange(1),
    help="Number of tasks.",
)
@click.option(
    "--workers",
    default=Fleet.workers,
    show_default=True,
    type=click.IntRange(1),
    help="Number of workers.",
)
@click.option(
    "--life-minutes",
    default=Fleet.life_s / 60,
    show_default=True,
    type=Finite(min=0.1),
    help="Mean time until a machine is preempted.",
)
@click.option(
    "--slower",
    type=Finite(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Factor by which tasks take longer than in RUN.",
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
    """Simulate a run on preemptible machines.

    The durations of the tasks are drawn from those recorded in RUN.
    """
    store = Run.open(path).store
    receipts = store.get_jsons(store.names(f"receipts/{stage}/"))
    if not receipts:
        raise UserError(
            f"{path} has no receipts of stage {stage}; choose a run that has finished it"
        )
    recorded = np.array([receipt["seconds"] for receipt in receipts.values()]) * slower
    seconds = np.random.default_rng(0).choice(recorded, tasks)
    rows = {
        name: asdict(simulate(seconds, Fleet(workers=workers, life_s=life)))
        for name, life in (("no preemption", 1e12), ("preemption", life_minutes * 60))
    }
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo(f"{tasks} tasks of {recorded.mean():.1f} s on average, {workers} workers")
    click.echo(" ".join([f"{'':18}", *(f"{key:>14}" for key in next(iter(rows.values())))]))
    for name, row in rows.items():
        cells = (f"{value:14,.2f}".removesuffix(".00").rjust(14) for value in row.values())
        click.echo(" ".join([f"{name:18}", *cells]))
