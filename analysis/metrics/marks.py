"""Score the labels of one section against somas that a person marked as discs.

Arrays are (y, x); positions and radii are in pixels, x is the column and y the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from skimage.draw import polygon2mask

MIN_IOU = 0.4  # of an object and a disc, for the mark to be found
CONTAINED_SHARE = 0.5  # of a disc: an object that covers more contains the mark
COVERED_SHARE = 0.25  # of a disc: a mark that no object covers to this share is missed
MIN_AREA_UM2 = 1.0  # smaller objects do not count as errors
RIM_UM = 0.5  # width of the rim around a disc

Verdict = Literal["found", "merged", "outline", "missed", "hidden"]
Role = Literal["mark", "rim", "small", "unmarked"]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """A soma that a person marked.

    Attributes:
      x_px, y_px, radius_px: the disc.
      certain: False if the annotator was unsure; such a mark counts neither as a hit nor as an error.
      cut_by_edge: whether the edge of the image cuts the soma.
      kind: class of the cell, such as "neuron" or "glia"; empty if unknown.
    """

    x_px: float
    y_px: float
    radius_px: float
    certain: bool = True
    cut_by_edge: bool = False
    kind: str = ""

    @property
    def group(self) -> Literal["whole", "cut", "uncertain"]:
        """The group in which the mark is counted."""
        return "uncertain" if not self.certain else "cut" if self.cut_by_edge else "whole"

    def disc(self, shape: tuple[int, ...], margin_px: float = 0.0) -> np.ndarray:
        """Return a boolean array of the pixels whose centre lies in the disc, dilated by a margin."""
        y, x = np.ogrid[: shape[0], : shape[1]]
        inside = (x - self.x_px) ** 2 + (y - self.y_px) ** 2 <= (self.radius_px + margin_px) ** 2
        return np.asarray(inside)


@dataclass(frozen=True)
class MarkResult:
    """The verdict on one mark.

    Attributes:
      verdict: "found": an object that contains no other certain mark has an IoU of at least 0.4 with the disc;
        "merged": its object contains another certain mark; "outline": an object covers at least a quarter of the
        disc, with a lower IoU; "missed": no object does; "hidden": less than half of the disc is valid, so the mark
        is not scored.
      label: the object with the highest IoU; 0 if there is none.
      iou: IoU of that object and the disc.
    """

    mark: Mark
    verdict: Verdict
    label: int
    iou: float


@dataclass(frozen=True)
class ObjectResult:
    """The verdict on one object of the section.

    Attributes:
      role: "mark": it contains a mark, or its IoU with one is at least 0.4; "rim": at least half of it lies in discs
        dilated by 0.5 um; "small": below 1 um2; "unmarked": none of these.
      in_no_soma: whether it has at least 1 um2 and more than half of it lies in an area without somas.
    """

    label: int
    area_um2: float
    role: Role
    in_no_soma: bool


@dataclass(frozen=True)
class GroupCounts:
    """Numbers of marks of one group by verdict; found_50: found marks with an IoU of at least 0.5."""

    marks: int = 0
    found: int = 0
    found_50: int = 0
    merged: int = 0
    outline: int = 0
    missed: int = 0
    hidden: int = 0

    def __add__(self, other: GroupCounts) -> GroupCounts:
        return GroupCounts(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))


@dataclass(frozen=True)
class SectionCounts:
    """Numbers of marks and objects of one section, or of several sections added.

    Attributes:
      whole, cut, uncertain: marks of each group; the marks of the first two are certain.
      merges: objects that contain at least two certain marks.
      objects: all objects, including small ones.
      unmarked: objects of at least 1 um2 that neither contain a mark nor lie at the rim of one.
      in_no_soma: objects of at least 1 um2 in areas without somas.
    """

    whole: GroupCounts = field(default_factory=GroupCounts)
    cut: GroupCounts = field(default_factory=GroupCounts)
    uncertain: GroupCounts = field(default_factory=GroupCounts)
    merges: int = 0
    objects: int = 0
    unmarked: int = 0
    in_no_soma: int = 0

    def __add__(self, other: SectionCounts) -> SectionCounts:
        return SectionCounts(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))


@dataclass(frozen=True)
class SectionResult:
    """Verdicts on all marks and objects of a section, and their counts."""

    marks: tuple[MarkResult, ...]
    objects: tuple[ObjectResult, ...]
    counts: SectionCounts

    def to_json(self) -> dict[str, Any]:
        """Return the verdicts as plain values for JSON."""
        marks = [
            vars(r.mark) | {k: v for k, v in vars(r).items() if k != "mark"} for r in self.marks
        ]
        return {"marks": marks, "objects": [dict(vars(o)) for o in self.objects]}


def score_marks(
    labels: np.ndarray,
    marks: Sequence[Mark],
    pixel_nm: float,
    no_soma: Iterable[Points] = (),
    valid: np.ndarray | None = None,
) -> SectionResult:
    """Score all marks against the objects of a section, and all objects against the marks.

    Args:
      labels: (y, x) integers; 0 is background.
      marks: somas of the section.
      pixel_nm: edge of a pixel.
      no_soma: areas without somas: polygons, each a list of (x, y) in pixels.
      valid: (y, x) booleans; False excludes a pixel from all counts. None: all pixels are valid.
    """
    valid = np.ones(labels.shape, bool) if valid is None else valid
    visible = np.where(valid, labels, 0)
    ids, areas = np.unique(visible[visible > 0], return_counts=True)
    discs = [mark.disc(labels.shape) for mark in marks]
    shared = np.zeros((len(marks), len(ids)))  # pixels in both a disc and an object
    for row, disc in enumerate(discs):
        overlapping, counts = np.unique(visible[disc & (visible > 0)], return_counts=True)
        shared[row, np.searchsorted(ids, overlapping)] = counts
    sizes = np.array([(disc & valid).sum() for disc in discs], float).reshape(-1, 1)
    iou = shared / np.maximum(1.0, sizes + areas - shared)
    contains = (shared > CONTAINED_SHARE * sizes) | (iou >= MIN_IOU)
    certain = np.array([mark.certain for mark in marks], bool)
    merging = contains[certain].sum(axis=0) > 1
    results = []
    for row, (mark, disc) in enumerate(zip(marks, discs)):
        best = int(iou[row].argmax()) if len(ids) else 0
        value = float(iou[row, best]) if len(ids) else 0.0
        verdict = _verdict(
            visible=2 * sizes[row, 0] >= disc.sum() > 0,
            merged=mark.certain and bool((contains[row] & merging).any()),
            iou=value,
            covered=float((shared[row] / max(1.0, sizes[row, 0])).max(initial=0.0)),
        )
        results.append(MarkResult(mark, verdict, int(ids[best]) if value > 0 else 0, value))
    rim_px = RIM_UM * 1e3 / pixel_nm
    near = _union(labels.shape, [mark.disc(labels.shape, rim_px) for mark in marks])
    areas_px = {int(i): int(n) for i, n in zip(ids, areas)}
    marked = {int(i) for i in ids[contains.any(axis=0)]}
    no_soma_mask = _polygon_mask(labels.shape, no_soma)
    objects = _score_objects(visible, areas_px, marked, near, no_soma_mask, pixel_nm)
    return SectionResult(tuple(results), objects, _count(results, objects, int(merging.sum())))


def _verdict(visible: bool, merged: bool, iou: float, covered: float) -> Verdict:
    if not visible:
        return "hidden"
    if merged:
        return "merged"
    if iou >= MIN_IOU:
        return "found"
    return "outline" if covered >= COVERED_SHARE else "missed"


def _score_objects(
    labels: np.ndarray,
    areas_px: dict[int, int],
    marked: set[int],
    near: np.ndarray,
    no_soma: np.ndarray,
    pixel_nm: float,
) -> tuple[ObjectResult, ...]:
    """Return a result for each object; `marked` are the labels of objects that contain a mark."""
    results = []
    for label, area_px in areas_px.items():
        mask = labels == label
        area_um2 = area_px * pixel_nm**2 * 1e-6
        small = area_um2 < MIN_AREA_UM2
        at_rim = 2 * int((mask & near).sum()) >= area_px
        role: Role = (
            "mark" if label in marked else "rim" if at_rim else "small" if small else "unmarked"
        )
        inside = not small and 2 * int((mask & no_soma).sum()) > area_px
        results.append(ObjectResult(label, area_um2, role, inside))
    return tuple(results)


def _count(
    marks: Sequence[MarkResult], objects: Sequence[ObjectResult], merges: int
) -> SectionCounts:
    groups = {"whole": GroupCounts(), "cut": GroupCounts(), "uncertain": GroupCounts()}
    for result in marks:
        counts = {result.verdict: 1, "marks": 1}
        counts["found_50"] = int(result.verdict == "found" and result.iou >= 0.5)
        groups[result.mark.group] += GroupCounts(**counts)
    return SectionCounts(
        **groups,
        merges=merges,
        objects=len(objects),
        unmarked=sum(o.role == "unmarked" for o in objects),
        in_no_soma=sum(o.in_no_soma for o in objects),
    )


def _polygon_mask(shape: tuple[int, ...], polygons: Iterable[Points]) -> np.ndarray:
    """Return a boolean array of the pixels in any of the polygons."""
    corners = [[(y, x) for x, y in points] for points in polygons]
    masks = [polygon2mask(shape, points) for points in corners]  # type: ignore[no-untyped-call]
    return _union(shape, masks)


def _union(shape: tuple[int, ...], masks: Iterable[np.ndarray]) -> np.ndarray:
    union = np.zeros(shape, bool)
    for mask in masks:
        union |= mask
    return union
