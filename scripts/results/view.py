"""`flysoma view`: a run in neuroglancer."""

from __future__ import annotations

import time

import click

from ...analysis.viewer import browser, server
from ...analysis.viewer import state as viewer
from ...axes import Nm3
from ...tasks.results.viewing import view_state
from ...tasks.run import Run
from ..options import Finite


@click.command("view")
@click.argument("path", metavar="RUN")
@click.option(
    "--link",
    metavar="URL",
    help="Print a link to the neuroglancer served at URL and exit; the run must be in a bucket.",
)
@click.option(
    "--screenshot", metavar="FILE", type=click.Path(), help="Write a PNG to FILE and exit."
)
@click.option("--at", nargs=3, type=Finite(), help="Centre of the view in nm, X Y Z.")
@click.option(
    "--beside", metavar="RUN", help="Another run on the same volume to show too, in orange."
)
@click.option(
    "--color-by",
    metavar="PROPERTY",
    help="Colour the somas by a property such as volume_um3: dark blue is low, yellow is high.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port of the viewer and of its data; default: any free port.",
)
def command(
    path: str,
    link: str | None,
    screenshot: str | None,
    at: Nm3 | None,
    beside: str | None,
    color_by: str | None,
    port: int,
) -> None:
    """Open a run in neuroglancer.

    Shows the image of RUN, its somas with meshes, and their centroids. The layer of nuclei is hidden at first.
    """
    run = Run.open(path)
    other = None if beside is None else Run.open(beside)
    if link is not None:
        click.echo(viewer.link(view_state(run, None, at, other, color_by=color_by), link))
        return
    with server.ViewServer(port) as view:
        opened = view.open(view_state(run, view.add, at, other, color_by=color_by))
        if screenshot is not None:
            browser.save_screenshot(opened, screenshot)
            click.echo(screenshot)
            return
        click.echo(f"open in a browser: {opened.get_viewer_url()}")
        click.echo("press Ctrl-C to stop")
        while True:
            time.sleep(3600)
