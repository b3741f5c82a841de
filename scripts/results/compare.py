"""`flysoma compare`: the differences between two runs on one volume."""

from __future__ import annotations

from pathlib import Path

import click

from ...analysis.pages.comparison import summarize_agreement
from ...tasks.results.comparing import compare_runs
from ...tasks.run import Run
from ..progress import Bars

_LISTED = 10


@click.command("compare")
@click.argument("run_a")
@click.argument("run_b")
@click.option(
    "--table", type=click.Path(path_type=Path), help="CSV file to write: all differences."
)
@click.option(
    "--report", type=click.Path(path_type=Path), help="HTML page to write, with pictures."
)
def command(run_a: str, run_b: str, table: Path | None, report: Path | None) -> None:
    """List the differences between the somas of two runs.

    Compares RUN_A and RUN_B within the box that both cover and lists the largest differences first.
    """
    with Bars() as bars:
        comparison = compare_runs(
            Run.open(run_a), Run.open(run_b), lambda done, total: bars("blocks", done, total)
        )
    rows = comparison.rows
    click.echo(summarize_agreement(comparison.evaluation))
    for row in rows.head(_LISTED).to_dict("records"):
        ids = f"A {row['ids_a'] or '-':12} B {row['ids_b'] or '-':12}"
        click.echo(f"{row['kind']:30} {ids} {row['look']}")
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(table, index=False)
    if report is not None:
        page = comparison.page()
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(page)
