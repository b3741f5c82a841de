"""tensorstore, `CloudVolume(path)[:]` and a plain web server read the layers of a run, and of its copy in a folder."""

from __future__ import annotations

import http.server
import re
import shutil
import threading
from functools import partial

import numpy as np
import pytest
import tensorstore as ts
from cloudvolume import CloudVolume
from five_balls import true_labels

from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.layers.precomputed import background_chunks
from flysoma.tasks.publishing.copying import PublishOptions, publish
from flysoma.tasks.run import Run

FORMS = ("run", "copy", "sharded", "copy of sparse")


@pytest.fixture(scope="module")
def layers(tmp_path_factory, undisturbed):
    """The folder that has a run's somas in each form; `sparse` is a run that does not store chunks of background."""
    folder = tmp_path_factory.mktemp("readers")
    shutil.copytree(undisturbed, folder / "run")
    sparse = Run.open(str(shutil.copytree(undisturbed, folder / "sparse")))
    info = sparse.store.get_json("somas/info")
    background = dict(background_chunks(info, 0, ()))
    empty = [
        name
        for name, content in background.items()
        if (folder / f"sparse/somas/{name}").read_bytes() == content
    ]
    assert 0 < len(empty) < len(background)
    sparse.store.delete(f"somas/{name}" for name in empty)
    for name, source, sharded in [
        ("copy", undisturbed, False),
        ("sharded", undisturbed, True),
        ("copy of sparse", folder / "sparse", False),
    ]:
        options = PublishOptions("CC0-1.0", sharded=sharded)
        publish(Run.open(str(source)), f"file://{folder}/{name}", options, lambda *_: None)
    return folder


@pytest.fixture(scope="module")
def wanted(undisturbed):
    """The labels of mip 0, x, y, z."""
    layer = LabelLayer(f"{undisturbed}/somas")
    labels = layer.read(layer.bounds).T
    assert np.array_equal(labels > 0, true_labels().T > 0)
    return labels


@pytest.mark.parametrize("form", FORMS)
def test_tensorstore_reads_it(layers, wanted, form):
    store = {"driver": "file", "path": f"{layers}/{form}/somas/"}
    opened = ts.open({"driver": "neuroglancer_precomputed", "kvstore": store}).result()
    assert np.array_equal(opened.read().result()[..., 0], wanted)


@pytest.mark.parametrize("form", FORMS)
def test_cloud_volume_reads_all_of_every_mip(layers, wanted, form):
    volume = CloudVolume(f"file://{layers}/{form}/somas", progress=False)
    assert np.array_equal(volume[:][..., 0], wanted)
    for mip in volume.available_mips[1:]:
        volume.mip = mip
        assert set(np.unique(volume[:])) == set(np.unique(wanted))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "sharded"])  # needs ranges
def test_a_plain_web_server_serves_it(layers, wanted, form):
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(layers / form))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/somas"
        volume = CloudVolume(f"precomputed://{url}", progress=False, use_https=False)
        assert np.array_equal(volume[:][..., 0], wanted)
        skeleton = volume.skeleton.get(1)
        server.shutdown()
    assert (skeleton.radius > 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_no_name_in_a_folder_ends_in_gz(layers, form):
    gzipped = [path.name for path in (layers / form).rglob("*.gz")]
    assert all(re.match(r"\d+:0:|.+\.spatial", name) for name in gzipped)  # of meshing
    assert form == "run" or not gzipped
