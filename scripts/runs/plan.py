"""`flysoma plan`: what a run will ask for."""

from __future__ import annotations

from typing import Any

import click

from ...tasks.config import load_config
from ...tasks.forecast import add_prices, estimate
from ...tasks.run import Run
from ..progress import print_table


@click.command("plan")
@click.argument("config", type=click.Path())
@click.option(
    "--price", is_flag=True, help="Hours and money too, and what the run has taken so far."
)
@click.option(
    "--probe", metavar="RUN", help="A finished run, of a part, whose hours tell those of all."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(config: str, price: bool, probe: str | None, as_json: bool) -> None:
    """Show the tasks, voxels and gigabytes that CONFIG asks for; writes nothing."""
    asked = Run(load_config(config))
    rows = estimate(asked)
    source = add_prices(asked, rows, Run.open(probe) if probe else None) if price or probe else ""
    columns = [column for column in _COLUMNS if column[0] in rows[0]]
    head = " ".join([f"{'stage':10}", *(f"{name:>{width}}" for _, name, width, _ in columns)])

    def line(row: dict[str, Any]) -> str:
        cells = (f"{_or(row[key], form):>{width}}" for key, _, width, form in columns)
        return " ".join([f"{row['stage']:10}", *cells])

    print_table(rows, as_json, head, line)
    if as_json:
        return
    if source:
        click.echo(line(_total(rows)))
        click.echo(f"hours: {source}")
    click.echo("most that there can be; '-': batches of somas, as many as are found")
    times = rows[0]["times_read"]
    if times is not None and times > _OFTEN:
        click.echo(
            f"predict reads a chunk of the image {times:.2f} times: larger predict.block_tiles "
            f"than {list(asked.config.predict.block_tiles)} read less, and hold more in memory"
        )


_OFTEN = 1.3

_COLUMNS = (  # key, name, width, form
    ("tasks", "tasks <=", 10, ",d"),
    ("dropped", "dropped", 9, ",d"),
    ("voxels", "voxels", 18, ",d"),
    ("gb", "GB read", 12, ",.3f"),
    ("gb_out", "GB out", 11, ",.3f"),
    ("reads", "reads", 12, ",d"),
    ("writes", "writes", 12, ",d"),
    ("hours", "hours", 10, ",.2f"),
    ("money", "money", 10, ",.2f"),
    ("actual_tasks", "done", 8, ",d"),
    ("actual_hours", "took", 9, ",.2f"),
)


def _total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of sums; None where nothing is known."""
    total: dict[str, Any] = {"stage": "all"}
    for key, *_ in _COLUMNS:
        known = [row[key] for row in rows if row[key] is not None]
        total[key] = sum(known) if known else None
    return total


def _or(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
