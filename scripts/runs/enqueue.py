"""`flysoma enqueue`: the tasks of a stage, put into a queue."""

from __future__ import annotations

import click

from ...tasks.fleet import coordinator
from ...tasks.run import Run


@click.command("enqueue")
@click.argument("path", metavar="RUN")
@click.argument("stage")
@click.option("--queue", required=True, help="sqs://NAME or fq://PATH.")
@click.option("--missing", is_flag=True, help="As without: a task that has a receipt is never put.")
def command(path: str, stage: str, queue: str, missing: bool) -> None:
    """Put the tasks of STAGE of RUN that have no receipt into a queue."""
    count = coordinator.enqueue(Run.open(path), stage, queue)
    click.echo(f"{count} tasks of {stage} put into {queue}")
