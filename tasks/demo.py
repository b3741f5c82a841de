"""The demo: a whole run on a phantom whose somas are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..analysis.metrics.evaluation import MIN_EDGE_UM3
from ..analysis.metrics.scores import Scores
from ..analysis.pages.sections import draw_sections
from ..errors import UserError
from ..models.phantom.make import Difficulty, make_phantom
from .config import RunConfig, Segment
from .coordination.coordinator import Progress, RunOptions, execute_run
from .grids.geometry import flip
from .layers.labels import LabelLayer
from .pipeline import begin
from .results.scoring import Source, score_segmentation
from .run import Run
from .stages.report import cut_sections
from .volumes.ingest import NewLayer, ingest_array

RESOLUTION_NM = (64.0, 64.0, 40.0)
SHAPE = (192, 384, 384)  # z, y, x


@dataclass(frozen=True)
class Phantom:
    """Which phantom the demo makes."""

    seed: int
    difficulty: Difficulty


def run_demo(
    output: Path,
    phantom: Phantom,
    workers: int,
    progress: Progress,
    say: Callable[[str], None],
) -> tuple[Run, Scores]:
    """Make a phantom, execute a run on it, and score the somas against the truth; all under `output`."""
    _make_volume(output, phantom, progress)
    config = RunConfig(
        image=f"{output}/em", output=f"{output}/run", segment=Segment(block_vx=(192, 192, 192))
    )
    run = begin(config)
    execute_run(run, RunOptions(workers=workers), progress, say)
    scores = score_segmentation(
        f"{output}/run", f"{output}/truth", Source(), min_edge_um3=MIN_EDGE_UM3
    ).evaluation.scores
    picture = draw_sections(
        cut_sections(run, LabelLayer(f"{output}/truth")),
        title="Somas found (colour) and truth (dashed)",
    )
    run.store.put("report/overview.png", picture, "image/png")
    return run, scores


def _make_volume(output: Path, phantom: Phantom, progress: Progress) -> None:
    """Write image and truth as precomputed layers, unless an earlier demo of the same phantom has."""
    marker, content = output / "seed", f"{phantom.seed} {phantom.difficulty}"
    if marker.is_file():
        if marker.read_text() != content:
            raise UserError(
                f"{output} holds the demo of seed {marker.read_text()}; choose another --output"
            )
        return
    made = make_phantom(
        SHAPE,
        flip(RESOLUTION_NM),
        phantom.seed,
        phantom.difficulty,
        progress=lambda share: progress("making EM", round(100 * share), 100),
    )
    for name, array, kind in (
        ("em", made.image, "image"),
        ("truth", made.neurons.astype(np.uint64), "segmentation"),
    ):
        layer = NewLayer(f"{output}/{name}", RESOLUTION_NM, layer_type=kind, overwrite=True)
        ingest_array(array, layer)
    marker.write_text(content)
