"""`flysoma bench outputs`: the table and the layers of as many somas as a brain has: seconds, memory, bytes."""

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
from ....analysis.morphology.shapes import block_moments, merge_moments, shapes
from ....analysis.pages.plots import plot_files
from ....analysis.pages.report import report_page, report_plots
from ....analysis.tables.somas import COLUMNS, table_files
from ....analysis.viewer import state as viewer
from ....tasks.fleet.memory import peak_gb, reset_peak
from ....tasks.store import RunStore
from ....tasks.volumes.geometry import Box, vec3
from ....tasks.volumes.labels import LabelLayer, create_layer
from .stitch import balls
from .timing import Row

VOXEL_NM = (40.0, 64.0, 64.0)
_CORE = (128, 256, 256)
_NM_A_SOMA = 11_000.0  # edge of the cube that each has for itself, a brain's neuropil and all
_COARSE = 64  # voxels in one of what stands in for the somas
_ZOOMS_UM = (None, 200.0, 50.0)  # what the view shows; None: everything
_FRAMES = 7
_DRAW = """
const { display } = viewer, gl = display.gl, pixel = new Uint8Array(4), seconds = [];
for (let i = 0; i < arguments[0]; ++i) {
  const started = performance.now();
  display.draw();
  gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);  // waits until it is drawn
  seconds.push((performance.now() - started) / 1000);
}
return seconds;
"""


@click.command("outputs")
@click.option("--somas", default=150_000, show_default=True, type=click.IntRange(1))
@click.option("--draw", is_flag=True, help="Also neuroglancer in a headless chromium.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(somas: int, draw: bool, as_json: bool) -> None:
    """Make tables, annotations, properties and report of so many made-up somas."""
    rows = []
    for row in output_rows(somas, draw):
        rows.append(asdict(row))
        if not as_json:
            click.echo(row.format())
    if as_json:
        click.echo(json.dumps(rows))


def output_rows(somas: int, draw: bool) -> Iterator[Row]:
    """Each step's seconds, the most memory that the process held in it, and what it made."""
    frame, row = _timed("sums of blocks to shapes", lambda: _shapes(somas))
    yield row
    frame = _filled(frame)
    high = tuple(frame[f"bb_end_{a}_nm"].max() for a in "xyz")
    volume = ((0.0, 0.0, 0.0), high)
    yield _timed("tables", lambda: table_files(frame))[1]
    layer, row = _timed("annotations", lambda: annotation_files(frame, *volume))  # type: ignore[arg-type]
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
            yield from _drawn(Path(folder), volume)


def _timed(name: str, work: Callable[[], Any]) -> tuple[Any, Row]:
    """What some work makes; its seconds, the most memory in it, and the size of the files that it makes."""
    reset_peak()
    started = time.perf_counter()
    made = work()
    seconds = time.perf_counter() - started
    notes: dict[str, Any] = {"peak GB of the process": peak_gb()}
    if isinstance(made, dict):
        notes |= {"files": len(made), "MB": sum(map(len, made.values())) / 1e6}
    return made, Row(name, "s", (seconds,), notes)


def _shapes(somas: int) -> pd.DataFrame:
    """Somas of which every block has the same few, at places of their own."""
    labels = balls(_CORE[::-1], 0).T
    core = tuple(slice(0, n) for n in _CORE)
    one = block_moments(labels, core, (0, 0, 0), ((0, 0, 0), _CORE), VOXEL_NM)  # type: ignore[arg-type]
    numbers = np.arange(len(one), dtype=np.uint64)
    blocks = -(-somas // len(one))
    parts = [one.assign(id=numbers + np.uint64(b * len(one) + 1)) for b in range(blocks)]
    return shapes(merge_moments(parts), VOXEL_NM).head(somas)


def _filled(frame: pd.DataFrame) -> pd.DataFrame:
    """The same somas scattered over a brain, with every column that a run measures."""
    rng = np.random.default_rng(0)
    frame = frame.copy()
    edge = _NM_A_SOMA * len(frame) ** (1 / 3)
    for a in "xyz":
        shift = rng.random(len(frame)) * edge - frame[f"{a}_nm"]
        for name in (f"{a}_nm", f"bb_start_{a}_nm", f"bb_end_{a}_nm"):
            frame[name] += shift
    for column in COLUMNS:
        if column.name not in frame:
            some = rng.random(len(frame))
            frame[column.name] = some < 0.01 if column.dtype == "bool" else some
    return frame


def _properties(frame: pd.DataFrame) -> dict[str, bytes]:
    return {"segment_properties/info": json.dumps(segment_properties(frame)).encode()}


def _report(frame: pd.DataFrame, facts: Mapping[str, Any]) -> dict[str, bytes]:
    files = {"index.html": report_page(frame, facts, {}).encode()}
    for plot in report_plots(frame, facts):
        files |= plot_files(plot)
    return files


def _drawn(folder: Path, volume: tuple[tuple[float, ...], tuple[float, ...]]) -> Iterator[Row]:
    """How long neuroglancer takes until all that it shows is there, and then for a frame, from far to near."""
    coarse = [r * _COARSE for r in VOXEL_NM[::-1]]  # as a run's mips are, from afar
    size = vec3([n // r + 1 for n, r in zip(volume[1], coarse)])
    somas = f"{folder}/somas"
    create_layer(somas, "segmentation", "uint64", coarse, Box((0, 0, 0), size))
    LabelLayer(somas).set_info(segment_properties="segment_properties")
    with viewer.serve(folder) as server, viewer.browser((1600, 1000)) as driver:
        layers = viewer.Layers(
            somas=viewer.source_url(somas, str(folder), server.url),
            bounds_nm=volume,  # type: ignore[arg-type]
            centroids=viewer.source_url(f"{folder}/centroids", str(folder), server.url),
        )
        shown = viewer.open_viewer(viewer.viewer_state(layers))
        started = time.perf_counter()
        driver.get(shown.get_viewer_url())
        for zoom in _ZOOMS_UM:
            with shown.txn() as state:
                if zoom is not None:
                    state.projection_scale = zoom * 1e3
                    state.cross_section_scale = zoom * 1e3 / 420
            shown.screenshot()
            seconds = time.perf_counter() - started
            what = "everything" if zoom is None else f"{zoom:g} um"
            yield Row(f"drawn, {what}", "s", (seconds,))
            yield Row(f"a frame, {what}", "s", tuple(driver.execute_script(_DRAW, _FRAMES)))
            started = time.perf_counter()
