"""`flysoma link`: the neuron of each soma."""

from __future__ import annotations

import os

import click

from ...tasks.fleet.coordinator import RunOptions, execute_run
from ...tasks.run import Run
from ...tasks.stages.catalog import EXTRAS, state_path
from ...tasks.stages.link import LinkStage, choose_segmentation
from ...tasks.store import normalize_cloudpath
from ..progress import Bars


@click.command("link")
@click.argument("path", metavar="RUN")
@click.option(
    "--segmentation", required=True, metavar="CLOUDPATH", help="A precomputed segmentation."
)
@click.option("--workers", type=click.IntRange(0), default=os.cpu_count(), show_default="cores")
@click.option("--queue", help="sqs://NAME or fq://PATH; default: a queue of this run's own.")
def command(path: str, segmentation: str, workers: int, queue: str | None) -> None:
    """Tell which segments of SEGMENTATION each soma of RUN belongs to, by overlap."""
    run = Run.open(path)
    choose_segmentation(run, normalize_cloudpath(segmentation))
    with Bars() as bars:
        execute_run(run, RunOptions(queue, None, workers), bars, bars.say, EXTRAS)
    found = run.store.get_json(state_path(LinkStage.name))["result"]
    click.echo(
        f"{found['linked']} of {found['somas']} somas have a neuron; {found['shared']} share theirs with another soma, "
        f"{found['several_segments']} have several segments, {found['none']} none"
    )
    click.echo(f"tables:  {run.path}/tables/neurons.csv (a row a soma), links.csv, cave_linked.csv")
