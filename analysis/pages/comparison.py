"""Disagreements of two segmentations of a volume, as text, as a table and as a page with pictures.

Neither segmentation is the truth. `pred` of a case refers to the first segmentation (A), `truth` to the second (B).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ...axes import Nm3, Voxel
from ..metrics.cases import Case
from ..metrics.evaluation import Evaluation, Labels
from .evaluation import PICTURED, ReadImage, case_position_nm, case_sections
from .html import escape, page, picture, section, table
from .sections import draw_sections

SAME_IOU = 0.9  # outlines of matched somas count as different below this IoU
KINDS = {
    "missed": "only in B",
    "false": "only in A",
    "merge": "one in A, several in B",
    "split": "several in A, one in B",
    "border": f"in both, outlines differ (IoU below {SAME_IOU:g})",
}
_DPI = 60
ViewLink = Callable[[Nm3], str]  # from a position to a URL or a command


def comparison_table(
    evaluation: Evaluation, voxel_nm: Voxel, offset_nm: Voxel, view_link: ViewLink
) -> pd.DataFrame:
    """Return a table with one row per disagreement, the largest first.

    Args:
      evaluation: evaluation of A against B.
      voxel_nm: voxel size, z, y, x.
      offset_nm: position of the first voxel of the volume, z, y, x.
      view_link: returns a link or a command that shows a position.
    """
    rows = []
    for case in evaluation.cases:
        position = case_position_nm(case, voxel_nm, offset_nm)
        ids = (" ".join(str(i) for i in labels) for labels in (case.pred, case.truth))
        kind, link = KINDS[case.kind], view_link(position)
        rows.append([kind, *ids, case.wrong_um3, case.iou, *position, link])
    columns = ["kind", "ids_a", "ids_b", "differ_um3", "iou", "x_nm", "y_nm", "z_nm", "look"]
    return pd.DataFrame(rows, columns=columns).round({"differ_um3": 3, "iou": 4})


def summarize_agreement(evaluation: Evaluation) -> str:
    """Summarize the agreement in a few lines."""
    matching = evaluation.matching
    iou = matching.pair_iou
    median = f", median IoU {np.median(iou):.3f}" if len(iou) else ""
    lines = [
        f"{len(iou)} somas match, of {len(matching.pred)} in A and {len(matching.truth)} in B{median}"
    ]
    for kind, text in KINDS.items():
        count = sum(case.kind == kind for case in evaluation.cases)
        lines.append(f"{count:6}  {text}")
    return "\n".join(lines)


def comparison_page(
    names: tuple[str, str],
    evaluation: Evaluation,
    labels: tuple[Labels, Labels],
    voxel_nm: Voxel,
    image: ReadImage | None,
    rows: pd.DataFrame,
) -> str:
    """Return an HTML file with counts, pictures of the largest disagreements and a table of all.

    Args:
      names: names of A and B.
      evaluation: evaluation of A against B.
      labels: labels of A and B.
      voxel_nm: voxel size, z, y, x.
      image: reads the image of a box, uint8; None: draw the outlines on grey.
      rows: output of `comparison_table`.
    """
    title = "Comparison of two segmentations"
    parts = [
        f"<header><h1>{title}</h1><p>A: {escape(names[0])}<br>B: {escape(names[1])}</p></header>",
        section("Agreement", f"<pre>{escape(summarize_agreement(evaluation))}</pre>"),
    ]
    largest = evaluation.cases[:PICTURED]
    if largest:
        figures = "\n".join(
            picture(f"{number}. {_describe_row(row)}", _draw(case, labels, voxel_nm, image))
            for number, (case, row) in enumerate(zip(largest, rows.itertuples()), start=1)
        )
        parts.append(section("Largest disagreements", figures))
        cells = [[str(value) for value in row] for row in rows.itertuples(index=False)]
        head, targets = list(rows.columns), []
        if rows["look"].str.startswith("http").all():
            head, cells, targets = head[:-1], [row[:-1] for row in cells], rows["look"].tolist()
        parts.append(section("All disagreements", table(head, cells, targets)))
    return page(title, "\n".join(parts))


def _describe_row(row: tuple[Any, ...]) -> str:
    _, kind, ids_a, ids_b, differ, iou, x, y, z, _ = row
    ids = "; ".join(f"{name} {ids}" for name, ids in (("A", ids_a), ("B", ids_b)) if ids)
    return (
        f"{kind}; {ids}; {differ:.1f} µm³, IoU {iou:.2f}, at {x:.0f}, {y:.0f}, {z:.0f} nm (x, y, z)"
    )


def _draw(
    case: Case, labels: tuple[Labels, Labels], voxel_nm: Voxel, image: ReadImage | None
) -> bytes:
    sections = case_sections(case, *labels, voxel_nm, image)
    return draw_sections(sections, columns=3, dpi=_DPI, names=("A (one colour per soma)", "B"))
