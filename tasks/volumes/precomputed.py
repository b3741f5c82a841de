"""What image and label layers share: creating, opening and filling a precomputed layer, and reading a box (x, y, z)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from cloudfiles import CloudFiles
from cloudvolume import Bbox, CloudVolume
from cloudvolume.exceptions import InfoUnavailableError
from deflate import DeflateError

from ...axes import Nm3, Vec3
from ...errors import UserError
from ..store import normalize_cloudpath
from .geometry import BlockGrid, Box, vec3

CHUNK: Vec3 = (64, 64, 64)
DECODE_ERRORS = (zlib.error, DeflateError, EOFError, OSError, ValueError, IndexError)
_CACHE_BYTES = 256 << 20
_OPTIONS: dict[str, Any] = {
    "progress": False,
    "bounded": True,
    "non_aligned_writes": False,
    "parallel": 1,
    "compress": "gzip",
}


def create_layer(
    cloudpath: str,
    layer_type: str,
    data_type: str,
    resolution_nm: Sequence[float],
    box: Box,
    chunk: Vec3 = CHUNK,
) -> None:
    """Write the info of a new precomputed layer, encoded as raw (image) or compressed_segmentation."""
    segmentation = layer_type == "segmentation"
    info = CloudVolume.create_new_info(
        num_channels=1,
        layer_type=layer_type,
        data_type=data_type,
        encoding="compressed_segmentation" if segmentation else "raw",
        resolution=info_resolution(resolution_nm),
        voxel_offset=list(box.lo),
        volume_size=list(box.size),
        chunk_size=list(chunk),
    )
    CloudVolume(cloudpath, info=info, progress=False).commit_info()


def fill_layer(
    cloudpath: str, array: np.ndarray, progress: Callable[[int], None] | None = None
) -> None:
    """Write a z, y, x array to mip 0 of a layer, one layer of chunks at a time.

    Args:
      progress: called after each layer of chunks with the number of sections written.
    """
    volume = CloudVolume(cloudpath, **_OPTIONS)
    bounds = scale_bounds(volume.info["scales"][0])
    step = int(volume.chunk_size[2])
    for start in range(0, array.shape[0], step):
        part = array[start : start + step]
        z = bounds.lo[2] + start
        upload(volume, Box((*bounds.lo[:2], z), (*bounds.hi[:2], z + len(part))), part)
        if progress is not None:
            progress(len(part))


def open_layer(cloudpath: str, layer_type: str, fill_missing: bool) -> CloudVolume:
    """Open a layer. Raises UserError if there is none, or one of another type."""
    path = normalize_cloudpath(cloudpath)
    options = {**_OPTIONS, "fill_missing": fill_missing}
    if layer_type == "segmentation":
        options["delete_black_uploads"] = True
    try:
        volume = CloudVolume(path, lru_bytes=_CACHE_BYTES, **options)
        actual_type = volume.info["type"]
        _ = volume.info["scales"][0]["resolution"]
    except (InfoUnavailableError, FileNotFoundError) as err:
        content = "other files, but no info file" if _has_files(path) else "nothing there"
        raise UserError(
            f"no precomputed layer at {cloudpath}: {content}; "
            "check the path, or make a layer with 'flysoma ingest FILE CLOUDPATH'"
        ) from err
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as err:
        raise UserError(
            f"{cloudpath} is not a precomputed layer: its info file is invalid ({err}); "
            "make a layer with 'flysoma ingest FILE CLOUDPATH'"
        ) from err
    if actual_type != layer_type:
        raise UserError(
            f"{cloudpath} is of type {actual_type}, and a layer of type {layer_type} is needed; "
            f"give the path of the {layer_type}"
        )
    return volume


def _has_files(cloudpath: str) -> bool:
    try:
        return next(iter(CloudFiles(cloudpath).list(flat=True)), None) is not None
    except FileNotFoundError:
        return False


def at_mip(volume: CloudVolume, mip: int) -> CloudVolume:
    """Switch a volume to a mip; returns the volume."""
    if volume.mip != mip:
        volume.mip = mip
    return volume


def download(volume: CloudVolume, box: Box) -> np.ndarray:
    """Read a box of the volume's current mip: z, y, x."""
    data = np.asarray(volume.download(_bbox(box), mip=volume.mip))[..., 0]
    return np.ascontiguousarray(data.T)


def upload(volume: CloudVolume, box: Box, array: np.ndarray) -> None:
    """Write a z, y, x array into a chunk-aligned box of the volume's current mip."""
    volume[_bbox(box)] = array.T[..., np.newaxis]


def _bbox(box: Box) -> Bbox:
    return Bbox(box.lo, box.hi)


def info_resolution(resolution_nm: Sequence[float]) -> list[float]:
    """Return a resolution as an info file has it: whole numbers without a decimal point."""
    return [int(r) if r == int(r) else r for r in resolution_nm]


def scale_resolution(scale: dict[str, Any]) -> Nm3:
    """Return the voxel size of a scale of an info."""
    x, y, z = map(float, scale["resolution"])
    return x, y, z


def scale_bounds(scale: dict[str, Any]) -> Box:
    """Return the bounds of a scale of an info, in its voxels."""
    lo = vec3(scale["voxel_offset"])
    return Box(lo, vec3([o + n for o, n in zip(lo, scale["size"])]))


def scale_chunks(scale: dict[str, Any]) -> BlockGrid:
    """Return the grid of the chunks of a scale of an info."""
    return BlockGrid(scale_bounds(scale), vec3(scale["chunk_sizes"][0]), (0, 0, 0))


def find_broken_chunk(volume: CloudVolume, box: Box) -> str | None:
    """Return the name of the first chunk in a box that cannot be decoded; None if all can be."""
    grid = scale_chunks(volume.info["scales"][volume.mip])
    for index in grid.reaching(box):
        chunk = grid[index].core
        try:
            download(volume, chunk)
        except DECODE_ERRORS:
            x, y, z = zip(chunk.lo, chunk.hi)
            return f"{volume.key}/{x[0]}-{x[1]}_{y[0]}-{y[1]}_{z[0]}-{z[1]}"
    return None
