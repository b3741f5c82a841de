"""Score the labels of one section against cell bodies marked by hand as discs.

Arrays are (y, x); positions and radii are in pixels, x is the column and y the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from skimage.draw import polygon2mask

MIN_IOU = 0.4  # of an object and a disc: from here on the mark is found
HELD_SHARE = 0.5  # of a disc: an object that covers more than this holds the mark
TOUCHED_SHARE = 0.25  # of a disc: a mark of which less is covered is missed
MIN_AREA_UM2 = 1.0  # smaller objects are not counted as errors
RIM_UM = 0.5  # what lies this close to a disc lies at its rim

Verdict = Literal["found", "merged", "outline", "missed", "hidden"]
Role = Literal["mark", "rim", "small", "unmarked"]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Mark:
    """A cell body that was marked by hand.

    Attributes:
      x_px, y_px, radius_px: the disc.
      certain: False where the marker was in doubt; such a mark is neither a hit nor an error.
      cut_by_edge: whether the image ends inside the cell body.
      kind: class of the cell, such as "neuron" or "glia"; empty where it was not told.
    """

    x_px: float
    y_px: float
    radius_px: float
    certain: bool = True
    cut_by_edge: bool = False
    kind: str = ""

    @property
    def group(self) -> Literal["whole", "cut", "uncertain"]:
        """The group in which the mark is counted: "whole", "cut" or "uncertain"."""
        return "uncertain" if not self.certain else "cut" if self.cut_by_edge else "whole"

    def disc(self, shape: tuple[int, ...], margin_px: float = 0.0) -> np.ndarray:
        """Boolean array of the pixels whose middle lies in the disc, grown by a margin."""
        y, x = np.ogrid[: shape[0], : shape[1]]
        inside = (x - self.x_px) ** 2 + (y - self.y_px) ** 2 <= (self.radius_px + margin_px) ** 2
        return np.asarray(inside)


@dataclass(frozen=True)
class MarkResult:
    """The verdict on one mark.

    Attributes:
      verdict: "found": an object of its own with an IoU of 0.4 or more; "merged": its object holds another certain
        mark too; "outline": an object covers a quarter of it or more, with a lower IoU; "missed": none does;
        "hidden": less than half of the disc is valid, and the mark is not judged.
      label: the object with the highest IoU; 0 where there is none.
      iou: of that object and the disc.
    """

    mark: Mark
    verdict: Verdict
    label: int
    iou: float


@dataclass(frozen=True)
class ObjectResult:
    """The verdict on one object of the section.

    Attributes:
      role: "mark": it holds a mark or its IoU with one is 0.4 or more; "rim": half of it or more lies in discs grown
        by 0.5 um; "small": under 1 um2; "unmarked": none of these.
      in_no_soma: whether it is not small and more than half of it lies where no soma can be.
    """

    label: int
    area_um2: float
    role: Role
    in_no_soma: bool


@dataclass(frozen=True)
class GroupCounts:
    """Counts of the marks of one group by verdict; found_50: those found with an IoU of 0.5 or more."""

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
    """Counts of one section, or of several added up.

    Attributes:
      whole, cut, uncertain: marks of these groups; only the first two are certain.
      merges: objects that hold two certain marks or more.
      objects: all objects, small ones too.
      unmarked: objects of 1 um2 or more that hold no mark and do not lie at the rim of one.
      in_no_soma: objects of 1 um2 or more that lie where no soma can be.
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
    """Verdicts on every mark and every object of a section, and their counts."""

    marks: tuple[MarkResult, ...]
    objects: tuple[ObjectResult, ...]
    counts: SectionCounts

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
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
    """Judge every mark by the objects of a section, and every object by the marks.

    Args:
      labels: (y, x) integers; 0 is background.
      marks: cell bodies of the section.
      pixel_nm: edge of a pixel.
      no_soma: polygons, each a list of (x, y) in pixels, in which no soma can be.
      valid: (y, x) booleans; False where pixels are left out of all counts. None: all are valid.
    """
    valid = np.ones(labels.shape, bool) if valid is None else valid
    seen = np.where(valid, labels, 0)
    ids, areas = np.unique(seen[seen > 0], return_counts=True)
    discs = [mark.disc(labels.shape) for mark in marks]
    shared = np.zeros((len(marks), len(ids)))  # pixels that a mark and an object have in common
    for row, disc in enumerate(discs):
        under, counts = np.unique(seen[disc & (seen > 0)], return_counts=True)
        shared[row, np.searchsorted(ids, under)] = counts
    sizes = np.array([(disc & valid).sum() for disc in discs], float).reshape(-1, 1)
    iou = shared / np.maximum(1.0, sizes + areas - shared)
    holds = (shared > HELD_SHARE * sizes) | (iou >= MIN_IOU)
    certain = np.array([mark.certain for mark in marks], bool)
    merging = holds[certain].sum(axis=0) > 1
    judged = []
    for row, (mark, disc) in enumerate(zip(marks, discs)):
        best = int(iou[row].argmax()) if len(ids) else 0
        value = float(iou[row, best]) if len(ids) else 0.0
        verdict = _verdict(
            visible=2 * sizes[row, 0] >= disc.sum() > 0,
            merged=mark.certain and bool((holds[row] & merging).any()),
            iou=value,
            covered=float((shared[row] / max(1.0, sizes[row, 0])).max(initial=0.0)),
        )
        judged.append(MarkResult(mark, verdict, int(ids[best]) if value > 0 else 0, value))
    near = _union(
        labels.shape, [mark.disc(labels.shape, RIM_UM * 1e3 / pixel_nm) for mark in marks]
    )
    areas_of = {int(i): int(n) for i, n in zip(ids, areas)}
    held = {int(i) for i in ids[holds.any(axis=0)]}
    objects = _objects(seen, areas_of, held, near, _polygons(labels.shape, no_soma), pixel_nm)
    return SectionResult(tuple(judged), objects, _count(judged, objects, int(merging.sum())))


def _verdict(visible: bool, merged: bool, iou: float, covered: float) -> Verdict:
    if not visible:
        return "hidden"
    if merged:
        return "merged"
    if iou >= MIN_IOU:
        return "found"
    return "outline" if covered >= TOUCHED_SHARE else "missed"


def _objects(
    seen: np.ndarray,
    areas_px: dict[int, int],
    held: set[int],
    near: np.ndarray,
    no_soma: np.ndarray,
    pixel_nm: float,
) -> tuple[ObjectResult, ...]:
    found = []
    for label, area_px in areas_px.items():
        own = seen == label
        area_um2 = area_px * pixel_nm**2 * 1e-6
        small = area_um2 < MIN_AREA_UM2
        at_rim = 2 * int((own & near).sum()) >= area_px
        role: Role = (
            "mark" if label in held else "rim" if at_rim else "small" if small else "unmarked"
        )
        inside = not small and 2 * int((own & no_soma).sum()) > area_px
        found.append(ObjectResult(label, area_um2, role, inside))
    return tuple(found)


def _count(
    marks: Sequence[MarkResult], objects: Sequence[ObjectResult], merges: int
) -> SectionCounts:
    groups = {"whole": GroupCounts(), "cut": GroupCounts(), "uncertain": GroupCounts()}
    for result in marks:
        one = {result.verdict: 1, "marks": 1}
        one["found_50"] = int(result.verdict == "found" and result.iou >= 0.5)
        groups[result.mark.group] += GroupCounts(**one)
    return SectionCounts(
        **groups,
        merges=merges,
        objects=len(objects),
        unmarked=sum(o.role == "unmarked" for o in objects),
        in_no_soma=sum(o.in_no_soma for o in objects),
    )


def _polygons(shape: tuple[int, ...], polygons: Iterable[Points]) -> np.ndarray:
    """Boolean array of the pixels in any of the polygons."""
    corners = [[(y, x) for x, y in points] for points in polygons]
    masks = [polygon2mask(shape, points) for points in corners]  # type: ignore[no-untyped-call]
    return _union(shape, masks)


def _union(shape: tuple[int, ...], masks: Iterable[np.ndarray]) -> np.ndarray:
    union = np.zeros(shape, bool)
    for mask in masks:
        union |= mask
    return union
