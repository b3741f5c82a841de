"""The example of CONTRIBUTING.md works."""

import csv
import re
import shutil
import sys
import textwrap
import types
from pathlib import Path

import pytest

from flysoma.tasks.run import Run
from flysoma.tasks.stages import catalog
from flysoma.tasks.volumes.labels import LabelLayer

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


def test_the_example_stage_measures_what_the_whole_volume_says(kind, undisturbed, tmp_path):
    path = shutil.copytree(undisturbed, tmp_path / "run")
    run = Run.open(str(path))
    stage = kind(run)
    plan = stage.plan()
    assert stage.name == kind.name and len(plan) <= stage.forecast().tasks
    for index in plan:
        stage.write(index, stage.work(index, stage.read(index)))
    assert stage.finish() == {"blocks": len(plan)}
    with (path / "tables/density.csv").open() as file:
        rows = {int(row["block"]): float(row["share"]) for row in csv.DictReader(file)}
    inside = sum(share * run.segment_grid[index].core.voxels for index, share in rows.items())
    layer = LabelLayer(f"{path}/somas")
    whole = layer.read(layer.bounds)
    assert inside == pytest.approx((whole > 0).sum(), abs=0.0001 * whole.size)
