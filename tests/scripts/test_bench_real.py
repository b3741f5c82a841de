"""`flysoma bench real`: bright discs, networks that see brightness, and folders that are not as they should be."""

import json
import shutil

import numpy as np
import pytest
from bright_networks import LOCATE, SEGMENT, brightness_network
from click.testing import CliRunner
from PIL import Image

from flysoma.errors import UserError
from flysoma.scripts.bench.frames import find_frames
from flysoma.scripts.bench.ways import rivals
from flysoma.scripts.cli import cli
from flysoma.tasks.volumes.sections import read_section

SHAPE = (170, 340)  # 40 nm a pixel
RESOLUTION = (40.0, 40.0, 40.0)


def discs(*places, radius=36):
    """A picture with bright discs at (x, y)."""
    y, x = np.ogrid[: SHAPE[0], : SHAPE[1]]
    image = np.full(SHAPE, 40, np.uint8)
    for cx, cy in places:
        image[(x - cx) ** 2 + (y - cy) ** 2 <= radius**2] = 210
    return image


def soma(x, y, certain=True, cut=False, **rest):
    return {
        **{"x_px": x, "y_px": y, "radius_px": 36, "certain": certain, "cut_by_edge": cut},
        **rest,
    }


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def frames(tmp_path):
    """Four images: with marks, with nuclei, without somas, and one of which nothing is known."""
    folder = tmp_path / "frames"
    save(folder / "marked/a.png", discs((60, 60), (160, 100), (280, 60)))
    save(folder / "marked/a_invalid.png", np.zeros(SHAPE, np.uint8))
    somas = [soma(60, 60), soma(160, 100, False), soma(90, 160, cut=True), soma(280, 130)]
    area = {"kind": "neuropil", "points": [[235, 0], [339, 0], [339, 120], [235, 120]]}
    told = {"nm_per_px": 40, "somas": somas, "no_soma_polygons": [area]}
    (folder / "marked/a.json").write_text(json.dumps(told))
    save(folder / "nuclei/b.png", discs((60, 60), (160, 100)))
    (folder / "nuclei/b.csv").write_text("x_nm,y_nm,z_nm\n2420,2420,1940\n11000,4000,1940\n")
    save(folder / "empty/c.png", discs())
    save(folder / "d.png", discs())
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    brightness_network(folder / "locate.safetensors", *LOCATE)
    brightness_network(folder / "segment.safetensors", *SEGMENT)
    words = ["--locate-weights", str(folder / "locate.safetensors")]
    return [*words, "--segment-weights", str(folder / "segment.safetensors")]


def bench(*words):
    return CliRunner().invoke(cli, ["bench", "real", *map(str, words)], catch_exceptions=False)


def test_marked_images_nuclei_and_empty_ones_are_judged(frames, weights, tmp_path, monkeypatch):
    output = tmp_path / "real"
    words = [frames, *weights, "--sections", "64", "--output", output, "--json"]
    told = json.loads(bench(*words).stdout)
    marks, nuclei, empty = (told["totals"]["flysoma"][k] for k in ("marks", "nuclei", "empty"))
    whole = marks["counts"]["whole"]
    assert (whole["marks"], whole["found"], whole["found_50"], whole["missed"]) == (2, 1, 1, 1)
    assert marks["counts"]["uncertain"]["found"] == 1 and marks["counts"]["cut"]["missed"] == 1
    assert marks["counts"]["objects"] == 3
    assert marks["counts"]["unmarked"] == marks["counts"]["in_no_soma"] == 1
    assert nuclei["nuclei"] | {"objects": 2} == nuclei["nuclei"]
    assert (nuclei["nuclei"]["own"], nuclei["nuclei"]["missed"]) == (1, 1)
    assert empty["counts"]["objects"] == 0 and empty["frames"] == 1
    assert told["skipped"] == [".: 1 images without marks (NAME.json or NAME.csv)"]
    assert told["frames"]["marked/a"]["flysoma"]["marks"][0]["iou"] > 0.8
    page = (output / "index.html").read_text()
    for name in ("marked-a", "nuclei-b", "empty-c"):
        assert f'src="{name}-flysoma.png"' in page
        assert Image.open(output / f"{name}-flysoma.png").size[0] == 900
    assert json.loads((output / "real.json").read_text()) == told
    monkeypatch.setattr(rivals, "RIVALS", {})  # every answer is kept: nobody is asked again
    table = bench(*words[:-1]).stdout
    assert "all 1, flysoma" in table and "skipped: .: 1 images" in table


def test_a_3d_image_is_read_as_it_is_and_marked_in_a_section(frames):
    volume = np.zeros((10, 20, 30), np.uint8)
    np.savez(frames / "marked/v.npz", image=volume)
    Image.fromarray(volume[0]).save(frames / "marked/v_invalid.png")
    told = {"nm_per_px": 32, "section": 7, "somas": [soma(5, 5, **{"class": "glia"})]}
    (frames / "marked/v.json").write_text(json.dumps(told))
    found, _ = find_frames(frames / "marked", (16.0, 16.0, 20.0))
    frame = found[1].read()
    assert frame.name == "v" and frame.voxel_nm == (20.0, 32.0, 32.0) and frame.section == 7
    assert frame.marks[0].kind == "glia"
    working = frame.working(96)
    assert working.shape == (5, 10, 15)  # at 40, 64 and 64 nm
    labels = np.arange(5)[:, None, None] * np.ones((5, 10, 15), int)
    assert (frame.judged_section(labels) == 3).all()  # section 7 lies at 150 nm


def test_a_flat_image_is_repeated_and_its_labels_come_back_to_its_pixels(frames):
    found, _ = find_frames(frames / "marked", RESOLUTION)
    frame = found[0].read()
    working = frame.working(12)
    assert working.shape == (12, 107, 213) and (working == working[0]).all()
    labels = np.zeros(working.shape, int)
    labels[6, 0, 0], labels[6, 105, 212] = 1, 2
    back = frame.judged_section(labels)
    assert back.shape == SHAPE and (back == 1).sum() == 4  # middles at 20 and 60 nm of 64
    assert back[-1, -1] == 2


def break_json(**changes):
    def change(folder):
        path = folder / "marked/a.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


BROKEN = {
    "no folder": (shutil.rmtree, "no folder of frames at"),
    "no image": (lambda f: (f / "marked/a.png").unlink(), "a.json: the image a.png"),
    "no mask": (
        lambda f: (
            shutil.copy(f / "marked/a.png", f / "marked/e.png")
            and shutil.copy(f / "marked/a.json", f / "marked/e.json")
        ),
        "e_invalid.png is missing",
    ),
    "other size": (
        lambda f: save(f / "marked/a_invalid.png", np.zeros((9, 12), np.uint8)),
        "is 12 x 9 pixels and its image 340 x 170",
    ),
    "no JSON": (lambda f: (f / "marked/a.json").write_text("{"), "cannot be read as JSON"),
    "list": (lambda f: (f / "marked/a.json").write_text("[]"), "needs the keys nm_per_px"),
    "other keys": (lambda f: (f / "marked/a.json").write_text("{}"), "needs the keys nm_per_px"),
    "soma": (break_json(somas=[{"x": 1}]), "a soma needs the keys x_px"),
    "text": (break_json(somas=[soma("a", 1)]), "x_px, y_px and radius_px are numbers"),
    "flag": (break_json(somas=[soma(1, 1, "yes")]), "certain and cut_by_edge true or false"),
    "radius": (break_json(somas=[soma(1, 1) | {"radius_px": 0}]), "it is above 0"),
    "area": (break_json(no_soma_polygons=[[1, 2]]), "no_soma_polygons should be numbers"),
    "line": (break_json(no_soma_polygons=[{"points": [[0, 0]]}]), "three points or more"),
    "scale": (break_json(nm_per_px="wide"), "should be numbers"),
    "coarse": (break_json(nm_per_px=100), "coarser than the network's"),
    "section": (break_json(section=5), "section 5 is not one of 1"),
    "picture": (lambda f: (f / "marked/a.png").write_bytes(b"no"), "cannot be read as a picture"),
    "nothing": (
        lambda f: [shutil.rmtree(f / name) for name in ("marked", "nuclei", "empty")],
        "holds nothing to judge by",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_folder_that_is_not_as_it_should_be_is_told_in_a_line(frames, case):
    change, said = BROKEN[case]
    change(frames)
    with pytest.raises(UserError, match=said):
        for one in find_frames(frames, RESOLUTION)[0]:
            one.read()


def test_nuclei_outside_the_image_and_wrong_options(frames, weights):
    (frames / "nuclei/b.csv").write_text("x_nm,y_nm,z_nm\n90000,1,1\n")
    with pytest.raises(UserError, match="1 of 1 nuclei lie outside"):
        bench(frames / "nuclei", *weights, "--sections", "64")
    with pytest.raises(UserError, match="above zero"):
        bench(frames, "--resolution", "0", "1", "1")
    assert bench(frames, "--way", "magic").exit_code == 2


def test_colours_become_grey_and_16_bits_are_refused(tmp_path):
    Image.new("RGB", (4, 3), (10, 10, 10)).save(tmp_path / "rgb.png")
    grey = read_section(tmp_path / "rgb.png")
    assert grey.shape == (3, 4) and grey.dtype == np.uint8 and (grey == 10).all()
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match="convert it to 8-bit grey levels"):
        read_section(tmp_path / "deep.png")
    with pytest.raises(UserError, match="no picture at"):
        read_section(tmp_path / "none.png")


@pytest.mark.timeout(900)
def test_most_somas_of_a_real_frame_are_found(shared_data, tmp_path):
    """The shipped weights on one marked section of a fly's brain."""
    source = shared_data("fafb_frames/marked/fafb_020.json")
    for name in ("fafb_020.json", "fafb_020.png", "fafb_020_invalid.png"):
        shutil.copy(source.with_name(name), tmp_path / name)
    told = json.loads(bench(tmp_path, "--json").stdout)
    counts = told["totals"]["flysoma"]["marks"]["counts"]
    assert counts["whole"]["marks"] == 11 and counts["whole"]["found"] >= 9
    assert counts["whole"]["merged"] == counts["in_no_soma"] == 0
