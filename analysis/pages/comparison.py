"""What two segmentations of one volume disagree on: in words, as a table, and as a page with pictures.

Neither is the truth. A case's `pred` are objects of the first, its `truth` those of the second.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from ...axes import Voxel
from ..metrics.evaluation import Case, Evaluation, Labels
from .evaluation import WORST, ReadImage, case_sections, position_nm
from .html import escape, page, picture, section, table
from .sections import overview_figure

SAME_IOU = 0.9  # outlines that have so much in common are the same
KINDS = {
    "missed": "only in B",
    "false": "only in A",
    "merge": "one in A, several in B",
    "split": "several in A, one in B",
    "border": f"in both, with another outline (IoU under {SAME_IOU:g})",
}
_DPI = 60
Look = Callable[[tuple[float, float, float]], str]


def comparison_table(
    found: Evaluation, voxel_nm: Voxel, offset_nm: Voxel, look: Look
) -> pd.DataFrame:
    """A row for each disagreement, the largest first.

    Args:
      offset_nm: position of the volume's first voxel, z, y, x.
      look: what shows a place (x, y, z, nm): a link or a command.
    """
    rows = []
    for case in found.cases:
        x, y, z = position_nm(case, voxel_nm, offset_nm)
        ids = (" ".join(str(i) for i in labels) for labels in (case.pred, case.truth))
        rows.append([KINDS[case.kind], *ids, case.wrong_um3, case.iou, x, y, z, look((x, y, z))])
    columns = ["kind", "ids_a", "ids_b", "differ_um3", "iou", "x_nm", "y_nm", "z_nm", "look"]
    return pd.DataFrame(rows, columns=columns).round({"differ_um3": 3, "iou": 4})


def agreement(found: Evaluation) -> str:
    """How much both have in common, in a few lines."""
    matching = found.matching
    iou = matching.pair_iou
    median = f", median IoU {np.median(iou):.3f}" if len(iou) else ""
    lines = [
        f"{len(iou)} somas in both of {len(matching.pred)} in A and {len(matching.truth)} in B{median}"
    ]
    for kind, words in KINDS.items():
        count = sum(case.kind == kind for case in found.cases)
        lines.append(f"{count:6}  {words}")
    return "\n".join(lines)


def comparison_page(
    names: tuple[str, str],
    found: Evaluation,
    labels: tuple[Labels, Labels],
    voxel_nm: Voxel,
    image: ReadImage | None,
    rows: pd.DataFrame,
) -> str:
    """One HTML file: counts, pictures of the largest disagreements (colour: A; dashed: B), and a list of all.

    Args:
      rows: as `comparison_table` gives them.
    """
    parts = [
        f"<header><h1>Two segmentations</h1><p>A: {escape(names[0])}<br>B: {escape(names[1])}</p></header>",
        section("Agreement", f"<pre>{escape(agreement(found))}</pre>"),
    ]
    worst = found.cases[:WORST]
    if worst:
        figures = "\n".join(
            picture(f"{number}. {_line(row)}", _draw(case, labels, voxel_nm, image))
            for number, (case, row) in enumerate(zip(worst, rows.itertuples()), start=1)
        )
        parts.append(section(f"The largest {len(worst)}", figures))
        cells = [[str(value) for value in row] for row in rows.itertuples(index=False)]
        head, targets = list(rows.columns), []
        if rows["look"].str.startswith("http").all():
            head, cells, targets = head[:-1], [row[:-1] for row in cells], rows["look"].tolist()
        parts.append(section("All", table(head, cells, targets)))
    return page("Two segmentations", "\n".join(parts))


def _line(row: tuple) -> str:  # type: ignore[type-arg]
    _, kind, ids_a, ids_b, differ, iou, x, y, z, _ = row
    ids = "; ".join(f"{name} {ids}" for name, ids in (("A", ids_a), ("B", ids_b)) if ids)
    return (
        f"{kind}; {ids}; {differ:.1f} µm³, IoU {iou:.2f}, at {x:.0f}, {y:.0f}, {z:.0f} nm (x, y, z)"
    )


def _draw(
    case: Case, labels: tuple[Labels, Labels], voxel_nm: Voxel, image: ReadImage | None
) -> bytes:
    sections = case_sections(case, *labels, voxel_nm, image)
    return overview_figure(sections, columns=3, dpi=_DPI, names=("A (one colour a soma)", "B"))
