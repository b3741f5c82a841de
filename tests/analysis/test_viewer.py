"""The layer server under real requests, states and links, and neuroglancer in a browser if one is installed."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pytest
from soma_rows import make_somas

from flysoma.analysis.layers.annotations import annotation_files
from flysoma.analysis.layers.properties import segment_properties
from flysoma.analysis.viewer import browser as browser_module
from flysoma.analysis.viewer.browser import find_browser, save_screenshot
from flysoma.analysis.viewer.server import ViewServer
from flysoma.analysis.viewer.state import (
    Layers,
    centre_view,
    colour_by,
    link,
    source_url,
    viewer_state,
)
from flysoma.errors import UserError

BOUNDS = ((0.0, 0.0, 0.0), (4096.0, 4096.0, 2560.0))


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "layer"
    (root / "4_4_4").mkdir(parents=True)
    (root / "info").write_text('{"type": "image"}')
    (root / "4_4_4" / "0-4_0-4_0-4").write_bytes(bytes(range(200)))
    (root / "zipped.gz").write_bytes(gzip.compress(b"plain words " * 50))
    (root / "squeezed.br").write_bytes(b"\x0b\x02\x80brotli\x03")
    (root / "a name").write_bytes(b"spaced")
    (tmp_path / "layer2").mkdir()
    for outside in (tmp_path / "secret", tmp_path / "layer2" / "secret"):
        outside.write_text("secret")
    (root / "way out").symlink_to(tmp_path / "secret")
    (root / "folder out").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    return root


@pytest.fixture
def server():
    with ViewServer() as running:
        yield running


@pytest.fixture
def layer(server, folder):
    """URL of the layer."""
    return server.add(folder)


def get(layer, path, method="GET", **headers):
    return urlopen(Request(f"{layer}/{path}", headers=headers, method=method), timeout=10)


def raw_status(layer, path, **headers):
    """Return status and body of a request whose path is sent unchanged."""
    parts = urlsplit(layer)
    connection = http.client.HTTPConnection(parts.netloc, timeout=10)
    connection.putrequest("GET", parts.path + path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_files_of_a_layer_are_served(layer):
    with get(layer, "info") as answer:
        assert json.load(answer) == {"type": "image"}
        assert answer.headers["Content-Type"] == "application/json"
    with get(layer, "a%20name") as answer:
        assert answer.read() == b"spaced"


def test_pages_of_the_viewer_alone_may_read(server, layer):
    with get(layer, "info", Origin=server.origin) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] is None  # no other origin needs it
    others = ("https://evil.example", "http://127.0.0.1:1", "http://localhost", "null", "")
    for origin in others:
        status, body = raw_status(layer, "/info", Origin=origin)
        assert status == 403 and b"image" not in body, origin


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "x127.0.0.1", "[::1]"])
def test_another_host_is_refused_for_layers_and_viewer(server, layer, host):
    port = urlsplit(layer).port
    viewer = server.open(viewer_state(Layers("precomputed://gs://b/somas", BOUNDS)))
    for url in (f"{layer}/info", viewer.get_viewer_url(), server.origin + "/"):
        for name in (host, f"{host}:{port}"):
            assert raw_status(url, "", Host=name)[0] == 403
    assert raw_status(viewer.get_viewer_url(), "")[0] == 200


def test_a_layer_lies_below_a_prefix_of_its_own(server, layer, folder):
    other = server.add(folder)
    assert other != layer and min(map(len, (other, layer))) > len(server.origin) + 20
    for path in ("/", "/info", "/layer/info", f"{folder}/info", "/../info"):
        assert raw_status(server.origin, path)[0] == 404, path


def test_a_folder_that_is_no_layer_is_not_served(server, folder):
    assert raw_status(server.add(folder.parent), "/secret")[0] == 404


def test_loopback_only(server):
    assert server.origin.startswith("http://127.0.0.1:")


def test_compressed_files_are_found_under_their_plain_name(layer):
    with get(layer, "zipped") as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(answer.read()) == b"plain words " * 50
    with get(layer, "squeezed") as answer:
        assert answer.headers["Content-Encoding"] == "br"


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ("bytes=10-19", bytes(range(10, 20))),
        ("bytes=190-", bytes(range(190, 200))),
        ("bytes=-5", bytes(range(195, 200))),
        ("bytes=195-9999", bytes(range(195, 200))),
    ],
)
def test_ranges(layer, span, expected):
    with get(layer, "4_4_4/0-4_0-4_0-4", Range=span) as answer:
        assert answer.status == 206
        assert answer.read() == expected
        assert answer.headers["Content-Range"].endswith("/200")


@pytest.mark.parametrize(
    ("span", "status", "body"),
    [
        ("bytes=6-10", 206, b"words"),
        ("bytes=0-", 200, b"plain words " * 50),
        ("nonsense", 200, b"plain words " * 50),
    ],
)
def test_ranges_of_compressed_files_refer_to_the_decompressed_bytes(layer, span, status, body):
    with get(layer, "zipped", Range=span) as answer:
        assert answer.status == status and answer.headers["Content-Encoding"] is None
        assert answer.read() == body


def test_a_range_of_a_damaged_file_is_not_found(layer, folder):
    (folder / "zipped.gz").write_bytes(gzip.compress(b"plain words")[:-9])
    (folder / "squeezed.br").write_bytes(b"nonsense")
    for name in ("zipped", "squeezed"):
        with pytest.raises(HTTPError) as caught:
            get(layer, name, Range="bytes=0-3")
        assert caught.value.code == 404


def test_a_range_beyond_the_end_is_refused(layer):
    with pytest.raises(HTTPError) as caught:
        get(layer, "info", Range="bytes=5000-6000")
    assert caught.value.code == 416
    assert caught.value.headers["Content-Range"] == "bytes */17"


@pytest.mark.parametrize(
    "path",
    [
        "/9-9_9-9_9-9",
        "/4_4_4",
        "/",
        "/../secret",
        "/..%2fsecret",
        "/../layer2/secret",
        "/%2e%2e%2flayer2%2fsecret",
        "/4_4_4/../../secret",
        "/%2e%2e/secret",
        "/way%20out",
        "/folder%20out/secret",
        "/folder%20out/layer2/secret",
        "/pipe",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/info%00",
        "/" + "x" * 5000,
    ],
)
def test_missing_files_and_files_outside_of_the_layer_are_not_found(layer, path):
    status, body = raw_status(layer, path)
    assert status == 404 and b"secret" not in body and b"root" not in body


def test_head(layer):
    with get(layer, "info", "HEAD") as answer:
        assert answer.headers["Content-Length"] == "17" and answer.read() == b""


def test_concurrent_requests_are_answered_without_output(layer, capfd):
    def one(i):
        try:
            with get(layer, "info" if i % 2 else "none") as answer:
                return answer.status
        except HTTPError as err:
            return err.code

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(one, range(64)))
    assert statuses == [404, 200] * 32
    assert capfd.readouterr() == ("", "")


def test_viewer_and_layers_share_the_port_that_is_asked_for(folder):
    with ViewServer() as first:
        port = urlsplit(first.origin).port
    with ViewServer(port) as second:
        viewer = second.open(viewer_state(Layers("precomputed://gs://b/somas", BOUNDS)))
        for url in (second.add(folder), viewer.get_viewer_url()):
            assert url.startswith(f"http://127.0.0.1:{port}/")


def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(UserError, match="choose another with --port"):
            ViewServer(taken.getsockname()[1])


def test_urls_of_bucket_layers_and_of_served_local_layers():
    assert source_url("gs://b/run/somas") == "precomputed://gs://b/run/somas"
    assert source_url("precomputed://s3://b/run/") == "precomputed://s3://b/run"
    served = []
    assert source_url("file:///my run/somas", lambda f: served.append(f) or "URL") == (
        "precomputed://URL"
    )
    assert served == ["/my run/somas"]
    with pytest.raises(UserError, match="bucket"):
        source_url("file:///elsewhere/somas")


def test_state_shows_the_whole_volume_and_links_centroids_to_somas():
    layers = Layers(
        "precomputed://gs://b/somas", BOUNDS, "precomputed://gs://b/em", "precomputed://gs://b/c"
    )
    state = viewer_state(layers)
    assert [layer["name"] for layer in state["layers"]] == ["image", "somas", "centroids"]
    assert state["position"] == [2048, 2048, 1280] and state["layout"] == "4panel"
    assert state["layers"][2]["linkedSegmentationLayer"] == {"soma": "somas"}
    assert state["layers"][2]["shaderControls"] == {"in_3d": True}
    # ellipsoids would protrude from the meshes
    meshes = viewer_state(replace(layers, selected=["5"]))
    assert meshes["layers"][2]["shaderControls"] == {"in_3d": False}
    nuclei = viewer_state(replace(layers, nuclei="precomputed://gs://b/nuclei"))["layers"][2]
    assert nuclei["name"] == "nuclei" and nuclei["visible"] is False
    bare = viewer_state(
        Layers("precomputed://gs://b/somas", BOUNDS, selected=[5]), position_nm=(1, 2, 3)
    )
    assert bare["position"] == [1, 2, 3] and bare["layers"][0]["segments"] == ["5"]


def test_coordinates_are_voxels_of_the_image():
    layers = Layers("precomputed://gs://b/somas", BOUNDS)
    fine = viewer_state(replace(layers, voxel_nm=(4.0, 4.0, 40.0)), position_nm=(400, 80, 120))
    assert fine["position"] == [100, 20, 3]
    assert fine["dimensions"] == {
        a: [pytest.approx(v * 1e-9), "m"] for a, v in zip("xyz", (4, 4, 40))
    }
    whole = viewer_state(layers)
    for scale in ("crossSectionScale", "projectionScale"):  # the same part of the volume is shown
        assert fine[scale] == pytest.approx(whole[scale] / 4)
    assert centre_view(fine, (4, 8, 40))["position"] == [1, 2, 1]


def test_two_runs_have_two_colours():
    layers = Layers("precomputed://gs://b/somas", BOUNDS, beside="precomputed://gs://b/other")
    somas, beside = viewer_state(layers)["layers"]
    assert somas["segmentDefaultColor"] != beside["segmentDefaultColor"]
    alone = viewer_state(replace(layers, beside=None))["layers"][0]
    assert "segmentDefaultColor" not in alone


def test_somas_are_coloured_by_a_property():
    numbers = {"id": "volume_um3", "type": "number", "values": [10.0, 60.0, 110.0]}
    properties = {"inline": {"ids": ["1", "2", "3"], "properties": [numbers]}}
    colours, low, high = colour_by(properties, "volume_um3")
    assert (low, high) == (15, 105)
    assert colours["1"] == "#21459e" and colours["3"] == "#fccc38"
    layers = Layers("precomputed://gs://b/somas", BOUNDS, colours=colours)
    assert viewer_state(layers)["layers"][0]["segmentColors"] == colours
    with pytest.raises(UserError, match="no such property; there are: volume_um3"):
        colour_by(properties, "colour")


def test_a_link_contains_the_state():
    state = viewer_state(Layers("precomputed://gs://b/somas", BOUNDS))
    url = link(state, "https://viewer.example/")
    base, _, fragment = url.partition("/#!")
    assert base == "https://viewer.example" and " " not in url and '"' not in url
    assert json.loads(unquote(fragment)) == state


def test_neuroglancer_understands_the_state():
    neuroglancer = pytest.importorskip("neuroglancer")
    layers = Layers(
        "precomputed://gs://b/somas", BOUNDS, "precomputed://gs://b/em", "precomputed://gs://b/c"
    )
    parsed = neuroglancer.ViewerState(viewer_state(layers))
    assert [layer.name for layer in parsed.layers] == ["image", "somas", "centroids"]
    assert parsed.layers["somas"].layer.type == "segmentation"


def test_a_screenshot_without_chromium_names_the_packages_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(browser_module.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="apt-get install chromium chromium-driver") as caught:
        save_screenshot(None, tmp_path / "x.png")
    assert "\n" not in str(caught.value)


def write_layers(root):
    """Write a small image, two balls as somas with segment properties, and their annotations."""
    from cloudvolume import CloudVolume

    z, y, x = np.ogrid[:64, :64, :64]
    labels = np.zeros((64, 64, 64), np.uint64)
    labels[(z - 32) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 < 15**2] = 1
    labels[(z - 32) ** 2 + (y - 44) ** 2 + (x - 44) ** 2 < 15**2] = 2
    grey = np.random.default_rng(0).integers(90, 160, labels.shape).astype(np.uint8)
    common = {
        "resolution": [64, 64, 40],
        "voxel_offset": [0, 0, 0],
        "volume_size": [64, 64, 64],
        "chunk_size": [64, 64, 64],
        "num_channels": 1,
    }
    for name, kind, encoding, array in (
        ("image", "image", "raw", grey),
        ("somas", "segmentation", "compressed_segmentation", labels),
    ):
        info = CloudVolume.create_new_info(
            layer_type=kind, data_type=str(array.dtype), encoding=encoding, **common
        )
        if kind == "segmentation":
            info["segment_properties"] = "segment_properties"
        volume = CloudVolume(f"file://{root}/{name}", info=info, progress=False)
        volume.commit_info()
        volume[:] = array.T[..., None]
    somas = make_somas(2)
    for i, a in enumerate("xyz"):
        size = (64, 64, 40)[i]
        somas[f"{a}_nm"] = np.array([[20, 20, 32], [44, 44, 32]])[:, i] * size * 1.0
        somas[f"bb_start_{a}_nm"] = somas[f"{a}_nm"] - 15 * size
        somas[f"bb_end_{a}_nm"] = somas[f"{a}_nm"] + 15 * size
    somas["volume_um3"] = 2.3
    (root / "somas" / "segment_properties").mkdir()
    (root / "somas" / "segment_properties" / "info").write_text(
        json.dumps(segment_properties(somas))
    )
    for name, data in annotation_files(somas, *BOUNDS).items():
        path = root / "centroids" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.mark.browser
@pytest.mark.skipif(find_browser() is None, reason="chromium and chromedriver are not installed")
def test_a_browser_draws_image_somas_and_centroids(tmp_path):
    from PIL import Image

    write_layers(tmp_path)
    with ViewServer() as server:
        layers = Layers(
            *(source_url(f"{tmp_path}/somas", server.add), BOUNDS),
            image=source_url(f"{tmp_path}/image", server.add),
            centroids=source_url(f"{tmp_path}/centroids", server.add),
        )
        viewer = server.open(viewer_state(layers))
        assert viewer.token in viewer.get_viewer_url()
        save_screenshot(viewer, tmp_path / "view.png", size=(800, 600))
    picture = np.asarray(
        Image.open(io.BytesIO((tmp_path / "view.png").read_bytes())).convert("RGB")
    )
    assert picture.shape == (600, 800, 3)
    spread = np.ptp(picture.astype(int), axis=2)
    section = spread[:300, :400]
    assert (section > 40).mean() > 0.05, "no coloured somas in the section"
    grey = (section < 5) & (picture[:300, :400].mean(axis=2) > 60)
    assert grey.mean() > 0.1, "no grey image in the section"
