"""A run's plan of meshing holds parameters: whoever can write it cannot name code, and nothing is unpickled."""

import os
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from cloudvolume import CloudVolume

from flysoma.errors import UserError
from flysoma.tasks.stages import mesh
from flysoma.tasks.storage.store import RunStore

PACKAGE = Path(mesh.__file__).parents[2]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with one ball of label 7 through two regions of meshing."""
    labels = np.zeros((300, 40, 40), np.uint64)
    distance = np.linalg.norm(np.indices(labels.shape).T - (256, 20, 20), axis=-1).T
    labels[distance < 12] = 7
    path = f"file://{tmp_path}"
    CloudVolume.from_numpy(
        labels,
        vol_path=f"{path}/somas",
        resolution=(64, 64, 64),
        chunk_size=(64, 64, 64),
        layer_type="segmentation",
        progress=False,
    )
    monkeypatch.setattr(mesh, "mesh_mip", lambda run: 0)
    monkeypatch.setattr(mesh, "count_somas", lambda run: 1)
    somas = f"{path}/somas"
    return SimpleNamespace(path=path, store=RunStore(path), somas_path=somas, layer_names=["somas"])


def do_all(kind, run):
    kind(run).prepare()
    stage = kind(run)
    for index in stage.plan():
        stage.work(index, None)


def test_meshes_are_made_from_parameters_without_a_pickle(run, monkeypatch):
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_, **__: pytest.fail("unpickled"))
    do_all(mesh.MeshStage, run)
    do_all(mesh.MeshMergeStage, run)
    for stage in ("mesh", "mesh_merge"):
        text = run.store.get(f"plans/{stage}.json").decode()
        assert not any(word in text for word in ("Task", "igneous", "://")), text
    vertices = CloudVolume(run.somas_path, progress=False).mesh.get(7)[7].vertices
    assert np.abs(np.ptp(vertices, axis=0) / 64 - 24).max() < 2


@pytest.mark.parametrize(("somas", "tasks"), [(1, 9), (9_999, 9), (23_000, 99), (150_000, 999)])
def test_merging_has_more_tasks_for_more_somas(somas, tasks, run, monkeypatch):
    monkeypatch.setattr(mesh, "count_somas", lambda run: somas)
    do_all(mesh.MeshStage, run)
    mesh.MeshMergeStage(run).prepare()
    stage = mesh.MeshMergeStage(run)
    assert len(stage.plan()) == tasks
    stage.work(
        stage.parameters_of_tasks.index(7), None
    )  # 7 is a whole id where ids have more digits
    assert 7 in CloudVolume(run.somas_path, progress=False).mesh.get(7)


class Payload:
    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def plans(run, mark):
    """Plans that name a task of igneous, or a function, or are of another shape."""
    cloudpath = f"{run.path}/layer"
    info = CloudVolume.create_new_info(
        1, "segmentation", "uint32", "raw", [64] * 3, [0] * 3, [64] * 3, [64] * 3, skeletons="s"
    )
    run.store.put_json("layer/info", info)
    run.store.put_json("layer/s/info", {"@type": "neuroglancer_skeletons", "mip": 0})
    run.store.put("layer/s/1:0-64_0-64_0-64", pickle.dumps(Payload(mark)))
    merge = {"class": "UnshardedSkeletonMergeTask", "cloudpath": cloudpath, "prefix": "1"}
    return {
        "a class": [merge],
        "a function": [[["os", "mkdir"], [str(mark)], {}, -1]],
        "another layer": [{"offset": [0, 0, 0], "layer_path": cloudpath}],
        "text": ["1"],
        "not a list": {"0": merge},
        "no number": [[0, 0, "0"]],
        "large": [[0, 0, 10**30]],
        "nested": [[[[[[[]]]]]]],
    }


@pytest.mark.parametrize("stage", [mesh.MeshStage, mesh.MeshMergeStage])
@pytest.mark.parametrize("kind", plans(SimpleNamespace(path="", store=RunStore("mem://x")), ""))
def test_a_plan_that_holds_anything_but_parameters_is_refused(stage, kind, run, tmp_path):
    mark = tmp_path / "code_ran"
    run.store.put_record(f"plans/{stage.name}.json", {"tasks": plans(run, mark)[kind]})
    with pytest.raises(UserError, match=rf"plans/{stage.name}\.json"):
        stage(run).work(0, None)
    assert not mark.exists()


@pytest.mark.parametrize("text", [b"", b"[", b"\xff\xfe", b"[" * 50_000, b"null"])
def test_a_damaged_plan_is_one_line(text, run):
    run.store.put("plans/mesh.json", text)
    with pytest.raises(UserError) as error:
        mesh.MeshStage(run).plan()
    assert "\n" not in str(error.value)


def test_the_package_unpickles_and_evaluates_nothing():
    risky = ("pickle.load", "Unpickler(", "allow_pickle=True", "weights_only=False", "totask(")
    risky += ("yaml.load(", "yaml.unsafe_load", " eval(", " exec(", "shell=True", "joblib.load")
    folders = ("analysis", "models", "scripts", "tasks")
    texts = {
        path: path.read_text() for folder in folders for path in (PACKAGE / folder).rglob("*.py")
    }
    assert len(texts) > 100
    assert not [(path, word) for path, text in texts.items() for word in risky if word in text]
    loads = [line for text in texts.values() for line in text.splitlines() if "torch.load(" in line]
    assert loads and all("weights_only=True" in line for line in loads)
