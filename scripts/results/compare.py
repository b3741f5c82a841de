"""`flysoma compare`: the differences between two runs on one volume, or between two versions of one run."""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd

from ...analysis.pages.comparison import summarize_agreement
from ...errors import UserError
from ...tasks.results.comparing import compare_runs, compare_versions, split_version
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

    Compares RUN_A and RUN_B within the box that both cover and lists the largest differences first. RUN@1 and RUN@2
    are two versions of one run; the somas that differ are listed by their ids.
    """
    (path, first), (other, second) = map(split_version, (run_a, run_b))
    if first is not None or second is not None:
        if first is None or second is None or path != other or report is not None:
            raise UserError(
                f"{run_a} and {run_b}: two versions of one run are compared by their tables, without --report; "
                "give RUN@1 RUN@2"
            )
        _print_versions(compare_versions(Run.open(path), first, second), table)
        return
    with Bars() as bars:
        comparison = compare_runs(
            Run.open(run_a), Run.open(run_b), lambda done, total: bars("blocks", done, total)
        )
    rows = comparison.rows
    click.echo(summarize_agreement(comparison.evaluation))
    for row in rows.head(_LISTED).to_dict("records"):
        ids = f"A {row['ids_a'] or '-':12} B {row['ids_b'] or '-':12}"
        click.echo(f"{row['kind']:30} {ids} {row['look']}")
    _save(rows, table)
    if report is not None:
        page = comparison.page()
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(page)


def _print_versions(rows: pd.DataFrame, table: Path | None) -> None:
    counts = ", ".join(f"{n} {change}" for change, n in rows["change"].value_counts().items())
    click.echo(f"{len(rows)} somas differ{f': {counts}' if counts else ''}")
    for row in rows.head(_LISTED).to_dict("records"):
        click.echo(
            f"{row['change']:12} {row['id']:>12}  A {row['volume_um3_a']:9.2f} um3  B {row['volume_um3_b']:9.2f} um3"
        )
    _save(rows, table)


def _save(rows: pd.DataFrame, table: Path | None) -> None:
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(table, index=False)
