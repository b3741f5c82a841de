"""`flysoma evaluate`: scores of a segmentation against the truth."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import pandas as pd

from ...analysis.metrics.evaluation import ArrayLabels, Evaluation, evaluate
from ...analysis.pages.evaluation import describe, evaluation_page, position_nm
from ...axes import Voxel
from ...errors import UserError
from ...tasks.volumes.files import read_array
from ...tasks.volumes.geometry import Box, vec3
from ...tasks.volumes.image import ImageLayer
from ...tasks.volumes.open_labels import FileLabels, LayerLabels, open_labels, part_of
from ..progress import Bars

_LISTED = ("merge", "split")


@click.command("evaluate")
@click.argument("pred")
@click.argument("truth")
@click.option("--resolution", nargs=3, type=float, required=True, help="Voxel size in nm, X Y Z.")
@click.option("--axes", default="zyx", show_default=True, help="Order of the axes in files.")
@click.option("--published", is_flag=True, help="As published: truth under 2000 voxels dropped.")
@click.option(
    "--min-edge-um3",
    default=0.0,
    show_default=True,
    help="What the volume's edge cuts to less than this is not judged, true or falsely found.",
)
@click.option(
    "--confidence",
    type=click.Path(),
    help="Table of PRED (tables/somas.parquet or .csv of a run) whose confidence ranks somas for AP; else size does.",
)
@click.option("--report", type=click.Path(path_type=Path), help="HTML page to write: worst cases.")
@click.option("--image", help="EM to show in the report, a file or a precomputed image.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    pred: str,
    truth: str,
    resolution: Voxel,
    axes: str,
    published: bool,
    min_edge_um3: float,
    confidence: str | None,
    report: Path | None,
    image: str | None,
    as_json: bool,
) -> None:
    """Score PRED against TRUTH, each a file of labels or a precomputed segmentation.

    Layers are read block by block; where TRUTH is a layer that covers less than PRED, that part is scored.
    """
    voxel_nm = resolution[::-1]
    two = open_labels(truth, axes, resolution)
    one = open_labels(pred, axes, resolution, two)
    with Bars() as bars:
        found = evaluate(
            one,
            two,
            voxel_nm,
            published=published,
            min_edge_um3=min_edge_um3,
            confidence=_confidence(confidence) if confidence else None,
            progress=lambda done, of: bars("blocks", done, of),
        )
    if found.scores.truth + found.scores.truth_ignored == 0:
        raise UserError(
            f"{truth} holds no soma, so there is nothing to score; {found.scores.predicted} are predicted, all false"
        )
    offset_nm = tuple(o * v for o, v in zip(two.origin, voxel_nm))
    if report is not None:
        reader = _image_reader(image, axes, resolution, two) if image else None
        title = f"{Path(pred.rstrip('/')).name} against {Path(truth.rstrip('/')).name}"
        text = evaluation_page(title, found, one, two, voxel_nm, reader, offset_nm)
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(text)
    click.echo(_json(found, voxel_nm, offset_nm) if as_json else _text(found, voxel_nm, offset_nm))


def _image_reader(source: str, axes: str, resolution: Voxel, like: LayerLabels | FileLabels) -> Any:
    """Reads the image of a part of the evaluated volume."""
    if Path(source).is_file():
        image = read_array(source, axes)
        if image.shape != like.shape:
            raise UserError(
                f"{source} has shape {image.shape} and the labels {like.shape} (z, y, x)"
            )
        return ArrayLabels(image).read
    layer, lo = ImageLayer(source, fill_missing=True), vec3(like.origin[::-1])
    box = Box(lo, vec3([a + n for a, n in zip(lo, like.shape[::-1])]))
    bounds = layer.working_bounds(resolution)
    if box.intersect(bounds) != box:
        raise UserError(f"{source} covers {bounds} and the labels {box} (voxels, x, y, z)")
    return lambda lo, hi: layer.read(part_of(box, lo, hi), resolution)


def _confidence(table: str) -> dict[int, float]:
    """Confidence by id, of a table that a run wrote."""
    path = Path(table)
    if not path.is_file():
        raise UserError(f"no table at {table}")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except ValueError as err:
        raise UserError(f"{table} cannot be read as a table ({err}); is it whole?") from err
    if not {"id", "confidence"} <= set(frame.columns):
        raise UserError(
            f"{table} needs the columns id and confidence; it has {list(frame.columns)}"
        )
    return dict(zip(frame["id"].astype(int), frame["confidence"].astype(float)))


def _text(found: Evaluation, voxel_nm: Voxel, offset_nm: Any) -> str:
    lines = [found.scores.format()]
    lines += [describe(c, voxel_nm, offset_nm) for c in found.cases if c.kind in _LISTED]
    return "\n".join(lines)


def _json(found: Evaluation, voxel_nm: Voxel, offset_nm: Any) -> str:
    cases = []
    for case in found.cases:
        values = asdict(case) | {"position_nm": position_nm(case, voxel_nm, offset_nm)}
        cases.append({k: v for k, v in values.items() if k not in ("centre", "box")})
    return json.dumps(found.scores.to_dict() | {"cases": cases})
