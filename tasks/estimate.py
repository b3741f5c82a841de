"""What a run will ask for, before anything is computed."""

from __future__ import annotations

from typing import Any

from .finish import MESH_TASK_VX
from .run import Run

_LABEL_BYTES = 8


def estimate(run: Run) -> list[dict[str, Any]]:
    """A row for each stage, in their order: `stage`, `tasks`, `voxels` and gigabytes that are read (`gb`).

    `tasks` is the most that there can be; how many are needed depends on where tissue and somas are found. It
    is None for a stage whose tasks are batches of somas. Gigabytes are those of unpacked voxels.
    """
    config, grid = run.config, run.segment_grid
    rows = [_image_row(run, "locate", run.locate_grid, config.locate.resolution_nm)]
    rows += [_image_row(run, "segment", grid, config.segment.resolution_nm)]
    slabs = sum(
        grid.face_slab(block.index, axis, run.overlap_vx[axis]).voxels
        for block in grid
        for axis, _ in grid.upper_neighbours(block.index)
    )
    whole, meshes = grid.bounds.voxels, 1
    for size in grid.bounds.size:
        meshes *= -(-size // MESH_TASK_VX)
    for stage, tasks, voxels in (
        ("match", len(grid), 2 * slabs),
        ("relabel", len(grid), whole),
        ("downsample", len(grid), whole),
        ("measure", len(grid), whole),
        ("shape", None, None),
        ("mesh", meshes, whole),
        ("mesh_merge", None, None),
        ("skeleton", None, None),
        ("publish", 1, None),
    ):
        gigabytes = None if voxels is None else voxels * _LABEL_BYTES / 1e9
        rows.append({"stage": stage, "tasks": tasks, "voxels": voxels, "gb": gigabytes})
    return rows


def _image_row(run: Run, stage: str, grid: Any, resolution_nm: Any) -> dict[str, Any]:
    source = sum(run.image.source_voxels(block.read, resolution_nm) for block in grid)
    voxels = sum(block.read.voxels for block in grid)
    return {"stage": stage, "tasks": len(grid), "voxels": voxels, "gb": source / 1e9}
