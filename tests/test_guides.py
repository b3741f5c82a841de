"""What the first pages of the guide tell a newcomer to type, typed."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import tifffile
from test_docs import ROOT, blocks

from flysoma.analysis.viewer import find_browser
from flysoma.models.phantom import make_phantom

BIN = Path(sys.executable).parent


def follow(page, folder):
    """Type every line of a page's commands; returns all that they said."""
    said = ""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    for line in "".join(blocks(page, "")).splitlines():
        words = shlex.split(line, comments=True)
        if "--screenshot" in words and find_browser() is None:
            continue
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        said += done.stdout
    for code in blocks(page, "python"):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said += done.stdout
    return said


def test_quickstart(tmp_path):
    said = follow(ROOT / "docs/quickstart.md", tmp_path)
    assert "F1 1.000" in said and "volume_um3" in said
    for name in ("scores.html", "same.html", "shared/provenance.json"):
        assert (tmp_path / name).stat().st_size > 1000
    assert (tmp_path / "view.png").exists() == (find_browser() is not None)
    assert not list((tmp_path / "demo/run/fields").iterdir())


def test_your_own_volume(tmp_path):
    page = ROOT / "docs/volume.md"
    phantom = make_phantom((96, 160, 160), (40.0, 64.0, 64.0), 175, "typical", scene="rind")
    tifffile.imwrite(tmp_path / "brain.tif", phantom.image)
    (tmp_path / "config.yaml").write_text(blocks(page, "yaml")[0])
    first = page.read_text().index("A volume that is precomputed")
    short = tmp_path / "page.md"
    short.write_text(page.read_text()[:first])
    assert "publish" in follow(short, tmp_path)
    assert (tmp_path / "somas/tables/somas.csv").read_text().count("\n") > 3
