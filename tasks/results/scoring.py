"""Scores of a segmentation against ground truth, each in a file or a precomputed layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ...analysis.metrics.evaluation import (
    MIN_EDGE_UM3,
    MIN_TRUTH_UM3,
    ArrayLabels,
    Evaluation,
    evaluate,
)
from ...analysis.metrics.scores import Scores
from ...analysis.pages.evaluation import (
    ReadImage,
    ShowCommand,
    case_position_nm,
    count_cases,
    describe_case,
    evaluation_page,
    sort_cases,
)
from ...analysis.tables.somas import read_parquet
from ...axes import Nm3
from ...errors import UserError
from ..grids.geometry import Box, flip, vec3
from ..layers.image import ImageLayer
from ..storage.store import RunStore, local_folder, normalize_cloudpath
from ..volumes.files import read_array
from ..volumes.open_labels import FileLabels, Opened, open_pair, part_of

_LISTED = 20  # errors, without borders


@dataclass(frozen=True)
class Source:
    """How the volumes to compare are stored.

    Attributes:
      resolution_nm: voxel size of files, x, y, z; None: there are only layers.
      axes: order of the axes in files, such as "zyx"; None: as each file states, otherwise zyx.
    """

    resolution_nm: Nm3 | None = None
    axes: str | None = None


@dataclass(frozen=True)
class SegmentationScores:
    """A segmentation scored against ground truth.

    Attributes:
      resolution_nm: voxel size at which both are compared, x, y, z.
    """

    pred: Opened
    truth: Opened
    resolution_nm: Nm3
    axes: str | None
    evaluation: Evaluation

    def format(self) -> str:
        """Return the scores, the number of errors of each kind, and a line for each of the largest errors."""
        counts = count_cases(self.evaluation.cases)
        lines = [
            self.evaluation.scores.format(),
            "errors: " + ", ".join(f"{kind} {count}" for kind, count in counts.items()),
        ]
        if any(self.evaluation.cut):
            pred, truth = self.evaluation.cut
            lines.append(
                f"{truth} of the true and {pred} of the predicted objects are cut by the volume's edge to less than "
                f"{MIN_EDGE_UM3:g} um3; --min-edge-um3 {MIN_EDGE_UM3:g} ignores them, as the demo and the benchmark do"
            )
        cases = [case for case in sort_cases(self.evaluation.cases) if case.kind != "border"]
        lines += [
            describe_case(case, self._voxel_nm, self._offset_nm, self._show)
            for case in cases[:_LISTED]
        ]
        if len(cases) > _LISTED:
            lines.append(f"and {len(cases) - _LISTED} more; --json lists all")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the scores, the number of errors of each kind and all errors, for JSON."""
        cases = []
        for case in sort_cases(self.evaluation.cases):
            position = case_position_nm(case, self._voxel_nm, self._offset_nm)
            values = asdict(case) | {"position_nm": position}
            if self._show is not None:
                values["command"] = self._show(position)
            cases.append({k: v for k, v in values.items() if k not in ("centre", "box")})
        counts = count_cases(self.evaluation.cases)
        return self.evaluation.scores.to_dict() | {"errors": counts, "cases": cases}

    def page(self, title: str, image: str | None) -> str:
        """Return an HTML page of the largest errors, over `image` (a file or a precomputed image) if it is given."""
        reader = None
        if image is not None:
            reader = _image_reader(image, self.resolution_nm, self.axes, self.truth)
        return evaluation_page(
            title,
            self.evaluation,
            self.pred,
            self.truth,
            self._voxel_nm,
            reader,
            self._offset_nm,
            self._show,
        )

    @property
    def _voxel_nm(self) -> Nm3:
        return flip(self.resolution_nm)

    @property
    def _offset_nm(self) -> Nm3:
        return flip([o * v for o, v in zip(self.truth.origin[::-1], self.resolution_nm)])

    @cached_property
    def _show(self) -> ShowCommand | None:
        """What returns the command that shows a position; None if the prediction is not that of a run."""
        if isinstance(self.pred, FileLabels):
            return None
        run = normalize_cloudpath(self.pred.layer.cloudpath).removesuffix("/somas")
        if RunStore(run).get("config.yaml") is None:
            return None
        path = local_folder(run) or run
        return lambda nm: f"flysoma view {path} --at {' '.join(f'{v:.0f}' for v in nm)}"


def score_segmentation(
    pred: str,
    truth: str,
    source: Source,
    *,
    published: bool = False,
    min_edge_um3: float = 0.0,
    confidence: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SegmentationScores:
    """Score a segmentation against ground truth, block by block.

    Args:
      pred, truth: a file of labels, the cloudpath of a precomputed segmentation, or a run, whose somas are scored. If
        `truth` is a layer that covers less than `pred`, only that part is scored. Layers of different voxel sizes are
        compared at the larger ones.
      published, min_edge_um3, progress: as in `evaluate`.
      confidence: path of a run's table whose confidence ranks the predictions; default: rank by size.
    Raises:
      UserError: the volumes do not match, or no true soma is judged.
    """
    labels, true_labels, resolution_nm = open_pair(pred, truth, source.axes, source.resolution_nm)
    evaluation = evaluate(
        labels,
        true_labels,
        flip(resolution_nm),
        published=published,
        min_edge_um3=min_edge_um3,
        confidence=_read_confidence(confidence) if confidence else None,
        progress=progress,
    )
    _check_judged(truth, resolution_nm, evaluation.scores)
    return SegmentationScores(labels, true_labels, resolution_nm, source.axes, evaluation)


def _check_judged(truth: str, resolution_nm: Nm3, scores: Scores) -> None:
    """Raise UserError if no true object is judged."""
    if scores.truth > 0:
        return
    if scores.truth_ignored == 0:
        raise UserError(
            f"{truth} holds no soma, so there is nothing to score; {scores.predicted} are predicted, all false"
        )
    raise UserError(
        f"{truth} holds {scores.truth_ignored} objects and none is judged: at voxels of {resolution_nm} nm (x, y, z) "
        f"all are below {MIN_TRUTH_UM3:g} um3, or cut by the volume's edge; check --resolution and --min-edge-um3"
    )


def _image_reader(image: str, resolution_nm: Nm3, axes: str | None, truth: Opened) -> ReadImage:
    """Return a function that reads the image of a part of the scored volume."""
    if Path(image).is_file():
        array = read_array(image, axes, resolution_nm=resolution_nm)
        if array.shape != truth.shape:
            raise UserError(
                f"{image} has shape {array.shape} and the labels {truth.shape} (z, y, x); "
                "choose an image of the same volume"
            )
        return ArrayLabels(array).read
    layer, lo = ImageLayer(image, fill_missing=True), vec3(truth.origin[::-1])
    box = Box(lo, vec3([a + n for a, n in zip(lo, truth.shape[::-1])]))
    bounds = layer.working_bounds(resolution_nm)
    if box.intersect(bounds) != box:
        raise UserError(
            f"{image} covers {bounds} and the labels {box} (voxels, x, y, z); "
            "choose an image of the same volume"
        )
    return lambda lo, hi: layer.read(part_of(box, lo, hi), resolution_nm)


def _read_confidence(table: str) -> dict[int, float]:
    """Read the confidence of each id from a table that a run has written."""
    path = Path(table)
    if not path.is_file():
        raise UserError(f"no table at {table}")
    try:
        frame = read_parquet(path.read_bytes()) if path.suffix == ".parquet" else pd.read_csv(path)
    except ValueError as err:
        raise UserError(
            f"{table} cannot be read as a table ({err}); check that the file is complete"
        ) from err
    if not {"id", "confidence"} <= set(frame.columns):
        raise UserError(
            f"{table} needs the columns id and confidence; it has {list(frame.columns)}"
        )
    return dict(zip(frame["id"].astype(int), frame["confidence"].astype(float)))
