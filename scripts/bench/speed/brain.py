"""A projection of what a whole fly brain takes, from a run on this machine, over the blocks that hold tissue."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ....models.phantom.make import make_phantom
from ....tasks.config import RunConfig, load_config
from ....tasks.forecast import add_prices, estimate
from ....tasks.grids.geometry import Box, flip
from ....tasks.layers.precomputed import create_layer
from ....tasks.run import Run
from ....tasks.volumes.ingest import NewLayer, ingest_array
from .pipeline import execute_apart
from .timing import Row, Timing

EXAMPLE = Path(__file__).parents[3] / "examples" / "fafb.yaml"
VOXEL_NM = (64.0, 64.0, 40.0)  # of the source mip of FAFB, x, y, z
SHAPE_VX = (17794, 9548, 7020)  # of that mip, x, y, z
_PROBE = (192, 384, 384)
_SEED = 174


def brain_rows(timing: Timing, probe: tuple[int, int, int] = _PROBE) -> Iterator[Row]:
    """Yield hours, bytes and cost of the full adult fly brain, projected from a phantom of this shape (z, y, x)."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as name:
        folder = Path(name)
        example = load_config(EXAMPLE)
        create_layer(f"{folder}/fafb", "image", "uint8", VOXEL_NM, Box((0, 0, 0), SHAPE_VX))
        mask = f"{EXAMPLE.parent}/fafb_tissue"
        image, output = f"{folder}/fafb", f"{folder}/brain"
        brain = Run(RunConfig(image=image, output=output, mask=mask, prices=example.prices))
        phantom = make_phantom(probe, flip(VOXEL_NM), _SEED, "typical")
        ingest_array(phantom.image, NewLayer(f"{folder}/em", VOXEL_NM))
        projections = []
        for number in range(timing.repeats):
            timing.bars("probes", number, timing.repeats)
            config = RunConfig(image=f"{folder}/em", output=f"{folder}/probe-{number}")
            execute_apart(config, 1)
            rows = estimate(brain)
            add_prices(brain, rows, Run.open(config.output))
            projections.append({row["stage"]: row for row in rows})
        timing.bars("probes", timing.repeats, timing.repeats)
        yield from _rows(projections)


def _rows(projections: list[dict[str, dict[str, Any]]]) -> Iterator[Row]:
    """Yield the hours of predict and of the other stages, and the cost of all at the example's prices."""
    first = projections[0]["predict"]
    notes = {
        "tasks": first["tasks"],
        "Gvoxel": first["voxels"] / 1e9,
        "TB read": first["gb"] / 1e3,
        "times read": first["times_read"],
    }
    yield Row(
        "projected, predict", "h", tuple(each["predict"]["hours"] for each in projections), notes
    )
    rest = [[row for name, row in each.items() if name != "predict"] for each in projections]
    hours = tuple(sum(row["hours"] or 0.0 for row in rows) for rows in rest)
    notes = {"TB read": sum(row["gb"] or 0.0 for row in rest[0]) / 1e3}
    yield Row("projected, other stages", "core h", hours, notes)
    cost = tuple(sum(row["money"] for row in each.values()) for each in projections)
    written = sum(row["gb_out"] or 0.0 for row in projections[0].values()) / 1e3
    yield Row("projected, all", "money", cost, {"TB written": written})
