"""`flysoma look`: the look of an image, measured without labels."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ...analysis.look.stats import LookStats, look_distance
from ...analysis.pages.look import look_figure, look_rows
from ...axes import Nm3
from ...errors import UserError
from ...tasks.layers.ownership import check_output
from ...tasks.volumes.samples import measure_samples, read_samples
from ..options import axes_option, dataset_option, places_option, resolution_option


@click.command("look")
@click.argument("image")
@resolution_option(
    "Voxel size in nm, X Y Z; needed for a 3D file. Default for pictures: 40 40 40. For a layer, the resolution "
    "to read."
)
@axes_option("a 3D file")
@dataset_option
@places_option
@click.option(
    "--beside",
    type=click.Path(path_type=Path),
    help="JSON file of another look, to compute the distance to it.",
)
@click.option("--output", type=click.Path(path_type=Path), help="PNG picture to write.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    image: str,
    resolution: Nm3 | None,
    axes: str | None,
    dataset: str | None,
    places: int,
    beside: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure the look of an image, without labels.

    Measures grey values, contrast, noise, blur and spectra in tissue, and the differences of neighbouring sections.
    IMAGE is a precomputed layer, a 3D file (tif, nii, nii.gz, h5, npy, npz), a PNG or JPEG picture, or a folder of
    pictures of separate sections. NAME_invalid.png is white where pixels of the picture NAME are excluded.
    """
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        check_output(output, image)
    other = None if beside is None else _read_look(beside)
    samples, voxel_nm = read_samples(image, resolution, axes, dataset, places)
    look = measure_samples(image, samples, voxel_nm)
    if output is not None:
        middle = samples[len(samples) // 2].image
        output.write_bytes(look_figure(Path(image).name, look, middle[len(middle) // 2], other))
    if as_json:
        distance = {} if other is None else {"distance": vars(look_distance(look, other))}
        click.echo(json.dumps(look.to_json() | distance, indent=2))
    else:
        click.echo(_table(look, other))


def _table(look: LookStats, other: LookStats | None) -> str:
    rows = look_rows(look)
    if other is not None:
        distance = look_distance(look, other)
        rows.append(("distance to the other look", f"{distance.total:.2f}"))
        rows += [(f"  {name}", f"{value:.2f}") for name, value in distance.parts.items()]
    return "\n".join(f"{name:<32}{value}" for name, value in rows)


def _read_look(path: Path) -> LookStats:
    try:
        return LookStats.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UserError(f"{path} is not the JSON output of 'flysoma look --json': {err}") from err
