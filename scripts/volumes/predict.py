"""`flysoma predict`: the somas of one block in a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import numpy as np

from ...axes import Nm3
from ...errors import UserError
from ...tasks.arrays import predict_array
from ...tasks.config import Locate, Segment
from ...tasks.layers.ownership import check_output
from ...tasks.run import predictor
from ...tasks.volumes.files import file_format, read_volume, write_array
from ...tasks.volumes.grey import check_grey
from ..device import device_option
from ..options import axes_option, dataset_option, resolution_option
from ..progress import Bars


@click.command("predict")
@click.argument("file", type=click.Path())
@resolution_option(required=True)
@click.option(
    "--output",
    required=True,
    type=click.Path(),
    help="File to write labels to: tif, nii.gz, h5, npy or npz.",
)
@click.option(
    "--nuclei",
    type=click.Path(),
    help="File to write the nuclei to, with the labels of their somas; needs weights that predict nuclei.",
)
@axes_option("both files")
@dataset_option
@device_option
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
    nuclei: str | None,
    axes: str | None,
    dataset: str | None,
    locate_weights: str,
    segment_weights: str,
) -> None:
    """Segment the somas of one 3D block in a file.

    FILE must fit in memory. The labels have the shape and voxels of FILE.
    """
    for path in filter(None, (output, nuclei)):
        check_output(path, file)
        file_format(path)
    volume = read_volume(file, axes, dataset, resolution_nm=resolution)
    check_grey(volume.array, file)
    if nuclei is not None and not predictor(segment_weights).network.spec.has_nuclei:
        raise UserError(
            f"--nuclei {nuclei}: {segment_weights} predicts no nuclei; omit it, or give --segment-weights that predict "
            "nuclei"
        )
    with Bars() as bars:
        found = predict_array(volume.array, resolution, locate_weights, segment_weights, bars)
    write = partial(write_array, axes=volume.axes, resolution_nm=resolution, header=volume.header)
    write(Path(output), found.labels)
    click.echo(f"{len(np.unique(found.labels)) - (0 in found.labels)} somas: {output}")
    if nuclei is not None and found.nuclei is not None:
        write(Path(nuclei), found.nuclei)
        click.echo(f"their nuclei: {nuclei}")
