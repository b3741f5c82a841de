"""Image and label layers, as cloudvolume reads and writes them. Mip choice, resampling, x y z to z y x.

Boxes are in voxels x, y, z of the resolution that is named; arrays that come out are z, y, x.
A voxel i of a working resolution w covers i*w to (i+1)*w nm, counted from the space's zero, so the same
voxel means the same place whatever the volume's offset.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from cloudfiles import CloudFiles
from cloudvolume import Bbox, CloudVolume
from cloudvolume.exceptions import EmptyVolumeException, InfoUnavailableError
from deflate import DeflateError

from ..errors import UserError
from .geometry import Box, Vec3, vec3
from .resample import Nm3, covered, resample, same
from .store import normalize_cloudpath

CHUNK: Vec3 = (64, 64, 64)
_UNDECODABLE = (zlib.error, DeflateError, EOFError, OSError, ValueError, IndexError)
_FLUSH_BYTES = 256 << 20


class ImageLayer:
    """A uint8 precomputed image, read at any resolution that is no finer than its own."""

    def __init__(self, cloudpath: str, fill_missing: bool = False) -> None:
        self.cloudpath = cloudpath
        self.fill_missing = fill_missing
        self._volume = _open(cloudpath, "image", fill_missing)
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
                f"{self.cloudpath}: asked to work at {_nm(resolution_nm)} nm (x y z), finer than the volume, "
                f"whose finest voxels are {_nm(self.resolutions_nm[0])} nm; set resolution_nm to that or coarser"
            )
        return max(fits, key=lambda mip: math.prod(self.resolutions_nm[mip]))

    def read(self, box: Box, resolution_nm: Nm3) -> np.ndarray:
        """The image of a box at a working resolution: uint8, z, y, x; each voxel the mean of what it covers.

        Raises UserError naming the chunk when one is missing (unless fill_missing) or cannot be decoded.
        """
        mip = self.source_mip(resolution_nm)
        own_nm = self.resolutions_nm[mip]
        source = covered(box, resolution_nm, own_nm, _scale_box(self._scales[mip]))
        image = self._read_source(mip, source)
        if all(map(same, resolution_nm, own_nm)):
            return image
        import torch  # takes seconds

        return resample(torch.from_numpy(image), source, own_nm, box, resolution_nm).numpy()

    def coarsest(self) -> tuple[Nm3, Box]:
        """Resolution and box of the coarsest mip."""
        return self.resolutions_nm[-1], _scale_box(self._scales[-1])

    def chunks_nm(self, resolution_nm: Nm3) -> tuple[Nm3, Nm3]:
        """First corner and size of the source mip's chunks."""
        mip = self.source_mip(resolution_nm)
        whole, step = _scale_box(self._scales[mip]), self._scales[mip]["chunk_sizes"][0]
        (x0, x), (y0, y), (z0, z) = (
            (lo * nm, n * nm) for lo, n, nm in zip(whole.lo, step, self.resolutions_nm[mip])
        )
        return (x0, y0, z0), (x, y, z)

    def fetched(self, box: Box, resolution_nm: Nm3) -> tuple[int, int]:
        """Chunks of the source mip that reading a box asks for, and the voxels in them."""
        mip = self.source_mip(resolution_nm)
        whole, step = _scale_box(self._scales[mip]), self._scales[mip]["chunk_sizes"][0]
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
        volume = _at_mip(self._volume, mip)
        try:
            return _download(volume, box)
        except EmptyVolumeException as err:
            raise UserError(
                f"{self.cloudpath}: image chunk {_last_word(err)} is missing inside the planned area; "
                "restore it, or set 'fill_missing: true' to read it as black"
            ) from err
        except _UNDECODABLE as err:
            name = _broken_chunk(volume, box)
            raise UserError(
                f"{self.cloudpath}: image chunk {name or 'of ' + str(box)} cannot be decoded ({err}); "
                "it is truncated or damaged: copy it anew"
            ) from err


class LabelLayer:
    """A precomputed segmentation, read and written in z, y, x arrays; absent chunks are background."""

    def __init__(self, cloudpath: str) -> None:
        self.cloudpath = cloudpath
        self._volume = _open(cloudpath, "segmentation", fill_missing=True)

    @property
    def resolution_nm(self) -> Nm3:
        return tuple(float(v) for v in self._volume.info["scales"][0]["resolution"])

    @property
    def bounds(self) -> Box:
        return _scale_box(self._volume.info["scales"][0])

    def read(self, box: Box, mip: int = 0) -> np.ndarray:
        return _download(self._at(mip), box)

    def sample(self, box: Box, resolution_nm: Nm3) -> np.ndarray:
        """Labels at the middles of a box's voxels at another resolution; 0 outside of the layer."""
        scales = self._volume.info["scales"]
        fine = [
            mip
            for mip, scale in enumerate(scales)
            if all(r <= w * 1.0001 for r, w in zip(scale["resolution"], resolution_nm))
        ]
        mip = max(fine, default=0)
        whole = _scale_box(scales[mip])
        places = []
        for axis, w in enumerate(resolution_nm):
            middles = (np.arange(box.lo[axis], box.hi[axis]) + 0.5) * w
            places.append(np.floor(middles / scales[mip]["resolution"][axis]).astype(int))
        source = Box(vec3([p[0] for p in places]), vec3([p[-1] + 1 for p in places]))
        inside = [(p >= a) & (p < b) for p, a, b in zip(places, whole.lo, whole.hi)]
        found = np.zeros(box.size[::-1], self._volume.dtype)
        if all(axis.any() for axis in inside):
            source = source.intersect(whole)
            labels = _download(_at_mip(self._volume, mip), source)
            near = [p[i] - a for p, i, a in zip(places, inside, source.lo)][::-1]
            found[np.ix_(*inside[::-1])] = labels[np.ix_(*near)]
        return found

    def write(self, box: Box, labels: np.ndarray, mip: int = 0) -> None:
        """Write a chunk-aligned box; labels z, y, x."""
        volume = self._at(mip)
        volume[_bbox(box)] = labels.astype(volume.dtype, copy=False).T[..., np.newaxis]

    def set_mips(self, first: int, mips: Iterable[tuple[Nm3, Box]]) -> None:
        """Say what mips there are from the `first` on: voxel size and box of each."""
        self._volume.refresh_info()
        scales = self._volume.info["scales"][:first]
        for resolution_nm, box in mips:
            plain = _plain(resolution_nm)
            where = {"voxel_offset": list(box.lo), "size": list(box.size)}
            scales.append(
                scales[0] | where | {"key": "_".join(map(str, plain)), "resolution": plain}
            )
        self._volume.info["scales"] = scales
        self._volume.commit_info()

    def _at(self, mip: int) -> CloudVolume:
        if mip >= len(self._volume.info["scales"]):  # it was opened before that was made
            self._volume.refresh_info()
        return _at_mip(self._volume, mip)

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
        resolution=_plain(resolution_nm),
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
    volume = CloudVolume(cloudpath, compress="gzip", parallel=1, **_QUIET)
    whole = _scale_box(volume.info["scales"][0])
    step = int(volume.chunk_size[2])
    for start in range(0, array.shape[0], step):
        part = array[start : start + step]
        z = whole.lo[2] + start
        box = Box((*whole.lo[:2], z), (*whole.hi[:2], z + len(part)))
        volume[_bbox(box)] = part.T[..., np.newaxis]
        if progress is not None:
            progress(len(part))


_QUIET: dict[str, Any] = {"progress": False, "bounded": True, "non_aligned_writes": False}


def _open(cloudpath: str, layer_type: str, fill_missing: bool) -> CloudVolume:
    """Open a layer, or say in one line why it cannot be one of this type."""
    path = normalize_cloudpath(cloudpath)
    options = {**_QUIET, "fill_missing": fill_missing, "parallel": 1, "compress": "gzip"}
    if layer_type == "segmentation":
        options["delete_black_uploads"] = True
    try:
        volume = CloudVolume(path, lru_bytes=_FLUSH_BYTES, **options)
        found = volume.info["type"]
        _ = volume.info["scales"][0]["resolution"]
    except (InfoUnavailableError, FileNotFoundError) as err:
        there = "other files, but no info file" if _anything_at(path) else "nothing there"
        raise UserError(
            f"no precomputed layer at {cloudpath}: {there}; "
            "check the path, or make a layer with 'flysoma ingest FILE CLOUDPATH'"
        ) from err
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as err:
        raise UserError(
            f"{cloudpath} is not a precomputed layer: its info file cannot be used ({err}); "
            "make one with 'flysoma ingest FILE CLOUDPATH'"
        ) from err
    if found != layer_type:
        raise UserError(
            f"{cloudpath} is a {found} layer and one of type {layer_type} is needed; "
            f"give the path of the {layer_type}"
        )
    return volume


def _anything_at(cloudpath: str) -> bool:
    try:
        return next(iter(CloudFiles(cloudpath).list(flat=True)), None) is not None
    except FileNotFoundError:
        return False


def _at_mip(volume: CloudVolume, mip: int) -> CloudVolume:
    if volume.mip != mip:
        volume.mip = mip
    return volume


def _download(volume: CloudVolume, box: Box) -> np.ndarray:
    data = np.asarray(volume.download(_bbox(box), mip=volume.mip))[..., 0]
    return np.ascontiguousarray(data.T)


def _plain(resolution_nm: Sequence[float]) -> list[float]:
    """As an info has it: whole numbers without a point."""
    return [int(r) if r == int(r) else r for r in resolution_nm]


def _bbox(box: Box) -> Bbox:
    return Bbox(box.lo, box.hi)


def _scale_box(scale: dict[str, Any]) -> Box:
    lo = vec3(scale["voxel_offset"])
    return Box(lo, vec3([o + n for o, n in zip(lo, scale["size"])]))


def _broken_chunk(volume: CloudVolume, box: Box) -> str | None:
    """Name of the first chunk of a box that cannot be read alone."""
    for chunk in _chunks(volume, box):
        try:
            _download(volume, chunk)
        except _UNDECODABLE:
            x, y, z = zip(chunk.lo, chunk.hi)
            return f"{volume.key}/{x[0]}-{x[1]}_{y[0]}-{y[1]}_{z[0]}-{z[1]}"
    return None


def _chunks(volume: CloudVolume, box: Box) -> Iterable[Box]:
    whole = _scale_box(volume.info["scales"][volume.mip])
    step = vec3(volume.chunk_size)
    first = [(a - o) // s for a, o, s in zip(box.lo, whole.lo, step)]
    last = [-(-(b - o) // s) for b, o, s in zip(box.hi, whole.lo, step)]
    for z in range(first[2], last[2]):
        for y in range(first[1], last[1]):
            for x in range(first[0], last[0]):
                lo = vec3([o + i * s for o, i, s in zip(whole.lo, (x, y, z), step)])
                yield Box(lo, vec3([a + s for a, s in zip(lo, step)])).intersect(whole)


def _last_word(err: Exception) -> str:
    return str(err).split()[-1].strip("'\"")


def _nm(values: Sequence[float]) -> str:
    return " ".join(f"{v:g}" for v in values)
