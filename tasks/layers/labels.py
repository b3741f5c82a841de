"""A segmentation layer: read, sampled and written. Boxes are x, y, z; arrays are z, y, x."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from cloudfiles import CloudFiles
from cloudvolume import CloudVolume

from ...axes import Nm3
from ..grids.geometry import BlockGrid, Box, vec3
from ..storage.damage import DamagedChunk
from ..storage.store import normalize_cloudpath
from .precomputed import (
    at_mip,
    background_chunks,
    box_name,
    chunk_name,
    download,
    info_resolution,
    open_layer,
    scale_bounds,
    scale_chunks,
    scale_key,
    scale_resolution,
    stored_compression,
    upload,
)

_NOT_STORED = 2**64 - 1  # in place of the labels of a chunk that is not stored; no id is as large
_SKELETON_ATTRIBUTES = [{"id": "radius", "data_type": "float32", "num_components": 1}]
_MAX_COMPLETED = 100_000  # chunks; a folder with more files is a burden on a shared file system


class LabelLayer:
    """A precomputed segmentation; missing chunks are background."""

    def __init__(self, cloudpath: str) -> None:
        self.cloudpath = cloudpath
        self._volume = open_layer(cloudpath, "segmentation", fill_missing=True)

    @property
    def resolution_nm(self) -> Nm3:
        """Voxel size of mip 0."""
        return scale_resolution(self._scales[0])

    @property
    def bounds(self) -> Box:
        """Bounds of mip 0."""
        return scale_bounds(self._scales[0])

    @property
    def mip_resolutions_nm(self) -> list[Nm3]:
        """Voxel size of each mip."""
        return [scale_resolution(scale) for scale in self._scales]

    @property
    def mip_bounds(self) -> list[Box]:
        """Bounds of each mip."""
        return [scale_bounds(scale) for scale in self._scales]

    @property
    def chunks(self) -> BlockGrid:
        """Chunks of mip 0."""
        return self.chunks_of(0)

    def chunks_of(self, mip: int) -> BlockGrid:
        """Return the chunks of a mip."""
        return scale_chunks(self._scales[mip])

    def read(self, box: Box, mip: int = 0) -> np.ndarray:
        """Read the labels of a box of a mip."""
        return download(self._at(mip), box)

    def read_stored(self, box: Box, mip: int, stored: np.ndarray) -> np.ndarray:
        """Read the labels (uint64) of a box of a mip of which it is known which chunks are stored.

        Args:
          stored: numbers of the chunks that are stored, ascending; the others are background.
        Raises:
          DamagedChunk: a stored chunk is missing or cannot be decoded.
        """
        volume = self._at(mip)
        chunks = scale_chunks(self._scales[mip])
        numbers = chunks.reaching(box)
        volume.background_color = _NOT_STORED
        try:
            labels = download(volume, box)
        finally:
            volume.background_color = 0
        for number, is_stored in zip(numbers, np.isin(numbers, stored, kind="sort")):
            core = chunks[number].core
            part = labels[core.intersect(box).slices_zyx(box.lo)]
            if part[0, 0, 0] == _NOT_STORED:
                if is_stored:
                    name = chunk_name(volume, core)
                    raise DamagedChunk(self.cloudpath, name, "is missing", "restore it")
                part[:] = 0
        return labels

    def covers(self, box: Box, resolution_nm: Nm3) -> bool:
        """Return whether mip 0 has a voxel at the centre of each voxel of a box at another resolution."""
        source = _hull(_nearest(box, resolution_nm, self.resolution_nm))
        return source.intersect(self.bounds) == source

    def sample(self, box: Box, resolution_nm: Nm3, mip: int | None = None) -> np.ndarray:
        """Sample labels at the voxel centres of a box at another resolution; 0 outside the layer.

        Args:
          mip: the mip that is sampled; by default the coarsest that is at least as fine as the resolution.
        """
        if mip is None:
            mip = self._source_mip(resolution_nm)
        bounds = scale_bounds(self._scales[mip])
        places = _nearest(box, resolution_nm, scale_resolution(self._scales[mip]))
        inside = [(p >= a) & (p < b) for p, a, b in zip(places, bounds.lo, bounds.hi)]
        sampled = np.zeros(box.size[::-1], self._volume.dtype)
        if all(axis.any() for axis in inside):
            source = _hull(places).intersect(bounds)
            labels = download(at_mip(self._volume, mip), source)
            near = [p[i] - a for p, i, a in zip(places, inside, source.lo)][::-1]
            sampled[np.ix_(*inside[::-1])] = labels[np.ix_(*near)]
        return sampled

    def write(self, box: Box, labels: np.ndarray, mip: int = 0) -> list[int]:
        """Write a chunk-aligned box of a mip. Return the numbers of the chunks that it stored: those with labels."""
        volume = self._at(mip)
        upload(volume, box, labels.astype(volume.dtype, copy=False))
        chunks = scale_chunks(self._scales[mip])
        return [
            number
            for number in chunks.reaching(box)
            if labels[chunks[number].core.slices_zyx(box.lo)].any()
        ]

    def complete(self, mip: int, stored: Iterable[int]) -> None:
        """Write the chunks of a mip that hold no label, as background.

        Only in folders: readers of buckets expect missing chunks, and each costs a request. Only up to 100,000 chunks.

        Args:
          stored: numbers of the chunks that hold labels; one of them that is missing is not written.
        """
        self._volume.refresh_info()
        scale = self._scales[mip]
        chunks = scale_chunks(scale)
        if stored_compression(self.cloudpath) or len(chunks) > _MAX_COMPLETED:
            return
        files = CloudFiles(normalize_cloudpath(self.cloudpath), progress=False)
        names = {f"{scale['key']}/{box_name(chunks[number].core)}" for number in stored}
        names.update(files.list(f"{scale['key']}/"))
        files.puts(background_chunks(self._volume.info, mip, names))

    def set_mips(self, first: int, mips: Iterable[tuple[Nm3, Box]]) -> None:
        """Replace the mips from number `first` on; each is a voxel size and its bounds."""
        self._volume.refresh_info()
        scales = self._volume.info["scales"][:first]
        for resolution_nm, box in mips:
            size, key = info_resolution(resolution_nm), scale_key(resolution_nm)
            bounds = {"voxel_offset": list(box.lo), "size": list(box.size)}
            scales.append(scales[0] | bounds | {"key": key, "resolution": size})
        self._volume.info["scales"] = scales
        self._volume.commit_info()

    def begin_skeletons(self) -> None:
        """Write the infos for skeletons whose vertices have a radius in nm."""
        self.set_info(skeletons="skeletons")
        self._volume.skeleton.meta.info["vertex_attributes"] = _SKELETON_ATTRIBUTES
        self._volume.skeleton.meta.commit_info()

    def write_skeletons(self, skeletons: Sequence[Any]) -> None:
        """Write cloudvolume Skeletons with their radii, nm, x, y, z; their ids are those of the labels."""
        self._volume.refresh_info()
        for skeleton in skeletons:
            skeleton.extra_attributes = _SKELETON_ATTRIBUTES
        self._volume.skeleton.upload(skeletons)

    def skeleton(self, label: int) -> Any:
        """Return the cloudvolume Skeleton of a label."""
        return self._volume.skeleton.get(label)

    def set_info(self, **values: Any) -> None:
        """Add entries (`segment_properties`, ...) to the layer's current info."""
        self._volume.refresh_info()
        if any(self._volume.info.get(key) != value for key, value in values.items()):
            self._volume.info.update(values)
            self._volume.commit_info()

    @property
    def _scales(self) -> list[dict[str, Any]]:
        return self._volume.info["scales"]

    def _source_mip(self, resolution_nm: Nm3) -> int:
        """Return the coarsest mip at least as fine as a resolution; 0 if there is none."""
        fine = [
            mip
            for mip, scale in enumerate(self._scales)
            if all(r <= w * 1.0001 for r, w in zip(scale["resolution"], resolution_nm))
        ]
        return max(fine, default=0)

    def _at(self, mip: int) -> CloudVolume:
        if mip >= len(self._scales):  # another task added the mip after this layer was opened
            self._volume.refresh_info()
        return at_mip(self._volume, mip)


def _nearest(box: Box, resolution_nm: Nm3, own_nm: Nm3) -> list[np.ndarray]:
    """Return, along x, y and z, the voxel of size `own_nm` at the centre of each voxel of a box."""
    return [
        np.floor((np.arange(a, b) + 0.5) * w / own).astype(int)
        for a, b, w, own in zip(box.lo, box.hi, resolution_nm, own_nm)
    ]


def _hull(places: Sequence[np.ndarray]) -> Box:
    return Box(vec3([p[0] for p in places]), vec3([p[-1] + 1 for p in places]))
