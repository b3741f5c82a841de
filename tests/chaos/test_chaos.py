"""A run completes with the same bytes despite kills, frozen hosts, corrupt queues, full disks and failing stores."""

import contextlib
import os
import subprocess
import sys

import pytest
from chaos.flaky_proxy import __file__ as PROXY
from chaos.harness import Chaos
from five_balls import assert_same_somas, digest, write_config, write_image
from object_stores import free_port, serving

from flysoma.tasks.run import Run
from flysoma.tasks.stages.catalog import STAGES, state_path

pytestmark = pytest.mark.slow

KILLS = 12
LONG = int(os.environ.get("FLYSOMA_CHAOS_KILLS", "0"))  # `make chaos` sets it


def check(path, undisturbed, queue):
    """Assert that the run is complete, with the same bytes, and that no process is left."""
    run = Run.open(path)
    for stage in STAGES:
        state = run.store.get_json(state_path(stage.name))
        assert state["finished"] and state["done"] == state["total"]
        assert run.store.indices(f"receipts/{stage.name}") == set(stage(run).plan())
    assert_same_somas(f"{run.path}/somas", undisturbed / "somas")
    assert digest(f"{run.path}/tables") == digest(undisturbed / "tables")
    left = subprocess.run(["pgrep", "-f", str(queue)], capture_output=True, text=True)
    assert not left.stdout, f"processes left: {left.stdout}"


def chaos(config, tmp_path, seed, **more):
    disturbances = Chaos(
        config, tmp_path / f"queue{seed}", seed=seed, log=tmp_path / f"log{seed}", **more
    ).run(seconds=900)
    print(f"seed {seed}: {dict(disturbances)}")  # noqa: T201  what pytest -s shows
    return disturbances


@contextlib.contextmanager
def small_disk(folder):
    """Mount a small disk that a test can fill; yield None where mounting is not permitted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.fq_file
@pytest.mark.timeout(1000)
def test_kills_frozen_hosts_corrupt_queues_and_a_full_disk(volume, undisturbed, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        config = write_config(volume, "chaos", 64, output=str(tmp_path / "disk/run"))
        disturbances = chaos(config, tmp_path, 1, kills=KILLS, disk=disk)
        assert disturbances["killed"] >= KILLS
        kinds = {"frozen", "corrupted", "garbage", "lost", "twice"} | (
            {"disk filled"} if disk else set()
        )
        assert kinds <= set(disturbances)
        check(str(tmp_path / "disk/run"), undisturbed, tmp_path / "queue1")


@pytest.mark.timeout(1000)
def test_a_bucket_that_fails_now_and_then(gcs, volume, undisturbed, tmp_path, monkeypatch):
    write_image("gs://bucket/flaky/em")
    port = free_port()
    proxy = [sys.executable, PROXY, str(port), gcs.removeprefix("http://"), "0.03"]
    with serving(proxy, port) as flaky:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", flaky)
        names = {"image": "gs://bucket/flaky/em", "output": "gs://bucket/flaky/run"}
        disturbances = chaos(write_config(volume, "flaky", 64, **names), tmp_path, 2, kills=3)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs)
    assert disturbances["killed"] >= 3
    check("gs://bucket/flaky/run", undisturbed, tmp_path / "queue2")


@pytest.mark.skipif(not LONG, reason="runs in make chaos")
@pytest.mark.timeout(7200)
def test_a_hundred_kills(volume, undisturbed, tmp_path):
    killed, seed = 0, 10
    while killed < LONG:
        with small_disk(tmp_path / f"disk{seed}") as disk:
            output = tmp_path / f"disk{seed}/run"
            config = write_config(volume, f"chaos{seed}", 64, output=str(output))
            killed += chaos(config, tmp_path, seed, kills=25, disk=disk)["killed"]
            check(str(output), undisturbed, tmp_path / f"queue{seed}")
        seed += 1
