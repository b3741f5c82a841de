"""Write files and arrays as precomputed layers with mips.

A layer is built in a staging folder and then moved or copied to its path, its info file last. An ingest that is
interrupted therefore leaves no partial layer.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tinybrain
from cloudfiles import CloudFiles

from ...analysis.morphology.voxelize import voxelize
from ...axes import Vec3
from ...errors import UserError
from ..formats.meshes import is_mesh, read_mesh
from ..grids.geometry import Box, vec3, voxel_size
from ..layers.ownership import find_foreign
from ..layers.precomputed import CHUNK, create_layer, fill_layer
from ..storage.store import local_folder, normalize_cloudpath, writable_cloudpath
from ..storage.versions import claimed
from .files import read_array
from .grey import check_type, rescale_grey

Progress = Callable[[str, int, int], None]  # name of a step, units done, units in all

_MAX_COARSEST_VX = 128  # longest edge of the coarsest mip
_NEARLY_ISOTROPIC = (
    2**0.5
)  # an axis is not halved while it is coarser than the finest one by this factor


@dataclass(frozen=True)
class NewLayer:
    """The path and the geometry of a precomputed layer to write. All x, y, z.

    Attributes:
      resolution_nm: voxel size.
      offset_vx: position of the first voxel, in voxels.
      layer_type: "image" (stored as uint8) or "segmentation" (stored as uint32 or uint64).
      chunk: shape of the chunks in voxels.
      overwrite: whether to replace an existing layer.
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
    axes: str | None = None,
    dataset: str | None = None,
    rescale: tuple[float, float] | None = None,
    progress: Progress | None = None,
) -> list[Vec3]:
    """Write a file as a precomputed layer with mips; see `read_array` and `ingest_array`.

    A mesh becomes labels, 1 inside the mesh, at the position of its vertices.

    Args:
      rescale: the grey values that become 0 and 255; values outside are clipped.

    Returns:
      Size of each mip in voxels, x, y, z.

    Raises:
      UserError: the file cannot be read or converted, or the layer exists.
    """
    _check_path(layer)
    if is_mesh(source):
        return ingest_array(*_fill_mesh(source, layer), progress)
    labels = layer.layer_type == "segmentation"
    array = read_array(
        source, axes, dataset, resolution_nm=voxel_size(layer.resolution_nm), labels=labels
    )
    if rescale is not None:
        if labels:
            raise UserError("--rescale is for images; labels are kept as they are")
        array = rescale_grey(array, *rescale, str(source))
    check_type(array, layer.layer_type, str(source))
    return ingest_array(array, layer, progress)


def ingest_array(
    array: np.ndarray, layer: NewLayer, progress: Progress | None = None
) -> list[Vec3]:
    """Write a z, y, x array as a precomputed layer with mips.

    Mips halve the finer axes first, until voxels are nearly cubes. A voxel of a mip is the mean of the image's voxels
    or the majority vote of the labels.

    Returns:
      Size of each mip in voxels, x, y, z.
    """
    _check_path(layer)
    check_type(array, layer.layer_type, "the array")
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"a 3-dimensional array is needed, this one has shape {array.shape}")
    if layer.layer_type == "segmentation":
        array = array.astype(np.uint64 if array.dtype.itemsize > 4 else np.uint32, copy=False)
    report = progress or (lambda step, done, total: None)
    with _staging(layer) as (folder, place):
        sizes = _write_scales(folder, array, layer, report)
        place(report)
    return sizes


def _fill_mesh(source: str | Path, layer: NewLayer) -> tuple[np.ndarray, NewLayer]:
    """Return the inside of a mesh as labels, and the layer with the offset of the labels."""
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
    """Return the factor of each mip over the one before, x, y, z, until no edge is longer than 128 voxels.

    >>> downsampling_factors((16, 16, 40), (1000, 1000, 100))
    [(2, 2, 1), (2, 2, 2), (2, 2, 2)]
    """
    resolution, size, factors = list(resolution_nm), list(size_vx), []
    while max(size) > _MAX_COARSEST_VX:
        finest = min(r for r, n in zip(resolution, size) if n > 1)
        fine = [r < _NEARLY_ISOTROPIC * finest and n > 1 for r, n in zip(resolution, size)]
        factor = vec3([2 if halve else 1 for halve in fine])
        factors.append(factor)
        resolution = [r * f for r, f in zip(resolution, factor)]
        size = [-(-n // f) for n, f in zip(size, factor)]
    return factors


def _check_path(layer: NewLayer) -> None:
    voxel_size(layer.resolution_nm)
    path = writable_cloudpath(layer.cloudpath)
    if CloudFiles(path).exists("info") and not layer.overwrite:
        raise UserError(
            f"there is a layer at {layer.cloudpath} already; choose another path, or replace it with --overwrite"
        )
    folder = local_folder(path)
    if folder is not None and Path(folder).is_file():
        raise UserError(f"{layer.cloudpath} is a file; choose an empty or new folder")
    other = find_foreign(path)
    if other is not None:
        raise UserError(
            f"{layer.cloudpath} holds {other}, which is not part of a layer; choose an empty or new folder"
        )


def _write_scales(folder: Path, array: np.ndarray, layer: NewLayer, report: Progress) -> list[Vec3]:
    """Write all mips and their info into a folder; returns the sizes of the mips, x, y, z."""
    resolution, lo, sizes = list(layer.resolution_nm), vec3(layer.offset_vx), []
    factors = downsampling_factors(resolution, array.shape[::-1])
    info: dict[str, Any] = {}
    for mip, factor in enumerate([None, *factors]):
        if factor is not None:
            array = _downsample(array, lo, factor, layer.layer_type)
            resolution = [r * f for r, f in zip(resolution, factor)]
            lo = vec3([a // f for a, f in zip(lo, factor)])
        box = Box(lo, vec3([a + n for a, n in zip(lo, array.shape[::-1])]))
        scale_info = _write_scale(
            folder, array, replace(layer, resolution_nm=resolution), box, mip, report
        )
        info = info or {**scale_info, "scales": []}
        info["scales"] += scale_info["scales"]
        sizes.append(box.size)
    (folder / "info").write_text(json.dumps(info))
    return sizes


def _write_scale(
    folder: Path, array: np.ndarray, layer: NewLayer, box: Box, mip: int, report: Progress
) -> dict[str, Any]:
    """Write one scale as a separate layer and move its chunks into the folder; returns its info."""
    separate = folder / "scale"
    path, done = f"file://{separate}", 0
    create_layer(path, layer.layer_type, str(array.dtype), layer.resolution_nm, box, layer.chunk)

    def count(sections: int) -> None:
        nonlocal done
        done += sections
        report(f"mip {mip}", done, len(array))

    fill_layer(path, array, count)
    info: dict[str, Any] = json.loads((separate / "info").read_text())
    key = info["scales"][0]["key"]
    (separate / key).rename(folder / key)
    shutil.rmtree(separate)
    return info


def _downsample(array: np.ndarray, lo: Vec3, factor: Vec3, layer_type: str) -> np.ndarray:
    """Halve the axes (z, y, x) whose factor (x, y, z) is 2, on the grid that starts at the origin of space.

    Where a voxel of that grid is partly outside the volume, the voxels at the volume's edge are repeated.
    """
    steps = factor[::-1]
    pad = [(a % f, -(a + n) % f) for a, n, f in zip(lo[::-1], array.shape, steps)]
    array = np.pad(array, pad, mode="edge") if any(map(any, pad)) else array
    if layer_type == "image":
        return _average(array, steps)
    if sum(f > 1 for f in steps) == 1:  # the majority of two voxels is either
        return array[tuple(slice(None, None, f) for f in steps)]
    return tinybrain.downsample_segmentation(array.T, factor)[0].T


def _average(array: np.ndarray, steps: Vec3) -> np.ndarray:
    """Average blocks of voxels, a few sections at a time to save memory."""
    z, y, x = steps
    parts = []
    for start in range(0, len(array), 32 * z):
        part = array[start : start + 32 * z]
        shape = (len(part) // z, z, part.shape[1] // y, y, part.shape[2] // x, x)
        mean = part.reshape(shape).mean(axis=(1, 3, 5), dtype=np.float32)
        parts.append(np.rint(mean).astype(np.uint8))
    return np.concatenate(parts)


@contextmanager
def _staging(layer: NewLayer) -> Iterator[tuple[Path, Callable[[Progress], None]]]:
    """Yield a staging folder, deleted at the end, and a function that moves the layer from it to its path.

    Raises:
      UserError: the folder cannot be written to, or another process writes this layer.
    """
    cloudpath = layer.cloudpath
    target = normalize_cloudpath(cloudpath)
    local = local_folder(target)
    cleanup = ExitStack()
    busy = UserError(
        f"another process writes {cloudpath} now; wait until it ends, or choose another path"
    )
    try:
        if local is None:
            folder = Path(tempfile.mkdtemp(prefix="flysoma-ingest-"))
            cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        else:
            folder = Path(local).with_name(f".{Path(local).name}.ingest")
            folder.mkdir(parents=True, exist_ok=True)
            cleanup.enter_context(_claimed(folder))
            for left in folder.iterdir():  # by an ingest that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
    except BlockingIOError as err:
        raise busy from err
    except OSError as err:
        raise UserError(
            f"cannot write to {cloudpath}: {err.strerror}; choose another path"
        ) from err

    def place(report: Progress) -> None:
        if local is None:
            with claimed(target) as renew:
                _check_path(layer)  # another process may have written it meanwhile
                _upload(folder, target, renew, report)
        else:
            _swap(folder, Path(local))

    try:
        yield folder, place
    except BlockingIOError as err:
        raise busy from err
    except OSError as err:
        raise UserError(
            f"cannot write {cloudpath}: {err.strerror or err}; free some space or choose another path"
        ) from err
    finally:
        cleanup.close()


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Lock a folder, and delete it at the end if it is still there; the lock of a killed process is gone.

    Raises:
      BlockingIOError: another process has locked the folder.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
        if folder.exists() and os.path.samestat(os.fstat(handle), os.stat(folder)):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def _swap(folder: Path, target: Path) -> None:
    """Replace an older folder by a finished one."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _upload(folder: Path, target: str, renew: Callable[[], None], report: Progress) -> None:
    """Copy a finished folder into a bucket, the info file last, after deleting an older layer.

    Args:
      renew: called before each batch of objects.
    """
    source, bucket = CloudFiles(f"file://{folder}"), CloudFiles(target)
    bucket.delete("info")
    bucket.delete(list(bucket.list()))
    names = sorted(name for name in source.list() if name != "info")
    batch = 64
    for start in range(0, len(names), batch):
        renew()
        source.transfer_to(bucket, paths=names[start : start + batch], reencode="gzip")
        report("upload", min(start + batch, len(names)), len(names))
    renew()
    source.transfer_to(bucket, paths=["info"])
