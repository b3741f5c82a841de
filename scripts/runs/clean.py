"""`flysoma clean`: the intermediate objects of a run."""

from __future__ import annotations

import click

from ...tasks.coordination import coordinator
from ...tasks.run import Run


@click.command("clean")
@click.argument("path", metavar="RUN")
@click.option("--dry-run", is_flag=True, help="Print what would be deleted, and delete nothing.")
def command(path: str, dry_run: bool) -> None:
    """Delete the intermediate objects of a finished run.

    Deletes block labels, slabs, partial tables and receipts of RUN. Keeps the segmentation, meshes, skeletons, tables,
    report, seeds and the record of each stage.
    """
    for folder, count in coordinator.clean(Run.open(path), dry_run).items():
        click.echo(f"{count:8d} objects of {folder} {'would be deleted' if dry_run else 'deleted'}")
