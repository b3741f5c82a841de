"""A page for an evaluation: its scores, and the worst cases as pictures. Everything is z, y, x."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...axes import Voxel, Zyx
from ..metrics.evaluation import Case, Evaluation, Labels
from .html import escape, page, picture, section, table
from .sections import Section, overview_figure, three_sections

ReadImage = Callable[[Zyx, Zyx], np.ndarray]
WORST = 10
_ROOM_NM = 1500.0  # shown around a case
_DPI = 60  # a page of ten is some megabytes
_PAPER = 128  # grey where there is no image
_WHAT = {
    "missed": "missed: no prediction has half of it",
    "false": "false: no soma is there",
    "merge": "merge: one prediction for several somas",
    "split": "split: several predictions for one soma",
    "border": "border: found, but outlined otherwise",
}


def evaluation_page(
    title: str,
    evaluation: Evaluation,
    pred: Labels,
    truth: Labels,
    voxel_nm: Voxel,
    image: ReadImage | None = None,
    offset_nm: Voxel = (0.0, 0.0, 0.0),
) -> str:
    """One HTML file: scores, and three sections through each of the worst cases (colour: found; dashed: truth).

    Args:
      image: reads the image of a box, uint8; None: outlines on grey.
      offset_nm: position of the volume's first voxel.
    """
    rows = [
        (kind, str(sum(case.kind == kind for case in evaluation.cases)), text)
        for kind, text in _WHAT.items()
    ]
    parts = [
        f"<header><h1>{escape(title)}</h1></header>",
        section("Scores", f"<pre>{escape(evaluation.scores.format())}</pre>"),
        section("What is not right", table(("kind", "cases", "meaning"), rows)),
    ]
    worst = evaluation.cases[:WORST]
    if worst:
        figures = "\n".join(
            picture(
                f"{number}. {describe(case, voxel_nm, offset_nm)}",
                overview_figure(
                    case_sections(case, pred, truth, voxel_nm, image), columns=3, dpi=_DPI
                ),
            )
            for number, case in enumerate(worst, start=1)
        )
        parts.append(section(f"The worst {len(worst)}", figures))
    return page(title, "\n".join(parts))


def position_nm(case: Case, voxel_nm: Voxel, offset_nm: Voxel) -> tuple[float, float, float]:
    """Where the middle of a case lies, x, y, z, nm."""
    z, y, x = ((c + 0.5) * v + o for c, v, o in zip(case.centre, voxel_nm, offset_nm))
    return x, y, z


def describe(case: Case, voxel_nm: Voxel, offset_nm: Voxel = (0.0, 0.0, 0.0)) -> str:
    """A case in one line."""
    at = ", ".join(f"{v:.0f}" for v in position_nm(case, voxel_nm, offset_nm))
    ids = [
        f"{name} {', '.join(str(i) for i in labels)}"
        for name, labels in (("predicted", case.pred), ("true", case.truth))
        if labels
    ]
    return (
        f"{_WHAT[case.kind]}; {'; '.join(ids)}; {case.wrong_um3:.1f} µm³ wrong, "
        f"IoU {case.iou:.2f}, at {at} nm (x, y, z)"
    )


def case_sections(
    case: Case, pred: Labels, truth: Labels, voxel_nm: Voxel, image: ReadImage | None
) -> list[Section]:
    """Three sections through the middle of a case, with what is around it."""
    room = [round(_ROOM_NM / v) for v in voxel_nm]
    a = [max(0, p - r) for p, r in zip(case.box[0], room)]
    b = [min(n, p + r) for n, p, r in zip(truth.shape, case.box[1], room)]
    lo, hi = (a[0], a[1], a[2]), (b[0], b[1], b[2])
    arrays = [part.read(lo, hi) for part in (pred, truth)]
    grey = np.full(arrays[0].shape, _PAPER, np.uint8) if image is None else image(lo, hi)
    return three_sections(grey, arrays[0], lo, case.centre, voxel_nm, arrays[1])
