"""`flysoma predict`: the somas of one block in a file."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from ...axes import Nm3
from ...tasks.arrays import predict_array
from ...tasks.config import Locate, Segment
from ...tasks.volumes.files import read_array, write_array
from ..progress import Bars


@click.command("predict")
@click.argument("file", type=click.Path())
@click.option("--resolution", nargs=3, type=float, required=True, help="Voxel size in nm, X Y Z.")
@click.option(
    "--output",
    required=True,
    type=click.Path(),
    help="File to write labels to: tif, nii.gz, h5, npy or npz.",
)
@click.option("--axes", default="zyx", show_default=True, help="Order of the axes in both files.")
@click.option("--dataset", help="Name of the array in an h5 or npz file.")
@click.option(
    "--locate-weights",
    default=Locate().weights,
    show_default=True,
    help="Weights of the localization network.",
)
@click.option(
    "--segment-weights",
    default=Segment().weights,
    show_default=True,
    help="Weights of the segmentation network.",
)
def command(
    file: str,
    resolution: Nm3,
    output: str,
    axes: str,
    dataset: str | None,
    locate_weights: str,
    segment_weights: str,
) -> None:
    """Segment the somas of one 3D block in a file.

    FILE must fit in memory. The labels have the shape and voxels of FILE.
    """
    image = read_array(file, axes, dataset)
    with Bars() as bars:
        labels = predict_array(image, resolution, locate_weights, segment_weights, bars)
    write_array(Path(output), labels, axes)
    click.echo(f"{len(np.unique(labels)) - (0 in labels)} somas: {output}")
