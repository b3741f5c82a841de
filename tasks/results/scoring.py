"""Scores of a segmentation against ground truth, each in a file or a precomputed layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ...analysis.metrics.evaluation import ArrayLabels, Evaluation, evaluate
from ...analysis.pages.evaluation import (
    ReadImage,
    case_position_nm,
    describe_case,
    evaluation_page,
)
from ...axes import Nm3
from ...errors import UserError
from ..volumes.files import read_array
from ..volumes.geometry import Box, flip, vec3
from ..volumes.image import ImageLayer
from ..volumes.open_labels import FileLabels, LayerLabels, open_labels, part_of

_LISTED = ("merge", "split")


@dataclass(frozen=True)
class Source:
    """How the volumes to compare are stored.

    Attributes:
      resolution_nm: voxel size, x, y, z.
      axes: order of the axes in files, such as "zyx"; None: as each file states, otherwise zyx.
    """

    resolution_nm: Nm3
    axes: str | None = None


@dataclass(frozen=True)
class SegmentationScores:
    """A segmentation scored against ground truth."""

    pred: LayerLabels | FileLabels
    truth: LayerLabels | FileLabels
    source: Source
    evaluation: Evaluation

    def format(self) -> str:
        """Return the scores and a line for each merge and split."""
        cases = [case for case in self.evaluation.cases if case.kind in _LISTED]
        lines = [describe_case(case, self._voxel_nm, self._offset_nm) for case in cases]
        return "\n".join([self.evaluation.scores.format(), *lines])

    def to_dict(self) -> dict[str, Any]:
        """Return the scores and all cases, for JSON."""
        cases = []
        for case in self.evaluation.cases:
            position = case_position_nm(case, self._voxel_nm, self._offset_nm)
            values = asdict(case) | {"position_nm": position}
            cases.append({k: v for k, v in values.items() if k not in ("centre", "box")})
        return self.evaluation.scores.to_dict() | {"cases": cases}

    def page(self, title: str, image: str | None) -> str:
        """Return an HTML page of the worst cases, over `image` (a file or a precomputed image) if it is given."""
        reader = _image_reader(image, self.source, self.truth) if image else None
        return evaluation_page(
            title,
            self.evaluation,
            self.pred,
            self.truth,
            self._voxel_nm,
            reader,
            self._offset_nm,
        )

    @property
    def _voxel_nm(self) -> Nm3:
        return flip(self.source.resolution_nm)

    @property
    def _offset_nm(self) -> Nm3:
        return flip([o * v for o, v in zip(self.truth.origin[::-1], self.source.resolution_nm)])


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
      pred, truth: a file of labels or the cloudpath of a precomputed segmentation. If `truth` is a layer that covers
        less than `pred`, only that part is scored.
      published, min_edge_um3, progress: as in `evaluate`.
      confidence: path of a run's table whose confidence ranks the predictions; default: rank by size.
    Raises:
      UserError: the volumes do not match, or `truth` holds no soma.
    """
    true_labels = open_labels(truth, source.axes, source.resolution_nm)
    labels = open_labels(pred, source.axes, source.resolution_nm, true_labels)
    evaluation = evaluate(
        labels,
        true_labels,
        flip(source.resolution_nm),
        published=published,
        min_edge_um3=min_edge_um3,
        confidence=_read_confidence(confidence) if confidence else None,
        progress=progress,
    )
    scores = evaluation.scores
    if scores.truth + scores.truth_ignored == 0:
        raise UserError(
            f"{truth} holds no soma, so there is nothing to score; {scores.predicted} are predicted, all false"
        )
    return SegmentationScores(labels, true_labels, source, evaluation)


def _image_reader(image: str, source: Source, truth: LayerLabels | FileLabels) -> ReadImage:
    """Return a function that reads the image of a part of the scored volume."""
    if Path(image).is_file():
        array = read_array(image, source.axes, resolution_nm=source.resolution_nm)
        if array.shape != truth.shape:
            raise UserError(
                f"{image} has shape {array.shape} and the labels {truth.shape} (z, y, x); "
                "choose an image of the same volume"
            )
        return ArrayLabels(array).read
    layer, lo = ImageLayer(image, fill_missing=True), vec3(truth.origin[::-1])
    box = Box(lo, vec3([a + n for a, n in zip(lo, truth.shape[::-1])]))
    bounds = layer.working_bounds(source.resolution_nm)
    if box.intersect(bounds) != box:
        raise UserError(
            f"{image} covers {bounds} and the labels {box} (voxels, x, y, z); "
            "choose an image of the same volume"
        )
    return lambda lo, hi: layer.read(part_of(box, lo, hi), source.resolution_nm)


def _read_confidence(table: str) -> dict[int, float]:
    """Read the confidence of each id from a table that a run has written."""
    path = Path(table)
    if not path.is_file():
        raise UserError(f"no table at {table}")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except ValueError as err:
        raise UserError(
            f"{table} cannot be read as a table ({err}); check that the file is complete"
        ) from err
    if not {"id", "confidence"} <= set(frame.columns):
        raise UserError(
            f"{table} needs the columns id and confidence; it has {list(frame.columns)}"
        )
    return dict(zip(frame["id"].astype(int), frame["confidence"].astype(float)))
