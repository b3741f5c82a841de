"""Files to precomputed layers, with mips.

A layer is built in a folder of its own and comes to its place whole, its info file last, so whatever stops
an ingest, no half of it can be taken for a layer.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tinybrain
from cloudfiles import CloudFiles

from ...analysis.morphology.voxelize import voxelize
from ...axes import Vec3
from ...errors import UserError
from ..store import local_folder, normalize_cloudpath
from .files import is_mesh, read_array, read_mesh
from .geometry import Box, vec3
from .labels import create_layer, write_array
from .precomputed import CHUNK

Progress = Callable[[str, int, int], None]  # what is being done, how much of it, of how much

_COARSE_ENOUGH = 128  # voxels; edge of a layer that needs no coarser mip
_NEARLY_ISOTROPIC = 2**0.5  # an axis this much coarser than the finest one waits for the others


@dataclass(frozen=True)
class NewLayer:
    """A precomputed layer to be made: where, and how its voxels lie. All x, y, z.

    Attributes:
      resolution_nm: voxel size.
      offset_vx: position of its first voxel, in voxels.
      layer_type: "image" (kept as uint8) or "segmentation" (kept as uint32 or uint64).
      chunk: shape of its chunks in voxels.
      overwrite: whether a layer that is there already may be replaced.
    """

    cloudpath: str
    resolution_nm: Sequence[float]
    offset_vx: Sequence[int] = (0, 0, 0)
    layer_type: str = "image"
    chunk: Vec3 = CHUNK
    overwrite: bool = False


def ingest(
    source: str | Path,
    layer: NewLayer,
    axes: str = "zyx",
    dataset: str | None = None,
    rescale: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> list[Vec3]:
    """Make a precomputed layer, with mips, from a file; see `read_array` and `ingest_array`.

    A mesh becomes labels, 1 inside of it, at its own place.

    Args:
      rescale: the values that become 0 and 255 of an image; those beyond are clipped.

    Returns:
      Size of each mip in voxels, x, y, z.

    Raises:
      UserError: the file cannot be used as it is, or there is a layer already.
    """
    _check_place(layer)
    if is_mesh(source):
        return ingest_array(*_filled(source, layer), progress)
    array = read_array(source, axes, dataset)
    if rescale is not None:
        if layer.layer_type != "image":
            raise UserError("--rescale is for images; labels are kept as they are")
        array = _rescaled(array, *rescale)
    _check_dtype(array, layer, str(source))
    return ingest_array(array, layer, progress)


def ingest_array(
    array: np.ndarray, layer: NewLayer, progress: Progress | None = None
) -> list[Vec3]:
    """Make a precomputed layer, with mips, from a z, y, x array.

    Mips halve the finer axes first until voxels are about cubes: averages of an image, the commonest label of
    a segmentation.

    Returns:
      Size of each mip in voxels, x, y, z.
    """
    _check_place(layer)
    _check_dtype(array, layer, "the array")
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"a 3-dimensional array is needed, this one has shape {array.shape}")
    if layer.layer_type == "segmentation":
        array = array.astype(np.uint64 if array.dtype.itemsize > 4 else np.uint32, copy=False)
    report = progress or (lambda step, done, total: None)
    with _staging(layer.cloudpath) as (folder, place):
        sizes = _write_scales(folder, array, layer, report)
        place(report)
    return sizes


def _filled(source: str | Path, layer: NewLayer) -> tuple[np.ndarray, NewLayer]:
    """The inside of a mesh as labels, and the layer at its place."""
    if layer.layer_type != "segmentation" or any(layer.offset_vx):
        raise UserError(
            f"{source} is a mesh: it becomes labels at its own place; add --segmentation, without --offset"
        )
    vertices, faces = read_mesh(source)
    x, y, z = layer.resolution_nm
    try:
        inside, first = voxelize(vertices, faces, (x, y, z))
    except ValueError as err:
        raise UserError(f"{source} cannot be filled: {err}") from err
    if not inside.any():
        raise UserError(
            f"{source} holds no voxel of {x:g} x {y:g} x {z:g} nm; are its corners in nm?"
        )
    return inside.view(np.uint8), replace(layer, offset_vx=first)


def downsampling_factors(resolution_nm: Sequence[float], size_vx: Sequence[int]) -> list[Vec3]:
    """Factors of each mip over the one before it, x, y, z, until no side is longer than 128 voxels.

    >>> downsampling_factors((16, 16, 40), (1000, 1000, 100))
    [(2, 2, 1), (2, 2, 2), (2, 2, 2)]
    """
    resolution, size, factors = list(resolution_nm), list(size_vx), []
    while max(size) > _COARSE_ENOUGH:
        finest = min(r for r, n in zip(resolution, size) if n > 1)
        fine = [r < _NEARLY_ISOTROPIC * finest and n > 1 for r, n in zip(resolution, size)]
        factor = vec3([2 if halve else 1 for halve in fine])
        factors.append(factor)
        resolution = [r * f for r, f in zip(resolution, factor)]
        size = [-(-n // f) for n, f in zip(size, factor)]
    return factors


def _check_place(layer: NewLayer) -> None:
    if len(layer.resolution_nm) != 3 or min(layer.resolution_nm) <= 0:
        raise UserError("a resolution is three numbers above zero, in nm, x y z")
    path = normalize_cloudpath(layer.cloudpath)
    if path.startswith(("http://", "https://", "mem://")):
        raise UserError(f"{layer.cloudpath} cannot keep a layer; give a folder, gs:// or s3://")
    if CloudFiles(path).exists("info"):
        if not layer.overwrite:
            raise UserError(
                f"there is a layer at {layer.cloudpath} already; choose another path, or replace it with --overwrite"
            )
        return
    folder = local_folder(path)
    if folder is not None and Path(folder).exists() and not _is_empty(Path(folder)):
        raise UserError(f"{layer.cloudpath} holds other files; choose an empty or new folder")


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and next(folder.iterdir(), None) is None


def _check_dtype(array: np.ndarray, layer: NewLayer, source: str) -> None:
    if layer.layer_type == "image":
        if array.dtype != np.uint8:
            low, high = _span(array)
            raise UserError(
                f"{source} holds {array.dtype} voxels and an image is kept as uint8; say which values become "
                f"0 and 255 with --rescale LOW HIGH (they go from {low:g} to {high:g} here)"
            )
    elif array.dtype.kind not in "bui":
        raise UserError(f"{source} holds {array.dtype} voxels; labels are whole numbers")
    elif array.dtype.kind == "i" and array.size and array.min() < 0:
        raise UserError(f"{source} holds labels below zero ({array.min()}); 0 is background")


def _span(array: np.ndarray) -> tuple[float, float]:
    if array.dtype.kind not in "buif":
        raise UserError(f"voxels of type {array.dtype} are not grey values; one channel is needed")
    return float(np.nanmin(array)), float(np.nanmax(array))


def _rescaled(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Grey values low..high to 0..255, section by section to spare memory; what is no number becomes 0."""
    if not high > low:
        raise UserError(f"--rescale {low:g} {high:g}: the second value should be the larger")
    _span(array[:1])
    scaled = np.empty(array.shape, np.uint8)
    for z, section in enumerate(array):
        grey = (np.nan_to_num(section.astype(np.float32), nan=low) - low) * (255 / (high - low))
        scaled[z] = np.rint(np.clip(grey, 0, 255))
    return scaled


def _write_scales(folder: Path, array: np.ndarray, layer: NewLayer, report: Progress) -> list[Vec3]:
    """Write mip 0 and the mips above it under a folder, and their info; returns their sizes, x, y, z."""
    resolution, lo, sizes = list(layer.resolution_nm), vec3(layer.offset_vx), []
    factors = downsampling_factors(resolution, array.shape[::-1])
    info: dict[str, Any] = {}
    for mip, factor in enumerate([None, *factors]):
        if factor is not None:
            array = _downsample(array, lo, factor, layer.layer_type)
            resolution = [r * f for r, f in zip(resolution, factor)]
            lo = vec3([a // f for a, f in zip(lo, factor)])
        box = Box(lo, vec3([a + n for a, n in zip(lo, array.shape[::-1])]))
        one = _write_scale(
            folder, array, replace(layer, resolution_nm=resolution), box, mip, report
        )
        info = info or {**one, "scales": []}
        info["scales"] += one["scales"]
        sizes.append(box.size)
    (folder / "info").write_text(json.dumps(info))
    return sizes


def _write_scale(
    folder: Path, array: np.ndarray, layer: NewLayer, box: Box, mip: int, report: Progress
) -> dict[str, Any]:
    """Write one scale as a layer of its own, move its chunks to the folder; returns its info."""
    alone = folder / "scale"
    path, done = f"file://{alone}", 0
    create_layer(path, layer.layer_type, str(array.dtype), layer.resolution_nm, box, layer.chunk)

    def count(sections: int) -> None:
        nonlocal done
        done += sections
        report(f"mip {mip}", done, len(array))

    write_array(path, array, count)
    info: dict[str, Any] = json.loads((alone / "info").read_text())
    key = info["scales"][0]["key"]
    (alone / key).rename(folder / key)
    shutil.rmtree(alone)
    return info


def _downsample(array: np.ndarray, lo: Vec3, factor: Vec3, layer_type: str) -> np.ndarray:
    """Halve the axes (z, y, x) that a factor (x, y, z) says, on the grid that starts at the space's zero.

    Where that grid cuts the volume's edge, the edge's voxels are repeated.
    """
    steps = factor[::-1]
    pad = [(a % f, -(a + n) % f) for a, n, f in zip(lo[::-1], array.shape, steps)]
    array = np.pad(array, pad, mode="edge") if any(map(any, pad)) else array
    if layer_type == "image":
        return _averages(array, steps)
    if sum(f > 1 for f in steps) == 1:  # the commonest of two is either
        return array[tuple(slice(None, None, f) for f in steps)]
    return tinybrain.downsample_segmentation(array.T, factor)[0].T


def _averages(array: np.ndarray, steps: Vec3) -> np.ndarray:
    """Means of blocks, a few sections at a time to spare memory."""
    z, y, x = steps
    parts = []
    for start in range(0, len(array), 32 * z):
        part = array[start : start + 32 * z]
        shape = (len(part) // z, z, part.shape[1] // y, y, part.shape[2] // x, x)
        mean = part.reshape(shape).mean(axis=(1, 3, 5), dtype=np.float32)
        parts.append(np.rint(mean).astype(np.uint8))
    return np.concatenate(parts)


@contextmanager
def _staging(cloudpath: str) -> Iterator[tuple[Path, Callable[[Progress], None]]]:
    """A folder to build a layer in, and what brings it to its place; the folder is gone afterwards."""
    target = normalize_cloudpath(cloudpath)
    local = local_folder(target)
    try:
        if local is None:
            folder = Path(tempfile.mkdtemp(prefix="flysoma-ingest-"))
        else:
            folder = Path(local).with_name(f".{Path(local).name}.ingest")
            shutil.rmtree(folder, ignore_errors=True)  # of an ingest that was killed
            folder.mkdir(parents=True)
    except OSError as err:
        raise UserError(
            f"cannot write to {cloudpath}: {err.strerror}; choose another path"
        ) from err

    def place(report: Progress) -> None:
        if local is None:
            _upload(folder, target, report)
        else:
            _swap(folder, Path(local))

    try:
        yield folder, place
    except OSError as err:
        raise UserError(
            f"cannot write {cloudpath}: {err.strerror or err}; free some space or choose another path"
        ) from err
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _swap(folder: Path, target: Path) -> None:
    """Put a finished folder in the place of an older one."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _upload(folder: Path, target: str, report: Progress) -> None:
    """Copy a finished folder into a bucket, the info file last; what an older layer had there goes first."""
    source, bucket = CloudFiles(f"file://{folder}"), CloudFiles(target)
    bucket.delete("info")
    bucket.delete(list(bucket.list()))
    names = sorted(name for name in source.list() if name != "info")
    batch = 64
    for start in range(0, len(names), batch):
        source.transfer_to(bucket, paths=names[start : start + batch])
        report("upload", min(start + batch, len(names)), len(names))
    source.transfer_to(bucket, paths=["info"])
