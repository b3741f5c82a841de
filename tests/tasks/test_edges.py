"""A soma that ends where the segmentation ends is flagged, whether the volume ends there or not."""

import numpy as np
import pandas as pd
import pytest
from cloudvolume import CloudVolume
from five_balls import OFFSET, RESOLUTION, SHAPE, write_config

from flysoma.tasks.config import load_config
from flysoma.tasks.coordination.coordinator import execute_here
from flysoma.tasks.pipeline import begin
from flysoma.tasks.stages.segment import labels_at_end


def test_labels_beside_unsegmented_voxels_are_found():
    labels = np.zeros((4, 5, 6), np.uint64)
    labels[1, 1, 1], labels[2, 2, 4], labels[3, 4, 5], labels[0, 4, 0] = 7, 8, 9, 5
    segmented = np.ones((6, 7, 8), bool)  # with one voxel more at each face
    assert not len(labels_at_end(labels, segmented))
    segmented[:, :, 4] = False  # beside 8
    segmented[3, 5, 6] = False  # below 9
    segmented[0, 0] = False  # beside nothing
    assert set(labels_at_end(labels, segmented).tolist()) - {0} == {8, 9}
    segmented = np.ones((6, 7, 8), bool)
    segmented[-1] = False  # the volume ends below
    assert set(labels_at_end(labels, segmented).tolist()) - {0} == {9}


@pytest.mark.slow
def test_a_soma_that_the_mask_cuts_touches_an_edge(volume):
    folder, *_ = volume
    mask = np.ones(SHAPE[::-1], np.uint8)
    mask[90:] = 0  # the tiles from 94 on are left out, and with them half of two balls
    CloudVolume.from_numpy(
        mask,
        vol_path=f"file://{folder}/half",
        resolution=RESOLUTION,
        voxel_offset=OFFSET,
        layer_type="segmentation",
        progress=False,
    )
    run = begin(load_config(write_config(volume, "masked", 64, mask=f"{folder}/half")))
    execute_here(run, "measure", lambda *_: None)
    frame = pd.DataFrame(run.store.get_arrays("measure/shapes.npz"))
    largest = frame["voxels"].max()
    cut = frame["voxels"] < 0.97 * largest
    assert cut.any() and (frame["touches_edge"] == cut).all(), frame
