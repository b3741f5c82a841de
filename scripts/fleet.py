"""`flysoma status | enqueue | retry | clean`: looking after a run while workers do it, and when it is over."""

from __future__ import annotations

import time
from typing import Any

import click

from ..tasks import coordinator
from ..tasks.pipeline import status as status_of
from ..tasks.run import Run
from .progress import print_table

_WATCH_S = 5.0
_QUEUE = click.option("--queue", required=True, help="sqs://NAME or fq://PATH.")
_HEAD = f"{'stage':12} {'done':>8} {'leased':>7} {'failed':>7} {'total':>8} {'per hour':>9} {'left':>8} {'peak GB':>8}"


@click.command()
@click.argument("path", metavar="RUN")
@click.option(
    "--watch", is_flag=True, help="Show it anew every few seconds, until the run is over."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(path: str, watch: bool, as_json: bool) -> None:
    """Show how far RUN has come, stage by stage."""
    run = Run.open(path)
    while True:
        rows = status_of(run)
        if watch and not as_json:
            click.clear()
        print_table(rows, as_json, _HEAD, _line)
        if not as_json:
            _remarks(rows)
        if not watch or rows[-1]["finished"] or any(row["halted"] for row in rows):
            return
        time.sleep(_WATCH_S)


@click.command()
@click.argument("path", metavar="RUN")
@click.argument("stage")
@_QUEUE
@click.option("--missing", is_flag=True, help="As without: a task that has a receipt is never put.")
def enqueue(path: str, stage: str, queue: str, missing: bool) -> None:
    """Put the tasks of STAGE of RUN that have no receipt into a queue."""
    count = coordinator.enqueue(Run.open(path), stage, queue)
    click.echo(f"{count} tasks of {stage} put into {queue}")


@click.command()
@click.argument("path", metavar="RUN")
@_QUEUE
@click.option("--cpu-queue", help="For stages that run no network; default: --queue.")
@click.option(
    "--failed", is_flag=True, help="As without: only what failed for good is tried again."
)
def retry(path: str, queue: str, cpu_queue: str | None, failed: bool) -> None:
    """Put the tasks of RUN that failed for good into a queue again, their failures forgotten."""
    found = coordinator.retry(Run.open(path), queue, cpu_queue)
    for stage, count in found.items():
        click.echo(f"{count} tasks of {stage} put into the queue")
    if not found:
        click.echo("no task has failed for good")


@click.command()
@click.argument("path", metavar="RUN")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
def clean(path: str, dry_run: bool) -> None:
    """Delete what a finished RUN needed on its way: labels of blocks, slabs, parts of tables, receipts.

    Segmentation, meshes, skeletons, tables, report, seeds and the record of every stage stay.
    """
    for folder, count in coordinator.clean(Run.open(path), dry_run).items():
        click.echo(f"{count:8d} objects of {folder}{' would go' if dry_run else ' deleted'}")


def _line(row: dict[str, Any]) -> str:
    known = row["total"] is not None
    cells = [f"{row[key]:>{width}}" if known else f"{'-':>{width}}" for key, width in _COLUMNS]
    rate = "-" if row["rate"] is None else f"{row['rate']:,.0f}"
    peak = f"{row['peak_gb']:.1f}" if row["peak_gb"] else "-"
    state = "  finished" if row["finished"] else "  halted" if row["halted"] else ""
    return f"{row['stage']:12} {' '.join(cells)} {rate:>9} {_duration(row['eta_s']):>8} {peak:>8}{state}"


_COLUMNS = (("done", 8), ("leased", 7), ("failed", 7), ("total", 8))


def _remarks(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if row["halted"]:
            click.echo(f"{row['stage']}: {row['halted']}")
        for late in row["stragglers"]:
            click.echo(
                f"{row['stage']} {late['index']}: in hand for {late['minutes']:.0f} minutes on {late['host']}"
            )
    cost = sum(row["cost"] for row in rows)
    hours = f"{sum(row['task_hours'] for row in rows):,.2f} hours of tasks so far"
    click.echo(f"{hours}, {cost:,.2f} at the config's prices" if cost else hours)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes = -(-int(seconds) // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:,.1f} h"
