"""`flysoma train`: train a network on phantoms, or on annotated volumes in the layout of EMADS."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import torch

from ..models.augment import Augmentation
from ..models.dataset import (
    PhantomPlan,
    Source,
    Volume,
    Zyx,
    describe,
    emads_pairs,
    phantom_volumes,
    shrink,
)
from ..models.targets import Role, Voxel
from ..models.train import TrainConfig, train

VOXEL: dict[Role, Voxel] = {"locate": (240.0, 64.0, 64.0), "segment": (40.0, 64.0, 64.0)}
_SHAPE: dict[Role, Zyx] = {"locate": (48, 384, 384), "segment": (160, 256, 256)}
_PATCH: dict[Role, Zyx] = {"locate": (32, 192, 192), "segment": (96, 160, 160)}
_EMADS_FACTOR: dict[Role, Zyx] = {"locate": (6, 4, 4), "segment": (1, 4, 4)}  # from 40x16x16 nm
_TRAIN_SEED, _HELD_OUT_SEED = 10_000, 20_000


@click.command("train")
@click.argument("role", type=click.Choice(["locate", "segment"]))
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help=".safetensors to write."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="EMADS folder (40x16x16 nm) instead of phantoms; every fifth volume is held out.",
)
@click.option("--volumes", default=48, show_default=True, help="Phantoms to learn from.")
@click.option("--held-out", default=6, show_default=True, help="Phantoms to judge by.")
@click.option("--cache", type=click.Path(path_type=Path), help="Folder that keeps the phantoms.")
@click.option(
    "--first-seed", default=_TRAIN_SEED, show_default=True, help="Seed of the first phantom."
)
@click.option("--arch", type=click.Choice(["somanet", "unet", "swin_unetr"]), default="somanet")
@click.option("--init", type=str, help="Weights to go on from.")
@click.option("--steps", default=2000, show_default=True)
@click.option(
    "--minutes", type=float, help="End after this long, if the steps are not done by then."
)
@click.option("--batch", default=2, show_default=True)
@click.option(
    "--augmentation", default=1.0, show_default=True, help="How much patches are changed; 0: not."
)
@click.option("--lr", default=1e-3, show_default=True, help="Highest learning rate.")
@click.option("--judge-every", default=250, show_default=True, help="Steps between judgements.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", type=int, help="Processor threads; default: all.")
def command(role: Role, output: Path, **options: Any) -> None:
    """Train a network that finds somas (locate) or their boundaries (segment).

    Without --data it learns from phantoms, made on the spot. It writes OUTPUT, its .json (sha256, scores,
    this command) and a picture; a training that was stopped goes on from OUTPUT's .ckpt.
    """
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    source = (
        _annotated(role, options["data"]) if options["data"] else _phantoms(role, output, options)
    )
    config = TrainConfig(
        role,
        patch=_PATCH[role],
        change=Augmentation().times(options["augmentation"]),
        command=shlex.join(["flysoma", "train", *sys.argv[sys.argv.index("train") + 1 :]])
        if "train" in sys.argv
        else "",
        **{
            key: options[key]
            for key in ("arch", "init", "steps", "minutes", "batch", "lr", "judge_every", "seed")
        },
    )
    record = train(config, source, output, _show)
    click.echo(f"{output}: {json.dumps(record['scores_on_held_out'])}")


def _phantoms(role: Role, output: Path, options: dict[str, Any]) -> Source:
    cache = options["cache"] or output.parent / "phantoms"
    processes = options["threads"] or os.cpu_count() or 1
    first, made = options["first_seed"], []
    plans = [
        PhantomPlan(role, _SHAPE[role], VOXEL[role], count, seed)
        for count, seed in ((options["volumes"], first), (options["held_out"], _HELD_OUT_SEED))
    ]
    for plan in plans:
        with click.progressbar(length=plan.count, label="phantoms", file=sys.stderr) as bar:
            made.append(phantom_volumes(plan, cache, processes, lambda *_: bar.update(1)))  # noqa: B023
    return Source(
        made[0], made[1], VOXEL[role], {"train": describe(plans[0]), "held_out": describe(plans[1])}
    )


def _annotated(role: Role, folder: Path) -> Source:
    volumes = []
    for name, image, labels in emads_pairs(folder):
        image, labels = shrink(image, labels, _EMADS_FACTOR[role])
        volumes.append(Volume.checked(image, labels, name))
    held_out = volumes[::5]
    learn = [v for i, v in enumerate(volumes) if i % 5] or held_out
    return Source(learn, held_out, VOXEL[role], {"emads": folder.name, "volumes": len(volumes)})


def _show(report: dict[str, Any]) -> None:
    """One line now and then."""
    if report["step"] % 25 == 0 or "score" in report:
        numbers = {k: round(v, 5) for k, v in report.items()}
        click.echo("  ".join(f"{key} {value}" for key, value in numbers.items()), err=True)
