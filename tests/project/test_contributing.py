"""The example of CONTRIBUTING.md works."""

import csv
import re
import sys
import textwrap
import types
from pathlib import Path

import pytest
from five_balls import somas, write_config

from flysoma.tasks.config import load_config
from flysoma.tasks.coordination.coordinator import execute_here
from flysoma.tasks.pipeline import begin
from flysoma.tasks.stages import catalog

ROOT = Path(__file__).parents[2]
NAME = "flysoma.tasks.stages.density"


@pytest.fixture
def kind(monkeypatch):
    """The catalog's entry of the example's stage."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    code, entry = map(textwrap.dedent, blocks)
    module = types.ModuleType(NAME)
    module.__package__ = NAME.rpartition(".")[0]
    monkeypatch.setitem(sys.modules, NAME, module)
    exec(code, module.__dict__)
    (kind,) = eval(entry, vars(catalog))
    return kind


def test_the_example_stage_measures_what_the_whole_volume_says(kind, volume):
    run = begin(load_config(write_config(volume, "density", 64)))
    execute_here(run, "relabel", lambda *_: None)
    stage = kind(run)
    plan = stage.plan()
    assert stage.name == kind.name and len(plan) <= stage.forecast().tasks
    for index in plan:
        stage.write(index, stage.work(index, stage.read(index)))
    assert stage.finish() == {"blocks": len(plan)}
    table = run.store.get("tables/density.csv").decode().splitlines()
    rows = {int(row["block"]): float(row["share"]) for row in csv.DictReader(table)}
    inside = sum(share * run.segment_grid[index].core.voxels for index, share in rows.items())
    whole = somas(run.path)
    assert inside == pytest.approx((whole > 0).sum(), abs=0.0001 * whole.size) and inside > 0
