"""`flysoma bench`: benchmarks that print a table."""

from __future__ import annotations

import click

from ..groups import LazyGroup

# Name of each benchmark: its module below this folder and the first line of its help.
COMMANDS = {
    "accuracy": ("accuracy", "Score flysoma and baselines on phantoms of unseen seeds."),
    "nuclei": ("nuclei", "Score flysoma and baselines on a volume with known nuclei."),
    "speed": ("speed.command", "Measure the speed of networks and stages on this machine."),
    "outputs": ("speed.outputs", "Measure the writing of tables and layers for many somas."),
    "fleet": ("fleet", "Simulate a run on preemptible machines."),
    "coordinator": ("coordinator", "Measure what the coordinator asks of queue and store."),
}


@click.group("bench", cls=LazyGroup, package=__package__, entries=COMMANDS)
def command() -> None:
    """Measure the accuracy and speed of flysoma on this machine."""
