"""`flysoma evaluate`: a segmentation against ground truth."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ...axes import Nm3
from ...tasks.results.scoring import Source, score_segmentation
from ..options import Finite, axes_option, resolution_option
from ..progress import Bars


@click.command("evaluate")
@click.argument("pred")
@click.argument("truth")
@resolution_option("Voxel size of files in nm, X Y Z; layers have their own.")
@axes_option("files")
@click.option(
    "--published",
    is_flag=True,
    help="Use the published protocol: drop true somas under 2000 voxels and ignore none.",
)
@click.option(
    "--min-edge-um3",
    type=Finite(min=0),
    default=0.0,
    show_default=True,
    help="Ignore somas that the volume's edge cuts to less than this, true and unmatched predicted ones.",
)
@click.option(
    "--confidence",
    metavar="TABLE",
    type=click.Path(),
    help="A run's tables/somas.parquet or .csv, whose confidence ranks the predictions for AP; default: "
    "rank by size.",
)
@click.option(
    "--report", type=click.Path(path_type=Path), help="HTML page of the largest errors to write."
)
@click.option("--image", help="Image for the report: a file or a precomputed image.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    pred: str,
    truth: str,
    resolution: Nm3 | None,
    axes: str | None,
    published: bool,
    min_edge_um3: float,
    confidence: str | None,
    report: Path | None,
    image: str | None,
    as_json: bool,
) -> None:
    """Score a segmentation against ground truth.

    PRED and TRUTH are each a file of labels, a precomputed segmentation, or a run, whose somas are scored. Layers are
    read block by block, those of different voxel sizes at the larger ones. If TRUTH is a layer that covers less than
    PRED, only that part is scored.
    """
    with Bars() as bars:
        scored = score_segmentation(
            pred,
            truth,
            Source(resolution, axes),
            published=published,
            min_edge_um3=min_edge_um3,
            confidence=confidence,
            progress=lambda done, total: bars("blocks", done, total),
        )
    if report is not None:
        title = f"{Path(pred.rstrip('/')).name} against {Path(truth.rstrip('/')).name}"
        page = scored.page(title, image)
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(page)
    click.echo(json.dumps(scored.to_dict()) if as_json else scored.format())
