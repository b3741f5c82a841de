"""What all tests share: two torch threads, and real data where it lies beside the repository."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure():
    """Keep a test run to two cores, here and in the worker processes that tests start."""
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    import torch

    torch.set_num_threads(2)


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


@pytest.fixture(scope="session")
def volume(tmp_path_factory):
    """Five bright balls: folder, true labels, weights by stage."""
    from five_balls import make_volume

    return make_volume(tmp_path_factory.mktemp("volume"))


@pytest.fixture(scope="session")
def undisturbed(volume):
    """A run through 27 blocks with one worker process."""
    from five_balls import flysoma, write_config

    done = flysoma("run", write_config(volume, "blocks", 64), "--workers", "1")
    assert done.returncode == 0, done.stderr
    return volume[0] / "blocks"


@pytest.fixture
def toys(monkeypatch):
    """Toy stages in place of every run's, and no pause before another attempt."""
    from toy_stages import install

    from flysoma.tasks.fleet import attempts

    install(monkeypatch.setattr)
    monkeypatch.setattr(attempts, "pause_s", lambda times: 0.0)


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
