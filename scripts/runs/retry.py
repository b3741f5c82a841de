"""`flysoma retry`: failed tasks."""

from __future__ import annotations

import click

from ...tasks.coordination import coordinator
from ...tasks.run import Run


@click.command("retry")
@click.argument("path", metavar="RUN")
@click.option("--queue", required=True, help="sqs://NAME or fq://PATH.")
@click.option("--cpu-queue", help="Queue of the stages that run no network; default: --queue.")
@click.option(
    "--failed", is_flag=True, help="Has no effect: only permanently failed tasks are retried."
)
def command(path: str, queue: str, cpu_queue: str | None, failed: bool) -> None:
    """Enqueue the tasks that failed permanently.

    Deletes the failure records of these tasks of RUN, so that each gets all its attempts again.
    """
    counts = coordinator.retry(Run.open(path), queue, cpu_queue)
    for stage, count in counts.items():
        click.echo(f"{count} tasks of {stage} enqueued")
    if not counts:
        click.echo("no task has failed permanently")
