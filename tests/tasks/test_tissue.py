"""A mask is read at a mip that fits into memory, a slab at a time, and loses no tissue."""

import numpy as np
import pytest

from flysoma.errors import UserError
from flysoma.tasks.layers import tissue
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.volumes.ingest import NewLayer, ingest_array

SHAPE = (200, 260, 300)  # z, y, x: mips of 300, 150 and 75 voxels along x


@pytest.fixture
def mask(tmp_path):
    """A layer with a block and a single voxel of tissue; returns its path and content."""
    content = np.zeros(SHAPE, np.uint8)
    content[50:120, 31:200, 7:133] = 1
    content[190, 251, 290] = 1
    ingest_array(content, NewLayer(f"{tmp_path}/mask", (64, 64, 64), layer_type="segmentation"))
    return f"file://{tmp_path}/mask", content > 0


def read(path, monkeypatch, most):
    """Return the mask, its voxel size, and the largest number of voxels that were read at once."""
    monkeypatch.setattr(tissue, "_MAX_MASK_VX", most)
    plain, sizes = LabelLayer.read, []
    monkeypatch.setattr(
        LabelLayer,
        "read",
        lambda self, box, mip=0: sizes.append(box.voxels) or plain(self, box, mip),
    )
    found, resolution_nm, _ = tissue.Tissue("unused", path).mask
    return found, resolution_nm, max(sizes)


def test_a_small_mask_is_read_as_it_is(mask, monkeypatch):
    path, content = mask
    found, resolution_nm, largest = read(path, monkeypatch, content.size)
    assert resolution_nm == (64, 64, 64) and np.array_equal(found, content)
    assert largest <= 64 * 260 * 300


def test_a_large_mask_is_read_at_a_coarser_mip_and_covers_the_tissue(mask, monkeypatch):
    path, content = mask
    found, resolution_nm, _ = read(path, monkeypatch, content.size // 4)
    assert resolution_nm == (128, 128, 128) and found.size < content.size / 7
    block = np.argwhere(content)[:-1] // 2  # a single voxel is not the majority of a coarser one
    assert found[tuple(block.T)].all()
    assert found.sum() < 1.3 * content.sum() / 8


def test_a_mask_without_a_small_mip_is_one_line(mask, monkeypatch):
    with pytest.raises(UserError, match="the mask .* in its coarsest mip, .* give it coarser mips"):
        read(mask[0], monkeypatch, 1000)
