"""`flysoma work`: a worker."""

from __future__ import annotations

import click

from ...tasks.fleet.worker import WorkerOptions, work
from ..logs import log_tasks


@click.command("work")
@click.argument("queue")
@click.option("--until-empty", is_flag=True, help="Stop when the queue holds no task.")
@click.option(
    "--lease-seconds",
    type=click.IntRange(3),
    default=WorkerOptions.lease_s,
    show_default=True,
    help="A dead worker's tasks come back after this; a live one renews its leases.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=WorkerOptions.grace_s,
    show_default=True,
    help="Seconds after SIGTERM until what is in hand is given back unfinished.",
)
@click.option("--max-memory", type=float, metavar="GB", help="Start anew between tasks above this.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="For Prometheus.")
@click.option("--liveness", metavar="FILE", help="A file to touch while alive, for Kubernetes.")
@click.option("--quiet", is_flag=True, help="Tell only what goes wrong.")
@click.option("--parent", type=int, hidden=True)
def command(
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
    options = WorkerOptions(lease_seconds, grace, until_empty, liveness, parent, max_memory, metrics_port)
    work(queue, options)
