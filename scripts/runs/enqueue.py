"""`flysoma enqueue`: the tasks of one stage."""

from __future__ import annotations

import click

from ...tasks.coordination import coordinator
from ...tasks.run import Run


@click.command("enqueue")
@click.argument("path", metavar="RUN")
@click.argument("stage")
@click.option("--queue", required=True, help="sqs://NAME or fq://PATH.")
@click.option(
    "--missing", is_flag=True, help="Has no effect: tasks with a receipt are never enqueued."
)
def command(path: str, stage: str, queue: str, missing: bool) -> None:
    """Enqueue the unfinished tasks of one stage.

    A task of STAGE in RUN is unfinished while it has no receipt.
    """
    count = coordinator.enqueue(Run.open(path), stage, queue)
    click.echo(f"{count} tasks of {stage} enqueued in {queue}")
