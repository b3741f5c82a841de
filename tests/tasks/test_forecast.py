"""A forecast, made from the config and the volume alone, agrees with what each stage does."""

import pytest

from flysoma.tasks.forecast import estimate
from flysoma.tasks.run import Run
from flysoma.tasks.stages.catalog import EXTRAS, STAGES, state_path

# for the other stages the number of tasks depends on the somas that are found
EXACT = {"predict", "mesh", "report"}
UPPER_BOUND = {"locate", "segment", "match", "relabel", "downsample", "thumbnail", "measure"}
UNKNOWN = {"shape", "mesh_merge", "skeleton"}
COUNTED = {
    "predict",
    "locate",
    "segment",
    "relabel",
    "downsample",
    "thumbnail",
}  # voxels, in receipts


@pytest.fixture(scope="module")
def run(undisturbed):
    return Run.open(str(undisturbed))


def counted_voxels(run, stage):
    """Sum of the voxels in a stage's receipts; None if they do not count any."""
    receipts = run.store.get_jsons(run.store.names(f"receipts/{stage}/")).values()
    counters = [receipt["counters"] for receipt in receipts]
    return sum(c["voxels"] for c in counters) if any("voxels" in c for c in counters) else None


def test_every_stage_is_exact_bounded_or_unknown():
    names = [kind.name for kind in STAGES]
    assert sorted(names) == sorted(EXACT | UPPER_BOUND | UNKNOWN)


@pytest.mark.parametrize("kind", STAGES, ids=lambda kind: kind.name)
def test_a_forecast_agrees_with_the_plan_and_the_receipts(run, kind):
    stage = kind(run)
    forecast, planned = stage.forecast(), len(stage.plan())
    assert planned == run.store.get_json(state_path(kind.name))["total"]
    if kind.name in UNKNOWN:
        assert forecast.tasks is None and forecast.voxels is None
    elif kind.name in EXACT or not planned:
        assert forecast.exact and forecast.tasks == planned
    else:
        assert not forecast.exact and forecast.tasks >= planned
    voxels = counted_voxels(run, kind.name)
    assert (voxels is not None) == (kind.name in COUNTED and planned > 0)
    if voxels is not None:
        assert forecast.voxels == voxels if forecast.exact else forecast.voxels >= voxels


def test_forecasts_are_exact_once_the_blocks_with_somas_are_known(undisturbed):
    """Only these blocks, and where seeds lie, make the others upper bounds."""
    run = Run.open(str(undisturbed))
    segmented = run.store.indices("receipts/segment")
    run.blocks_near_tissue = [run.segment_grid[index] for index in sorted(segmented)]
    assert 0 < len(segmented) < len(run.segment_grid)
    for kind in STAGES:
        if kind.name in UPPER_BOUND - {"locate"}:
            stage = kind(run)
            assert stage.forecast().tasks == len(stage.plan())
            if kind.name in COUNTED - {"relabel", "thumbnail"}:  # relabel counts voxels in somas
                assert stage.forecast().voxels == counted_voxels(run, kind.name)


def test_an_estimate_adds_the_records_of_tasks_to_the_forecasts(run):
    rows = {row["stage"]: row for row in estimate(run)}
    assert list(rows) == [kind.name for kind in STAGES]
    for kind in STAGES:
        forecast, row = kind(run).forecast(), rows[kind.name]
        assert (row["tasks"], row["voxels"]) == (forecast.tasks, forecast.voxels)
        if forecast.writes is not None:
            assert row["writes"] == forecast.writes + 3 * forecast.tasks
    assert rows["mesh_merge"]["tasks"] is None  # it depends on the number of somas


def test_an_extra_stage_is_exact(run):
    (link,) = (kind(run) for kind in EXTRAS)
    assert link.forecast().exact and link.forecast().tasks == len(link.plan()) == 1
