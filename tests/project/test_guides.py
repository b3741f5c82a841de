"""What the first pages of the guide tell a newcomer to type, typed."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import boto3
import nibabel
import numpy as np
import pytest
import tifffile
import yaml
from cloudfiles import CloudFiles
from five_balls import CENTRES, OFFSET, RESOLUTION, true_labels, write_image
from object_stores import AWS, moto
from test_docs import ROOT, blocks

from flysoma.analysis.viewer.browser import find_browser
from flysoma.models.phantom.make import make_phantom
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers.precomputed import create_layer, fill_layer
from flysoma.tasks.review.edits import parse_edit

BIN = Path(sys.executable).parent
AT = "2026-01-02T03:04:05Z"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


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


def shown_scores_agree(page, scores):
    """Compare the last column of the page's table of scores with an evaluation; the last digits can differ."""
    keys = {
        "objects": ("truth", "predicted"),
        "precision, recall": ("precision", "recall"),
        "F1": ("f1",),
        "AP50, AP75, mAP": ("ap50", "ap75", "map"),
        "mean IoU of matches": ("mean_iou",),
        "merges, splits": ("merges", "splits"),
        "Dice, Jaccard": ("dice", "jaccard"),
        "VOI, ARAND": ("voi_split", "voi_merge", "arand"),
        "boundary distance": ("boundary_mean_nm", "boundary_p95_nm"),
    }
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|[^|]*\| ([^|]+) \|$", page.read_text(), re.M)
    shown = {name: [float(n) for n in re.findall(r"\d+(?:\.\d+)?", text)] for name, text in rows}
    for name, some in keys.items():
        assert shown[name] == pytest.approx([scores[key] for key in some], rel=0.05, abs=0.01), name


def test_quickstart(tmp_path):
    page = ROOT / "docs/quickstart.md"
    setup, activate = "".join(blocks(page, "sh")).splitlines()
    done = subprocess.run([*shlex.split(setup, comments=True), "--dry-run"], cwd=ROOT)
    assert done.returncode == 0 and activate.startswith(". .venv/bin/activate")
    said = follow(page, tmp_path)
    assert "F1 1.000" in said and "volume_um3" in said
    line = "flysoma evaluate demo/run demo/truth --min-edge-um3 14 --json"
    found = subprocess.run([BIN / "flysoma", *line.split()[1:]], cwd=tmp_path, capture_output=True)
    shown_scores_agree(page, json.loads(found.stdout))
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
    of_mesh = page.read_text().index("The mesh of a brain")
    short.write_text(page.read_text()[:first] + page.read_text()[of_mesh:])
    corners = ((0, 0, 0), (9000, 0, 0), (0, 9000, 0), (0, 0, 9000))
    lines = [f"v {x} {y} {z}" for x, y, z in corners]
    lines += [f"f {a} {b} {c}" for a, b, c in ((1, 2, 3), (1, 2, 4), (1, 3, 4), (2, 3, 4))]
    (tmp_path / "brain.obj").write_text("\n".join(lines))
    said = follow(short, tmp_path)
    assert "report" in said and "mask: 9 x 9 x 9 voxels" in said
    assert (tmp_path / "somas/tables/somas.csv").read_text().count("\n") > 3


def test_review(tmp_path, undisturbed):
    page = ROOT / "docs/review.md"
    shutil.copytree(undisturbed, tmp_path / "run")
    examples = re.findall(r"`(\{\"edit\".*?\})` \|$", page.read_text(), re.M)
    kinds = [parse_edit({"by": "ada", "at": AT} | json.loads(e), page.name).edit for e in examples]
    assert kinds == ["remove", "class", "add", "join", "part"]
    (tmp_path / "edits.jsonl").write_text('{"edit": "class", "id": 2, "class": "glia"}\n')
    said = ""
    for line in "".join(blocks(page, "")).splitlines():
        words = ["run" if word == "RUN" else word for word in shlex.split(line, comments=True)]
        voxel = np.array(CENTRES[0][::-1]) + OFFSET
        place = voxel if "--voxels" in words else (voxel + 0.5) * RESOLUTION
        verdict = "border" if "--voxels" in words else "right"
        text = ",".join(map(str, (*place, verdict)))
        (tmp_path / "verdicts.csv").write_text(f"x,y,z,verdict\n{text}\n")
        done = subprocess.run([BIN / words[0], *words[1:]], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, f"{line}\n{done.stderr.decode()}"
        said += done.stdout.decode()
    assert "3 edits: border 1, class 1, right 1" in said and "version 2 of the somas" in said


def prepare(folder, undisturbed):
    """What the page on running takes for granted: runs, their config, a bucket, a queue, a block with its truth."""
    for name in ("run", "other"):
        shutil.copytree(undisturbed, folder / name)
    config = (undisturbed / "config.yaml").read_text()
    (folder / "config.yaml").write_text(swapped(config, output=folder / "run"))
    write_image("gs://bucket/guide/em")
    public = shutil.copytree(undisturbed, folder / "public")
    (public / "config.yaml").write_text(swapped(config, image="gs://bucket/guide/em"))
    CloudFiles(f"file://{public}", progress=False).transfer_to("gs://bucket/guide/run")
    truth = true_labels()
    box = Box(OFFSET, tuple(o + n for o, n in zip(OFFSET, truth.shape[::-1])))
    create_layer("gs://bucket/neurons", "segmentation", "uint64", RESOLUTION, box)
    fill_layer("gs://bucket/neurons", truth.astype(np.uint64))
    block = make_phantom((96, 256, 256), (40.0, 16.0, 16.0), 177, "typical", scene="rind")
    for name, array in (("block", block.image), ("truth", block.neurons.astype(np.int32))):
        nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), folder / f"{name}.nii.gz")
    boto3.client("sqs").create_queue(QueueName="flysoma")


def swapped(config, **values):
    """A config with other values."""
    return yaml.safe_dump(yaml.safe_load(config) | {k: str(v) for k, v in values.items()})


def stop(process, signal_number, code):
    """End what goes on for ever, and well."""
    process.send_signal(signal_number)
    assert process.wait(60) == code


def heed_ctrl_c():
    """What a shell starts in the background does not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_running(tmp_path, undisturbed, gcs, monkeypatch):
    """In a bucket of Google's and a queue of Amazon's, both on loopback."""
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    names = {"RUN": "run", "RUN_A": "run", "RUN_B": "other", "URL": "https://viewer.example"}
    names |= {"TRUTH": "gs://bucket/neurons", "IMAGE": "gs://bucket/guide/em"}
    with moto() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        prepare(tmp_path, undisturbed)
        lines = "".join(blocks(ROOT / "docs/running.md", "")).splitlines()
        lines = [line.removeprefix("$ ") for line in lines if re.match(r"(\$ )?flysoma ", line)]
        assert len(lines) > 14
        for line in sorted(lines, key=lambda line: line.startswith("flysoma clean")):
            words = [names.get(word, word) for word in shlex.split(line, comments=True)]
            if "--screenshot" in words and find_browser() is None:
                continue
            if "--link" in words:
                words[2] = "gs://bucket/guide/run"
            if words[1] == "view" and not {"--screenshot", "--link"} & set(words):
                with subprocess.Popen(
                    words,
                    cwd=tmp_path,
                    stdout=subprocess.PIPE,
                    text=True,
                    preexec_fn=heed_ctrl_c,
                ) as view:
                    assert "http://" in view.stdout.readline()
                    stop(view, signal.SIGINT, 128 + signal.SIGINT)
            elif words[1] == "work":
                worker = subprocess.Popen([*words, "--liveness", "alive"], cwd=tmp_path)
            else:
                done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
                assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert (tmp_path / "alive").exists()
        stop(worker, signal.SIGTERM, 128 + signal.SIGTERM)
    for name in ("view.png", "compare.html", "compare.csv", "labels.nii.gz"):
        assert (tmp_path / name).exists() or find_browser() is None
    assert not list((tmp_path / "run/fields").iterdir())
