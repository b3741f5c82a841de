"""Stage 6, publish: the table of somas, segment properties, annotations and the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..analysis.annotations import annotation_files
from ..analysis.overview import Section, overview_figure
from ..analysis.properties import segment_properties
from ..analysis.report import report_page
from ..analysis.tables import table_files
from .geometry import Box, vec3
from .measure import measured
from .run import Run, Stage
from .volume import LabelLayer

_SECTIONS = 4
_PICTURE_VX = 1024  # edge of what is shown of a section


class PublishStage(Stage):
    """One task: everything that people read."""

    name = "publish"

    def plan(self) -> Sequence[int]:
        return [0]

    def work(self, index: int, data: Any) -> dict[str, Any]:
        run, store = self.run, self.run.store
        frame = measured(run)
        for name, data in table_files(frame).items():
            store.put(f"tables/{name}", data)
        resolution = run.config.segment.resolution_nm
        bounds = run.segment_grid.bounds
        low, high = (
            tuple(v * r for v, r in zip(corner, resolution)) for corner in (bounds.lo, bounds.hi)
        )
        for name, data in annotation_files(frame, low, high).items():  # type: ignore[arg-type]
            store.put(f"centroids/{name}", data)
        properties = json.dumps(segment_properties(frame)).encode()
        store.put("somas/segment_properties/info", properties, "application/json")
        run.somas.set_info(segment_properties="segment_properties")
        picture = overview_figure(sections(run))
        store.put("report/overview.png", picture, "image/png")
        page = report_page(frame, _summary(run, (low, high)), {"Sections with outlines": picture})
        store.put("report/index.html", page.encode(), "text/html")
        return {"somas": len(frame)}


def sections(run: Run, truth: LabelLayer | None = None) -> list[Section]:
    """Sections at even distances through the volume, with the outlines of the somas that they cut.

    Args:
      truth: labels on the same voxels, outlined too.
    """
    bounds, resolution = run.segment_grid.bounds, run.config.segment.resolution_nm
    middle = [(a + b) // 2 for a, b in zip(bounds.lo, bounds.hi)]
    shown = []
    for number in range(min(_SECTIONS, bounds.size[2])):
        z = bounds.lo[2] + (2 * number + 1) * bounds.size[2] // (2 * _SECTIONS)
        box = Box(
            vec3([middle[0] - _PICTURE_VX // 2, middle[1] - _PICTURE_VX // 2, z]),
            vec3([middle[0] + _PICTURE_VX // 2, middle[1] + _PICTURE_VX // 2, z + 1]),
        ).intersect(bounds)
        shown.append(
            Section(
                f"z = {z * resolution[2] / 1000:.1f} um",
                run.image.read(box, resolution)[0],
                run.somas.read(box)[0],
                (resolution[1], resolution[0]),
                None if truth is None else truth.read(box)[0],
            )
        )
    return shown


def _summary(run: Run, bounds_nm: Any) -> dict[str, Any]:
    from .pipeline import STAGES  # which imports this stage

    stages = []
    for name in (stage.name for stage in STAGES if stage is not PublishStage):
        receipts = run.store.get_jsons(run.store.names(f"receipts/{name}/"))
        seconds = sum(receipt["seconds"] for receipt in receipts.values())
        stages.append({"stage": name, "tasks": len(receipts), "seconds": round(seconds, 1)})
    manifest = run.store.get_json("manifest.json")
    return {
        "title": "Somas",
        "bounds_nm": bounds_nm,
        "stages": stages,
        "provenance": {
            **manifest["versions"],
            "config": manifest["config_hash"],
            **{f"{role} weights": sha for role, sha in manifest["weights_sha256"].items()},
        },
        "config": run.config.to_yaml(),
        "facts": {"image": run.config.image, "result": run.path},
        "open": f"flysoma view {run.path}",
        "files": {
            "table": "../tables/somas.csv",
            "its columns": "../tables/columns.json",
            "CAVE's table": "../tables/cave_nucleus_detection.csv",
        },
    }
