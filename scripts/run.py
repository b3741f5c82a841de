"""`flysoma plan | run | enqueue | work | status`: a run, from its config to its last receipt."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import click

from ..errors import UserError
from ..tasks import pipeline
from ..tasks.config import load_config
from ..tasks.estimate import estimate
from ..tasks.run import Run
from ..tasks.worker import work as work_on
from .progress import Bars

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_UNTIL = click.option("--until", metavar="STAGE", help="Stop after this stage.")
_CPU_QUEUE = click.option(
    "--cpu-queue", help="Where the stages that run no network go; default: --queue."
)


@click.command()
@click.argument("config", type=click.Path())
@_JSON
def plan(config: str, as_json: bool) -> None:
    """Show the tasks, voxels and gigabytes that CONFIG asks for; writes nothing."""
    rows = estimate(Run(load_config(config)))
    head = f"{'stage':10} {'tasks <=':>10} {'voxels':>20} {'GB read':>12}"
    _table(
        rows,
        as_json,
        head,
        lambda r: (
            f"{r['stage']:10} {_or(r['tasks'], ',d'):>10} {_or(r['voxels'], ',d'):>20} "
            f"{_or(r['gb'], ',.3f'):>12}"
        ),
    )
    if not as_json:
        click.echo("most that there can be; '-': batches of somas, as many as are found")


@click.command()
@click.argument("config", type=click.Path())
@click.option("--workers", type=click.IntRange(0), default=os.cpu_count(), show_default="cores")
@click.option("--queue", help="sqs://NAME or fq://PATH; default: a queue of this run's own.")
@_CPU_QUEUE
@_UNTIL
def run(
    config: str, workers: int, queue: str | None, cpu_queue: str | None, until: str | None
) -> None:
    """Do what CONFIG asks for; goes on where an earlier run of it stopped."""
    asked = load_config(config)
    url = queue or asked.queue
    pipeline.check_stage(until)
    if workers == 0 and url is None:
        raise UserError("--workers 0 leaves the work to workers elsewhere: name their --queue")
    if workers and cpu_queue is not None:
        raise UserError("--cpu-queue is for workers elsewhere: add --workers 0")
    begun = pipeline.begin(asked)
    with Bars() as bars:
        pipeline.execute_run(begun, workers, pipeline.Queues(url, cpu_queue), until, bars)
    click.echo(f"done: {begun.path}")
    click.echo(f"open it with: flysoma view {begun.path}")


@click.command()
@click.argument("path", metavar="RUN")
@click.argument("stage")
@click.option("--queue", required=True, help="sqs://NAME or fq://PATH.")
def enqueue(path: str, stage: str, queue: str) -> None:
    """Put the tasks of STAGE of RUN that have no receipt into a queue."""
    pipeline.check_stage(stage)
    click.echo(
        f"{pipeline.enqueue(Run.open(path), stage, queue)} tasks of {stage} put into {queue}"
    )


@click.command()
@click.argument("queue")
@click.option("--until-empty", is_flag=True, help="Stop when the queue holds no task.")
@click.option("--liveness", metavar="FILE", help="A file to touch while alive, for Kubernetes.")
@click.option("--parent", type=int, hidden=True)
def work(queue: str, until_empty: bool, liveness: str | None, parent: int | None) -> None:
    """Do the tasks of QUEUE until stopped by SIGTERM or Ctrl-C."""
    work_on(queue, until_empty, liveness, parent)


@click.command()
@click.argument("path", metavar="RUN")
@_JSON
def status(path: str, as_json: bool) -> None:
    """Show how far RUN has come, stage by stage."""
    rows = pipeline.status(Run.open(path))
    head = f"{'stage':14} {'done':>8} {'failed':>8} {'total':>8}"
    _table(
        rows,
        as_json,
        head,
        lambda r: (
            f"{r['stage']:14} {r['done']:8d} {r['failed']:8d} "
            f"{'-' if r['total'] is None else r['total']:>8}{' finished' if r['finished'] else ''}"
        ),
    )


def _or(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _table(
    rows: list[dict[str, Any]], as_json: bool, head: str, line: Callable[[dict[str, Any]], str]
) -> None:
    click.echo(json.dumps(rows) if as_json else "\n".join([head, *map(line, rows)]))
