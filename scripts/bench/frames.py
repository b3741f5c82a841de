"""Folders of real images of which somas or nuclei are known: what `flysoma bench real` reads.

Beside an image NAME.png (2D) or NAME.tif, .npz, ... (3D) lies one of
- NAME.json: somas marked as discs in one section, and areas where no soma can be;
- NAME.csv: the middle of every nucleus, in nm, as for `flysoma bench nuclei`;
- neither, in a folder called `empty`: the image holds no soma.
NAME_invalid.png is white where pixels are left out of judging. All arrays are z, y, x.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...analysis.metrics.marks import Mark, Points
from ...axes import Nm3, Voxel
from ...errors import UserError
from ...tasks.config import Segment
from ...tasks.volumes.files import FORMATS, read_array
from ...tasks.volumes.geometry import Box
from ...tasks.volumes.resample import resample
from ...tasks.volumes.sections import SECTION_FORMATS, read_section
from .nuclei import read_nuclei

Kind = Literal["marks", "nuclei", "empty"]
KINDS: tuple[Kind, ...] = ("marks", "nuclei", "empty")
_SOMA_KEYS = ("x_px", "y_px", "radius_px", "certain", "cut_by_edge")
_INVALID = "_invalid"
_EMPTY = "empty"


@dataclass(frozen=True)
class Frame:
    """An image and what is known of it.

    Attributes:
      name: the image's path below the folder that was asked for, without its ending.
      image: uint8, (z, y, x); one section of a 2D image.
      voxel_nm: its voxel size; a 2D image has the section thickness of the segmentation network.
      valid: (y, x) booleans: the pixels that are judged.
      section: number of the section in which the marks lie.
      no_soma: polygons of (x, y) in pixels.
      nuclei_nm: (n, 3) positions, z, y, x; z is 0 throughout for a 2D image.
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

    def working(self, sections: int) -> np.ndarray:
        """The image at the voxels of the segmentation network; a 2D image is repeated `sections` times."""
        import torch

        working_nm: Nm3 = Segment().resolution_nm
        own_nm: Nm3 = (self.voxel_nm[2], self.voxel_nm[1], self.voxel_nm[0])
        size = self.image.shape[::-1]
        x, y, z = (max(1, -int(-n * own // w)) for n, own, w in zip(size, own_nm, working_nm))
        source, box = Box((0, 0, 0), (size[0], size[1], size[2])), Box((0, 0, 0), (x, y, z))
        small = resample(torch.from_numpy(self.image), source, own_nm, box, working_nm).numpy()
        return small.repeat(sections, axis=0) if self.is_flat else small

    def judged_section(self, labels: np.ndarray) -> np.ndarray:
        """The labels (y, x) of the section of the marks at the pixels of the image.

        Args:
          labels: (z, y, x) at the voxels of the segmentation network, as `working` makes them.
        """
        working_nm = Segment().resolution_nm[::-1]
        z = int((self.section + 0.5) * self.voxel_nm[0] // working_nm[0])
        index = [
            np.minimum((np.arange(n) + 0.5) * own // working, size - 1).astype(int)
            for n, own, working, size in zip(
                self.valid.shape, self.voxel_nm[1:], working_nm[1:], labels.shape[1:]
            )
        ]
        flat = labels[len(labels) // 2 if self.is_flat else min(z, len(labels) - 1)]
        return flat[np.ix_(*index)]


@dataclass(frozen=True)
class Found:
    """A frame that was found but not read yet: where, and as what; `read` reads it."""

    name: str
    kind: Kind
    read: Callable[[], Frame]


def find_frames(folder: Path, resolution_nm: Nm3) -> tuple[list[Found], list[str]]:
    """All frames below a folder, in the order of their names, and what is skipped and why, a line each.

    Args:
      resolution_nm: voxel size (x, y, z) of images that do not tell theirs.

    Raises UserError: no such folder, nothing in it to judge by, or a file that belongs to another is missing.
    """
    if not folder.is_dir():
        raise UserError(f"no folder of frames at {folder}")
    found, skipped = [], []
    for place in sorted({folder, *(path for path in folder.rglob("*") if path.is_dir())}):
        here, unknown = _frames_of(place, folder, resolution_nm)
        found += here
        if unknown:
            where = place.relative_to(folder)
            skipped.append(f"{where}: {unknown} images without marks (NAME.json or NAME.csv)")
    if not found:
        raise UserError(
            f"{folder} holds nothing to judge by: no NAME.json or NAME.csv beside an image, no folder 'empty'"
        )
    return found, skipped


def _frames_of(place: Path, folder: Path, resolution_nm: Nm3) -> tuple[list[Found], int]:
    """The frames of one folder, and how many images of it nothing is known of."""
    images = {_stem(p): p for p in sorted(place.iterdir()) if _is_image(p)}
    masked = {p.stem.removesuffix(_INVALID) for p in place.glob(f"*{_INVALID}.png")}
    known = {p.stem: p for ending in ("csv", "json") for p in sorted(place.glob(f"*.{ending}"))}
    for stem in sorted({*known, *masked} - {*images}):
        orphan = known.get(stem, place / f"{stem}{_INVALID}.png")
        raise UserError(f"{orphan}: the image {stem}.png (or .tif, .npz, ...) is missing beside it")
    found, unknown = [], 0
    for stem, path in sorted(images.items()):
        if stem not in known and place.name != _EMPTY:
            unknown += 1
            continue
        if masked and stem not in masked:
            raise UserError(
                f"{place / (stem + _INVALID)}.png is missing; other images of its folder have such a mask"
            )
        beside = known.get(stem)
        kind: Kind = (
            "empty" if beside is None else "marks" if beside.suffix == ".json" else "nuclei"
        )
        name = str(path.relative_to(folder).with_name(stem))
        found.append(Found(name, kind, _Reader(name, kind, path, beside, resolution_nm).read))
    return found, unknown


@dataclass(frozen=True)
class _Reader:
    """Reads one frame: image, mask and what is known of it."""

    name: str
    kind: Kind
    path: Path
    beside: Path | None
    resolution_nm: Nm3

    def read(self) -> Frame:
        flat = self.path.suffix.lower() in SECTION_FORMATS
        image = read_section(self.path)[None] if flat else read_array(self.path)
        if image.dtype != np.uint8:
            raise UserError(f"{self.path} holds {image.dtype} voxels and frames are read as uint8")
        known = _read_marks(self.beside) if self.beside and self.kind == "marks" else {}
        x, y, z = self.resolution_nm
        x, y = (known["nm_per_px"],) * 2 if "nm_per_px" in known else (x, y)
        z = Segment().resolution_nm[2] if flat else z
        if any(own > w * 1.0001 for own, w in zip((x, y, z), Segment().resolution_nm)):
            raise UserError(
                f"{self.path}: voxels of {x:g} x {y:g} x {z:g} nm are coarser than the network's, "
                f"{Segment().resolution_nm} nm"
            )
        nuclei = read_nuclei(self.beside) if self.beside and self.kind == "nuclei" else None
        if nuclei is not None and flat:
            nuclei = nuclei * (0.0, 1.0, 1.0)
        section = known.get("section", len(image) // 2)
        if not 0 <= section < len(image):
            raise UserError(f"{self.beside}: section {section} is not one of {len(image)}")
        return Frame(
            self.name,
            self.kind,
            image,
            (z, y, x),
            self._valid(image.shape[1:]),
            section,
            known.get("marks", ()),
            known.get("no_soma", ()),
            np.zeros((0, 3)) if nuclei is None else nuclei,
        )

    def _valid(self, shape: Sequence[int]) -> np.ndarray:
        path = self.path.with_name(f"{self.path.stem}{_INVALID}.png")
        if not path.exists():
            return np.ones(tuple(shape), bool)
        mask = read_section(path)
        if mask.shape != tuple(shape):
            raise UserError(
                f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels and its image {shape[1]} x {shape[0]}"
            )
        return mask < 128


def _read_marks(path: Path) -> dict[str, Any]:
    """Return nm_per_px, marks, no_soma and, where it is told, section of a JSON file.

    Raises UserError: it cannot be read, or is of another form.
    """
    try:
        told = json.loads(path.read_text())
    except (OSError, ValueError) as err:
        raise UserError(f"{path} cannot be read as JSON: {err}") from err
    if not isinstance(told, dict) or not {"nm_per_px", "somas"} <= told.keys():
        there = sorted(told) if isinstance(told, dict) else type(told).__name__
        raise UserError(f"{path} needs the keys nm_per_px and somas; it has {there}")
    known: dict[str, Any] = {"marks": tuple(_mark(path, soma) for soma in told["somas"])}
    try:
        known["nm_per_px"] = float(told["nm_per_px"])
        known["no_soma"] = tuple(
            [(float(x), float(y)) for x, y in area["points"]]
            for area in told.get("no_soma_polygons", [])
        )
        if "section" in told:
            known["section"] = int(told["section"])
    except (TypeError, ValueError, KeyError) as err:
        raise UserError(
            f"{path}: nm_per_px, section and the points of no_soma_polygons should be numbers"
        ) from err
    if not known["nm_per_px"] > 0 or any(len(points) < 3 for points in known["no_soma"]):
        raise UserError(f"{path}: nm_per_px is above 0, and an area has three points or more")
    return known


def _mark(path: Path, soma: Any) -> Mark:
    if not isinstance(soma, dict) or not set(_SOMA_KEYS) <= soma.keys():
        there = sorted(soma) if isinstance(soma, dict) else type(soma).__name__
        raise UserError(f"{path}: a soma needs the keys {', '.join(_SOMA_KEYS)}; one has {there}")
    numbers = [soma[key] for key in _SOMA_KEYS[:3]]
    flags = [soma[key] for key in _SOMA_KEYS[3:]]
    if not all(isinstance(flag, bool) for flag in flags) or not all(
        isinstance(n, (int, float)) and not isinstance(n, bool) and np.isfinite(n) for n in numbers
    ):
        raise UserError(
            f"{path}: of a soma x_px, y_px and radius_px are numbers, certain and cut_by_edge true or false"
        )
    if not numbers[2] > 0:
        raise UserError(f"{path}: a soma has radius_px {numbers[2]:g}; it is above 0")
    x, y, radius = map(float, numbers)
    return Mark(x, y, radius, flags[0], flags[1], str(soma.get("class") or ""))


def _is_image(path: Path) -> bool:
    return (
        path.is_file()
        and path.name.lower().endswith((*SECTION_FORMATS, *FORMATS))
        and not path.stem.endswith(_INVALID)
    )


def _stem(path: Path) -> str:
    """The name without its ending; .nii.gz is one ending."""
    lower = path.name.lower()
    ending = next(e for e in (*SECTION_FORMATS, *reversed(FORMATS)) if lower.endswith(e))
    return path.name[: -len(ending)]
