"""`flysoma retry`: failed tasks, tried again."""

from __future__ import annotations

import click

from ...tasks.fleet import coordinator
from ...tasks.run import Run


@click.command("retry")
@click.argument("path", metavar="RUN")
@click.option("--queue", required=True, help="sqs://NAME or fq://PATH.")
@click.option("--cpu-queue", help="For stages that run no network; default: --queue.")
@click.option(
    "--failed", is_flag=True, help="As without: only what failed for good is tried again."
)
def command(path: str, queue: str, cpu_queue: str | None, failed: bool) -> None:
    """Put the tasks of RUN that failed for good into a queue again, their failures forgotten."""
    found = coordinator.retry(Run.open(path), queue, cpu_queue)
    for stage, count in found.items():
        click.echo(f"{count} tasks of {stage} put into the queue")
    if not found:
        click.echo("no task has failed for good")
