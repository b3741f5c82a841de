"""What a whole fly brain would ask for: a projection from a run on this machine, over the blocks that hold tissue."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ....models.phantom.make import make_phantom
from ....tasks.config import RunConfig, load_config
from ....tasks.forecast import add_prices, estimate
from ....tasks.run import Run
from ....tasks.volumes.geometry import Box
from ....tasks.volumes.ingest import NewLayer, ingest_array
from ....tasks.volumes.labels import create_layer
from .pipeline import run_apart
from .timing import Row, Timing

EXAMPLE = Path(__file__).parents[3] / "examples" / "fafb.yaml"
VOXEL_NM = (64.0, 64.0, 40.0)  # the mip of FAFB that is read
SHAPE_VX = (17794, 9548, 7020)  # of it, x, y, z
_PROBE = (192, 384, 384)
_SEED = 174


def brain_rows(timing: Timing, probe: tuple[int, int, int] = _PROBE) -> Iterator[Row]:
    """Hours, bytes and money of the full adult fly brain, as a phantom of these voxels (z, y, x) takes them."""
    with tempfile.TemporaryDirectory(prefix="flysoma-bench-") as name:
        folder = Path(name)
        example = load_config(EXAMPLE)
        create_layer(f"{folder}/fafb", "image", "uint8", VOXEL_NM, Box((0, 0, 0), SHAPE_VX))
        mask = f"{EXAMPLE.parent}/fafb_tissue"
        asked = {"image": f"{folder}/fafb", "output": f"{folder}/brain", "mask": mask}
        brain = Run(RunConfig(**asked, prices=example.prices))
        phantom = make_phantom(probe, VOXEL_NM[::-1], _SEED, "typical")
        ingest_array(phantom.image, NewLayer(f"{folder}/em", VOXEL_NM))
        found = []
        for number in range(timing.repeats):
            timing.bars("probes", number, timing.repeats)
            config = RunConfig(image=f"{folder}/em", output=f"{folder}/probe-{number}")
            run_apart(config, 1)
            rows = estimate(brain)
            add_prices(brain, rows, Run.open(config.output))
            found.append({row["stage"]: row for row in rows})
        timing.bars("probes", timing.repeats, timing.repeats)
        yield from _rows(found)


def _rows(found: list[dict[str, dict[str, Any]]]) -> Iterator[Row]:
    """predict, which a GPU does, and the rest; what all of it costs at the example's prices."""
    first = found[0]["predict"]
    notes = {
        "tasks": first["tasks"],
        "Gvoxel": first["voxels"] / 1e9,
        "TB read": first["gb"] / 1e3,
        "times read": first["times_read"],
    }
    yield Row("projected, predict", "h", tuple(each["predict"]["hours"] for each in found), notes)
    rest = [[row for name, row in each.items() if name != "predict"] for each in found]
    hours = tuple(sum(row["hours"] or 0.0 for row in rows) for rows in rest)
    notes = {"TB read": sum(row["gb"] or 0.0 for row in rest[0]) / 1e3}
    yield Row("projected, other stages", "core h", hours, notes)
    money = tuple(sum(row["money"] for row in each.values()) for each in found)
    written = sum(row["gb_out"] or 0.0 for row in found[0].values()) / 1e3
    yield Row("projected, all", "money", money, {"TB written": written})
