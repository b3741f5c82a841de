"""What image and label layers share: opening a precomputed layer, and reading one box of it (x, y, z)."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from cloudfiles import CloudFiles
from cloudvolume import Bbox, CloudVolume
from cloudvolume.exceptions import InfoUnavailableError
from deflate import DeflateError

from ...axes import Vec3
from ...errors import UserError
from ..store import normalize_cloudpath
from .geometry import Box, vec3

CHUNK: Vec3 = (64, 64, 64)
UNDECODABLE = (zlib.error, DeflateError, EOFError, OSError, ValueError, IndexError)
_FLUSH_BYTES = 256 << 20
QUIET: dict[str, Any] = {"progress": False, "bounded": True, "non_aligned_writes": False}


def open_layer(cloudpath: str, layer_type: str, fill_missing: bool) -> CloudVolume:
    """Open a layer, or say in one line why it cannot be one of this type."""
    path = normalize_cloudpath(cloudpath)
    options = {**QUIET, "fill_missing": fill_missing, "parallel": 1, "compress": "gzip"}
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


def at_mip(volume: CloudVolume, mip: int) -> CloudVolume:
    if volume.mip != mip:
        volume.mip = mip
    return volume


def download(volume: CloudVolume, box: Box) -> np.ndarray:
    data = np.asarray(volume.download(bbox(box), mip=volume.mip))[..., 0]
    return np.ascontiguousarray(data.T)


def plain(resolution_nm: Sequence[float]) -> list[float]:
    """As an info has it: whole numbers without a point."""
    return [int(r) if r == int(r) else r for r in resolution_nm]


def bbox(box: Box) -> Bbox:
    return Bbox(box.lo, box.hi)


def scale_box(scale: dict[str, Any]) -> Box:
    lo = vec3(scale["voxel_offset"])
    return Box(lo, vec3([o + n for o, n in zip(lo, scale["size"])]))


def broken_chunk(volume: CloudVolume, box: Box) -> str | None:
    """Name of the first chunk of a box that cannot be read alone."""
    for chunk in _chunks(volume, box):
        try:
            download(volume, chunk)
        except UNDECODABLE:
            x, y, z = zip(chunk.lo, chunk.hi)
            return f"{volume.key}/{x[0]}-{x[1]}_{y[0]}-{y[1]}_{z[0]}-{z[1]}"
    return None


def _chunks(volume: CloudVolume, box: Box) -> Iterable[Box]:
    whole = scale_box(volume.info["scales"][volume.mip])
    step = vec3(volume.chunk_size)
    first = [(a - o) // s for a, o, s in zip(box.lo, whole.lo, step)]
    last = [-(-(b - o) // s) for b, o, s in zip(box.hi, whole.lo, step)]
    for z in range(first[2], last[2]):
        for y in range(first[1], last[1]):
            for x in range(first[0], last[0]):
                lo = vec3([o + i * s for o, i, s in zip(whole.lo, (x, y, z), step)])
                yield Box(lo, vec3([a + s for a, s in zip(lo, step)])).intersect(whole)


def last_word(err: Exception) -> str:
    return str(err).split()[-1].strip("'\"")


def nm(values: Sequence[float]) -> str:
    return " ".join(f"{v:g}" for v in values)
