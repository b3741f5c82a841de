"""`flysoma apply`: the next version of a run's somas, from the edits of its review."""

from __future__ import annotations

import click

from ...tasks.review.applying import apply_edits
from ...tasks.run import Run
from ...tasks.storage.store import writable_cloudpath


@click.command("apply")
@click.argument("path", metavar="RUN")
def command(path: str) -> None:
    """Apply the edits of a review to the somas of a run.

    Makes the next version of the somas of RUN from the edits that RUN/review/edits.jsonl has gained. Only the blocks,
    meshes and rows that an edit touches are made again. The ids of all other somas stay. An interrupted command is
    resumed.
    """
    run = Run.open(path)
    writable_cloudpath(run.path)
    version = apply_edits(run, lambda text: click.echo(text, err=True))
    if version is None:
        click.echo(
            f"{run.path}: nothing to apply; version {run.version} of the somas holds all edits"
        )
        return
    changed = len(version.somas) - len(version.new)
    click.echo(
        f"{run.path}: version {version.number} of the somas; {len(version.edits)} edits, {len(version.became)} somas "
        f"gone, {len(version.new)} new, {changed} changed; {len(version.blocks)} of {len(run.segment_grid)} blocks"
    )
