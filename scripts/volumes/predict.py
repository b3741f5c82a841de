"""`flysoma predict`: somas of one block in a file, by the very stages of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import numpy as np

from ...errors import UserError
from ...tasks.config import Locate, RunConfig, Segment
from ...tasks.fleet.coordinator import execute_here
from ...tasks.pipeline import begin
from ...tasks.volumes.files import read_array, write_array
from ...tasks.volumes.ingest import NewLayer, ingest_array
from ...tasks.volumes.labels import LabelLayer
from ..progress import Bars


@click.command("predict")
@click.argument("file", type=click.Path())
@click.option("--resolution", nargs=3, type=float, required=True, help="Voxel size in nm, X Y Z.")
@click.option(
    "--output", required=True, type=click.Path(), help="Labels: tif, nii.gz, h5, npy, npz."
)
@click.option("--axes", default="zyx", show_default=True, help="Order of the axes in both files.")
@click.option("--dataset", help="Name of the array inside an h5 or npz file.")
@click.option("--locate-weights", default=Locate().weights, show_default=True)
@click.option("--segment-weights", default=Segment().weights, show_default=True)
def command(
    file: str,
    resolution: tuple[float, float, float],
    output: str,
    axes: str,
    dataset: str | None,
    locate_weights: str,
    segment_weights: str,
) -> None:
    """Find the somas of one 3D block in FILE; labels are written at the voxels of FILE."""
    image = read_array(file, axes, dataset)
    labels = predict_array(image, resolution, locate_weights, segment_weights)
    write_array(Path(output), labels, axes)
    click.echo(f"{len(np.unique(labels)) - (0 in labels)} somas: {output}")


def predict_array(
    image: np.ndarray,
    resolution_nm: tuple[float, float, float],
    locate_weights: str = Locate().weights,
    segment_weights: str = Segment().weights,
) -> np.ndarray:
    """Soma labels (uint32) of a uint8 block; both z, y, x; resolution x, y, z.

    Voxels finer than the networks' are averaged for them, and the labels are brought back to the block's own.
    Voxels coarser than those of the segmentation network are given to it as they are.
    """
    locate = Locate(weights=locate_weights)
    if any(own > needed for own, needed in zip(resolution_nm, locate.resolution_nm)):
        raise UserError(
            f"voxels of {resolution_nm} nm (x, y, z) are too coarse: somas are looked for at "
            f"{locate.resolution_nm} nm; give the block with voxels no larger than that"
        )
    x, y, z = (max(pair) for pair in zip(resolution_nm, Segment().resolution_nm))
    segment = Segment(weights=segment_weights, resolution_nm=(x, y, z))
    with tempfile.TemporaryDirectory(prefix="flysoma-predict-") as folder, Bars() as bars:
        ingest_array(image, NewLayer(f"{folder}/image", resolution_nm))
        config = RunConfig(
            image=f"{folder}/image", output=f"{folder}/run", locate=locate, segment=segment
        )
        run = begin(config)
        execute_here(run, "relabel", bars)
        layer = LabelLayer(run.somas_path)
        labels = layer.read(layer.bounds)
    index = [
        np.minimum((np.arange(n) + 0.5) * own // working, size - 1).astype(int)
        for n, own, working, size in zip(
            image.shape, resolution_nm[::-1], segment.resolution_nm[::-1], labels.shape
        )
    ]
    return labels[np.ix_(*index)].astype(np.uint32)
