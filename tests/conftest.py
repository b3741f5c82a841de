"""Fixtures that all tests share: torch threads, the volume of five balls and its run, real data where there is any."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure():
    """Limit a test run to two threads in all, here and in the worker processes that tests start."""
    threads = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    import torch

    torch.set_num_threads(int(threads))


def shared_data(relpath: str) -> Path:
    """Real data that is too large or not licensed to ship; skips the test, with the reason, where there is none.

    It is looked for in the folder that FLYSOMA_SHARED names, otherwise in `shared/data` beside the repository.
    """
    folder = Path(os.environ.get("FLYSOMA_SHARED") or ROOT.parent / "shared" / "data")
    path = folder / relpath
    if not path.exists():
        pytest.skip(
            f"no real data at {path}; set FLYSOMA_SHARED to the folder that holds {relpath}"
        )
    return path


@pytest.fixture(name="shared_data")
def _shared_data():
    """`shared_data(relpath)` as a fixture."""
    return shared_data


@pytest.fixture
def one_thread():
    """torch on one thread: for networks so small that more would only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made_once(tmp_path_factory, name, make):
    """The folder NAME of this test run, filled by `make(folder)` in whichever process asks first."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the processes of a parallel run share it
    folder, done = base / name, base / f"{name}.done"
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def volume(tmp_path_factory):
    """Five bright balls: folder, true labels, weights by stage."""
    from five_balls import make_volume, true_labels, weights_in

    folder = made_once(tmp_path_factory, "volume", make_volume)
    return folder, true_labels(), weights_in(folder)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, volume):
    """A run through 27 blocks with one worker process."""
    from five_balls import flysoma, write_config

    def run(folder):
        done = flysoma("run", write_config(volume, "blocks", 64), "--workers", "1")
        assert done.returncode == 0, done.stderr

    made_once(tmp_path_factory, "undisturbed", run)
    return volume[0] / "blocks"


@pytest.fixture
def toys(monkeypatch):
    """Toy stages in place of every run's, and no pause before another attempt."""
    from toy_stages import install

    from flysoma.tasks.fleet import attempts

    install(monkeypatch.setattr)
    monkeypatch.setattr(attempts, "pause_s", lambda times: 0.0)


@pytest.fixture
def start_toy():
    """A function that starts a toy process, with changes to its environment; the process ends with the test."""
    import toy_stages

    processes = []

    def start(*words, **environment):
        command = [sys.executable, toy_stages.__file__, *words]
        changed = {name: value for name, value in (os.environ | environment).items() if value}
        processes.append(subprocess.Popen(command, env=changed))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def google_url():
    """Google's storage on loopback; one for all tests, because cloud-files keeps its connections for good."""
    from object_stores import google

    with google() as url:
        yield url


@pytest.fixture
def gcs(google_url, monkeypatch):
    """Its URL, where clients look for it."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google_url)
    return google_url
