"""The page of an evaluation: its scores and pictures of the largest errors. Arrays are z, y, x."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from ...axes import Nm3, Voxel, Zyx
from ..metrics.cases import Case
from ..metrics.evaluation import Evaluation, Labels
from .html import definition_list, escape, page, picture, section
from .sections import Section, draw_sections, orthogonal_sections

ReadImage = Callable[[Zyx, Zyx], np.ndarray]
ShowCommand = Callable[[Nm3], str]
PICTURED = 10  # cases of a kind
_PICTURED_BORDERS = 5
_MARGIN_NM = 1500.0  # shown around a case
_DPI = 60  # keeps a page with ten cases of each kind at a few megabytes
_GREY = 128  # in place of a missing image
_MEANINGS = {
    # in the order of a page
    "missed": "no prediction matches the soma",
    "false": "the prediction matches no soma",
    "merge": "one prediction covers several somas",
    "split": "several predictions cover one soma",
    "border": "prediction and soma match, but their outlines differ",
}
_TITLES = {
    "missed": "Missed somas",
    "false": "False somas",
    "merge": "Merged somas",
    "split": "Split somas",
    "border": "Differing outlines",
}
_MATCH = (
    "A prediction and a soma match if their intersection over union (IoU) is at least 0.5. Errors of a kind are sorted "
    "by the volume that is mislabelled."
)


def evaluation_page(
    title: str,
    evaluation: Evaluation,
    pred: Labels,
    truth: Labels,
    voxel_nm: Voxel,
    image: ReadImage | None = None,
    offset_nm: Voxel = (0.0, 0.0, 0.0),
    show: ShowCommand | None = None,
) -> str:
    """Return an HTML file with the scores and orthogonal sections through the largest errors of each kind.

    Args:
      title: title of the page.
      evaluation: scores and errors.
      pred, truth: the evaluated labels.
      voxel_nm: voxel size.
      image: reads the image of a box, uint8; None: draw the outlines on grey.
      offset_nm: position of the first voxel of the volume.
      show: returns the command that shows a position; None omits the commands.
    """
    number = count_cases(evaluation.cases)
    counts = {f"{kind}: {number[kind]}": meaning for kind, meaning in _MEANINGS.items()}
    parts = [
        f"<header><h1>{escape(title)}</h1></header>",
        section("Scores", f"<pre>{escape(evaluation.scores.format())}</pre>"),
        section("Errors", f"<p>{escape(_MATCH)}</p>{definition_list(counts)}"),
    ]
    for kind, cases in _by_kind(evaluation.cases).items():
        pictured = cases[: _PICTURED_BORDERS if kind == "border" else PICTURED]
        figures = [
            picture(
                f"{rank}. {describe_case(case, voxel_nm, offset_nm, show)}",
                draw_sections(
                    case_sections(case, pred, truth, voxel_nm, image), columns=3, dpi=_DPI
                ),
            )
            for rank, case in enumerate(pictured, start=1)
        ]
        if len(cases) > len(pictured):
            figures.append(f"<p>{len(cases) - len(pictured):,} more have no picture.</p>")
        parts.append(section(f"{_TITLES[kind]} ({len(cases):,})", "\n".join(figures)))
    return page(title, "\n".join(parts))


def count_cases(cases: Iterable[Case]) -> dict[str, int]:
    """Return the number of errors of each kind."""
    found = Counter(case.kind for case in cases)
    return {kind: found[kind] for kind in _MEANINGS}


def sort_cases(cases: Iterable[Case]) -> list[Case]:
    """Return errors by kind: missed, false, merge, split, border; the largest of a kind first."""
    return [case for some in _by_kind(cases).values() for case in some]


def _by_kind(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Return the errors of each kind that occurs, in the order of a page."""
    cases = list(cases)
    of_kind = {kind: [case for case in cases if case.kind == kind] for kind in _MEANINGS}
    return {kind: some for kind, some in of_kind.items() if some}


def case_position_nm(case: Case, voxel_nm: Voxel, offset_nm: Voxel) -> Nm3:
    """Return the position of a case in nm, x, y, z."""
    z, y, x = ((c + 0.5) * v + o for c, v, o in zip(case.centre, voxel_nm, offset_nm))
    return x, y, z


def describe_case(
    case: Case,
    voxel_nm: Voxel,
    offset_nm: Voxel = (0.0, 0.0, 0.0),
    show: ShowCommand | None = None,
) -> str:
    """Describe a case in one line; `show` returns the command that shows a position."""
    position_nm = case_position_nm(case, voxel_nm, offset_nm)
    position = ", ".join(f"{v:.0f}" for v in position_nm)
    command = f"; {show(position_nm)}" if show else ""
    ids = [
        f"{name} {', '.join(str(i) for i in labels)}"
        for name, labels in (("predicted", case.pred), ("true", case.truth))
        if labels
    ]
    return (
        f"{case.kind}: {_MEANINGS[case.kind]}; {'; '.join(ids)}; "
        f"{case.wrong_um3:.1f} µm³ mislabelled, IoU {case.iou:.2f}, at {position} nm (x, y, z){command}"
    )


def case_sections(
    case: Case, pred: Labels, truth: Labels, voxel_nm: Voxel, image: ReadImage | None
) -> list[Section]:
    """Return orthogonal sections through the centre of a case, with a margin around it."""
    margin = [round(_MARGIN_NM / v) for v in voxel_nm]
    a = [max(0, p - m) for p, m in zip(case.box[0], margin)]
    b = [min(n, p + m) for n, p, m in zip(truth.shape, case.box[1], margin)]
    lo, hi = (a[0], a[1], a[2]), (b[0], b[1], b[2])
    arrays = [part.read(lo, hi) for part in (pred, truth)]
    grey = np.full(arrays[0].shape, _GREY, np.uint8) if image is None else image(lo, hi)
    return orthogonal_sections(grey, arrays[0], lo, case.centre, voxel_nm, arrays[1])
