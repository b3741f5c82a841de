"""A user without a home, as in a container with a numeric user."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("home", [None, "/nonexistent/home"])
def test_libraries_are_imported_without_a_home(home, tmp_path):
    """Run as root, which could make the home: it is left alone."""
    code = """
import os, pwd, sys
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.storage.homeless import import_taskqueue
import_taskqueue()
import igneous.tasks
print(os.environ.get("HOME"), os.path.exists("/nonexistent/home"), os.listdir())
"""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(filter(None, sys.path))}
    environment |= {"HOME": home} if home else {}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{home} False []"
