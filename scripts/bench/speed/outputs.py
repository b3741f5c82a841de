"""`flysoma bench outputs`: time, memory and size of the tables and layers of a whole brain's somas."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from ....analysis.layers.annotations import annotation_files
from ....analysis.layers.properties import segment_properties
from ....analysis.morphology.moments import block_moments, merge_moments
from ....analysis.morphology.shapes import shapes_from_moments
from ....analysis.pages.plots import plot_files
from ....analysis.pages.report import report_page, report_plots
from ....analysis.tables.somas import COLUMNS, table_files
from ....analysis.viewer import state as viewer
from ....analysis.viewer.browser import open_browser
from ....analysis.viewer.server import ViewServer
from ....axes import Nm3
from ....tasks.fleet.memory import peak_gb, reset_peak
from ....tasks.grids.geometry import Box, vec3
from ....tasks.layers.labels import LabelLayer
from ....tasks.layers.precomputed import create_layer
from ....tasks.storage.store import RunStore
from .stitch import balls
from .timing import Row

VOXEL_NM = (40.0, 64.0, 64.0)
_CORE = (128, 256, 256)
_NM_A_SOMA = 11_000.0  # edge of the cube of brain per soma, including neuropil
_COARSE = 64  # downsampling of the empty layer that stands in for the somas
_ZOOMS_UM = (None, 200.0, 50.0)  # width of the view; None: everything
_FRAMES = 7
_DRAW = """
const { display } = viewer, gl = display.gl, pixel = new Uint8Array(4), seconds = [];
for (let i = 0; i < arguments[0]; ++i) {
  const started = performance.now();
  display.draw();
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);  // waits for the GPU
  seconds.push((performance.now() - started) / 1000);
}
return seconds;
"""


@click.command("outputs")
@click.option(
    "--somas",
    default=150_000,
    show_default=True,
    type=click.IntRange(1),
    help="Number of somas.",
)
@click.option(
    "--draw", is_flag=True, help="Measure drawing in neuroglancer too, in a headless chromium."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(somas: int, draw: bool, as_json: bool) -> None:
    """Measure the writing of tables and layers for many somas.

    Makes tables, annotations, segment properties and the report of synthetic somas.
    """
    rows = []
    for row in output_rows(somas, draw):
        rows.append(asdict(row))
        if not as_json:
            click.echo(row.format())
    if as_json:
        click.echo(json.dumps(rows))


def output_rows(somas: int, draw: bool) -> Iterator[Row]:
    """Yield the seconds, the peak memory and the output size of each step."""
    frame, row = _timed("moments of blocks to shapes", lambda: _shapes(somas))
    yield row
    frame = _fill_columns(frame)
    x, y, z = (float(frame[f"bb_end_{a}_nm"].max()) for a in "xyz")
    volume = ((0.0, 0.0, 0.0), (x, y, z))
    yield _timed("tables", lambda: table_files(frame))[1]
    layer, row = _timed("annotations", lambda: annotation_files(frame, *volume))
    yield row
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as folder:
        store = RunStore(folder)
        layer = {f"centroids/{name}": data for name, data in layer.items()}
        yield _timed("annotations, to disk", lambda: store.put_many(layer))[1]
        layer.clear()
        properties, row = _timed("segment properties", lambda: _properties(frame))
        yield row
        yield _timed("report", lambda: _report(frame, {"bounds_nm": volume}))[1]
        if draw:
            store.put_many({f"somas/{name}": data for name, data in properties.items()})
            yield from _drawing_rows(Path(folder), volume)


def _timed(name: str, work: Callable[[], Any]) -> tuple[Any, Row]:
    """Return the result of `work`, and a row of its seconds, its peak memory and the size of its files."""
    reset_peak()
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    notes: dict[str, Any] = {"peak GB of the process": peak_gb()}
    if isinstance(result, dict):
        notes |= {"files": len(result), "MB": sum(map(len, result.values())) / 1e6}
    return result, Row(name, "s", (seconds,), notes)


def _shapes(somas: int) -> pd.DataFrame:
    """Return the shapes of somas that repeat those of one block under new ids."""
    labels = balls(_CORE[::-1], 0).T
    z, y, x = (slice(0, n) for n in _CORE)
    one = block_moments(labels, (z, y, x), (0, 0, 0), ((0, 0, 0), _CORE), VOXEL_NM)
    numbers = np.arange(len(one), dtype=np.uint64)
    blocks = -(-somas // len(one))
    parts = [one.assign(id=numbers + np.uint64(b * len(one) + 1)) for b in range(blocks)]
    return shapes_from_moments(merge_moments(parts), VOXEL_NM).head(somas)


def _fill_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """Scatter somas over a brain and fill all columns that a run measures."""
    rng = np.random.default_rng(0)
    frame = frame.copy()
    edge = _NM_A_SOMA * len(frame) ** (1 / 3)
    for a in "xyz":
        shift = rng.random(len(frame)) * edge - frame[f"{a}_nm"]
        for name in (f"{a}_nm", f"bb_start_{a}_nm", f"bb_end_{a}_nm"):
            frame[name] += shift
    for column in COLUMNS:
        if column.name not in frame:
            values = rng.random(len(frame))
            frame[column.name] = values < 0.01 if column.dtype == "bool" else values
    return frame


def _properties(frame: pd.DataFrame) -> dict[str, bytes]:
    return {"segment_properties/info": json.dumps(segment_properties(frame)).encode()}


def _report(frame: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, bytes]:
    files = {"index.html": report_page(frame, facts, {}).encode()}
    for plot in report_plots(frame, facts):
        files |= plot_files(plot)
    return files


def _drawing_rows(folder: Path, volume: tuple[Nm3, Nm3]) -> Iterator[Row]:
    """Yield the seconds until neuroglancer has loaded the view, and those of a frame, at each zoom."""
    coarse = [r * _COARSE for r in VOXEL_NM[::-1]]  # like the coarsest mip of a run
    size = vec3([n // r + 1 for n, r in zip(volume[1], coarse)])
    somas = f"{folder}/somas"
    create_layer(somas, "segmentation", "uint64", coarse, Box((0, 0, 0), size))
    LabelLayer(somas).set_info(segment_properties="segment_properties")
    with ViewServer() as server, open_browser((1600, 1000)) as driver:
        layers = viewer.Layers(
            somas=viewer.source_url(somas, server.add),
            bounds_nm=volume,
            centroids=viewer.source_url(f"{folder}/centroids", server.add),
        )
        shown = server.open(viewer.viewer_state(layers))
        started = time.perf_counter()
        driver.get(shown.get_viewer_url())
        for zoom in _ZOOMS_UM:
            with shown.txn() as state:
                if zoom is not None:
                    state.projection_scale = zoom * 1e3
                    state.cross_section_scale = zoom * 1e3 / 420
            shown.screenshot()
            seconds = time.perf_counter() - started
            view = "everything" if zoom is None else f"{zoom:g} um"
            yield Row(f"drawn, {view}", "s", (seconds,))
            yield Row(f"a frame, {view}", "s", tuple(driver.execute_script(_DRAW, _FRAMES)))
            started = time.perf_counter()
