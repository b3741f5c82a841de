"""`flysoma run`: a run, from its config to its last receipt."""

from __future__ import annotations

import os

import click

from ...errors import UserError
from ...tasks.config import load_config
from ...tasks.fleet.coordinator import RunOptions, execute_run
from ...tasks.stages.catalog import check_stage
from ...tasks.pipeline import begin
from ..progress import Bars


@click.command("run")
@click.argument("config", type=click.Path())
@click.option("--workers", type=click.IntRange(0), default=os.cpu_count(), show_default="cores")
@click.option("--queue", help="sqs://NAME or fq://PATH; default: a queue of this run's own.")
@click.option("--cpu-queue", help="Where the stages that run no network go; default: --queue.")
@click.option("--until", metavar="STAGE", help="Stop after this stage.")
@click.option(
    "--max-failed",
    type=click.FloatRange(0, 1),
    default=RunOptions.max_failed,
    show_default=True,
    help="Share of a stage's tasks that may fail for good before the stage is stopped.",
)
def command(
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
        execute_run(begun, RunOptions(url, cpu_queue, workers, until, max_failed), bars, bars.say)
    click.echo(f"done: {begun.path}")
    click.echo(f"open it with: flysoma view {begun.path}")
