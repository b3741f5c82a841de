"""What image and label layers share: creating, opening and filling a precomputed layer, and reading a box (x, y, z)."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
from cloudvolume import Bbox, CloudVolume, chunks
from cloudvolume.datasource.precomputed.image import rx
from cloudvolume.exceptions import EmptyVolumeException

from ...axes import Nm3, Vec3
from ...errors import UserError
from ..faults import Fault, first_line
from ..grids.geometry import BlockGrid, Box, vec3
from ..storage.damage import DamagedChunk
from ..storage.store import local_folder, normalize_cloudpath
from . import label_chunks  # noqa: F401  checks the chunks of labels
from .info import read_info

CHUNK: Vec3 = (64, 64, 64)
_CHUNK_NAME = re.compile(r"([^/]+)/(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)_(-?\d+)-(-?\d+)(?:\.gz)?")
_CACHE_BYTES = 256 << 20
_OPTIONS: dict[str, Any] = {
    "progress": False,
    "bounded": True,
    "non_aligned_writes": False,
    "parallel": 1,
}


def _decode_stored(
    decode: Any, meta: Any, box: Any, content: Any, *args: Any, **kwargs: Any
) -> Any:
    if content is not None and len(content) == 0:  # a full disk leaves such files
        raise ValueError("it has 0 bytes")
    return _decode(decode, meta, box, content, *args, **kwargs)


_decode = rx._decode_helper
rx._decode_helper = _decode_stored  # cloud-volume takes an empty object for a missing one
rx.print = lambda *_: None  # it prints an error of a chunk before it raises it


def stored_compression(cloudpath: str) -> str | None:
    """Return how the objects of a layer are compressed: gzip in buckets, not at all on disk.

    cloud-files adds ".gz" to the name of a compressed file, where tensorstore and plain web servers do not find it.
    """
    return None if local_folder(normalize_cloudpath(cloudpath)) else "gzip"


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
    volume = CloudVolume(cloudpath, **_options(cloudpath))
    bounds = scale_bounds(volume.info["scales"][0])
    step = int(volume.chunk_size[2])
    for start in range(0, array.shape[0], step):
        part = array[start : start + step]
        z = bounds.lo[2] + start
        upload(volume, Box((*bounds.lo[:2], z), (*bounds.hi[:2], z + len(part))), part)
        if progress is not None:
            progress(len(part))


def open_layer(cloudpath: str, layer_type: str, fill_missing: bool) -> CloudVolume:
    """Open a layer. Raises UserError if there is no layer, or if its type or number of channels is wrong."""
    path, info = read_info(cloudpath)
    if info["type"] != layer_type:
        raise UserError(
            f"{cloudpath} is of type {info['type']}, and a layer of type {layer_type} is needed; "
            f"give the path of the {layer_type}"
        )
    if info["num_channels"] != 1:
        raise UserError(
            f"{cloudpath} has {info['num_channels']} channels and one is needed; make a layer of one of them"
        )
    options = {**_options(path), "fill_missing": fill_missing, "provenance": {}}  # is not read
    if layer_type == "segmentation":
        options["delete_black_uploads"] = True
    try:
        return CloudVolume(path, info=info, lru_bytes=_CACHE_BYTES, **options)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as err:
        raise UserError(
            f"{cloudpath} is not a precomputed layer: its info file is invalid ({first_line(err)}); "
            "make a layer with 'flysoma ingest FILE CLOUDPATH'"
        ) from err


def _options(cloudpath: str) -> dict[str, Any]:
    compression = stored_compression(cloudpath)
    return {**_OPTIONS, "compress": compression or False}  # None is gzip to cloud-volume


def at_mip(volume: CloudVolume, mip: int) -> CloudVolume:
    """Switch a volume to a mip; returns the volume."""
    if volume.mip != mip:
        volume.mip = mip
    return volume


def download(volume: CloudVolume, box: Box) -> np.ndarray:
    """Read a box of the volume's current mip: z, y, x.

    Raises:
      DamagedChunk: a chunk is missing, unless the volume fills it in, or it cannot be decoded.
    """
    try:
        return _download(volume, box)
    except Exception as err:
        if not is_damage(err):
            raise
        chunk, cause = _find_broken_chunk(volume, box) or (f"of {box}", err)
        layer = f"{volume.cloudpath}: {volume.layer_type}"
        if isinstance(cause, EmptyVolumeException):
            advice = "restore it, or set 'fill_missing: true' to read it as black"
            raise DamagedChunk(layer, chunk, "is missing inside the planned area", advice) from err
        advice = "it is truncated or damaged: copy it again"
        reason = f"cannot be decoded ({first_line(cause)})"
        raise DamagedChunk(layer, chunk, reason, advice) from err


def _download(volume: CloudVolume, box: Box) -> np.ndarray:
    data = np.asarray(volume.download(_bbox(box), mip=volume.mip))[..., 0]
    return np.ascontiguousarray(data.T)


def is_damage(err: Exception) -> bool:
    """Return whether an error can come from the content of a chunk; each codec raises its own."""
    if isinstance(err, MemoryError) or (isinstance(err, OSError) and err.errno is not None):
        return False
    return Fault.of(err).kind == "error"


def _find_broken_chunk(volume: CloudVolume, box: Box) -> tuple[str, Exception] | None:
    """Return the name of the first chunk in a box that cannot be read, and the error; None if all can be."""
    grid = scale_chunks(volume.info["scales"][volume.mip])
    for index in grid.reaching(box):
        chunk = grid[index].core
        try:
            _download(volume, chunk)
        except Exception as err:  # noqa: BLE001  each codec raises its own errors
            return chunk_name(volume, chunk), err
    return None


def upload(volume: CloudVolume, box: Box, array: np.ndarray) -> None:
    """Write a z, y, x array into a chunk-aligned box of the volume's current mip."""
    volume[_bbox(box)] = array.T[..., np.newaxis]


def _bbox(box: Box) -> Bbox:
    return Bbox(box.lo, box.hi)


def info_resolution(resolution_nm: Sequence[float]) -> list[float]:
    """Return a resolution as an info file has it: whole numbers without a decimal point."""
    return [int(r) if r == int(r) else r for r in resolution_nm]


def scale_key(resolution_nm: Sequence[float]) -> str:
    """Return the key of a scale, which is the folder of its chunks."""
    return "_".join(map(str, info_resolution(resolution_nm)))


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


def chunk_name(volume: CloudVolume, chunk: Box) -> str:
    """Return the name, relative to the layer, of a chunk of the volume's current mip."""
    return f"{volume.key}/{box_name(chunk)}"


def box_name(box: Box) -> str:
    """Return a box as cloud-volume and igneous have it in the names of objects."""
    name: str = _bbox(box).to_filename()
    return name


def parse_chunk_name(name: str) -> tuple[str, Box] | None:
    """Return the key of the scale and the box of a chunk's name; None for another name."""
    match = _CHUNK_NAME.fullmatch(name)
    if match is None:
        return None
    x, past_x, y, past_y, z, past_z = map(int, match.groups()[1:])
    return match[1], Box((x, y, z), (past_x, past_y, past_z))


def background_chunks(
    info: dict[str, Any], mip: int, stored: Collection[str]
) -> Iterator[tuple[str, bytes]]:
    """Yield name, relative to the layer, and content of each chunk of a mip that is not stored: background.

    Without them, readers that do not fill in missing chunks, such as `CloudVolume(path)[:]`, fail.

    Args:
      stored: names of the objects of the layer.
    """
    scale = info["scales"][mip]
    content: dict[Vec3, bytes] = {}  # by size: chunks at the upper faces are smaller
    for chunk in scale_chunks(scale):
        size = chunk.core.size
        name = f"{scale['key']}/{box_name(chunk.core)}"
        if name in stored:
            continue
        if size not in content:
            empty = np.zeros((*size, info["num_channels"]), info["data_type"], order="F")
            block = scale.get("compressed_segmentation_block_size")
            content[size] = chunks.encode(empty, scale["encoding"], block)
        yield name, content[size]
