"""`flysoma clean`: what a finished run no longer needs, deleted."""

from __future__ import annotations

import click

from ...tasks.fleet import coordinator
from ...tasks.run import Run


@click.command("clean")
@click.argument("path", metavar="RUN")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
def command(path: str, dry_run: bool) -> None:
    """Delete what a finished RUN needed on its way: labels of blocks, slabs, parts of tables, receipts.

    Segmentation, meshes, skeletons, tables, report, seeds and the record of every stage stay.
    """
    for folder, count in coordinator.clean(Run.open(path), dry_run).items():
        click.echo(f"{count:8d} objects of {folder}{' would go' if dry_run else ' deleted'}")
