"""`flysoma bench nuclei`: flysoma and baselines on a real volume with known nuclei."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from ...analysis.metrics.point_scores import score_points
from ...analysis.pages.sections import Section, draw_sections
from ...axes import Nm3, Voxel
from ...errors import UserError
from ...tasks.config import Segment
from ...tasks.grids.geometry import flip
from ...tasks.layers.image import ImageLayer
from ...tasks.volumes.files import read_array
from ...tasks.volumes.ingest import NewLayer, ingest_array
from ..options import resolution_option
from ..progress import Bars
from .methods.baselines import METHODS, Sample, Weights, method_options, parse_names

_AXES = ("x_nm", "y_nm", "z_nm")
_COLUMNS = ("points", "own", "shared", "missed", "objects", "without", "seconds")


@click.command("nuclei")
@click.argument("image")
@click.argument("nuclei", type=click.Path(path_type=Path))
@resolution_option("Voxel size in nm, X Y Z; needed for a file.")
@method_options
@click.option("--output", type=click.Path(path_type=Path), help="PNG picture to write.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    image: str,
    nuclei: Path,
    resolution: Nm3 | None,
    methods: str,
    locate_weights: str,
    segment_weights: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Score flysoma and baselines on a volume with known nuclei.

    Counts the nuclei that have an object of their own. IMAGE is a file (z, y, x) or a precomputed image that fits in
    memory. NUCLEI is a CSV table of the centres of all nuclei in it, with the columns x_nm, y_nm and z_nm in the
    coordinates of IMAGE; it may have no rows.
    """
    chosen = parse_names(methods, METHODS, "--methods")
    positions = read_nuclei(nuclei)
    voxel_nm: Voxel = flip(Segment().resolution_nm)
    array, first = _read_image(image, resolution)
    points = positions / voxel_nm - 0.5 - first
    outside = ((points < -0.5) | (points > np.array(array.shape) - 0.5)).any(axis=1)
    if outside.any():
        raise UserError(
            f"{nuclei}: {outside.sum()} of {len(points)} nuclei lie outside {image}, the first at "
            f"{tuple(positions[outside][0][::-1])} nm (x, y, z)"
        )
    sample = Sample(array, voxel_nm, Weights(locate_weights, segment_weights))
    rows: dict[str, dict[str, Any]] = {}
    pictures = []
    middle = round(float(np.median(points[:, 0]))) if len(points) else len(array) // 2
    with Bars() as bars:
        for number, method in enumerate(chosen):
            bars("methods", number, len(chosen))
            answer = sample.answer(method)
            scores = score_points(answer.labels, points, voxel_nm)
            rows[method] = asdict(scores) | {"seconds": answer.seconds}
            pictures.append(Section(method, array[middle], answer.labels[middle], voxel_nm[1:]))
        bars("methods", len(chosen), len(chosen))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(draw_sections(pictures, columns=3))
    click.echo(json.dumps(rows, indent=2) if as_json else _table(rows))


def read_nuclei(path: Path) -> np.ndarray:
    """Read the positions (n, 3; z, y, x; nm) of a CSV table with the columns x_nm, y_nm and z_nm.

    Raises:
      UserError: it cannot be read, a column is missing, or a position is not a number.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as err:
        raise UserError(f"{path} cannot be read as a table: {err}") from err
    if not set(_AXES) <= set(table.columns):
        raise UserError(f"{path} needs the columns {', '.join(_AXES)}; it has {list(table)}")
    positions = table[list(_AXES[::-1])].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        raise UserError(f"{path}: nucleus {bad[0] + 1} has a position that is not a number")
    return positions


def _read_image(source: str, resolution: Nm3 | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the image at the working resolution of segmentation, and its first voxel; both z, y, x."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as folder:
        if Path(source).is_file():
            if resolution is None:
                raise UserError(f"{source} is a file: give its voxel size with --resolution X Y Z")
            array = read_array(source, resolution_nm=resolution)
            ingest_array(array, NewLayer(f"{folder}/image", resolution))
            source = f"{folder}/image"
        layer = ImageLayer(source)
        bounds = layer.working_bounds(Segment().resolution_nm)
        return layer.read(bounds, Segment().resolution_nm), np.array(bounds.lo[::-1])


def _table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [" ".join([f"{'':20}", *(f"{column:>9}" for column in _COLUMNS)])]
    for method, row in rows.items():
        lines.append(" ".join([f"{method:20}", *(f"{row[column]:9.0f}" for column in _COLUMNS)]))
    return "\n".join(lines)
