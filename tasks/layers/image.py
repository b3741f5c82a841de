"""An image layer, read at any resolution. Boxes are in voxels of the named resolution, x, y, z; arrays are z, y, x.

Voxel i of a resolution r covers i*r to (i+1)*r nm from the origin of space, so a voxel index names the same place
whatever the volume's offset.
"""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import suppress
from functools import cached_property
from typing import Any

import numpy as np

from ...axes import Nm3
from ...errors import UserError
from ..grids.geometry import Box, vec3
from ..grids.resample import is_same_length, resample, source_box
from ..storage.damage import DamagedChunk
from .precomputed import (
    at_mip,
    chunk_name,
    download,
    open_layer,
    scale_bounds,
    scale_chunks,
    scale_resolution,
)

_SAMPLED_CHUNKS = 32


class ImageLayer:
    """A uint8 precomputed image, read at any resolution that is no finer than its own."""

    def __init__(self, cloudpath: str, fill_missing: bool = False) -> None:
        self.cloudpath = cloudpath
        self.fill_missing = fill_missing
        self._volume = open_layer(cloudpath, "image", fill_missing)
        if np.dtype(self._volume.dtype) != np.uint8:
            raise UserError(
                f"{cloudpath} holds {self._volume.dtype} voxels and flysoma reads uint8; "
                "make an 8-bit copy with 'flysoma ingest FILE CLOUDPATH --rescale LOW HIGH'"
            )

    @property
    def resolutions_nm(self) -> list[Nm3]:
        """Voxel size of each mip, x, y, z."""
        return [scale_resolution(scale) for scale in self._scales]

    def working_bounds(self, resolution_nm: Nm3) -> Box:
        """Return the volume's bounds at a working resolution. Raises UserError if that is finer than the volume."""
        scale = self._scales[self.source_mip(resolution_nm)]
        lo, hi = [], []
        for axis, w in enumerate(resolution_nm):
            r = scale["resolution"][axis]
            start = scale["voxel_offset"][axis]
            lo.append(math.floor(start * r / w + 1e-9))
            hi.append(math.ceil((start + scale["size"][axis]) * r / w - 1e-9))
        return Box(vec3(lo), vec3(hi))

    def source_mip(self, resolution_nm: Nm3) -> int:
        """Return the coarsest mip at least as fine as the working resolution along every axis."""
        resolutions_nm = self.resolutions_nm
        fine = [
            mip
            for mip, own_nm in enumerate(resolutions_nm)
            if all(r <= w * 1.0001 for r, w in zip(own_nm, resolution_nm))
        ]
        if not fine:
            raise UserError(
                f"{self.cloudpath}: the working resolution is {_text(resolution_nm)} nm (x y z), "
                f"finer than the volume, whose finest voxels are {_text(resolutions_nm[0])} nm; "
                "set resolution_nm to that or coarser"
            )
        return max(fine, key=lambda mip: math.prod(resolutions_nm[mip]))

    def read(self, box: Box, resolution_nm: Nm3) -> np.ndarray:
        """Read a box at a working resolution: uint8, z, y, x; each voxel is the mean of what it covers.

        Raises UserError with the chunk's name if a chunk is missing (unless fill_missing) or cannot be decoded.
        """
        mip = self.source_mip(resolution_nm)
        own_nm = self.resolutions_nm[mip]
        source = source_box(box, resolution_nm, own_nm, scale_bounds(self._scales[mip]))
        image = self._read_source(mip, source)
        if all(map(is_same_length, resolution_nm, own_nm)):
            return image
        import torch  # slow to import

        return resample(torch.from_numpy(image), source, own_nm, box, resolution_nm).numpy()

    def coarsest(self) -> tuple[Nm3, Box]:
        """Return the resolution and the bounds of the coarsest mip."""
        return self.resolutions_nm[-1], scale_bounds(self._scales[-1])

    def chunks_nm(self, resolution_nm: Nm3) -> tuple[Nm3, Nm3]:
        """Return the first corner and the size, in nm, of the source mip's chunks."""
        mip = self.source_mip(resolution_nm)
        grid = scale_chunks(self._scales[mip])
        (x0, x), (y0, y), (z0, z) = (
            (lo * nm, n * nm)
            for lo, n, nm in zip(grid.bounds.lo, grid.core_shape, self.resolutions_nm[mip])
        )
        return (x0, y0, z0), (x, y, z)

    def fetched(self, box: Box, resolution_nm: Nm3) -> tuple[int, int]:
        """Return how many chunks of the source mip a read of a box fetches, and how many voxels they hold."""
        mip = self.source_mip(resolution_nm)
        grid = scale_chunks(self._scales[mip])
        source = source_box(box, resolution_nm, self.resolutions_nm[mip], grid.bounds)
        return grid.count(source), grid.covering(source).voxels

    @cached_property
    def info_sha256(self) -> str:
        """The sha256 of the layer's info as canonical JSON."""
        text = json.dumps(self._volume.info, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def sample(self, resolution_nm: Nm3) -> dict[str, str]:
        """Return the sha256 of the content of chunks of the source mip, evenly spaced, by name.

        A chunk that is missing or cannot be decoded is left out.
        """
        volume = at_mip(self._volume, self.source_mip(resolution_nm))
        chunks = scale_chunks(self._scales[volume.mip])
        step = max(1, len(chunks) // _SAMPLED_CHUNKS)
        digests = {}
        for number in range(0, len(chunks), step):
            core = chunks[number].core
            with suppress(DamagedChunk):
                content = hashlib.sha256(download(volume, core).data)
                digests[chunk_name(volume, core)] = content.hexdigest()
        return digests

    @property
    def _scales(self) -> list[dict[str, Any]]:
        return self._volume.info["scales"]

    def _read_source(self, mip: int, box: Box) -> np.ndarray:
        return download(at_mip(self._volume, mip), box)


def _text(resolution_nm: Nm3) -> str:
    return " ".join(f"{v:g}" for v in resolution_nm)
