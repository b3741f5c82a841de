"""Find and read the frames of `flysoma bench real`: real images with known somas or nuclei.

An image NAME.png (2D) or NAME.tif, .npz, ... (3D) has beside it one of
- NAME.json: somas marked as discs in one section, and areas without somas;
- NAME.csv: the centre of each nucleus, in nm, as for `flysoma bench nuclei`;
- neither, in a folder with the name `empty`: the image has no somas.
NAME_invalid.png is white where pixels are excluded. All arrays are z, y, x.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...analysis.metrics.marks import Mark, Points
from ...axes import Nm3, Voxel
from ...errors import UserError
from ...tasks.config import Segment
from ...tasks.grids.geometry import Box, flip
from ...tasks.grids.resample import resample
from ...tasks.volumes.files import FORMATS, read_array
from ...tasks.volumes.grey import check_grey
from ...tasks.volumes.sections import MASK_SUFFIX, SECTION_FORMATS, read_section, read_valid
from .nuclei import read_nuclei

Kind = Literal["marks", "nuclei", "empty"]
KINDS: tuple[Kind, ...] = ("marks", "nuclei", "empty")
_SOMA_KEYS = ("x_px", "y_px", "radius_px", "certain", "cut_by_edge")
_EMPTY = "empty"


@dataclass(frozen=True)
class Frame:
    """An image and its annotation.

    Attributes:
      name: path of the image below the requested folder, without the suffix.
      kind: kind of the annotation.
      image: uint8, (z, y, x); a 2D image has one section.
      voxel_nm: voxel size; a 2D image has the section thickness of the segmentation network.
      valid: (y, x) booleans: the pixels to score.
      section: index of the marked section.
      marks: somas of that section.
      no_soma: areas without somas: polygons of (x, y) in pixels.
      nuclei_nm: (n, 3) positions, z, y, x; z is 0 in a 2D image.
    """

    name: str
    kind: Kind
    image: np.ndarray
    voxel_nm: Voxel
    valid: np.ndarray
    section: int = 0
    marks: tuple[Mark, ...] = ()
    no_soma: tuple[Points, ...] = ()
    nuclei_nm: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))

    @property
    def is_flat(self) -> bool:
        """Whether the image is a single section."""
        return len(self.image) == 1

    def to_working(self, sections: int) -> np.ndarray:
        """Return the image at the working resolution of segmentation; a 2D image is repeated `sections` times."""
        import torch

        working_nm, own_nm = Segment().resolution_nm, flip(self.voxel_nm)
        size = flip(self.image.shape)
        x, y, z = (max(1, -int(-n * own // w)) for n, own, w in zip(size, own_nm, working_nm))
        source, box = Box((0, 0, 0), size), Box((0, 0, 0), (x, y, z))
        image = resample(torch.from_numpy(self.image), source, own_nm, box, working_nm).numpy()
        return image.repeat(sections, axis=0) if self.is_flat else image

    def scored_section(self, labels: np.ndarray) -> np.ndarray:
        """Return the labels (y, x) of the marked section at the pixels of the image.

        Args:
          labels: (z, y, x) at the working resolution, with the shape of `to_working`.
        """
        working_nm = flip(Segment().resolution_nm)
        z = int((self.section + 0.5) * self.voxel_nm[0] // working_nm[0])
        index = [
            np.minimum((np.arange(n) + 0.5) * own // working, size - 1).astype(int)
            for n, own, working, size in zip(
                self.valid.shape, self.voxel_nm[1:], working_nm[1:], labels.shape[1:]
            )
        ]
        section = labels[len(labels) // 2 if self.is_flat else min(z, len(labels) - 1)]
        return section[np.ix_(*index)]


@dataclass(frozen=True)
class FrameFile:
    """A frame on disk; `read` reads it."""

    name: str
    kind: Kind
    read: Callable[[], Frame]


def find_frames(folder: Path, resolution_nm: Nm3) -> tuple[list[FrameFile], list[str]]:
    """Find all frames below a folder, by name, and the folders with images to skip, a line each.

    Args:
      folder: folder to search.
      resolution_nm: voxel size, x, y, z; nm_per_px in a JSON file takes precedence for x and y.

    Raises:
      UserError: no such folder, no annotated image in it, or an image or mask is missing.
    """
    if not folder.is_dir():
        raise UserError(f"no folder of frames at {folder}")
    frames, skipped = [], []
    for place in sorted({folder, *(path for path in folder.rglob("*") if path.is_dir())}):
        in_place, without = _frames_in(place, folder, resolution_nm)
        frames += in_place
        if without:
            where = place.relative_to(folder)
            skipped.append(f"{where}: {without} images without NAME.json or NAME.csv")
    if not frames:
        raise UserError(
            f"{folder} has no annotated image: put NAME.json or NAME.csv beside an image, "
            "or put images without somas in a folder 'empty'"
        )
    return frames, skipped


def _frames_in(place: Path, folder: Path, resolution_nm: Nm3) -> tuple[list[FrameFile], int]:
    """Return the frames of one folder, and the number of its images without an annotation."""
    images = {_stem(p): p for p in sorted(place.iterdir()) if _is_image(p)}
    masked = {p.stem.removesuffix(MASK_SUFFIX) for p in place.glob(f"*{MASK_SUFFIX}.png")}
    annotations = {
        p.stem: p for suffix in ("csv", "json") for p in sorted(place.glob(f"*.{suffix}"))
    }
    for stem in sorted({*annotations, *masked} - {*images}):
        orphan = annotations.get(stem, place / f"{stem}{MASK_SUFFIX}.png")
        raise UserError(f"{orphan}: there is no image {stem}.png (or .tif, .npz, ...) beside it")
    frames, without = [], 0
    for stem, path in sorted(images.items()):
        if stem not in annotations and place.name != _EMPTY:
            without += 1
            continue
        if masked and stem not in masked:
            raise UserError(
                f"{place / (stem + MASK_SUFFIX)}.png is missing; other images in this folder have a mask"
            )
        annotation = annotations.get(stem)
        kind: Kind = (
            "empty" if annotation is None else "marks" if annotation.suffix == ".json" else "nuclei"
        )
        name = str(path.relative_to(folder).with_name(stem))
        reader = _Reader(name, kind, path, annotation, resolution_nm)
        frames.append(FrameFile(name, kind, reader.read))
    return frames, without


@dataclass(frozen=True)
class _Reader:
    """Reads one frame: image, mask and annotation."""

    name: str
    kind: Kind
    path: Path
    annotation: Path | None
    resolution_nm: Nm3

    def read(self) -> Frame:
        flat = self.path.suffix.lower() in SECTION_FORMATS
        image = read_section(self.path)[None] if flat else read_array(self.path)
        check_grey(image, str(self.path))
        marks = _read_marks(self.annotation) if self.annotation and self.kind == "marks" else {}
        nuclei = (
            read_nuclei(self.annotation)
            if self.annotation and self.kind == "nuclei"
            else np.zeros((0, 3))
        )
        section = marks.get("section", len(image) // 2)
        if not 0 <= section < len(image):
            raise UserError(
                f"{self.annotation}: section {section} does not exist; the image has {len(image)}, counted from 0"
            )
        valid = read_valid(self.path, _stem(self.path), image.shape[1:])
        return Frame(
            self.name,
            self.kind,
            image,
            self._voxel_nm(marks.get("nm_per_px"), flat),
            np.ones(image.shape[1:], bool) if valid is None else valid,
            section,
            marks.get("marks", ()),
            marks.get("no_soma", ()),
            nuclei * (0.0, 1.0, 1.0) if flat else nuclei,
        )

    def _voxel_nm(self, nm_per_px: float | None, flat: bool) -> Voxel:
        """Return the voxel size. Raises UserError if it is coarser than that of the segmentation network."""
        working_nm = Segment().resolution_nm
        x, y, z = self.resolution_nm
        if nm_per_px is not None:
            x = y = nm_per_px
        if flat:
            z = working_nm[2]
        if any(own > working * 1.0001 for own, working in zip((x, y, z), working_nm)):
            limit = " x ".join(f"{n:g}" for n in working_nm)
            raise UserError(
                f"{self.path}: voxels of {x:g} x {y:g} x {z:g} nm are coarser than those of the segmentation network, "
                f"{limit} nm; use an image with finer voxels"
            )
        return z, y, x


def _read_marks(path: Path) -> dict[str, Any]:
    """Read nm_per_px, marks, no_soma and, if present, section of a JSON file.

    Raises:
      UserError: it cannot be read, or has another format.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as err:
        raise UserError(f"{path} cannot be read as JSON: {err}") from err
    if not isinstance(content, dict) or not {"nm_per_px", "somas"} <= content.keys():
        raise UserError(f"{path} needs the keys nm_per_px and somas; it has {_describe(content)}")
    marks: dict[str, Any] = {"marks": tuple(_mark(path, soma) for soma in content["somas"])}
    try:
        marks["nm_per_px"] = float(content["nm_per_px"])
        marks["no_soma"] = tuple(
            [(float(x), float(y)) for x, y in area["points"]]
            for area in content.get("no_soma_polygons", [])
        )
        if "section" in content:
            marks["section"] = int(content["section"])
    except (TypeError, ValueError, KeyError) as err:
        raise UserError(
            f"{path}: nm_per_px, section and the points of no_soma_polygons must be numbers"
        ) from err
    if not marks["nm_per_px"] > 0 or any(len(points) < 3 for points in marks["no_soma"]):
        raise UserError(
            f"{path}: nm_per_px must be above 0, and an area needs at least three points"
        )
    return marks


def _mark(path: Path, soma: Any) -> Mark:
    if not isinstance(soma, dict) or not set(_SOMA_KEYS) <= soma.keys():
        raise UserError(
            f"{path}: a soma needs the keys {', '.join(_SOMA_KEYS)}; one has {_describe(soma)}"
        )
    numbers = [soma[key] for key in _SOMA_KEYS[:3]]
    flags = [soma[key] for key in _SOMA_KEYS[3:]]
    if not all(isinstance(flag, bool) for flag in flags) or not all(
        isinstance(n, (int, float)) and not isinstance(n, bool) and np.isfinite(n) for n in numbers
    ):
        raise UserError(
            f"{path}: x_px, y_px and radius_px of a soma must be numbers, certain and cut_by_edge true or false"
        )
    if not numbers[2] > 0:
        raise UserError(f"{path}: a soma has radius_px {numbers[2]:g}; it must be above 0")
    x, y, radius = map(float, numbers)
    return Mark(x, y, radius, flags[0], flags[1], str(soma.get("class") or ""))


def _describe(content: Any) -> str:
    """Return the keys of an object, or the type of anything else."""
    return str(sorted(content)) if isinstance(content, dict) else type(content).__name__


def _is_image(path: Path) -> bool:
    return (
        path.is_file()
        and path.name.lower().endswith((*SECTION_FORMATS, *FORMATS))
        and not path.stem.endswith(MASK_SUFFIX)
    )


def _stem(path: Path) -> str:
    """Return the name without its suffix; .nii.gz is one suffix."""
    lower = path.name.lower()
    suffix = next(s for s in (*SECTION_FORMATS, *reversed(FORMATS)) if lower.endswith(s))
    return path.name[: -len(suffix)]
