"""`flysoma work`: one worker of a run."""

from __future__ import annotations

import click

from ...tasks.fleet.worker import WorkerOptions, work
from ..device import device_option
from ..logs import log_tasks
from ..options import Finite


@click.command("work")
@click.argument("queue")
@click.option(
    "--runs",
    multiple=True,
    metavar="CLOUDPATH",
    help="A run to serve, or a folder of runs, such as gs://bucket/somas/; may be repeated. Whoever can write to "
    "QUEUE can name any run, so an sqs:// queue requires this option. Without it, a worker of an fq:// queue serves "
    "runs in local folders only, and only those owned by the owner of QUEUE or by the user of the worker.",
)
@click.option("--until-empty", is_flag=True, help="Exit when the queue is empty.")
@click.option(
    "--lease-seconds",
    type=click.IntRange(3),
    default=WorkerOptions.lease_s,
    show_default=True,
    help="Time after which the queue hands the tasks of a dead worker to others; a live worker renews its leases.",
)
@click.option(
    "--grace",
    type=Finite(min=0),
    default=WorkerOptions.grace_s,
    show_default=True,
    help="Seconds after SIGTERM until unfinished tasks go back to the queue.",
)
@click.option(
    "--max-memory",
    type=Finite(min=0, min_open=True),
    metavar="GB",
    help="Restart the process between tasks if it holds more memory than this.",
)
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), help="Port to serve Prometheus metrics on."
)
@click.option(
    "--liveness", metavar="FILE", help="File to touch while alive, for Kubernetes liveness probes."
)
@device_option
@click.option("--quiet", is_flag=True, help="Log warnings and errors only.")
@click.option("--parent", type=int, hidden=True)
def command(
    queue: str,
    runs: tuple[str, ...],
    until_empty: bool,
    lease_seconds: int,
    grace: float,
    quiet: bool,
    liveness: str | None,
    parent: int | None,
    max_memory: float | None,
    metrics_port: int | None,
) -> None:
    """Execute tasks from a queue.

    QUEUE is sqs://NAME or fq://PATH. Runs until SIGTERM or Ctrl-C and logs each task as a line of JSON.
    """
    if not quiet:
        log_tasks()
    options = WorkerOptions(
        lease_seconds, grace, until_empty, liveness, parent, max_memory, metrics_port, runs
    )
    work(queue, options)
