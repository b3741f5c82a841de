"""`flysoma publish`: a run, where others can read it."""

from __future__ import annotations

import contextlib

import click

from ...analysis.viewer import state as viewer
from ...errors import UserError
from ...tasks.publishing import Terms, cors_commands, share
from ...tasks.run import Run
from ...tasks.store import normalize_cloudpath
from ..progress import Bars
from .view import view_state


@click.command("publish")
@click.argument("path", metavar="RUN")
@click.argument("target", metavar="CLOUDPATH")
@click.option(
    "--licence", default="not stated", show_default=True, help="Of the data, as CC-BY-4.0."
)
@click.option("--force", is_flag=True, help="Publish a run that is not finished.")
@click.option(
    "--sharded/--unsharded",
    default=None,
    help="Pack chunks, meshes and annotations into few large objects; default: when there are over 100,000.",
)
@click.option(
    "--viewer", "base", default=viewer.PUBLIC_VIEWER, show_default=True, help="A neuroglancer."
)
def command(
    path: str, target: str, licence: str, force: bool, sharded: bool | None, base: str
) -> None:
    """Copy RUN's somas, tables and report to CLOUDPATH, with checksums and provenance; goes on where it stopped."""
    run = Run.open(path)
    place = normalize_cloudpath(target)
    if f"{place}/".startswith(f"{run.path}/") or f"{run.path}/".startswith(f"{place}/"):
        raise UserError(f"{target} and the run {run.path} lie in each other; choose another place")
    copy = Run(run.config.model_copy(update={"output": place}))
    link = None
    with contextlib.suppress(UserError):  # a folder, or an image on this disk
        link = viewer.link(view_state(copy, like=run), base)
    with Bars() as bars:
        terms = Terms(licence, force, link, sharded)
        done = share(run, place, terms, lambda n, all_: bars("publishing", n, all_))
    click.echo(
        f"{done.objects} objects, {done.bytes / 1e9:.3f} GB at {place}, {done.copied} of them copied now"
    )
    for stage in done.unfinished:
        click.echo(f"not finished: {stage}", err=True)
    command = cors_commands(place)
    if command:
        click.echo(f"let browsers read it:  {command}")
    click.echo(f"open it:  {link or f'flysoma view {place}'}")
