"""`flysoma bench speed`: the speed of each part on this machine, beside the limits of the machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import torch

from ....errors import UserError
from ...progress import Bars
from ..methods.baselines import parse_names
from .block import block_rows
from .brain import brain_rows
from .network import network_rows
from .pipeline import pipeline_rows
from .predict import predict_rows
from .stitch import stitch_rows
from .timing import Row, Timing

PARTS: dict[str, Callable[[Timing], Iterator[Row]]] = {
    "network": network_rows,
    "block": block_rows,
    "predict": predict_rows,
    "pipeline": pipeline_rows,
    "stitch": stitch_rows,
    "brain": brain_rows,
}
_PACKAGES = ("flysoma", "torch", "openvino", "numpy", "cloud-volume")


@click.command("speed")
@click.option(
    "--parts",
    default=",".join(PARTS),
    show_default=True,
    help="Parts to measure, separated by commas.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cuda" if torch.cuda.is_available() else "cpu",
    show_default="cuda if available",
    help="Device that runs the networks.",
)
@click.option(
    "--repeats",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Number of repeats of each measurement.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder to write speed.json to.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(parts: str, device: str, repeats: int, output: Path | None, as_json: bool) -> None:
    """Measure the speed of networks and stages on this machine.

    Prints the median and the range of each measurement.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "torch sees no GPU here; use --device cpu, or install a driver and a torch with CUDA"
        )
    machine = describe_machine(device)
    measured: dict[str, list[dict[str, Any]]] = {}
    if not as_json:
        click.echo("\n".join(f"{key}: {value}" for key, value in machine.items()))
    with Bars() as bars:
        for name in parse_names(parts, PARTS, "--parts"):
            if not as_json:
                click.echo(f"\n{name}")
            rows = []
            for row in PARTS[name](Timing(device, repeats, bars)):
                rows.append(asdict(row) | {"median": row.median})
                if not as_json:
                    click.echo(row.format())
            measured[name] = rows
    text = json.dumps({"machine": machine, "parts": measured}, indent=2)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "speed.json").write_text(text + "\n")
    if as_json:
        click.echo(text)


def describe_machine(device: str) -> dict[str, str]:
    """Return what the figures depend on: processor, GPU, versions and date."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    machine = {
        "processor": f"{cpu}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads"
    }
    if device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    machine["versions"] = ", ".join(_versions())
    return machine | {"date": datetime.now(UTC).strftime("%Y-%m-%d")}


def _versions() -> Iterator[str]:
    for name in _PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"no {name}"
