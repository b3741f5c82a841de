"""`flysoma ingest`: a file as a precomputed layer."""

from __future__ import annotations

from typing import Any

import click

from ...tasks.volumes.ingest import NewLayer, ingest
from ..progress import Bars


@click.command("ingest")
@click.argument("file", type=click.Path())
@click.argument("cloudpath")
@click.option("--resolution", nargs=3, type=float, required=True, help="Voxel size in nm, X Y Z.")
@click.option(
    "--offset",
    nargs=3,
    type=int,
    default=(0, 0, 0),
    show_default=True,
    help="First voxel of the layer, X Y Z.",
)
@click.option("--axes", default="zyx", show_default=True, help="Order of the axes in FILE.")
@click.option("--dataset", help="Name of the array in an h5 or npz file.")
@click.option("--rescale", nargs=2, type=float, help="Grey values to map to 0 and 255.")
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
