"""The speed benchmark: nested functions are timed once, and rows say what was measured."""

import json
import shutil
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from flysoma.errors import UserError
from flysoma.models.networks.somanet import SomaNet
from flysoma.scripts.bench.speed import brain as speed_brain
from flysoma.scripts.bench.speed import command as speed
from flysoma.scripts.bench.speed import network as speed_network
from flysoma.scripts.bench.speed import pipeline as speed_pipeline
from flysoma.scripts.bench.speed import predict as speed_predict
from flysoma.scripts.bench.speed import stitch as speed_stitch
from flysoma.scripts.bench.speed.clock import clocked
from flysoma.scripts.bench.speed.timing import Row, Timing
from flysoma.scripts.cli import cli
from flysoma.tasks.config import RunConfig
from flysoma.tasks.fleet.status import status
from flysoma.tasks.forecast import add_prices, estimate
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers.image import ImageLayer
from flysoma.tasks.layers.precomputed import create_layer, fill_layer
from flysoma.tasks.run import Run
from flysoma.tasks.stages.catalog import state_path
from flysoma.tasks.stages.predict import PredictStage
from flysoma.tasks.storage.store import local_folder


def test_seconds_are_those_of_the_innermost_function_in_every_thread():
    def outer():
        time.sleep(0.05)
        place.inner()
        place.inner()

    place = SimpleNamespace(outer=outer, inner=lambda: time.sleep(0.1))
    with clocked({"outer": ((place, "outer"),), "inner": ((place, "inner"),)}) as spent:
        threads = [threading.Thread(target=place.outer) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert 0.1 <= spent["outer"] < 0.2 < 0.4 <= spent["inner"]
    assert place.outer is outer


def test_rows_print_the_median_and_the_range():
    row = Row("copy", "GB/s", (3.0, 1.0, 2.0), {"of": 0.25})
    assert row.median == 2.0 and "1 to 3" in row.format() and "of 0.25" in row.format()


def test_the_roofline_counts_every_convolution():
    net = SomaNet(stem=(1, 2, 2), widths=(32, 64), pools=((2, 2, 2),))
    convolutions = speed_network._convolutions(net, torch.zeros(1, 1, 4, 8, 8))
    voxels = 4 * 4 * 4
    assert convolutions[0] == (2 * voxels * 32 * 4 * 27, voxels * (4 + 32) + 32 * 4 * 27)
    assert len(convolutions) == 1 + 2 * 2 + 2 + 2 + 1


def test_stitching_is_measured_on_a_brain_of_any_size(tmp_path, monkeypatch):
    brain = speed_stitch.Brain(somas=30, labels=100, blocks=40, pairs=500)
    monkeypatch.setitem(
        speed.PARTS, "stitch", lambda timing: speed_stitch.stitch_rows(timing, brain)
    )
    words = ["bench", "speed", "--parts", "stitch", "--repeats", "1", "--output", str(tmp_path)]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert "gather and resolve 40 blocks" in done.stdout and "processor: " in done.stdout
    rows = json.loads((tmp_path / "speed.json").read_text())["parts"]["stitch"]
    assert [row["unit"] for row in rows] == ["s"] * 4 and all(row["median"] > 0 for row in rows)


def test_the_times_of_a_run_are_those_of_its_tasks(undisturbed):
    run = Run.open(str(undisturbed))
    times = speed_pipeline.read_times(run)
    done = {row["stage"]: row["done"] for row in status(run)}
    assert times.tasks == sum(done.values()) and list(times.task_s) == list(done)
    assert 0 < times.network_s < times.task_s["predict"] and times.predict_s < times.wall_s
    assert times.work_s < sum(times.task_s.values()) < times.wall_s * 3  # phases overlap
    assert times.voxels_read > 137 * 131 * 141


def test_cost_that_grows_with_the_blocks_fits_a_line():
    def times(cost):
        return speed_pipeline.RunTimes(1.0, 1.0, 1.0, {"segment": cost}, 1.0, 1, 1)

    runs = {edge: [times(c * (5 + 2 * edge**3)) for c in (1, 1.1, 0.9)] for edge in (2, 3, 4)}
    row = speed_pipeline._linear_fit(runs)
    assert row.median == pytest.approx(2) and row.notes["constant, s"] == pytest.approx(5)
    assert row.notes["largest error of the fit"] < 1e-6
    runs[3] = [times(1.2 * (5 + 2 * 27))] * 3
    assert 0.05 < speed_pipeline._linear_fit(runs).notes["largest error of the fit"] < 0.2


@pytest.mark.slow
def test_a_brain_is_projected_from_a_run_here(undisturbed, monkeypatch):
    """919 blocks of tiles hold tissue, each read with what its windows see around it, in whole chunks."""

    def done_before(config, workers):
        shutil.copytree(undisturbed, local_folder(config.output))

    monkeypatch.setattr(speed_brain, "execute_apart", done_before)
    timing = Timing("cpu", 1, lambda *_: None)
    predict, rest, cost = speed_brain.brain_rows(timing, (8, 16, 16))
    assert predict.notes["tasks"] == 919 and 403 < predict.notes["Gvoxel"] < 404
    assert 1.2 < predict.notes["times read"] < 1.3
    assert predict.median > 0 and rest.median > 0 and cost.median > 0


def test_a_probe_of_one_block_tells_what_faces_take_too(tmp_path):
    """It has no faces: they count as its blocks do."""
    create_layer(f"{tmp_path}/em", "image", "uint8", (64, 64, 40), Box((0, 0, 0), (100, 90, 80)))
    fill_layer(f"{tmp_path}/em", np.full((80, 90, 100), 9, np.uint8))
    asked = RunConfig(image=f"{tmp_path}/em", output=f"{tmp_path}/run")
    probe, rows = Run(asked), estimate(Run(asked))
    for row in rows:
        state = {"finished": True, "total": 1, "task_seconds": 36.0}
        probe.store.put_json(state_path(row["stage"]), state)
    add_prices(Run(asked), rows, probe)
    assert {row["hours"] for row in rows} == {0.01}


def test_networks_are_made_ready_for_long_in_large_volumes_and_in_the_benchmark(undisturbed):
    run = Run.open(str(undisturbed))
    small, large = PredictStage(run), PredictStage(run)
    large.min_tiles_to_compile = len(run.tiles.grid)
    assert not small.allow_compile
    for stage in (large, speed_predict._stage(run)):
        assert stage.allow_compile
        assert stage.lattices == small.lattices


def test_a_round_of_predict_is_compared_with_its_networks():
    receipt = {
        "counters": {"voxels": 30_000_000, "tiles": 9, "windows": 4},
        "phases": {"read": 1.0, "work": 2.0, "write": 1.0},
    }
    rounds = [(4.0, [receipt] * 2), (2.0, [receipt] * 2), (3.0, [receipt] * 2)]
    row = speed_predict._row("raw", rounds, lambda receipt: receipt["counters"]["tiles"] / 18)
    assert row.values == (15.0, 30.0, 20.0)
    assert row.notes["times the networks alone"] == 3.0
    assert (row.notes["read"], row.notes["work"]) == (0.25, 0.5)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_repeated_phantom_reads_as_its_tiling(tmp_path, monkeypatch, compressed):
    unit = np.random.default_rng(0).integers(1, 255, (64, 128, 64)).astype(np.uint8)
    made = SimpleNamespace(image=unit)
    monkeypatch.setattr(speed_predict, "make_phantom", lambda *_: made)
    speed_predict._write_repeated_phantom(tmp_path / "em", (128, 128, 192), compressed)
    assert all((place.suffix == ".gz") == compressed for place in tmp_path.glob("em/*/*"))
    layer = ImageLayer(f"{tmp_path}/em")
    bounds = layer.working_bounds((64.0, 64.0, 40.0))
    assert np.array_equal(layer.read(bounds, (64.0, 64.0, 40.0)), np.tile(unit, (2, 1, 3)))


def test_an_unknown_part_is_refused_in_one_line():
    done = CliRunner().invoke(cli, ["bench", "speed", "--parts", "engine"])
    assert done.exit_code == 2 and "network, block, predict, pipeline, stitch" in str(done.output)


def test_a_missing_gpu_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(cli, ["bench", "speed", "--device", "cuda"])
    assert isinstance(done.exception, UserError) and "sees no GPU" in str(done.exception)
