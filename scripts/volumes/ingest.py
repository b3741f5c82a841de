"""`flysoma ingest`: a file as a precomputed layer."""

from __future__ import annotations

from typing import Any

import click

from ...tasks.volumes.ingest import NewLayer, ingest
from ..options import MAX_OFFSET_VX, Finite, axes_option, dataset_option, resolution_option
from ..progress import Bars


@click.command("ingest")
@click.argument("file", type=click.Path())
@click.argument("cloudpath")
@resolution_option(required=True)
@click.option(
    "--offset",
    nargs=3,
    type=click.IntRange(-MAX_OFFSET_VX, MAX_OFFSET_VX),
    default=(0, 0, 0),
    show_default=True,
    help="First voxel of the layer, X Y Z.",
)
@axes_option("FILE")
@dataset_option
@click.option("--rescale", nargs=2, type=Finite(), help="Grey values to map to 0 and 255.")
@click.option("--segmentation", "labels", is_flag=True, help="FILE holds labels, not an image.")
@click.option("--overwrite", is_flag=True, help="Replace an existing layer.")
def command(**options: Any) -> None:
    """Convert a file to a precomputed layer.

    Reads FILE (tif, nii, nii.gz, h5, npy or npz) and writes a layer with mips at CLOUDPATH.

    With --segmentation, FILE may also be a closed mesh (obj, in nm); its interior gets label 1, for use as the mask
    of a run.
    """
    layer = NewLayer(
        options["cloudpath"],
        options["resolution"],
        options["offset"],
        "segmentation" if options["labels"] else "image",
        overwrite=options["overwrite"],
    )
    with Bars() as bars:
        sizes = ingest(
            options["file"],
            layer,
            options["axes"],
            options["dataset"],
            options["rescale"] or None,
            bars,
        )
    x, y, z = sizes[0]
    mips = "1 mip" if len(sizes) == 1 else f"{len(sizes)} mips"
    click.echo(f"{layer.cloudpath}: {x} x {y} x {z} voxels, {mips}")
