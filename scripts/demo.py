"""`flysoma demo`: the whole pipeline on a made-up piece of fly brain whose truth is known."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click
import numpy as np

from ..analysis.metrics.evaluation import MIN_EDGE_UM3, evaluate
from ..analysis.pages.overview import overview_figure
from ..errors import UserError
from ..models.phantom.make import DIFFICULTIES, Difficulty, make_phantom
from ..tasks.config import RunConfig, Segment
from ..tasks.fleet.coordinator import RunOptions, execute_run
from ..tasks.pipeline import begin
from ..tasks.stages.report import sections
from ..tasks.volumes.ingest import NewLayer, ingest_array
from ..tasks.volumes.labels import LabelLayer
from ..tasks.volumes.open_labels import open_labels
from .progress import Bars

RESOLUTION_NM = (64.0, 64.0, 40.0)
SHAPE = (192, 384, 384)


@click.command("demo")
@click.option("--output", default="demo", show_default=True, type=click.Path(path_type=Path))
@click.option("--seed", default=1, show_default=True, help="Which brain; none was trained on.")
@click.option("--difficulty", type=click.Choice(DIFFICULTIES), default="typical", show_default=True)
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count(), show_default="cores")
def command(output: Path, seed: int, difficulty: Difficulty, workers: int) -> None:
    """Make fly-brain EM, find its somas through every stage, compare with the truth."""
    started = time.time()
    with Bars() as bars:
        _volume(output, seed, difficulty, bars)
        config = RunConfig(
            image=f"{output}/em", output=f"{output}/run", segment=Segment(block_vx=(192, 192, 192))
        )
        run = begin(config)
        execute_run(run, RunOptions(workers=workers), bars, bars.say)
    found, truth = (
        open_labels(f"{output}/{n}", "zyx", RESOLUTION_NM) for n in ("run/somas", "truth")
    )
    scores = evaluate(found, truth, RESOLUTION_NM[::-1], min_edge_um3=MIN_EDGE_UM3).scores
    layer = LabelLayer(f"{output}/truth")
    picture = overview_figure(sections(run, layer), title="Somas found (colour) and truth (dashed)")
    run.store.put("report/overview.png", picture, "image/png")
    click.echo(scores.format())
    click.echo(
        f"{scores.predicted} somas found, {scores.truth} in the truth, F1 {scores.f1:.3f}, "
        f"in {time.time() - started:.0f} s"
    )
    click.echo(f"results:  {output}/run (report/index.html, report/overview.png, tables, somas)")
    click.echo(f"open it:  flysoma view {output}/run")


def _volume(output: Path, seed: int, difficulty: Difficulty, bars: Bars) -> None:
    """Image and truth as precomputed layers, unless an earlier demo of the same brain made them."""
    marker, brain = output / "seed", f"{seed} {difficulty}"
    if marker.is_file():
        if marker.read_text() != brain:
            raise UserError(
                f"{output} holds the demo of seed {marker.read_text()}; choose another --output"
            )
        return
    phantom = make_phantom(
        SHAPE,
        RESOLUTION_NM[::-1],
        seed,
        difficulty,
        progress=lambda part: bars("making EM", round(100 * part), 100),
    )
    for name, array, kind in (
        ("em", phantom.image, "image"),
        ("truth", phantom.labels.astype(np.uint64), "segmentation"),
    ):
        layer = NewLayer(f"{output}/{name}", RESOLUTION_NM, layer_type=kind, overwrite=True)
        ingest_array(array, layer)
    marker.write_text(brain)
