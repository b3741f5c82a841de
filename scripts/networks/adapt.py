"""`flysoma adapt`: training of a network for the look of an image, without labels."""

from __future__ import annotations

import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from ...axes import Nm3
from ...models.training import distributed
from ...models.training.config import TrainConfig
from ...models.training.targets import Role
from ...tasks.config_files import validate
from ...tasks.training.adaptation import adaptation_settings, prepare_looks
from ..options import Finite, axes_option, dataset_option, places_option, resolution_option
from ..progress import Bars
from .train import prepare_output, train_process


@click.command("adapt")
@click.argument("image")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="File to write: .safetensors."
)
@click.option(
    "--role",
    type=click.Choice(["segment", "locate"]),
    default="segment",
    show_default=True,
    help="Network to adapt: the one that outlines somas, or the one that finds them.",
)
@click.option("--init", help="Weights to start from; default: those that a run uses by default.")
@click.option(
    "--labels",
    help="Precomputed labels of somas in a part of IMAGE, a layer. A quarter of them is held out.",
)
@resolution_option("Voxel size in nm, as for flysoma look.")
@axes_option("a 3D file")
@dataset_option
@places_option
@click.option(
    "--minutes",
    type=Finite(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Time to train, after the phantoms are made.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: all.")
def command(
    image: str,
    output: Path,
    role: Role,
    init: str | None,
    labels: str | None,
    resolution: Nm3 | None,
    axes: str | None,
    dataset: str | None,
    places: int,
    minutes: float,
    threads: int | None,
) -> None:
    """Adapt a network to the look of an image, without labels.

    Measures the look of IMAGE as flysoma look does, fits the looks of phantoms to it, and trains on these phantoms,
    starting from the weights that ship with flysoma. OUTPUT holds the initial weights if held-out phantoms in this
    look do not score better.

    Writes beside OUTPUT what flysoma train writes, the looks (.looks.json), and a picture of the image beside a
    phantom (.looks.png). Repeat the command to resume it.
    """
    processes = threads or os.cpu_count() or 1
    torch.set_num_threads(processes)
    prepare_output(output)
    settings = adaptation_settings(role, image, output, init, labels, minutes)
    config = validate(TrainConfig, settings, "the options")
    with Bars() as bars:
        reading = (resolution, axes, dataset, places)
        fit = prepare_looks(image, reading, output, processes, partial(bars, "looks"))
    click.echo(
        f"the looks of {len(fit.fits)} phantoms fit {image}: distance {fit.fits[0][0]:.2f} to "
        f"{fit.fits[-1][0]:.2f}; the best look of the first round has {fit.before:.2f}",
        err=True,
    )
    line = shlex.join(["flysoma", *sys.argv[1:]])
    distributed.launch(_adapt_process, (config, output, line), config.processes)


def _adapt_process(config: TrainConfig, output: Path, line: str) -> None:
    """Adapt in one of the processes."""
    record: dict[str, Any] = train_process(config, output, line)
    if record and record["scores_on_held_out"].get("step") in (None, 0):
        click.echo(f"the training gave no better scores: {output} holds the initial weights")
