"""A volume that a whole pipeline runs through in seconds: five bright balls, and networks for which bright is soma."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from bright_networks import LOCATE, SEGMENT, brightness_network
from cloudfiles import CloudFiles

from flysoma.tasks.grids.geometry import Box
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.layers.precomputed import create_layer, fill_layer

OFFSET = (17, -9, 30)
RESOLUTION = (64, 64, 40)
SHAPE = (137, 131, 141)  # a multiple of nothing
CENTRES = [(40, 30, 30), (40, 30, 95), (95, 100, 30), (95, 100, 95), (33, 100, 62)]
RADIUS_NM = 1300.0


def true_labels():
    """Labels of the balls, z, y, x."""
    truth = np.zeros(SHAPE, np.uint32)
    grid = np.ogrid[tuple(slice(n) for n in SHAPE)]
    for number, centre in enumerate(CENTRES, start=1):
        apart = sum(((g - c) * v) ** 2 for g, c, v in zip(grid, centre, RESOLUTION[::-1]))
        truth[apart < RADIUS_NM**2] = number
    return truth


def write_image(path):
    """The balls as a precomputed image."""
    box = Box(OFFSET, tuple(o + n for o, n in zip(OFFSET, SHAPE[::-1])))
    create_layer(path, "image", "uint8", RESOLUTION, box)
    fill_layer(path, np.where(true_labels() > 0, 210, 40).astype(np.uint8))


def make_volume(folder):
    """Write the image into a folder, and the files of two networks; returns the folder, true labels and weights."""
    write_image(f"file://{folder}/em")
    weights = weights_in(folder)
    brightness_network(Path(weights["locate"]), *LOCATE)
    brightness_network(Path(weights["segment"]), *SEGMENT)
    return folder, true_labels(), weights


def weights_in(folder):
    """Paths of the weights of both networks, by stage."""
    return {role: f"{folder}/{role}.safetensors" for role in ("locate", "segment")}


def write_config(volume, name, block, **values):
    """The config NAME.yaml of a run that is called so."""
    folder, _, weights = volume
    path = folder / f"{name}.yaml"
    asked = {
        "image": f"{folder}/em",
        "output": f"{folder}/{name}",
        "predict": {"window_vx": [64] * 3, "margin_vx": [6, 7, 8], "block_tiles": [2, 1, 1]},
        "locate": {"weights": weights["locate"], "block_vx": [64, 64, 64]},
        "segment": {"weights": weights["segment"], "block_vx": [block] * 3, "halo_nm": 1600},
    }
    path.write_text(yaml.safe_dump(asked | values))
    return str(path)


def flysoma(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "flysoma.scripts.cli", *arguments], capture_output=True, text=True
    )


def somas(path):
    """Labels that a run has published."""
    layer = LabelLayer(f"{path}/somas")
    return layer.read(layer.bounds)


def assert_same_somas(path, undisturbed):
    """Assert that a layer of somas equals one in a folder, which alone holds chunks of background."""
    if "://" not in str(path):
        assert digest(path) == digest(undisturbed)
        return
    assert digest(path).items() <= digest(undisturbed).items()
    one, other = LabelLayer(path), LabelLayer(str(undisturbed))
    for mip, bounds in enumerate(other.mip_bounds):
        assert np.array_equal(one.read(bounds, mip), other.read(bounds, mip))


def digest(path):
    """sha256 of every object of a published layer, unpacked, by name."""
    files = CloudFiles(str(path) if "://" in str(path) else f"file://{path}", progress=False)
    names = [name for name in files.list() if name != "provenance"]
    return {item["path"]: hashlib.sha256(item["content"]).hexdigest() for item in files.get(names)}
