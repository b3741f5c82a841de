"""`flysoma demo`: the whole pipeline on a phantom."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from ..analysis.metrics.evaluation import MIN_EDGE_UM3
from ..models.phantom.make import DIFFICULTIES, Difficulty
from ..tasks.demo import Phantom, run_demo
from .progress import Bars


@click.command("demo")
@click.option(
    "--output",
    default="demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder to write to.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=1,
    show_default=True,
    help="Seed of the phantom.",
)
@click.option(
    "--difficulty",
    type=click.Choice(DIFFICULTIES),
    default="typical",
    show_default=True,
    help="Image quality of the phantom.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=os.cpu_count(),
    show_default="number of cores",
    help="Worker processes to start.",
)
def command(output: Path, seed: int, difficulty: Difficulty, workers: int) -> None:
    """Run the whole pipeline on a phantom and score the result.

    A phantom is a synthetic EM volume whose somas are known. No network was trained on that of the default seed.
    """
    started = time.time()
    with Bars() as bars:
        run, scores = run_demo(output, Phantom(seed, difficulty), workers, bars, bars.say)
    click.echo(scores.format())
    click.echo(
        f"{scores.predicted} somas predicted, {scores.truth} in the ground truth, F1 {scores.f1:.3f}, without "
        f"somas that the volume's edge cuts to less than {MIN_EDGE_UM3:g} um3, in {time.time() - started:.0f} s"
    )
    click.echo(f"results: {run.path} (report/index.html, report/overview.png, tables, somas)")
    click.echo(f"view:    flysoma view {output}/run")
