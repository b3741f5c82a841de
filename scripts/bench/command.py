"""`flysoma bench`: measurements that print a table."""

from __future__ import annotations

import click

from .accuracy import command as accuracy
from .coordinator import command as coordinator
from .fleet import command as fleet
from .nuclei import command as nuclei
from .real import command as real
from .speed.command import command as speed
from .speed.outputs import command as outputs


@click.group("bench")
def command() -> None:
    """Measure how good and how fast flysoma is on this machine."""


command.add_command(accuracy)
command.add_command(real)
command.add_command(nuclei)
command.add_command(speed)
command.add_command(fleet)
command.add_command(coordinator)
command.add_command(outputs)
