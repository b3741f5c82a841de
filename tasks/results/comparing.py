"""The differences between the somas of two runs on one volume, or of two versions of one run."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ...analysis.metrics.evaluation import Evaluation, evaluate
from ...analysis.pages.comparison import SAME_IOU, ViewLink, comparison_page, comparison_table
from ...analysis.tables.changes import table_changes
from ...analysis.viewer import state as viewer
from ...axes import Nm3
from ...errors import UserError
from ..grids.geometry import Box, flip
from ..run import Run
from ..soma_versions import FIRST_VERSION, version_table_path
from ..storage.store import RunStore
from ..volumes.open_labels import LayerLabels, part_of
from .viewing import view_state

_VERSIONED = re.compile(r"(.+)@([1-9]\d{0,8})")


@dataclass(frozen=True)
class Comparison:
    """Two runs compared within `box` (voxels, x, y, z), which both cover.

    Attributes:
      evaluation: run `a` as the prediction, run `b` as the truth.
      rows: one row for each difference, the largest first.
    """

    a: Run
    b: Run
    box: Box
    evaluation: Evaluation
    rows: pd.DataFrame

    def page(self) -> str:
        """Return an HTML page with pictures of the largest differences."""
        resolution = self.a.somas.resolution_nm
        return comparison_page(
            (self.a.path, self.b.path),
            self.evaluation,
            (
                LayerLabels(self.a.somas, self.box, resolution),
                LayerLabels(self.b.somas, self.box, resolution),
            ),
            flip(resolution),
            lambda lo, hi: self.a.image.read(part_of(self.box, lo, hi), resolution),
            self.rows,
        )


def compare_runs(a: Run, b: Run, progress: Callable[[int, int], None]) -> Comparison:
    """Compare the somas of two runs within the box that both cover.

    Args:
      progress: called with the number of blocks read and their total.
    Raises:
      UserError: the runs have other voxel sizes or no voxel in common, or one is between two versions.
    """
    for run in (a, b):
        run.check_version()
    resolution = a.somas.resolution_nm
    if not np.allclose(resolution, b.somas.resolution_nm):
        raise UserError(
            f"{a.path} has voxels of {resolution} nm and {b.path} of {b.somas.resolution_nm} (x, y, z); "
            "only runs at one resolution can be compared"
        )
    box = a.somas.bounds.intersect(b.somas.bounds)
    if box.empty:
        raise UserError(
            f"{a.path} covers {a.somas.bounds} and {b.path} {b.somas.bounds}: they have no voxel in common; "
            "choose two runs on the same part of a volume"
        )
    labels = LayerLabels(a.somas, box, resolution), LayerLabels(b.somas, box, resolution)
    voxel_nm = flip(resolution)
    offset_nm = flip([o * r for o, r in zip(box.lo, resolution)])
    evaluation = evaluate(*labels, voxel_nm, min_truth_um3=0, progress=progress)
    cases = [c for c in evaluation.cases if c.kind != "border" or c.iou < SAME_IOU]
    evaluation = replace(evaluation, cases=cases)
    rows = comparison_table(evaluation, voxel_nm, offset_nm, _view_link(a, b))
    return Comparison(a, b, box, evaluation, rows)


def split_version(path: str) -> tuple[str, int | None]:
    """Return the path of a run and the number N of RUN@N; None without one, or if a run lies at the whole path."""
    match = _VERSIONED.fullmatch(path)
    if match is None or RunStore(path).get("config.yaml") is not None:
        return path, None
    return match[1], int(match[2])


def compare_versions(run: Run, first: int, second: int) -> pd.DataFrame:
    """Return the somas that differ between two versions of a run; see `table_changes`.

    Raises:
      UserError: the run has no such version.
    """
    run.check_version()
    return table_changes(*(_version_table(run, number) for number in (first, second)))


def _version_table(run: Run, number: int) -> pd.DataFrame:
    if number == run.version == FIRST_VERSION:  # stored once there is a second one
        return run.soma_table()
    table = run.read_table(version_table_path(number))
    if table is None:
        raise UserError(
            f"{run.path} has no version {number} of its somas: the newest is {run.version}"
        )
    return table


def _view_link(a: Run, b: Run) -> ViewLink:
    """Return what opens a position in both runs: a link if both are in buckets, a command otherwise."""
    state = None
    with contextlib.suppress(UserError):
        state = view_state(a, beside=b)

    def link(position_nm: Nm3) -> str:
        if state is not None:
            return viewer.link(viewer.centre_view(state, position_nm))
        at = " ".join(f"{v:.0f}" for v in position_nm)
        return f"flysoma view {a.path} --beside {b.path} --at {at}"

    return link
