"""`flysoma view`: a run in neuroglancer."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from typing import Any

import click

from ...analysis.viewer import state as viewer
from ...tasks.run import Run
from ...tasks.store import local_folder

_MESHES = 300  # with more somas than that a mesh is there only when asked for


@click.command("view")
@click.argument("path", metavar="RUN")
@click.option(
    "--link", metavar="URL", help="Print a link for the neuroglancer served there; buckets only."
)
@click.option("--screenshot", metavar="FILE", type=click.Path(), help="Write a PNG and stop.")
@click.option("--at", nargs=3, type=float, help="Centre of the view in nm, X Y Z.")
@click.option("--beside", metavar="RUN", help="Another run on the same volume, to show too.")
@click.option("--port", default=0, help="Port of the viewer; default: any free one.")
def command(
    path: str,
    link: str | None,
    screenshot: str | None,
    at: tuple[float, float, float] | None,
    beside: str | None,
    port: int,
) -> None:
    """Open RUN: image, somas with meshes, centroids."""
    run = Run.open(path)
    other = None if beside is None else Run.open(beside)
    if link is not None:
        click.echo(viewer.link(view_state(run, "", "", at, other), link))
        return
    with ExitStack() as stack:
        paths = [run.path, run.config.image, *([other.path] if other else [])]
        folders = [f for f in map(local_folder, paths) if f is not None]
        root = os.path.commonpath(folders) if folders else ""
        served = stack.enter_context(viewer.serve(root)).url if root else ""
        opened = viewer.open_viewer(view_state(run, root, served, at, other), port)
        if screenshot is not None:
            viewer.screenshot(opened, screenshot)
            click.echo(screenshot)
            return
        with suppress(KeyboardInterrupt):
            click.echo(f"open in a browser: {opened.get_viewer_url()}")
            click.echo("Ctrl-C stops it")
            while True:
                time.sleep(3600)


def view_state(
    run: Run,
    root: str = "",
    served: str = "",
    position_nm: tuple[float, float, float] | None = None,
    beside: Run | None = None,
    like: Run | None = None,
) -> dict[str, Any]:
    """Neuroglancer's state for a run.

    Args:
      root, served: as of `viewer.source_url`.
      position_nm: centre of the view; by default the volume's.
      beside: another run on the same volume, shown too.
      like: where the run's files are now, if they are only on their way to its own place.
    """
    there = like or run
    bounds, resolution = there.somas.bounds, there.somas.resolution_nm
    low, high = (
        tuple(v * r for v, r in zip(corner, resolution)) for corner in (bounds.lo, bounds.hi)
    )
    listed = there.store.get_json("somas/segment_properties/info") or {"inline": {"ids": []}}
    ids = listed["inline"]["ids"]
    judged = there.store.get("quality/info") is not None
    layers = viewer.Layers(
        somas=viewer.source_url(run.somas_path, root, served),
        bounds_nm=(low, high),  # type: ignore[arg-type]
        image=viewer.source_url(run.config.image, root, served),
        centroids=viewer.source_url(f"{run.path}/centroids", root, served),
        quality=viewer.source_url(f"{run.path}/quality", root, served) if judged else None,
        beside=None if beside is None else viewer.source_url(beside.somas_path, root, served),
        selected=ids if len(ids) <= _MESHES else (),
    )
    return viewer.viewer_state(layers, position_nm=position_nm)
