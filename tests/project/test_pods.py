"""The containers of the local overlay, run as processes of user 1000 with their arguments and variables.

A phantom goes through all stages, and nothing is written outside of the pods' volumes.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from manifests import arguments, config_text, environment, pods, render

from flysoma.models.phantom.make import make_phantom
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers.precomputed import create_layer, fill_layer
from flysoma.tasks.run import Run
from flysoma.tasks.stages.catalog import STAGES, state_path

pytestmark = pytest.mark.slow

USER = 1000
RESOLUTION = (64, 64, 40)
SHAPE = (96, 160, 160)


def as_user():
    """Return a command prefix that runs a command as user 1000, who may read everything and write nothing here."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return []
    rights = [f"--{which}=-all,+dac_read_search" for which in ("inh-caps", "ambient-caps")]
    rights.append("--bounding-set=-all,+dac_read_search")
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *rights]


def of_user(folder):
    """Return the entries of a folder that user 1000 owns."""
    return {e.name for e in os.scandir(folder) if e.stat(follow_symlinks=False).st_uid == USER}


@pytest.fixture
def places():
    """Folders of user 1000 that replace the mounts of the pods, by mount."""
    root = Path(tempfile.mkdtemp(prefix="flysoma-pods-"))
    root.chmod(0o755)
    found = {name: root / name.strip("/").replace("/", "-") for name in MOUNTS}
    for folder in found.values():
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, USER, USER)
    yield found
    shutil.rmtree(root)


MOUNTS = ("/data", "/config", "/home/flysoma", "/tmp")


def moved(text, places):
    """Replace the mount in a path by its folder."""
    for mount in MOUNTS:
        for before in ("", "fq://", "file://"):
            if text == before + mount or text.startswith(before + mount + "/"):
                return before + str(places[mount]) + text.removeprefix(before + mount)
    return text


class Pods:
    """The pods of a deployment, as processes."""

    def __init__(self, documents, places):
        self.documents, self.places = documents, places

    def start(self, name):
        (container,) = pods(self.documents)[name]["containers"]
        values = environment(container, self.documents)
        values = {key: moved(value, self.places) for key, value in values.items()}
        values |= {"PATH": os.environ["PATH"], "TMPDIR": str(self.places["/tmp"])}
        words = [moved(word, self.places) for word in arguments(container, self.documents)]
        if "--metrics-port" in words:
            words[words.index("--metrics-port") + 1] = {"gpu": "39391", "cpu": "39392"}[name[8:11]]
        if "--liveness" in words:
            words[words.index("--liveness") + 1] += name  # each pod has a /tmp of its own
        command = [*as_user(), sys.executable, "-P", "-m", "flysoma.scripts.cli", *words]
        return subprocess.Popen(command, env=values, cwd=values["HOME"])


def write_volume(folder):
    phantom = make_phantom(SHAPE, RESOLUTION[::-1], 7)
    create_layer(f"file://{folder}", "image", "uint8", RESOLUTION, Box((0, 0, 0), SHAPE[::-1]))
    fill_layer(f"file://{folder}", phantom.image)
    assert np.unique(phantom.labels).size > 2


@pytest.mark.timeout(900)
def test_the_pods_of_a_deployment_do_a_run(places):
    documents = render("overlays/local")
    write_volume(places["/data"] / "em")
    (places["/config"] / "config.yaml").write_text(
        "\n".join(
            ": ".join(moved(word, places) for word in line.split(": "))
            for line in config_text(documents).splitlines()
        )
    )
    elsewhere = of_user("/tmp")
    deployment = Pods(documents, places)
    workers = [deployment.start(f"flysoma-{kind}-worker") for kind in ("gpu", "cpu")]
    try:
        assert deployment.start("flysoma-run").wait(timeout=800) == 0
        probe = pods(documents)["flysoma-cpu-worker"]["containers"][0]["livenessProbe"]
        for kind in ("gpu", "cpu"):
            alive = places["/tmp"] / f"aliveflysoma-{kind}-worker"
            shell, flag, script = probe["exec"]["command"]
            script = script.replace("/tmp/alive", str(alive))
            assert subprocess.run([shell, flag, script], check=False).returncode == 0
            old = time.time() - 600
            os.utime(alive, (old, old))
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=30) == 128 + signal.SIGTERM
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
    run = Run.open(f"{places['/data']}/kubernetes")
    assert all(run.store.get_json(state_path(stage.name))["finished"] for stage in STAGES)
    assert run.store.get_json(state_path("shape"))["total"], "no soma was found"
    assert of_user("/tmp") == elsewhere, "written outside of what the pods mount"
