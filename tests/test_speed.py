"""The speed benchmark: what is watched is counted once, and rows say what was done."""

import json
import threading
import time
from types import SimpleNamespace

from click.testing import CliRunner

from flysoma.scripts.bench import speed, speed_pipeline, speed_stitch
from flysoma.scripts.bench.clock import clocked
from flysoma.scripts.bench.timing import Row
from flysoma.scripts.cli import cli
from flysoma.tasks import pipeline
from flysoma.tasks.run import Run


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
    assert place.outer is outer  # as it was


def test_rows_tell_the_median_and_the_spread():
    row = Row("copy", "GB/s", (3.0, 1.0, 2.0), {"of": 0.25})
    assert row.median == 2.0 and "1 to 3" in row.format() and "of 0.25" in row.format()


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


def test_what_a_run_took_is_what_its_tasks_say(undisturbed):
    run = Run.open(str(undisturbed))
    found = speed_pipeline.taken(run)
    done = {row["stage"]: row["done"] for row in pipeline.status(run)}
    assert found.tasks == sum(done.values()) and list(found.task_s) == list(done)
    assert 0 < found.network_s < found.task_s["predict"] and found.predict_s < found.wall_s
    assert found.work_s < sum(found.task_s.values()) < found.wall_s * 3  # phases overlap
    assert found.seen > 137 * 131 * 141


def test_what_is_no_part_is_one_line():
    done = CliRunner().invoke(cli, ["bench", "speed", "--parts", "engine"])
    assert done.exit_code == 2 and "network, block, pipeline, stitch" in str(done.output)
