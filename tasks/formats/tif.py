"""Read tif: plain, tiled, pyramidal, BigTIFF, ImageJ and OME-TIFF. Every page is checked against the first."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...axes import MAX_VOXEL_NM, MIN_VOXEL_NM
from ...errors import UserError
from .stored import Stored, VoxelSize, check_fits, stated_size

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

_UNITS_NM = {
    **{"nm": 1.0, "nanometer": 1.0, "å": 0.1, "angstrom": 0.1, "inch": 2.54e7},
    **{"µm": 1e3, "μm": 1e3, "um": 1e3, "\\u00b5m": 1e3, "micron": 1e3, "microns": 1e3},
    **{"micrometer": 1e3, "mm": 1e6, "millimeter": 1e6, "cm": 1e7, "m": 1e9},
}
_PER_LENGTH = (2, 3)  # values of ResolutionUnit: inch, cm
_UM_PER_CM = 1e4
_MAX_TAGGED_NM = 1e4  # a larger size in the resolution tags is that of a screen or a printer
_TURNED = 5  # from this orientation on, viewers exchange rows and columns
_ORIENTATION = 274  # number of the tag
_REDUCED = 1  # bit of the tag NewSubfileType: a smaller copy of another page


def load_tif(path: Path, dataset: str | None, labels: bool) -> Stored:
    """Read an image of a tif file.

    Grey values are returned as they look: white is the largest value. Labels keep their numbers.

    Args:
      dataset: number of the image in a file with several, counted from 0.
      labels: whether the values are labels, which may have a palette.
    Raises:
      UserError: pages of several shapes or types, colours, a missing page, or several images.
    """
    import tifffile

    with _raise_logged_errors(), tifffile.TiffFile(path) as tif:
        series = _choose(path, tif, dataset)
        _check_pages(path, tif, series)
        check_fits(path, series.size, series.dtype.itemsize)
        array = _grey(path, series.asarray(), series.keyframe, labels)
        axes = "".join(letter if letter in "xyzcst" else "?" for letter in series.axes.lower())
        if array.size == 0:
            raise ValueError("no pages")
        return Stored(array, axes, voxel_size=_voxel_size(tif, series, axes))


@contextmanager
def _raise_logged_errors() -> Iterator[None]:
    """Raise ValueError for an error that tifffile only logs, such as a truncated file."""
    errors = _ErrorLog()
    log = logging.getLogger("tifffile")
    log.addHandler(errors)
    propagate, log.propagate = log.propagate, False
    try:
        yield
    finally:
        log.removeHandler(errors)
        log.propagate = propagate
        if errors.lines:
            raise ValueError(errors.lines[0])


class _ErrorLog(logging.Handler):
    """Collects the errors that a library logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _choose(path: Path, tif: TiffFile, dataset: str | None) -> TiffPageSeries:
    """Return the requested image, or the only one that is not a smaller copy of another."""
    images = {str(number): series for number, series in enumerate(tif.series)}
    if not images:
        raise ValueError("no pages")
    if dataset is not None and dataset in images:
        return images[dataset]
    whole = [s for s in images.values() if not s.keyframe.subfiletype & _REDUCED]
    if dataset is None and len(whole) == 1:
        return whole[0]
    told = "; ".join(f"{number}: {_describe(series)}" for number, series in images.items())
    if dataset is not None:
        raise UserError(f"{path} has no image '{dataset}'; there is: {told}")
    raise UserError(
        f"{path} holds {len(images)} images of its {len(tif.pages)} pages ({told}); save all pages alike, "
        "or choose an image with --dataset NUMBER"
    )


def _describe(series: TiffPageSeries) -> str:
    page: Any = series.keyframe
    count = "1 page" if len(series) == 1 else f"{len(series)} pages"
    return f"{count} of {_kind_text(page)} from page {page.index}"


def _kind_text(page: Any) -> str:
    return " x ".join(map(str, page.shape)) + f" {page.dtype}"


def _check_pages(path: Path, tif: TiffFile, series: TiffPageSeries) -> None:
    """Raise UserError if a page of an image is missing or differs from the first, or if pages are left over."""
    first: Any = series.keyframe
    for number, page in enumerate(series):
        if page is None:
            raise UserError(
                f"{path} names page {number} of {len(series)}, which is not there; save the whole stack in one file"
            )
        whole: Any = page.aspage()  # tifffile assumes that pages are alike; this reads the tags
        if _kind(whole) != _kind(first):
            other, usual = _page_text(whole), _page_text(first)
            difference = " with another palette" if other == usual else ""
            raise UserError(
                f"{path}: page {whole.index} is {other}{difference} and page {first.index} is {usual}; "
                "save all pages alike"
            )
    if _orientation(first) >= _TURNED:
        raise UserError(
            f"{path}: its pages are {_page_text(first)}, so viewers exchange their rows and columns; save them upright"
        )
    named = sum(len(level) for image in tif.series for level in image.levels)
    if len(tif.pages) > named and not series.is_truncated:
        raise UserError(
            f"{path} has {len(tif.pages)} pages and its description names {named}; save it again as a plain stack"
        )


def _kind(page: Any) -> tuple[Any, ...]:
    palette = None if page.colormap is None else page.colormap.tobytes()
    shape_and_type = page.shape, page.dtype, page.samplesperpixel
    return *shape_and_type, page.photometric, _orientation(page), palette


def _page_text(page: Any) -> str:
    orientation = _orientation(page)
    turned = f", orientation {orientation}" if orientation != 1 else ""
    return f"{_kind_text(page)} ({page.photometric.name.lower()}{turned})"


def _orientation(page: Any) -> int:
    return int(page.tags.valueof(_ORIENTATION, default=1))


def _grey(path: Path, array: np.ndarray, page: Any, labels: bool) -> np.ndarray:
    """Return values that grow with brightness; labels unchanged. Raises UserError for colours.

    Grey values of fewer than 8 bits are spread over 0 to 255.
    """
    kind = page.photometric.name
    if labels and kind in ("MINISBLACK", "PALETTE", "MASK"):
        return array
    if kind in ("MINISBLACK", "MINISWHITE") and array.dtype == np.uint8 and not labels:
        levels = np.linspace(0, 255, 2 ** int(page.bitspersample))
        return np.rint(levels if kind == "MINISBLACK" else levels[::-1]).astype(np.uint8)[array]
    if kind == "MINISBLACK":
        return array
    if kind == "MINISWHITE" and not labels and array.dtype.kind in "bu":
        largest = array.dtype.type(2 ** int(page.bitspersample) - 1)
        return ~array if array.dtype.kind == "b" else largest - array
    if kind == "PALETTE" and page.colormap is not None and page.samplesperpixel == 1:
        red, green, blue = page.colormap
        if (red == green).all() and (red == blue).all():
            return (red >> 8).astype(np.uint8)[array]
    raise UserError(
        f"{path}: its pages are {kind.lower()} ({_kind_text(page)}) and "
        f"{'labels' if labels else 'one grey value per pixel'} with 0 as black are needed; convert them"
    )


def _voxel_size(tif: TiffFile, series: TiffPageSeries, axes: str) -> VoxelSize | None:
    """Return the voxel size that OME-XML, ImageJ or the resolution tags state."""
    sizes: dict[str, float | None] = {}
    if tif.is_ome and tif.ome_metadata:
        number = next(n for n, image in enumerate(tif.series) if image is series)
        return _ome_size(tif.ome_metadata, number, axes)
    page: Any = series.keyframe
    about = tif.imagej_metadata or next(iter(tif.shaped_metadata or ()), {})
    unit_nm = _UNITS_NM.get(str(about.get("unit", "")).lower())
    per_unit: Sequence[float] = page.resolution
    largest = MAX_VOXEL_NM
    if unit_nm is None:
        if page.resolutionunit not in _PER_LENGTH:
            return None
        per_unit, unit_nm, largest = page.get_resolution("MICROMETER"), 1e3, _MAX_TAGGED_NM
    elif not tif.is_imagej:
        per_unit = tuple(p * unit_nm / 1e3 for p in page.get_resolution("MICROMETER"))
    for axis, per in zip("xy", per_unit):
        size = unit_nm / per if per else 0
        sizes[axis] = size if MIN_VOXEL_NM <= size <= largest else None
    spacing = about.get("spacing")
    sizes["z"] = None if spacing is None else float(spacing) * unit_nm
    return stated_size([sizes[axis] for axis in _stack(axes)], 1.0)


def _ome_size(xml: str, number: int, axes: str) -> VoxelSize | None:
    """Return the PhysicalSize of an image of OME-XML."""
    import tifffile

    images = tifffile.xml2dict(xml)["OME"].get("Image", [])
    images = images if isinstance(images, list) else [images]
    if number >= len(images):
        return None
    pixels = images[number].get("Pixels", {})
    sizes: dict[str, float | None] = {}
    for axis in "XYZ":
        unit_nm = _UNITS_NM.get(str(pixels.get(f"PhysicalSize{axis}Unit", "µm")).lower())
        value = pixels.get(f"PhysicalSize{axis}")
        sizes[axis.lower()] = None if value is None or unit_nm is None else value * unit_nm
    return stated_size([sizes[axis] for axis in _stack(axes)], 1.0)


def _stack(axes: str) -> str:
    """Return the axes with the stack's as z; an axis that is not in space has no size, so any letter does."""
    return "".join(letter if letter in "xy" else "z" for letter in axes)


def save_tif(path: Path, array: np.ndarray, sizes_nm: Sequence[float] | None) -> None:
    """Write a stack of pages; `sizes_nm` is the voxel size in the order of the array, which is stated in um."""
    import tifffile

    if sizes_nm is None:
        tifffile.imwrite(path, array, compression="zlib")
        return
    z, y, x = (nm / 1e3 for nm in sizes_nm)
    tifffile.imwrite(
        path,
        array,
        compression="zlib",
        resolution=(_UM_PER_CM / x, _UM_PER_CM / y),
        resolutionunit="CENTIMETER",
        metadata={"axes": "ZYX", "spacing": z, "unit": "um"},
    )
