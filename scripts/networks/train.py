"""`flysoma train`: training of a network."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click
import torch

from ...errors import UserError
from ...models.training import distributed
from ...models.training.build import check_network
from ...models.training.config import TrainConfig
from ...models.training.targets import Role
from ...models.training.train import train
from ...tasks.config_files import parse_yaml, read_config, validate
from ...tasks.layers.ownership import check_output
from ...tasks.training.sources import make_source
from ...tasks.training.validation import score_somas
from ..options import Finite

_REPORT_EVERY = 25  # steps


@click.command("train")
@click.argument("role", type=click.Choice(["locate", "segment"]))
@click.argument("config", required=False, type=click.Path(dir_okay=False))
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="File to write: .safetensors."
)
@click.option("--init", help="Weights to start from; overrides CONFIG.")
@click.option("--steps", type=click.IntRange(1), help="Number of training steps; overrides CONFIG.")
@click.option(
    "--minutes",
    type=Finite(min=0, min_open=True),
    help="Stop after this time, even before the last step.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads; default: all.")
def command(role: Role, config: str | None, output: Path, threads: int | None, **over: Any) -> None:
    """Train a network on phantoms and annotated volumes.

    Trains the network that finds somas (locate) or the one that outlines them (segment). CONFIG is a YAML file;
    without it, the network is trained on phantoms alone, which are made first.

    Writes the weights to OUTPUT and beside it a .json file (sha256, scores, this command), a picture and TensorBoard
    logs. Repeat the command to resume from the checkpoint (.ckpt) of an interrupted training.
    """
    if threads:
        torch.set_num_threads(threads)
    source = config or "the defaults"
    values = parse_yaml(read_config(config), config, "'data:' and 'steps:'") if config else {}
    values |= {key: value for key, value in over.items() if value is not None}
    settings = validate(TrainConfig, {"role": role} | values, source)
    start = sys.argv.index("train") + 1 if "train" in sys.argv else len(sys.argv)
    line = shlex.join(["flysoma", "train", *sys.argv[start:]])
    prepare_output(output)
    distributed.launch(train_process, (settings, output, line), settings.processes)


def prepare_output(output: Path) -> None:
    """Make the folder of a weights file. Raise UserError if weights cannot be written there."""
    if output.suffix != ".safetensors":
        raise UserError(f"--output is {output}; weights are a .safetensors file")
    output.parent.mkdir(parents=True, exist_ok=True)
    check_output(output)


def train_process(config: TrainConfig, output: Path, line: str) -> dict[str, Any]:
    """Train in one of the processes, and return the record in the first."""
    check_network(config)
    if not distributed.is_first():
        distributed.barrier()  # the first process makes the phantoms
    source = make_source(config, output)
    if distributed.is_first():
        distributed.barrier()
    record = train(config, source, output, _report, score_somas, line)
    if record:
        click.echo(f"{output}: {_numbers(record['scores_on_held_out'])}")
    return record


def _report(values: dict[str, Any]) -> None:
    """Print one line every few steps and for each score."""
    if values["step"] % _REPORT_EVERY == 0 or "score" in values:
        click.echo(_numbers(values), err=True)


def _numbers(values: dict[str, Any]) -> str:
    numbers = {k: round(v, 5) for k, v in values.items() if isinstance(v, (int, float))}
    return "  ".join(f"{key} {value}" for key, value in numbers.items())
