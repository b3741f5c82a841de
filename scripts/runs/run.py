"""`flysoma run`: a whole run."""

from __future__ import annotations

import os

import click

from ...errors import UserError
from ...tasks.config import load_config
from ...tasks.coordination.coordinator import RunOptions, execute_run
from ...tasks.fleet.patience import patiently
from ...tasks.pipeline import begin
from ...tasks.run import Run
from ...tasks.stages.catalog import check_stage, is_finished
from ...tasks.storage.store import local_folder
from ..device import device_option
from ..options import Finite
from ..progress import Bars


@click.command("run")
@click.argument("config", type=click.Path())
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=os.cpu_count(),
    show_default="number of cores",
    help="Worker processes to start here; 0: use workers started elsewhere on --queue.",
)
@click.option("--queue", help="sqs://NAME or fq://PATH; default: a temporary queue.")
@click.option("--cpu-queue", help="Queue of the stages that run no network; default: --queue.")
@device_option
@click.option("--until", metavar="STAGE", help="Stop after this stage.")
@click.option(
    "--max-failed",
    type=Finite(0, 1),
    default=RunOptions.max_failed,
    show_default=True,
    help="Halt a stage when more than this share of its tasks has failed permanently.",
)
def command(
    config: str,
    workers: int,
    queue: str | None,
    cpu_queue: str | None,
    until: str | None,
    max_failed: float,
) -> None:
    """Execute a run, or resume it.

    CONFIG is a YAML file. A task that has left a receipt is not repeated.
    """
    settings = load_config(config)
    url = queue or settings.queue
    check_stage(until)
    if workers == 0 and url is None:
        raise UserError("--workers 0 starts no worker here; name the --queue of workers elsewhere")
    if workers and cpu_queue is not None:
        raise UserError("--cpu-queue is for workers elsewhere; add --workers 0")
    with Bars() as bars:
        options = RunOptions(url, cpu_queue, workers, until, max_failed)

        def execute() -> Run:
            run = begin(settings)
            execute_run(run, options, bars, bars.say)
            return run

        # On a cluster, a new machine may get its credentials late; at a terminal, an error is reported at once.
        run = execute() if workers else patiently(execute, bars.say)
    place = local_folder(run.path) or run.path
    click.echo(f"done: {place}")
    if is_finished(run, "report"):
        somas = run.soma_table()
        cut = int(somas["touches_edge"].sum())
        click.echo(f"somas: {len(somas):,} ({cut:,} cut by the edge of the volume)")
        click.echo(f"report: {place}/report/index.html")
        click.echo(f"table: {place}/tables/somas.csv")
    click.echo(f"view: flysoma view {place}")
