"""report: the table of somas, segment properties, annotations and the report page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...analysis.layers.annotations import annotation_files
from ...analysis.layers.properties import segment_properties
from ...analysis.layers.quality import PROPERTIES as QUALITY
from ...analysis.layers.quality import quality_files
from ...analysis.pages.plots import plot_files
from ...analysis.pages.report import report_page, report_plots
from ...analysis.pages.sections import Section, draw_sections, orthogonal_sections
from ...analysis.tables.doubts import doubtful_somas
from ...analysis.tables.seams import Seams
from ...analysis.tables.somas import knows_nuclei, soma_table, table_files
from ...axes import Nm3
from ..grids.geometry import Box, flip, to_voxels, vec3
from ..layers.labels import LabelLayer
from ..run import Run
from .catalog import STAGES, read_state
from .match import MatchStage
from .measure import MeasureStage, add_surroundings, load_measurements, soma_box
from .stage import Counters, Forecast, SimpleStage

_SECTIONS = 4
_SECTION_VX = 1024  # longest edge of the part of a section that is shown
_SUSPECTS = 12  # somas to look at with a picture
_MARGIN_NM = 1500.0  # around such a soma
_SUSPECT_DPI = 60
_FILES = 10  # that the stage writes, about


class ReportStage(SimpleStage):
    """One task: the tables, annotation layers and pages of all somas."""

    name = "report"

    def plan(self) -> Sequence[int]:
        return [0]

    def forecast(self) -> Forecast:
        return Forecast(tasks=1, exact=True, writes=_FILES)

    def work(self, index: int, data: None) -> Counters:
        run = self.run
        frame = add_surroundings(run, load_measurements(run, ["batches", "neurites"]))
        low, high = _bounds_nm(run)
        _put(run, "centroids", annotation_files(frame, low, high))
        _put(run, "quality", quality_files(_blocks(run, frame), low, high))
        put_tables(run, frame)
        put_report(run, frame)
        return {"somas": len(frame)}

    def finish(self) -> Counters:
        self.run.somas.set_info(segment_properties="segment_properties")
        return {}


def put_tables(run: Run, frame: pd.DataFrame) -> None:
    """Write the files of a table of somas, and the segment properties."""
    _put(run, "tables", table_files(frame))
    properties = json.dumps(segment_properties(frame)).encode()
    for name in run.layer_names:
        run.store.put(f"{name}/segment_properties/info", properties, "application/json")
        run.layer(name).set_info(segment_properties="segment_properties")


def put_report(run: Run, frame: pd.DataFrame) -> None:
    """Write the report of a table of somas."""
    picture = draw_sections(cut_sections(run))
    run.store.put("report/overview.png", picture, "image/png")
    summary = _summary(run, _bounds_nm(run))
    if knows_nuclei(soma_table(frame)):
        summary["files"]["CAVE table of nuclei"] = "../tables/cave_nuclei.csv"
    for plot in report_plots(frame, summary):
        _put(run, "report/figures", plot_files(plot))
    sections = {"Sections with the outlines of somas.": picture}
    page = report_page(frame, summary, sections, draw_suspects(run, frame))
    run.store.put("report/index.html", page.encode(), "text/html")


def replace_annotations(run: Run, before: pd.DataFrame, after: pd.DataFrame) -> None:
    """Replace the annotations of a table of somas by those of another: write what differs, delete what is gone."""
    old, new = (annotation_files(frame, *_bounds_nm(run)) for frame in (before, after))
    _put(run, "centroids", {name: data for name, data in new.items() if old.get(name) != data})
    run.store.delete(f"centroids/{name}" for name in sorted(old.keys() - new.keys()))


def _put(run: Run, folder: str, files: Mapping[str, bytes]) -> None:
    run.store.put_many({f"{folder}/{name}": data for name, data in files.items()})


def _bounds_nm(run: Run) -> tuple[Nm3, Nm3]:
    """Return the lower and the upper corner of a run's volume, x, y, z, nm."""
    bounds, (x, y, z) = run.segment_grid.bounds, run.config.segment.resolution_nm
    low, high = ((c[0] * x, c[1] * y, c[2] * z) for c in (bounds.lo, bounds.hi))
    return low, high


def cut_sections(run: Run, truth: LabelLayer | None = None) -> list[Section]:
    """Cut sections at equal distances through the volume, with the outlines of their somas.

    Args:
      truth: labels of the same voxels, outlined too.
    """
    bounds, resolution = run.segment_grid.bounds, run.config.segment.resolution_nm
    middle = [(a + b) // 2 for a, b in zip(bounds.lo, bounds.hi)]
    sections = []
    for number in range(min(_SECTIONS, bounds.size[2])):
        z = bounds.lo[2] + (2 * number + 1) * bounds.size[2] // (2 * _SECTIONS)
        box = Box(
            vec3([middle[0] - _SECTION_VX // 2, middle[1] - _SECTION_VX // 2, z]),
            vec3([middle[0] + _SECTION_VX // 2, middle[1] + _SECTION_VX // 2, z + 1]),
        ).intersect(bounds)
        sections.append(
            Section(
                f"z = {z * resolution[2] / 1000:.1f} µm",
                run.image.read(box, resolution)[0],
                run.read_somas(box)[0],
                (resolution[1], resolution[0]),
                None if truth is None else truth.read(box)[0],
            )
        )
    return sections


def _blocks(run: Run, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table of the segmented blocks that `quality_files` takes."""
    grid, resolution = run.segment_grid, np.array(run.config.segment.resolution_nm)
    count: Counter[int] = Counter()
    for place in np.floor(frame[["x_nm", "y_nm", "z_nm"]].to_numpy() / resolution).astype(int):
        count.update(grid.reaching(Box(vec3(place.tolist()), vec3((place + 1).tolist()))))
    matched, measured = MatchStage(run).receipts(), MeasureStage(run).receipts()
    rows = []
    for index, receipt in sorted(matched.items()):
        core = grid[index].core
        row = [index, *(core.lo * resolution), *(core.hi * resolution), count[index]]
        missing = measured[index]["counters"]["missing"]
        rows.append([*row, receipt["counters"]["disagreements"], missing])
    columns = [f"{edge}_{a}_nm" for edge in ("start", "end") for a in "xyz"]
    return pd.DataFrame(rows, columns=["index", *columns, *QUALITY])


def draw_suspects(run: Run, frame: pd.DataFrame) -> dict[str, bytes]:
    """Draw three sections through each of the first somas to look at; returns PNGs by caption."""
    resolution = run.somas.resolution_nm
    suspects = doubtful_somas(soma_table(frame), _seams(run))
    pictures = {}
    for _, soma in suspects.head(_SUSPECTS).iterrows():
        box = soma_box(run, soma, to_voxels(_MARGIN_NM, resolution))
        middle = [int(soma[f"{a}_nm"] / r) for a, r in zip("xyz", resolution)]
        sections = orthogonal_sections(
            run.image.read(box, resolution),
            run.somas.read(box),
            flip(box.lo),
            flip(middle),
            flip(resolution),
        )
        caption = f"soma {int(soma['id'])}, {soma['volume_um3']:.0f} µm³: {soma['doubt']}"
        pictures[caption] = draw_sections(sections, columns=3, dpi=_SUSPECT_DPI)
    return pictures


def _seams(run: Run) -> Seams:
    grid, (x, y, z) = run.segment_grid, run.config.segment.resolution_nm
    at_x, at_y, at_z = (
        np.array(sorted({b.core.hi[axis] for b in grid} - {grid.bounds.hi[axis]}), float) * nm
        for axis, nm in enumerate((x, y, z))
    )
    size = run.config.segment.block_vx
    return Seams((at_x, at_y, at_z), (size[0] * x, size[1] * y, size[2] * z))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 3600:,.2f} h"


def _summary(run: Run, bounds_nm: tuple[Nm3, Nm3]) -> dict[str, Any]:
    prices, stages = run.config.prices, []
    for kind in STAGES:
        if kind.name == ReportStage.name:
            break
        state = read_state(run.store, kind.name)
        seconds = state.get("task_seconds", 0.0)
        row = {"stage": kind.name, "tasks": state.get("total", 0), "time": _duration(seconds)}
        if any(prices.model_dump().values()):
            row["cost"] = seconds / 3600 * (prices.gpu_hour if kind.gpu else prices.cpu_hour)
        stages.append(row)
    return {
        "title": "Somas",
        "bounds_nm": bounds_nm,
        "seams": _seams(run),
        "stages": stages,
        "provenance": {
            **run.manifest.versions,
            "config": run.manifest.config_hash,
            **{f"{role} weights": sha for role, sha in run.manifest.weights_sha256},
        },
        "config": run.config.to_yaml(),
        "facts": {"image": run.config.image, "result": run.path},
        "open": f"flysoma view {run.path}",
        "files": {
            "table of somas": "../tables/somas.csv",
            "column descriptions": "../tables/columns.json",
            "CAVE table": "../tables/cave_nucleus_detection.csv",
        },
    }
