"""`flysoma bench speed`: how fast each part is on this machine, beside what the machine can do."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import torch

from ....errors import UserError
from ...progress import Bars
from ..ways.rivals import chosen
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
@click.option("--parts", default=",".join(PARTS), show_default=True, help="Which parts.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cuda" if torch.cuda.is_available() else "cpu",
    show_default="cuda where there is one",
)
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1))
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder for speed.json and what is reused."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(parts: str, device: str, repeats: int, output: Path | None, as_json: bool) -> None:
    """Measure this machine, the networks on it, and what is done around them; medians and spread."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "torch sees no GPU here: give '--device cpu', or see that there is a driver and a torch with CUDA"
        )
    machine = describe_machine(device)
    result = {"machine": machine, "parts": {}}
    if not as_json:
        click.echo("\n".join(f"{key}: {value}" for key, value in machine.items()))
    with Bars() as bars:
        for name in chosen(parts, PARTS, "--parts"):
            if not as_json:
                click.echo(f"\n{name}")
            rows = []
            for row in PARTS[name](Timing(device, repeats, bars)):
                rows.append(asdict(row) | {"median": row.median})
                if not as_json:
                    click.echo(row.format())
            result["parts"][name] = rows  # type: ignore[index]
    text = json.dumps(result, indent=2)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "speed.json").write_text(text + "\n")
    if as_json:
        click.echo(text)


def describe_machine(device: str) -> dict[str, str]:
    """What the figures depend on."""
    cpu = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    found = {
        "processor": f"{cpu}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads"
    }
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    found["versions"] = ", ".join(_versions())
    return found | {"date": datetime.now(UTC).strftime("%Y-%m-%d")}


def _versions() -> Iterator[str]:
    for name in _PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"no {name}"
