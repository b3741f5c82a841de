"""`flysoma evaluate`: scores of a segmentation against the truth."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from ..analysis.metrics import evaluate
from ..tasks.volume import LabelLayer
from .files import read_array


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
    help="Truth that the volume's edge cuts counts only if it shows at least this.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    pred: str,
    truth: str,
    resolution: tuple[float, float, float],
    axes: str,
    published: bool,
    min_edge_um3: float,
    as_json: bool,
) -> None:
    """Score PRED against TRUTH, each a file of labels or a precomputed segmentation."""
    scores = evaluate(
        _labels(pred, axes),
        _labels(truth, axes),
        resolution[::-1],
        published=published,
        min_edge_truth_um3=min_edge_um3,
    )
    click.echo(json.dumps(scores.to_dict()) if as_json else scores.format())


def _labels(source: str, axes: str) -> np.ndarray:
    """A file's array, or the whole of a layer at its finest mip; z, y, x."""
    if Path(source).is_file():
        return read_array(source, axes)
    layer = LabelLayer(source)
    return layer.read(layer.bounds)
