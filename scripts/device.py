"""The option --device."""

from __future__ import annotations

import os
import re

import click

from ..errors import UserError
from ..models.networks.gpus import visible_gpus


def _select(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Hide the other GPUs from this process and from those that it starts."""
    if value is None:
        return
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is none of cpu, cuda and cuda:N")
    gpus = [] if value == "cpu" else visible_gpus()
    if value != "cpu" and int(match[1] or 0) >= len(gpus):
        raise UserError(
            f"--device {value}: this machine has {len(gpus)} GPUs, counted from 0; choose one of them or cpu"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join([gpus[int(match[1])]] if match[1] else gpus)


device_option = click.option(
    "--device",
    metavar="cpu|cuda|cuda:N",
    callback=_select,
    expose_value=False,
    help="Run the networks on the CPU, or on GPU N; default: a GPU if there is one.",
)
