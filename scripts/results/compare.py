"""`flysoma compare`: what two runs on one volume disagree on."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import click
import numpy as np

from ...analysis.metrics.evaluation import evaluate
from ...analysis.pages.comparison import (
    SAME_IOU,
    Look,
    agreement,
    comparison_page,
    comparison_table,
)
from ...analysis.viewer import state as viewer
from ...errors import UserError
from ...tasks.run import Run
from ...tasks.volumes.open_labels import LayerLabels, part_of
from ..progress import Bars
from .view import view_state

_LISTED = 10


@click.command("compare")
@click.argument("run_a")
@click.argument("run_b")
@click.option("--table", type=click.Path(path_type=Path), help="CSV to write: every disagreement.")
@click.option(
    "--report", type=click.Path(path_type=Path), help="HTML page to write, with pictures."
)
def command(run_a: str, run_b: str, table: Path | None, report: Path | None) -> None:
    """Tell what the somas of RUN_A and RUN_B disagree on, where both have looked; the largest first."""
    a, b = Run.open(run_a), Run.open(run_b)
    resolution = a.somas.resolution_nm
    if not np.allclose(resolution, b.somas.resolution_nm):
        raise UserError(
            f"{run_a} has voxels of {resolution} nm and {run_b} of {b.somas.resolution_nm} (x, y, z); "
            "only runs at one resolution can be compared"
        )
    box = a.somas.bounds.intersect(b.somas.bounds)
    if box.empty:
        raise UserError(
            f"{run_a} covers {a.somas.bounds} and {run_b} {b.somas.bounds}: nothing is in both"
        )
    labels = LayerLabels(a.somas, box), LayerLabels(b.somas, box)
    voxel_nm = resolution[::-1]
    offset_nm = tuple(o * v for o, v in zip(labels[0].origin, voxel_nm))
    with Bars() as bars:
        found = evaluate(
            *labels,
            voxel_nm,  # type: ignore[arg-type]
            min_truth_um3=0,
            progress=lambda done, of: bars("blocks", done, of),
        )
    cases = [c for c in found.cases if c.kind != "border" or c.iou < SAME_IOU]
    found = replace(found, cases=cases)
    rows = comparison_table(found, voxel_nm, offset_nm, _looks(a, b))  # type: ignore[arg-type]
    click.echo(agreement(found))
    for row in rows.head(_LISTED).itertuples():
        click.echo(f"{row.kind:30} A {row.ids_a or '-':12} B {row.ids_b or '-':12} {row.look}")
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(table, index=False)
    if report is not None:
        text = comparison_page(
            (a.path, b.path),
            found,
            labels,
            voxel_nm,  # type: ignore[arg-type]
            lambda lo, hi: a.image.read(part_of(box, lo, hi), resolution),
            rows,
        )
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(text)


def _looks(a: Run, b: Run) -> Look:
    """What shows a place in both runs: a link where both are in buckets, a command otherwise."""
    state = None
    with contextlib.suppress(UserError):
        state = view_state(a, beside=b)

    def look(position_nm: tuple[float, float, float]) -> str:
        if state is not None:
            return viewer.link(state | {"position": list(position_nm)})
        at = " ".join(f"{v:.0f}" for v in position_nm)
        return f"flysoma view {a.path} --beside {b.path} --at {at}"

    return look
