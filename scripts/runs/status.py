"""`flysoma status`: the progress of a run."""

from __future__ import annotations

import time
from typing import Any

import click

from ...tasks.fleet.sick_hosts import sick_hosts
from ...tasks.fleet.status import status
from ...tasks.run import Run
from ..progress import print_table

_WATCH_S = 5.0
_COUNTS = (("done", 8), ("leased", 7), ("failed", 7), ("total", 8))  # key, width
_HEAD = " ".join(
    [
        f"{'stage':12}",
        *(f"{key:>{width}}" for key, width in _COUNTS),
        f"{'per hour':>9} {'left':>8} {'peak GB':>8}",
    ]
)


@click.command("status")
@click.argument("path", metavar="RUN")
@click.option(
    "--watch", is_flag=True, help="Refresh every few seconds until the run finishes or halts."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(path: str, watch: bool, as_json: bool) -> None:
    """Show the progress of a run, stage by stage."""
    run = Run.open(path)
    while True:
        rows = status(run)
        if watch and not as_json:
            click.clear()
        print_table(rows, as_json, _HEAD, _line)
        if not as_json:
            _print_remarks(rows, sick_hosts(run.store))
            _print_version(run)
        if not watch or all(row["finished"] for row in rows) or any(row["halted"] for row in rows):
            return
        time.sleep(_WATCH_S)


def _line(row: dict[str, Any]) -> str:
    known = row["total"] is not None
    counts = [f"{row[key]:>{width}}" if known else f"{'-':>{width}}" for key, width in _COUNTS]
    rate = "-" if row["rate"] is None else f"{row['rate']:,.0f}"
    peak = f"{row['peak_gb']:.1f}" if row["peak_gb"] else "-"
    state = "  finished" if row["finished"] else "  halted" if row["halted"] else ""
    return f"{row['stage']:12} {' '.join(counts)} {rate:>9} {_duration(row['eta_s']):>8} {peak:>8}{state}"


def _print_remarks(rows: list[dict[str, Any]], sick: dict[str, dict[str, Any]]) -> None:
    for name, fault in sick.items():
        minutes = (time.time() - fault["time"]) / 60
        click.echo(f"{name} is sick: {fault['error']} ({minutes:.0f} minutes ago)")
    for row in rows:
        if row["lost"] > 1:
            click.echo(f"{row['stage']}: the workers put its messages aside ({row['lost']} times)")
        if row["no_worker_s"]:
            click.echo(f"{row['stage']}: no worker for {row['no_worker_s'] / 60:.0f} minutes")
        if row["repairs"]:
            click.echo(
                f"{row['stage']}: {row['repairs']} tasks repeated, because their output was damaged or lost"
            )
        if row["halted"]:
            click.echo(f"{row['stage']}: {row['halted']}")
        for late in row["stragglers"]:
            click.echo(
                f"{row['stage']} {late['index']}: running for {late['minutes']:.0f} minutes on {late['host']}"
            )
    cost = sum(row["cost"] for row in rows)
    hours = f"{sum(row['task_hours'] for row in rows):,.2f} task-hours so far"
    click.echo(f"{hours}, cost {cost:,.2f} at the prices of the config" if cost else hours)


def _print_version(run: Run) -> None:
    for version in run.versions()[-1:]:
        if version.finished:
            click.echo(f"version {version.number} of the somas")
        else:
            click.echo(
                f"between versions {version.number - 1} and {version.number} of the somas; finish it with "
                f"'flysoma apply {run.path}'"
            )


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes = -(-int(seconds) // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:,.1f} h"
