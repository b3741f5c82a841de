"""A segmentation layer: labels of a box, read and written. Boxes are x, y, z; arrays are z, y, x."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from cloudvolume import CloudVolume

from ...axes import Nm3, Vec3
from .geometry import Box, vec3
from .precomputed import CHUNK, QUIET, at_mip, bbox, download, open_layer, plain, scale_box


class LabelLayer:
    """A precomputed segmentation, read and written in z, y, x arrays; absent chunks are background."""

    def __init__(self, cloudpath: str) -> None:
        self.cloudpath = cloudpath
        self._volume = open_layer(cloudpath, "segmentation", fill_missing=True)

    @property
    def resolution_nm(self) -> Nm3:
        return tuple(float(v) for v in self._volume.info["scales"][0]["resolution"])

    @property
    def bounds(self) -> Box:
        return scale_box(self._volume.info["scales"][0])

    def read(self, box: Box, mip: int = 0) -> np.ndarray:
        return download(self._at(mip), box)

    def sample(self, box: Box, resolution_nm: Nm3) -> np.ndarray:
        """Labels at the middles of a box's voxels at another resolution; 0 outside of the layer."""
        scales = self._volume.info["scales"]
        fine = [
            mip
            for mip, scale in enumerate(scales)
            if all(r <= w * 1.0001 for r, w in zip(scale["resolution"], resolution_nm))
        ]
        mip = max(fine, default=0)
        whole = scale_box(scales[mip])
        places = []
        for axis, w in enumerate(resolution_nm):
            middles = (np.arange(box.lo[axis], box.hi[axis]) + 0.5) * w
            places.append(np.floor(middles / scales[mip]["resolution"][axis]).astype(int))
        source = Box(vec3([p[0] for p in places]), vec3([p[-1] + 1 for p in places]))
        inside = [(p >= a) & (p < b) for p, a, b in zip(places, whole.lo, whole.hi)]
        found = np.zeros(box.size[::-1], self._volume.dtype)
        if all(axis.any() for axis in inside):
            source = source.intersect(whole)
            labels = download(at_mip(self._volume, mip), source)
            near = [p[i] - a for p, i, a in zip(places, inside, source.lo)][::-1]
            found[np.ix_(*inside[::-1])] = labels[np.ix_(*near)]
        return found

    def write(self, box: Box, labels: np.ndarray, mip: int = 0) -> None:
        """Write a chunk-aligned box; labels z, y, x."""
        volume = self._at(mip)
        volume[bbox(box)] = labels.astype(volume.dtype, copy=False).T[..., np.newaxis]

    def set_mips(self, first: int, mips: Iterable[tuple[Nm3, Box]]) -> None:
        """Say what mips there are from the `first` on: voxel size and box of each."""
        self._volume.refresh_info()
        scales = self._volume.info["scales"][:first]
        for resolution_nm, box in mips:
            size = plain(resolution_nm)
            where = {"voxel_offset": list(box.lo), "size": list(box.size)}
            scales.append(scales[0] | where | {"key": "_".join(map(str, size)), "resolution": size})
        self._volume.info["scales"] = scales
        self._volume.commit_info()

    def _at(self, mip: int) -> CloudVolume:
        if mip >= len(self._volume.info["scales"]):  # it was opened before that was made
            self._volume.refresh_info()
        return at_mip(self._volume, mip)

    def begin_skeletons(self) -> None:
        """Say in the infos that there are skeletons, without attributes that differ from vertex to vertex."""
        self.set_info(skeletons="skeletons")
        self._volume.skeleton.meta.info["vertex_attributes"] = []
        self._volume.skeleton.meta.commit_info()

    def write_skeletons(self, skeletons: Sequence[Any]) -> None:
        """Write cloudvolume Skeletons, nm, x, y, z; their ids are the labels'."""
        self._volume.refresh_info()
        for skeleton in skeletons:
            skeleton.extra_attributes = []
        self._volume.skeleton.upload(skeletons)

    def skeleton(self, label: int) -> Any:
        """A label's skeleton as cloudvolume has it."""
        return self._volume.skeleton.get(label)

    def set_info(self, **values: Any) -> None:
        """Add entries (`segment_properties`, ...) to the layer's info as it is now."""
        self._volume.refresh_info()
        if any(self._volume.info.get(key) != value for key, value in values.items()):
            self._volume.info.update(values)
            self._volume.commit_info()


def create_layer(
    cloudpath: str,
    layer_type: str,
    data_type: str,
    resolution_nm: Sequence[float],
    box: Box,
    chunk: Vec3 = CHUNK,
) -> None:
    """Write the info of a new precomputed layer: raw image, or compressed_segmentation."""
    segmentation = layer_type == "segmentation"
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type=layer_type,
        data_type=data_type,
        encoding="compressed_segmentation" if segmentation else "raw",
        resolution=plain(resolution_nm),
        voxel_offset=list(box.lo),
        volume_size=list(box.size),
        chunk_size=list(chunk),
    )
    CloudVolume(cloudpath, info=info, progress=False).commit_info()


def write_array(cloudpath: str, array: np.ndarray, progress: Any = None) -> None:
    """Fill mip 0 of a layer from a z, y, x array, one layer of chunks at a time.

    Args:
      progress: called with the number of sections written after each layer of chunks.
    """
    volume = CloudVolume(cloudpath, compress="gzip", parallel=1, **QUIET)
    whole = scale_box(volume.info["scales"][0])
    step = int(volume.chunk_size[2])
    for start in range(0, array.shape[0], step):
        part = array[start : start + step]
        z = whole.lo[2] + start
        box = Box((*whole.lo[:2], z), (*whole.hi[:2], z + len(part)))
        volume[bbox(box)] = part.T[..., np.newaxis]
        if progress is not None:
            progress(len(part))
