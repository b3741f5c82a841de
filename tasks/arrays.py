"""Runs on a volume in memory, such as one block of a file."""

from __future__ import annotations

import os
import tempfile
from typing import NamedTuple

import numpy as np

from ..axes import Nm3
from ..errors import UserError
from .config import Locate, Predict, RunConfig, Segment
from .coordination.coordinator import Progress, execute_here
from .pipeline import begin
from .run import Run
from .volumes.ingest import NewLayer, ingest_array


class BlockSomas(NamedTuple):
    """What lies in a block, uint32, z, y, x.

    Attributes:
      labels: of the somas.
      nuclei: of their nuclei, with the same ids; None if the weights predict none.
    """

    labels: np.ndarray
    nuclei: np.ndarray | None


def run_array(
    image: np.ndarray,
    resolution_nm: Nm3,
    folder: str,
    locate: Locate,
    segment: Segment,
    progress: Progress,
) -> Run:
    """Execute the stages up to the labels on an image, in this process.

    Args:
      image: uint8, z, y, x.
      resolution_nm: voxel size, x, y, z.
      folder: receives the image and the run.
    """
    ingest_array(image, NewLayer(f"{folder}/image", resolution_nm))
    config = RunConfig(
        image=f"{folder}/image",
        output=f"{folder}/run",
        predict=Predict(threads=len(os.sched_getaffinity(0))),
        locate=locate,
        segment=segment,
    )
    run = begin(config)
    execute_here(run, "relabel", progress)
    return run


def predict_array(
    image: np.ndarray,
    resolution_nm: Nm3,
    locate_weights: str = Locate().weights,
    segment_weights: str = Segment().weights,
    progress: Progress = lambda *_: None,
) -> BlockSomas:
    """Label the somas of a uint8 block, z, y, x, and their nuclei.

    Voxels finer than the working resolution are averaged, and the labels are sampled back to the block's own voxels.
    Voxels coarser than those of the segmentation network are given to it unchanged.

    Args:
      resolution_nm: voxel size, x, y, z.
    Raises:
      UserError: voxels are coarser than those of the localization network.
    """
    locate = Locate(weights=locate_weights)
    if any(own > needed for own, needed in zip(resolution_nm, locate.resolution_nm)):
        raise UserError(
            f"voxels of {resolution_nm} nm (x, y, z) are too coarse: localization works at "
            f"{locate.resolution_nm} nm; give the block with voxels no larger than that"
        )
    x, y, z = (max(pair) for pair in zip(resolution_nm, Segment().resolution_nm))
    segment = Segment(weights=segment_weights, resolution_nm=(x, y, z))
    with tempfile.TemporaryDirectory(prefix="flysoma-predict-") as folder:
        run = run_array(image, resolution_nm, folder, locate, segment, progress)
        layers = [run.layer(name).read(run.somas.bounds) for name in run.layer_names]
    nearest = [
        np.minimum((np.arange(n) + 0.5) * own // working, size - 1).astype(int)
        for n, own, working, size in zip(
            image.shape, resolution_nm[::-1], segment.resolution_nm[::-1], layers[0].shape
        )
    ]
    labels, *nuclei = (layer[np.ix_(*nearest)].astype(np.uint32) for layer in layers)
    return BlockSomas(labels, nuclei[0] if nuclei else None)
