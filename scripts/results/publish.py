"""`flysoma publish`: the results of a run for other people."""

from __future__ import annotations

import click

from ...analysis.viewer.state import PUBLIC_VIEWER
from ...tasks.publishing.copying import PublishOptions, publish
from ...tasks.publishing.describing import cors_commands
from ...tasks.results.viewing import copy_link
from ...tasks.run import Run
from ...tasks.storage.store import writable_cloudpath
from ..progress import Bars


@click.command("publish")
@click.argument("path", metavar="RUN")
@click.argument("target", metavar="CLOUDPATH")
@click.option(
    "--licence",
    default="not stated",
    show_default=True,
    help="Licence of the data, such as CC-BY-4.0.",
)
@click.option("--force", is_flag=True, help="Publish an unfinished run too.")
@click.option(
    "--sharded/--unsharded",
    default=None,
    help="Pack chunks, meshes and annotations into a few large objects; default: for more than 100,000 objects.",
)
@click.option(
    "--verified",
    is_flag=True,
    help="Publish only the somas that a person has said yes to in a review; without the report.",
)
@click.option(
    "--viewer",
    "base",
    default=PUBLIC_VIEWER,
    show_default=True,
    help="URL of the neuroglancer to link to.",
)
def command(
    path: str,
    target: str,
    licence: str,
    force: bool,
    sharded: bool | None,
    verified: bool,
    base: str,
) -> None:
    """Copy the results of a run to a bucket or folder.

    Copies the somas, tables and report of RUN to CLOUDPATH and adds checksums and provenance. An interrupted copy is
    resumed.
    """
    run = Run.open(path)
    place = writable_cloudpath(target)
    link = copy_link(run, place, base)
    options = PublishOptions(licence, force, link, sharded, verified)
    with Bars() as bars:
        published = publish(
            run, place, options, lambda done, total: bars("publishing", done, total)
        )
    click.echo(
        f"{published.objects} objects, {published.bytes / 1e9:.3f} GB at {place}; {published.copied} of them copied now"
    )
    for stage in published.unfinished:
        click.echo(f"not finished: {stage}", err=True)
    cors = cors_commands(place)
    if cors:
        click.echo(f"allow browsers to read it: {cors}")
    click.echo(f"view: {link or f'flysoma view {place}'}")
