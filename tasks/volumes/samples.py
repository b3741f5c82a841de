"""Samples of an image, in which its look is measured. Boxes are x, y, z; arrays z, y, x."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...analysis.look.measure import CannotMeasure, Sample, measure_look
from ...analysis.look.stats import LookStats
from ...axes import Nm3, Vec3, Voxel
from ...errors import UserError
from ..config import Segment
from ..grids.geometry import Box, flip, vec3
from ..layers.image import ImageLayer
from .files import FORMATS, read_array
from .grey import check_grey
from .sections import MASK_SUFFIX, SECTION_FORMATS, read_section, read_valid

_SAMPLE_VX: Vec3 = (256, 256, 16)  # x, y, z
_TRIES = 8  # random boxes for each sample
_PICTURE_NM: Nm3 = (40.0, 40.0, 40.0)


def read_samples(
    image: str, resolution: Nm3 | None, axes: str | None, dataset: str | None, places: int
) -> tuple[list[Sample], Voxel]:
    """Return samples of the image, and their voxel size."""
    path = Path(image).expanduser()
    pictures = _find_pictures(path)
    if pictures:
        x, y, _ = resolution or _PICTURE_NM
        return [_read_picture(picture) for picture in pictures], (0.0, y, x)
    if path.is_file() or path.name.lower().endswith(FORMATS):
        if resolution is None:
            raise UserError(f"{image} is a file: give its voxel size with --resolution X Y Z")
        array = read_array(path, axes, dataset, resolution_nm=resolution)
        check_grey(array, image)
        return _sample_array(array, places), flip(resolution)
    layer = ImageLayer(image, fill_missing=True)
    working_nm = resolution or layer.resolutions_nm[layer.source_mip(Segment().resolution_nm)]
    return _sample_layer(layer, working_nm, places), flip(working_nm)


def measure_samples(image: str, samples: list[Sample], voxel_nm: Voxel) -> LookStats:
    """Measure the look of samples of an image. Raises UserError if that is not possible."""
    try:
        return measure_look(samples, voxel_nm)
    except CannotMeasure as err:
        raise UserError(f"cannot measure the look of {image}: {err}") from err


def _find_pictures(path: Path) -> list[Path]:
    """Return the path if it is a picture, or the pictures in a folder, without masks; otherwise nothing."""
    if path.name.lower().endswith(SECTION_FORMATS):
        return [path]
    if not path.is_dir() or (path / "info").exists():
        return []
    pictures = [p for p in sorted(path.iterdir()) if p.name.lower().endswith(SECTION_FORMATS)]
    return [p for p in pictures if not p.stem.endswith(MASK_SUFFIX)]


def _read_picture(path: Path) -> Sample:
    image = read_section(path)
    return Sample(image[None], read_valid(path, path.stem, image.shape))


def _sample_array(array: np.ndarray, places: int) -> list[Sample]:
    """Return samples of an array, or all of it if it is small; prefer those that are mostly not black."""
    boxes = _random_boxes(Box((0, 0, 0), flip(array.shape)), places)
    images = [array[box.slices_zyx((0, 0, 0))] for box in boxes]
    bright = [image for image in images if _is_mostly_bright(image)]
    return [Sample(image) for image in (bright or images)[:places]]


def _sample_layer(layer: ImageLayer, resolution_nm: Nm3, places: int) -> list[Sample]:
    """Return samples of a layer that are mostly not black. Raises UserError if there are none."""
    samples: list[Sample] = []
    for box in _random_boxes(layer.working_bounds(resolution_nm), places):
        image = layer.read(box, resolution_nm)
        if _is_mostly_bright(image):
            samples.append(Sample(image))
        if len(samples) == places:
            break
    if not samples:
        raise UserError(f"{layer.cloudpath}: all samples are mostly black; increase --places")
    return samples


def _random_boxes(bounds: Box, places: int) -> list[Box]:
    """Return the same random boxes on each call; the bounds if they are no larger than one sample."""
    size = [min(n, edge) for n, edge in zip(bounds.size, _SAMPLE_VX)]
    room = [n - edge for n, edge in zip(bounds.size, size)]
    if not any(room):
        return [bounds]
    random = np.random.default_rng(0)
    shifts = random.integers(0, np.array(room) + 1, (_TRIES * places, 3)).tolist()
    corners = [vec3([lo + s for lo, s in zip(bounds.lo, shift)]) for shift in shifts]
    return [Box(lo, vec3([a + n for a, n in zip(lo, size)])) for lo in corners]


def _is_mostly_bright(image: np.ndarray) -> bool:
    return bool(2 * np.count_nonzero(image) > image.size)
