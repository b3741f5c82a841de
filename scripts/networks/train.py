"""`flysoma train`: train a network on phantoms and annotated volumes."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click
import torch

from ...models.training import distributed
from ...models.training.config import TrainConfig
from ...models.training.targets import Role
from ...models.training.train import check_network, train
from ...tasks.config import parse_yaml, read_config, validated
from ...tasks.training.judge import judge_somas
from ...tasks.training.volumes import make_source

_LINE_EVERY = 25  # steps


@click.command("train")
@click.argument("role", type=click.Choice(["locate", "segment"]))
@click.argument("config", required=False, type=click.Path(dir_okay=False))
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help=".safetensors to write."
)
@click.option("--init", help="Weights to go on from, in place of the config's.")
@click.option("--steps", type=click.IntRange(1), help="In place of the config's.")
@click.option("--minutes", type=float, help="End after this long, if the steps are not done.")
@click.option("--threads", type=click.IntRange(1), help="Processor threads; default: all.")
def command(role: Role, config: str | None, output: Path, threads: int | None, **over: Any) -> None:
    """Train the network that finds somas (locate) or the one that outlines them (segment).

    CONFIG is YAML; without it the network learns from phantoms alone, made on the spot. Writes OUTPUT, its .json
    (sha256, scores, this command), a picture and logs for TensorBoard. A training that was stopped goes on from
    OUTPUT's .ckpt when it is given again.
    """
    if threads:
        torch.set_num_threads(threads)
    name = config or "the defaults"
    values = parse_yaml(read_config(config), config, "'data:' and 'steps:'") if config else {}
    values |= {key: value for key, value in over.items() if value is not None}
    asked = validated(TrainConfig, {"role": role} | values, name)
    start = sys.argv.index("train") + 1 if "train" in sys.argv else len(sys.argv)
    line = shlex.join(["flysoma", "train", *sys.argv[start:]])
    distributed.launch(_train, (asked, output, line), asked.processes)


def _train(config: TrainConfig, output: Path, line: str) -> None:
    """One process's part."""
    check_network(config)
    if not distributed.first():
        distributed.wait()  # until the phantoms are made
    source = make_source(config, output)
    if distributed.first():
        distributed.wait()
    record = train(config, source, output, _show, judge_somas, line)
    if record:
        click.echo(f"{output}: {_numbers(record['scores_on_held_out'])}")


def _show(report: dict[str, Any]) -> None:
    """One line now and then."""
    if report["step"] % _LINE_EVERY == 0 or "score" in report:
        click.echo(_numbers(report), err=True)


def _numbers(report: dict[str, Any]) -> str:
    numbers = {k: round(v, 5) for k, v in report.items() if isinstance(v, (int, float))}
    return "  ".join(f"{key} {value}" for key, value in numbers.items())
