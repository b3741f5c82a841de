"""`flysoma plan`: what a run will need."""

from __future__ import annotations

from typing import Any

import click

from ...tasks.config import load_config
from ...tasks.forecast import add_prices, estimate
from ...tasks.pipeline import check_weights
from ...tasks.run import Run
from ..progress import print_table

_REREADS = 1.3  # readings of a chunk, on average, above which larger blocks are suggested
_COLUMNS = (  # key, heading, width, format
    ("tasks", "tasks", 10, ",d"),
    ("dropped", "dropped", 9, ",d"),
    ("voxels", "voxels", 18, ",d"),
    ("gb", "GB read", 12, ",.3f"),
    ("gb_out", "GB out", 11, ",.3f"),
    ("reads", "reads", 12, ",d"),
    ("writes", "writes", 12, ",d"),
    ("hours", "hours", 10, ",.2f"),
    ("money", "cost", 10, ",.2f"),
    ("actual_tasks", "done", 8, ",d"),
    ("actual_hours", "took", 9, ",.2f"),
)


@click.command("plan")
@click.argument("config", type=click.Path())
@click.option(
    "--price",
    is_flag=True,
    help="Estimate hours and cost too, and show what the run has taken so far.",
)
@click.option(
    "--probe",
    metavar="RUN",
    help="Extrapolate the hours from RUN, a finished run on a part of the volume.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(config: str, price: bool, probe: str | None, as_json: bool) -> None:
    """Estimate the tasks, voxels and gigabytes of a run.

    Prints the tasks of each stage of the run that CONFIG describes, or an upper bound, and checks its weights. Writes
    nothing.
    """
    run = Run(load_config(config))
    rows = estimate(run)
    check_weights(run.config)
    source = add_prices(run, rows, Run.open(probe) if probe else None) if price or probe else ""
    columns = [column for column in _COLUMNS if column[0] in rows[0]]
    head = " ".join([f"{'stage':10}", *(f"{name:>{width}}" for _, name, width, _ in columns)])

    def line(row: dict[str, Any]) -> str:
        cells = (f"{_cell(row, key, form):>{width}}" for key, _, width, form in columns)
        return " ".join([f"{row['stage']:10}", *cells])

    print_table(rows, as_json, head, line)
    if as_json:
        return
    if source:
        click.echo(line(_total(rows)))
        click.echo(f"hours: {source}")
    click.echo("<= and all other figures: upper bounds; '-': depends on the number of somas")
    times_read = rows[0]["times_read"]
    if times_read is not None and times_read > _REREADS:
        click.echo(
            f"predict reads each image chunk {times_read:.2f} times on average; a predict.block_tiles larger "
            f"than {list(run.config.predict.block_tiles)} reads less and needs more memory"
        )


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sum of each column; None where no row has a value."""
    total: dict[str, Any] = {"stage": "all"}
    for key, *_ in _COLUMNS:
        known = [row[key] for row in rows if row[key] is not None]
        total[key] = sum(known) if known else None
    return total


def _cell(row: dict[str, Any], key: str, form: str) -> str:
    if row[key] is None:
        return "-"
    bound = "<=" if key == "tasks" and not row.get("exact") else ""
    return bound + format(row[key], form)
