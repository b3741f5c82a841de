"""Layers of other programs and of the web: read as the specification says, or refused in one line."""

import gzip
import http.server
import json
import os
import threading
import time
from itertools import product

import numpy as np
import pytest
import tensorstore
from cloudvolume import CloudVolume

from flysoma.errors import UserError
from flysoma.tasks.faults import Fault
from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers.image import ImageLayer
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.storage import web
from flysoma.tasks.volumes.ingest import NewLayer, ingest_array

NM = (64, 64, 40)
GREY = np.random.default_rng(0).integers(100, 200, (70, 70, 70), dtype=np.uint8)
BOX = Box((0, 0, 0), (70, 70, 70))
SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    **{"preshift_bits": 1, "hash": "identity", "minishard_bits": 1, "shard_bits": 1},
    **{"minishard_index_encoding": "gzip", "data_encoding": "gzip"},
}


@pytest.fixture
def layers(tmp_path):
    """A folder with an image and labels."""
    ingest_array(GREY, NewLayer(f"{tmp_path}/em", NM))
    labels = NewLayer(f"{tmp_path}/labels", NM, layer_type="segmentation")
    ingest_array((GREY > 150).astype(np.uint32), labels)
    return tmp_path


def change(folder, edit):
    path = folder / "info"
    info = json.loads(path.read_text())
    edit(info)
    path.write_text(json.dumps(info))


def without_offset(info):
    for scale in info["scales"]:
        del scale["voxel_offset"]


def in_another_spelling(info):
    info["data_type"], info["type"] = info["data_type"].upper(), info["type"].capitalize()
    for scale in info["scales"]:
        scale["encoding"] = scale["encoding"].upper()
        scale["resolution"] = [float(r) for r in scale["resolution"]]
        scale["size"] = [float(n) for n in scale["size"]]


def from_coarse_to_fine(info):
    info["scales"].reverse()


@pytest.mark.parametrize("edit", [without_offset, in_another_spelling, from_coarse_to_fine])
def test_an_info_is_read_as_neuroglancer_reads_it(layers, edit):
    change(layers / "em", edit)
    change(layers / "labels", edit)
    image, labels = ImageLayer(f"{layers}/em"), LabelLayer(f"{layers}/labels")
    assert image.working_bounds(NM) == labels.bounds == BOX
    np.testing.assert_array_equal(image.read(BOX, NM), GREY)
    np.testing.assert_array_equal(labels.read(BOX), GREY > 150)
    np.testing.assert_array_equal(labels.sample(BOX, NM), GREY > 150)


def set_scale(key, value):
    return lambda info: info["scales"][0].__setitem__(key, value)


def drop_scale(key):
    return lambda info: info["scales"][0].pop(key)


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda info: info.pop("data_type"), "data_type: Field required"),
        (lambda info: info.pop("scales"), "scales: Field required"),
        (lambda info: info.__setitem__("scales", []), "scales: List should have"),
        (lambda info: info.__setitem__("type", "mesh"), "type: Input should be"),
        (drop_scale("size"), "scales.0.size: Field required"),
        (set_scale("size", [0, 70, 70]), "scales.0.size.0"),
        (set_scale("size", [-5, 70, 70]), "scales.0.size.0"),
        (set_scale("chunk_sizes", [[0, 64, 64]]), "scales.0.chunk_sizes.0.0"),
        (set_scale("chunk_sizes", []), "scales.0.chunk_sizes"),
        (set_scale("resolution", [0, 64, 40]), "scales.0.resolution.0"),
        (set_scale("resolution", [float("nan"), 64, 40]), "scales.0.resolution.0"),
        (set_scale("voxel_offset", [0.5, 0, 0]), "scales.0.voxel_offset.0"),
        (set_scale("encoding", "foo"), "is not one of raw"),
        (set_scale("sharding", {"@type": "x"}), "scales.0.sharding.@type"),
        (set_scale("sharding", SHARDING | {"data_encoding": "zstd"}), "sharding.data_encoding"),
        (set_scale("sharding", SHARDING | {"shard_bits": 64}), "more than 64 bits"),
        (set_scale("resolution", [0.064, 0.064, 0.04]), "0.064 x 0.064 x 0.04 is not in nm"),
        (set_scale("size", [1 << 30] * 3), "more than a volume has"),
        (set_scale("compressed_segmentation_block_size", [0, 8, 8]), "block_size.0"),
        (lambda info: info.__setitem__("data_type", "uint9"), "data_type"),
        (lambda info: info.__setitem__("redirect", ["x"]), "redirect: ['x'] is not a path"),
    ],
)
def test_an_invalid_info_is_refused_and_its_key_named(layers, edit, part):
    change(layers / "em", edit)
    with pytest.raises(UserError) as caught:
        ImageLayer(f"{layers}/em")
    text = str(caught.value)
    assert part in text and "\n" not in text


@pytest.mark.parametrize(
    ("name", "edit", "part"),
    [
        ("em", lambda info: info.__setitem__("num_channels", 3), "3 channels"),
        ("labels", lambda info: info.__setitem__("num_channels", 3), "3 channels"),
        ("labels", lambda info: info.__setitem__("data_type", "float32"), "data_type float32"),
        ("labels", lambda info: info.__setitem__("data_type", "uint8"), "data_type uint8"),
    ],
)
def test_a_layer_that_is_no_volume_is_refused(layers, name, edit, part):
    change(layers / name, edit)
    with pytest.raises(UserError, match=part):
        (ImageLayer if name == "em" else LabelLayer)(f"{layers}/{name}")


def test_an_info_that_is_damaged_is_refused(layers):
    packed = gzip.compress((layers / "em/info").read_bytes())
    (layers / "em/info").unlink()
    (layers / "em/info.gz").write_bytes(packed[:-30])
    with pytest.raises(UserError, match="cannot be decompressed"):
        ImageLayer(f"{layers}/em")


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '"info"', "[" * 100_000])
def test_an_info_that_is_no_object_is_refused(layers, text):
    (layers / "em/info").write_text(text)
    with pytest.raises(UserError, match="is not a precomputed layer"):
        ImageLayer(f"{layers}/em")


def test_a_file_in_place_of_a_layer_is_refused(tmp_path):
    (tmp_path / "brain.tif").write_bytes(b"II*\0")
    with pytest.raises(UserError, match="brain.tif is a file, and a precomputed layer is needed"):
        ImageLayer(f"{tmp_path}/brain.tif")


def test_a_redirect_is_followed_and_a_circle_is_not(layers):
    (layers / "moved").mkdir()
    (layers / "moved/info").write_text(json.dumps({"redirect": f"file://{layers}/em"}))
    np.testing.assert_array_equal(ImageLayer(f"{layers}/moved").read(BOX, NM), GREY)
    (layers / "moved/info").write_text(json.dumps({"redirect": f"file://{layers}/back"}))
    (layers / "back").mkdir()
    (layers / "back/info").write_text(json.dumps({"redirect": f"file://{layers}/moved"}))
    with pytest.raises(UserError, match="redirects more than 10 times"):
        ImageLayer(f"{layers}/moved")


def write_layer(folder, encoding, compress, mips=1):
    """Write an image with cloud-volume; return its chunks."""
    kind, dtype = ("segmentation", "uint32") if "seg" in encoding else ("image", "uint8")
    info = CloudVolume.create_new_info(
        1, kind, dtype, encoding, list(NM), [0] * 3, [70] * 3, chunk_size=[64] * 3, max_mip=mips - 1
    )
    volume = CloudVolume(
        f"file://{folder}", info=info, progress=False, compress=compress, parallel=1
    )
    volume.commit_info()
    volume[:, :, :] = GREY.T[..., None].astype(dtype)
    return sorted((folder / "64_64_40").iterdir())


def write_shards(folder):
    scale = {"size": [70] * 3, "voxel_offset": [0] * 3, "resolution": list(NM)}
    scale |= {"encoding": "raw", "chunk_size": [64] * 3, "sharding": SHARDING}
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "multiscale_metadata": {"type": "image", "data_type": "uint8", "num_channels": 1},
        "scale_metadata": scale,
    }
    store = tensorstore.open(spec, create=True).result()
    store[..., 0] = GREY.T
    return sorted((folder / "64_64_40").iterdir())


LAYERS = {
    **{c: lambda folder, c=c: write_layer(folder, "raw", c) for c in ("gzip", "br", "zstd", "xz")},
    **{
        e: lambda folder, e=e: write_layer(folder, e, False)
        for e in ("png", "jxl", "jpeg", "raw", "compressed_segmentation")
    },
    "two mips": lambda folder: write_layer(folder, "raw", "gzip", mips=2),
    "shards": write_shards,
}
DAMAGE = {
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "HTML": lambda path: path.write_text("<html>503</html>"),
}


@pytest.mark.parametrize(
    ("kind", "damage"),
    # decoders of pictures fill in the last pixels
    sorted(set(product(LAYERS, DAMAGE)) - {("jpeg", "cut"), ("png", "cut"), ("jxl", "cut")}),
)
def test_a_damaged_chunk_of_any_encoding_is_named(tmp_path, kind, damage):
    folder = tmp_path / "em"
    chunks = LAYERS[kind](folder)
    DAMAGE[damage](chunks[0])
    layer = LabelLayer(str(folder)) if "seg" in kind else ImageLayer(str(folder))
    with pytest.raises(UserError) as caught:
        layer.read(BOX, 0) if "seg" in kind else layer.read(BOX, NM)
    text = str(caught.value)
    assert f"{folder}: {'segmentation' if 'seg' in kind else 'image'} chunk 64_64_40/" in text
    assert "cannot be decoded" in text or kind == "shards"  # no bytes are no shard
    assert "\n" not in text


@pytest.mark.parametrize("encoding", ["raw", "compressed_segmentation"])
def test_an_object_of_0_bytes_is_damage_where_missing_chunks_are_filled_in(tmp_path, encoding):
    folder = tmp_path / "layer"
    DAMAGE["empty"](write_layer(folder, encoding, False)[0])
    labels = encoding != "raw"
    layer = LabelLayer(str(folder)) if labels else ImageLayer(str(folder), fill_missing=True)
    for _ in range(2):  # also from the cache of decoded chunks
        with pytest.raises(UserError, match=r"chunk 64_64_40/0-64_0-64_0-64 .*0 bytes"):
            layer.read(BOX) if labels else layer.read(BOX, NM)


def test_a_shard_that_is_gone_is_named_by_a_chunk_in_it(tmp_path):
    os.remove(write_shards(tmp_path / "em")[0])
    with pytest.raises(UserError, match=r"image chunk 64_64_40/0-64_0-64_0-64 is missing"):
        ImageLayer(f"{tmp_path}/em").read(BOX, NM)


INFO = json.dumps(
    CloudVolume.create_new_info(1, "image", "uint8", "raw", list(NM), [0] * 3, [70] * 3)
).encode()


def answer(path):
    """Status, encoding and content of what a server answers."""
    first, _, rest = path[1:].partition("/")
    if first == "late":
        time.sleep(3)
    elif first == "packed":  # but it is not
        return 200, "gzip", INFO
    elif first == "page":  # sites that answer every address
        return 200, "", INFO if rest.endswith("/info") else b"<html>hello</html>"
    return int(first) if first.isdigit() else 200, "", b""


@pytest.fixture(scope="module")
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            status, encoding, content = answer(self.path)
            self.send_response(status)
            if encoding:
                self.send_header("Content-Encoding", encoding)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.daemon_threads = True
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_address[1]}"
        found.shutdown()


@pytest.fixture
def few_attempts(monkeypatch):
    """Two attempts without a pause in place of cloud-files' seven."""
    import tenacity
    from cloudfiles.interfaces import HttpInterface

    monkeypatch.setattr(HttpInterface.get_file.retry, "stop", tenacity.stop_after_attempt(2))
    monkeypatch.setattr(HttpInterface.get_file.retry, "wait", tenacity.wait_none())


def opening(url):
    """The line that a user reads."""
    try:
        ImageLayer(url)
    except Exception as err:  # noqa: BLE001  as the command does
        fault = Fault.of(err)
        assert fault.kind != "error", repr(err)
        return " ".join(fault.text.split())
    raise AssertionError(f"{url} was opened")


@pytest.mark.parametrize("code", [404, 403])
def test_nothing_at_a_web_address(server, few_attempts, code):
    text = opening(f"{server}/{code}/em")
    assert f"no precomputed layer at {server}/{code}/em" in text


@pytest.mark.parametrize("code", [401, 500])
def test_the_answer_of_a_server_is_told_without_the_parameters(server, few_attempts, code):
    text = opening(f"{server}/{code}/em?token=secret")
    assert f"cannot read {server}/{code}/em" in text and f"HTTP {code}" in text
    assert "secret" not in text


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/em", "https://host.invalid/em"])
def test_nobody_at_a_web_address(few_attempts, url):
    text = opening(url)
    assert f"cannot read {url}" in text and "no answer" in text


def test_a_server_that_does_not_answer_is_not_waited_for(server, few_attempts, monkeypatch):
    monkeypatch.setattr(web, "TIMEOUT_S", (0.2, 0.2))
    assert "no answer" in opening(f"{server}/late/em")


def test_content_that_is_not_packed_as_the_server_says(server, few_attempts):
    assert "cannot be decompressed" in opening(f"{server}/packed/em")


def test_a_server_that_answers_every_address_with_a_page(server, few_attempts):
    layer = ImageLayer(f"{server}/page/em")
    with pytest.raises(UserError, match="image chunk 64_64_40/0-64_0-64_0-64 cannot be decoded"):
        layer.read(BOX, NM)


@pytest.mark.parametrize("path", ["http://[::1/em", "http://host:99999/em", "gs://Bucket!/em"])
def test_an_address_that_is_none_is_refused(path):
    assert "is not a valid address" in opening(path)
