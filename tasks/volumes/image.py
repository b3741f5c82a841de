"""An image layer at any resolution. Boxes are in voxels x, y, z of the resolution that is named; arrays are z, y, x.

A voxel i of a working resolution w covers i*w to (i+1)*w nm, counted from the space's zero, so the same
voxel means the same place whatever the volume's offset.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from typing import Any

import numpy as np
from cloudvolume.exceptions import EmptyVolumeException

from ...axes import Nm3
from ...errors import UserError
from .geometry import Box, vec3
from .precomputed import (
    UNDECODABLE,
    at_mip,
    broken_chunk,
    download,
    last_word,
    nm,
    open_layer,
    scale_box,
)
from .resample import covered, resample, same


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
        if self._volume.num_channels != 1:
            raise UserError(
                f"{cloudpath} has {self._volume.num_channels} channels and one is needed; make a layer of one of them"
            )

    @property
    def resolutions_nm(self) -> list[Nm3]:
        """Voxel sizes of the mips that can be read, x, y, z."""
        return [tuple(float(v) for v in scale["resolution"]) for scale in self._scales]

    def working_bounds(self, resolution_nm: Nm3) -> Box:
        """The volume's box at a working resolution. Raises UserError when that is finer than the volume."""
        scale = self._scales[self.source_mip(resolution_nm)]
        lo, hi = [], []
        for axis, w in enumerate(resolution_nm):
            r = scale["resolution"][axis]
            start = scale["voxel_offset"][axis]
            lo.append(math.floor(start * r / w + 1e-9))
            hi.append(math.ceil((start + scale["size"][axis]) * r / w - 1e-9))
        return Box(vec3(lo), vec3(hi))

    def source_mip(self, resolution_nm: Nm3) -> int:
        """The coarsest mip at least as fine as the working resolution on every axis."""
        fits = [
            mip
            for mip, scale in enumerate(self.resolutions_nm)
            if all(r <= w * 1.0001 for r, w in zip(scale, resolution_nm))
        ]
        if not fits:
            raise UserError(
                f"{self.cloudpath}: asked to work at {nm(resolution_nm)} nm (x y z), finer than the volume, "
                f"whose finest voxels are {nm(self.resolutions_nm[0])} nm; set resolution_nm to that or coarser"
            )
        return max(fits, key=lambda mip: math.prod(self.resolutions_nm[mip]))

    def read(self, box: Box, resolution_nm: Nm3) -> np.ndarray:
        """The image of a box at a working resolution: uint8, z, y, x; each voxel the mean of what it covers.

        Raises UserError naming the chunk when one is missing (unless fill_missing) or cannot be decoded.
        """
        mip = self.source_mip(resolution_nm)
        own_nm = self.resolutions_nm[mip]
        source = covered(box, resolution_nm, own_nm, scale_box(self._scales[mip]))
        image = self._read_source(mip, source)
        if all(map(same, resolution_nm, own_nm)):
            return image
        import torch  # takes seconds

        return resample(torch.from_numpy(image), source, own_nm, box, resolution_nm).numpy()

    def coarsest(self) -> tuple[Nm3, Box]:
        """Resolution and box of the coarsest mip."""
        return self.resolutions_nm[-1], scale_box(self._scales[-1])

    def chunks_nm(self, resolution_nm: Nm3) -> tuple[Nm3, Nm3]:
        """First corner and size of the source mip's chunks."""
        mip = self.source_mip(resolution_nm)
        whole, step = scale_box(self._scales[mip]), self._scales[mip]["chunk_sizes"][0]
        (x0, x), (y0, y), (z0, z) = (
            (lo * nm, n * nm) for lo, n, nm in zip(whole.lo, step, self.resolutions_nm[mip])
        )
        return (x0, y0, z0), (x, y, z)

    def fetched(self, box: Box, resolution_nm: Nm3) -> tuple[int, int]:
        """Chunks of the source mip that reading a box asks for, and the voxels in them."""
        mip = self.source_mip(resolution_nm)
        whole, step = scale_box(self._scales[mip]), self._scales[mip]["chunk_sizes"][0]
        source = covered(box, resolution_nm, self.resolutions_nm[mip], whole)
        first = [(a - o) // s for a, o, s in zip(source.lo, whole.lo, step)]
        past = [-(-(b - o) // s) for b, o, s in zip(source.hi, whole.lo, step)]
        chunks = Box(
            *(vec3([o + i * s for o, i, s in zip(whole.lo, end, step)]) for end in (first, past))
        )
        count = math.prod(b - a for a, b in zip(first, past))
        return count, chunks.intersect(whole).voxels

    @cached_property
    def info_text(self) -> str:
        """The layer's info, canonical, for the manifest's hash."""
        return json.dumps(self._volume.info, sort_keys=True)

    @property
    def _scales(self) -> list[dict[str, Any]]:
        return self._volume.info["scales"]

    def _read_source(self, mip: int, box: Box) -> np.ndarray:
        volume = at_mip(self._volume, mip)
        try:
            return download(volume, box)
        except EmptyVolumeException as err:
            raise UserError(
                f"{self.cloudpath}: image chunk {last_word(err)} is missing inside the planned area; "
                "restore it, or set 'fill_missing: true' to read it as black"
            ) from err
        except UNDECODABLE as err:
            name = broken_chunk(volume, box)
            raise UserError(
                f"{self.cloudpath}: image chunk {name or 'of ' + str(box)} cannot be decoded ({err}); "
                "it is truncated or damaged: copy it anew"
            ) from err
