"""Fixtures of the tests of finished runs."""

import shutil

import pytest

from flysoma.tasks.review import applying
from flysoma.tasks.run import Run


@pytest.fixture
def light(monkeypatch):
    """A report without pictures, which take most of the time."""
    write = lambda run, frame: run.store.put("report/index.html", str(len(frame)).encode())  # noqa: E731
    monkeypatch.setattr(applying, "put_report", write)


@pytest.fixture
def copied(undisturbed, tmp_path, light):
    """A copy of a finished run."""
    return Run.open(str(shutil.copytree(undisturbed, tmp_path / "run")))
