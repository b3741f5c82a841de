"""`flysoma bench nuclei`: ours and its rivals on a real volume of which the nuclei are known."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from ...analysis.metrics.points import score_points
from ...analysis.pages.overview import Section, overview_figure
from ...axes import Voxel
from ...errors import UserError
from ...tasks.config import Segment
from ...tasks.volumes.files import read_array
from ...tasks.volumes.image import ImageLayer
from ...tasks.volumes.ingest import NewLayer, ingest_array
from ..progress import Bars
from .ways.rivals import RIVALS, Block, Weights, chosen, way_options

_AXES = ("x_nm", "y_nm", "z_nm")
_COLUMNS = ("points", "own", "shared", "missed", "objects", "without", "seconds")


@click.command("nuclei")
@click.argument("image")
@click.argument("nuclei", type=click.Path(path_type=Path))
@click.option("--resolution", nargs=3, type=float, help="Voxel size of a file in nm, X Y Z.")
@way_options
@click.option("--output", type=click.Path(path_type=Path), help="Picture (.png) to write.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    image: str,
    nuclei: Path,
    resolution: Voxel | None,
    rivals: str,
    locate_weights: str,
    segment_weights: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Score flysoma and other ways on IMAGE by its NUCLEI: how many have an object of their own?

    IMAGE is a file (z, y, x) or a precomputed image, small enough for memory. NUCLEI is a table (.csv) of the middle
    of every nucleus in it: x_nm, y_nm and z_nm, from where the coordinates of IMAGE are counted; it may be empty.
    """
    ways = chosen(rivals, RIVALS, "--rivals")
    positions = read_nuclei(nuclei)
    voxel_nm: Voxel = Segment().resolution_nm[::-1]
    array, first = _image(image, resolution)
    points = positions / voxel_nm - 0.5 - first
    outside = ((points < -0.5) | (points > np.array(array.shape) - 0.5)).any(axis=1)
    if outside.any():
        raise UserError(
            f"{nuclei}: {outside.sum()} of {len(points)} nuclei lie outside {image}, the first at "
            f"{tuple(positions[outside][0][::-1])} nm (x, y, z)"
        )
    block = Block(array, voxel_nm, Weights(locate_weights, segment_weights))
    found: dict[str, dict[str, Any]] = {}
    pictures = []
    middle = round(float(np.median(points[:, 0]))) if len(points) else len(array) // 2
    with Bars() as bars:
        for number, way in enumerate(ways):
            bars("ways", number, len(ways))
            answer = block.answer(way)
            scores = score_points(answer.labels, points, voxel_nm)
            found[way] = asdict(scores) | {"seconds": answer.seconds}
            pictures.append(Section(way, array[middle], answer.labels[middle], voxel_nm[1:]))
        bars("ways", len(ways), len(ways))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(overview_figure(pictures, columns=3))
    click.echo(json.dumps(found, indent=2) if as_json else _table(found))


def read_nuclei(path: Path) -> np.ndarray:
    """Positions in nm, z, y, x."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as err:
        raise UserError(f"{path} cannot be read as a table: {err}") from err
    if not set(_AXES) <= set(table.columns):
        raise UserError(f"{path} needs the columns {', '.join(_AXES)}; it has {list(table)}")
    positions = table[list(_AXES[::-1])].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        raise UserError(f"{path}: nucleus {bad[0] + 1} has a position that is no number")
    return positions


def _image(source: str, resolution: Voxel | None) -> tuple[np.ndarray, np.ndarray]:
    """An image with the voxels of the segmentation network, and its first voxel; both z, y, x."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as folder:
        if Path(source).is_file():
            if resolution is None:
                raise UserError(f"{source} is a file: give its voxel size with --resolution X Y Z")
            ingest_array(read_array(source), NewLayer(f"{folder}/image", resolution))
            source = f"{folder}/image"
        layer = ImageLayer(source)
        bounds = layer.working_bounds(Segment().resolution_nm)
        return layer.read(bounds, Segment().resolution_nm), np.array(bounds.lo[::-1])


def _table(found: dict[str, dict[str, Any]]) -> str:
    lines = [" ".join([f"{'':20}", *(f"{column:>9}" for column in _COLUMNS)])]
    for way, row in found.items():
        lines.append(" ".join([f"{way:20}", *(f"{row[column]:9.0f}" for column in _COLUMNS)]))
    return "\n".join(lines)
