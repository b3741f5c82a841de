"""`flysoma link`: the neuron of each soma."""

from __future__ import annotations

import os

import click

from ...tasks.coordination.coordinator import RunOptions, execute_run
from ...tasks.run import Run
from ...tasks.stages.catalog import EXTRAS, state_path
from ...tasks.stages.link import LinkStage, choose_segmentation
from ...tasks.storage.store import normalize_cloudpath
from ..progress import Bars


@click.command("link")
@click.argument("path", metavar="RUN")
@click.option(
    "--segmentation",
    required=True,
    metavar="CLOUDPATH",
    help="Precomputed segmentation of neurons.",
)
@click.option(
    "--name",
    help="Name of the segmentation in RUN/tables/links; default: the last part of CLOUDPATH.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=os.cpu_count(),
    show_default="number of cores",
    help="Worker processes to start here; 0: use workers started elsewhere on --queue.",
)
@click.option("--queue", help="sqs://NAME or fq://PATH; default: a temporary queue.")
def command(
    path: str, segmentation: str, name: str | None, workers: int, queue: str | None
) -> None:
    """Link each soma to the segments of a neuron segmentation.

    A soma of RUN is linked to the segments that it overlaps. The links to other segmentations are kept.
    """
    run = Run.open(path)
    folder = choose_segmentation(run, normalize_cloudpath(segmentation), name)
    with Bars() as bars:
        execute_run(run, RunOptions(queue, None, workers), bars, bars.say, EXTRAS)
    result = run.store.get_json(state_path(LinkStage.name))["result"]
    click.echo(
        f"{result['linked']} of {result['somas']} somas have a neuron; {result['shared']} share theirs with another "
        f"soma, {result['several_segments']} overlap several segments, {result['none']} none"
    )
    click.echo(
        f"tables: {run.path}/{folder}neurons.csv (one row per soma), links.csv, cave_linked.csv; the same in tables/"
    )
