"""`flysoma plan | run | work`: a run, from its config to its last receipt."""

from __future__ import annotations

import os
from typing import Any

import click

from ..errors import UserError
from ..tasks.config import load_config
from ..tasks.coordinator import Orders, execute_run
from ..tasks.estimate import add_prices, estimate
from ..tasks.pipeline import begin, check_stage
from ..tasks.run import Run
from ..tasks.worker import Habits
from ..tasks.worker import work as work_on
from .logs import log_tasks
from .progress import Bars, print_table


@click.command()
@click.argument("config", type=click.Path())
@click.option(
    "--price", is_flag=True, help="Hours and money too, and what the run has taken so far."
)
@click.option(
    "--probe", metavar="RUN", help="A finished run, of a part, whose hours tell those of all."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(config: str, price: bool, probe: str | None, as_json: bool) -> None:
    """Show the tasks, voxels and gigabytes that CONFIG asks for; writes nothing."""
    asked = Run(load_config(config))
    rows = estimate(asked)
    source = add_prices(asked, rows, Run.open(probe) if probe else None) if price or probe else ""
    columns = [column for column in _COLUMNS if column[0] in rows[0]]
    head = " ".join([f"{'stage':10}", *(f"{name:>{width}}" for _, name, width, _ in columns)])

    def line(row: dict[str, Any]) -> str:
        cells = (f"{_or(row[key], form):>{width}}" for key, _, width, form in columns)
        return " ".join([f"{row['stage']:10}", *cells])

    print_table(rows, as_json, head, line)
    if as_json:
        return
    if source:
        click.echo(line(_total(rows)))
        click.echo(f"hours: {source}")
    click.echo("most that there can be; '-': batches of somas, as many as are found")
    times = rows[0]["times_read"]
    if times is not None and times > _OFTEN:
        click.echo(
            f"predict reads a chunk of the image {times:.2f} times: larger predict.block_tiles "
            f"than {list(asked.config.predict.block_tiles)} read less, and hold more in memory"
        )


_OFTEN = 1.3

_COLUMNS = (  # key, name, width, form
    ("tasks", "tasks <=", 10, ",d"),
    ("dropped", "dropped", 9, ",d"),
    ("voxels", "voxels", 18, ",d"),
    ("gb", "GB read", 12, ",.3f"),
    ("gb_out", "GB out", 11, ",.3f"),
    ("reads", "reads", 12, ",d"),
    ("writes", "writes", 12, ",d"),
    ("hours", "hours", 10, ",.2f"),
    ("money", "money", 10, ",.2f"),
    ("actual_tasks", "done", 8, ",d"),
    ("actual_hours", "took", 9, ",.2f"),
)


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of sums; None where nothing is known."""
    total: dict[str, Any] = {"stage": "all"}
    for key, *_ in _COLUMNS:
        known = [row[key] for row in rows if row[key] is not None]
        total[key] = sum(known) if known else None
    return total


@click.command()
@click.argument("config", type=click.Path())
@click.option("--workers", type=click.IntRange(0), default=os.cpu_count(), show_default="cores")
@click.option("--queue", help="sqs://NAME or fq://PATH; default: a queue of this run's own.")
@click.option("--cpu-queue", help="Where the stages that run no network go; default: --queue.")
@click.option("--until", metavar="STAGE", help="Stop after this stage.")
@click.option(
    "--max-failed",
    type=click.FloatRange(0, 1),
    default=Orders.max_failed,
    show_default=True,
    help="Share of a stage's tasks that may fail for good before the stage is stopped.",
)
def run(
    config: str,
    workers: int,
    queue: str | None,
    cpu_queue: str | None,
    until: str | None,
    max_failed: float,
) -> None:
    """Do what CONFIG asks for; goes on where an earlier run of it stopped."""
    asked = load_config(config)
    url = queue or asked.queue
    check_stage(until)
    if workers == 0 and url is None:
        raise UserError("--workers 0 leaves the work to workers elsewhere: name their --queue")
    if workers and cpu_queue is not None:
        raise UserError("--cpu-queue is for workers elsewhere: add --workers 0")
    begun = begin(asked)
    with Bars() as bars:
        execute_run(begun, Orders(url, cpu_queue, workers, until, max_failed), bars, bars.say)
    click.echo(f"done: {begun.path}")
    click.echo(f"open it with: flysoma view {begun.path}")


@click.command()
@click.argument("queue")
@click.option("--until-empty", is_flag=True, help="Stop when the queue holds no task.")
@click.option(
    "--lease-seconds",
    type=click.IntRange(3),
    default=Habits.lease_s,
    show_default=True,
    help="A dead worker's tasks come back after this; a live one renews its leases.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=Habits.grace_s,
    show_default=True,
    help="Seconds after SIGTERM until what is in hand is given back unfinished.",
)
@click.option("--max-memory", type=float, metavar="GB", help="Start anew between tasks above this.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="For Prometheus.")
@click.option("--liveness", metavar="FILE", help="A file to touch while alive, for Kubernetes.")
@click.option("--quiet", is_flag=True, help="Tell only what goes wrong.")
@click.option("--parent", type=int, hidden=True)
def work(
    queue: str,
    until_empty: bool,
    lease_seconds: int,
    grace: float,
    quiet: bool,
    liveness: str | None,
    parent: int | None,
    max_memory: float | None,
    metrics_port: int | None,
) -> None:
    """Do the tasks of QUEUE until stopped by SIGTERM or Ctrl-C; a line of JSON tells of each."""
    log_tasks(quiet)
    habits = Habits(lease_seconds, grace, until_empty, liveness, parent, max_memory, metrics_port)
    work_on(queue, habits)


def _or(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
