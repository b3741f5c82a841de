"""`flysoma bench real` on bright discs with networks that detect brightness, and on invalid folders."""

import json
import shutil

import numpy as np
import pytest
from bright_networks import LOCATE, SEGMENT, brightness_network
from click.testing import CliRunner
from PIL import Image

from flysoma.errors import UserError
from flysoma.scripts.bench.frames import find_frames
from flysoma.scripts.bench.methods import baselines
from flysoma.scripts.cli import cli
from flysoma.tasks.volumes.files import write_array
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
    """Four images: with marks, with nuclei, without somas, and without an annotation."""
    folder = tmp_path / "frames"
    save(folder / "marked/a.png", discs((60, 60), (160, 100), (280, 60)))
    save(folder / "marked/a_invalid.png", np.zeros(SHAPE, np.uint8))
    somas = [soma(60, 60), soma(160, 100, False), soma(90, 160, cut=True), soma(280, 130)]
    area = {"kind": "neuropil", "points": [[235, 0], [339, 0], [339, 120], [235, 120]]}
    content = {"nm_per_px": 40, "somas": somas, "no_soma_polygons": [area]}
    (folder / "marked/a.json").write_text(json.dumps(content))
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


def test_images_with_marks_with_nuclei_and_without_somas_are_scored(
    frames, weights, tmp_path, monkeypatch
):
    output = tmp_path / "real"
    words = [frames, *weights, "--sections", "64", "--output", output, "--json"]
    printed = json.loads(bench(*words).stdout)
    marks, nuclei, empty = (printed["totals"]["flysoma"][k] for k in ("marks", "nuclei", "empty"))
    whole = marks["counts"]["whole"]
    assert (whole["marks"], whole["found"], whole["found_50"], whole["missed"]) == (2, 1, 1, 1)
    assert marks["counts"]["uncertain"]["found"] == 1 and marks["counts"]["cut"]["missed"] == 1
    assert marks["counts"]["objects"] == 3
    assert marks["counts"]["unmarked"] == marks["counts"]["in_no_soma"] == 1
    assert nuclei["nuclei"] | {"objects": 2} == nuclei["nuclei"]
    assert (nuclei["nuclei"]["own"], nuclei["nuclei"]["missed"]) == (1, 1)
    assert empty["counts"]["objects"] == 0 and empty["frames"] == 1
    assert printed["skipped"] == [".: 1 images without NAME.json or NAME.csv"]
    assert printed["frames"]["marked/a"]["flysoma"]["marks"][0]["iou"] > 0.8
    page = (output / "index.html").read_text()
    for name in ("marked-a", "nuclei-b", "empty-c"):
        assert f'src="{name}-flysoma.png"' in page
        assert Image.open(output / f"{name}-flysoma.png").size[0] == 900
    assert json.loads((output / "real.json").read_text()) == printed
    monkeypatch.setitem(baselines.METHODS, "flysoma", None)  # all answers come from files
    table = bench(*words[:-1]).stdout
    assert "all 1, flysoma" in table and "skipped: .: 1 images" in table


def test_a_3d_image_is_scored_in_its_marked_section(frames):
    volume = np.zeros((10, 20, 30), np.uint8)
    np.savez(frames / "marked/v.npz", image=volume)
    Image.fromarray(volume[0]).save(frames / "marked/v_invalid.png")
    content = {"nm_per_px": 32, "section": 7, "somas": [soma(5, 5, **{"class": "glia"})]}
    (frames / "marked/v.json").write_text(json.dumps(content))
    files, _ = find_frames(frames / "marked", (16.0, 16.0, 20.0))
    frame = files[1].read()
    assert frame.name == "v" and frame.voxel_nm == (20.0, 32.0, 32.0) and frame.section == 7
    assert frame.marks[0].kind == "glia"
    working = frame.to_working(96)
    assert working.shape == (5, 10, 15)  # at 40, 64 and 64 nm
    labels = np.arange(5)[:, None, None] * np.ones((5, 10, 15), int)
    assert (frame.scored_section(labels) == 3).all()  # section 7 lies at 150 nm


def test_the_mask_of_a_nii_gz_image_is_read(tmp_path):
    (tmp_path / "empty").mkdir()
    write_array(tmp_path / "empty/n.nii.gz", np.zeros((3, 8, 8), np.uint8))
    mask = np.zeros((8, 8), np.uint8)
    mask[:2] = 255
    Image.fromarray(mask).save(tmp_path / "empty/n_invalid.png")
    (file,), _ = find_frames(tmp_path, RESOLUTION)
    assert file.name == "empty/n" and file.read().valid.sum() == 48


def test_a_2d_image_is_repeated_and_its_labels_are_mapped_to_its_pixels(frames):
    files, _ = find_frames(frames / "marked", RESOLUTION)
    frame = files[0].read()
    working = frame.to_working(12)
    assert working.shape == (12, 107, 213) and (working == working[0]).all()
    labels = np.zeros(working.shape, int)
    labels[6, 0, 0], labels[6, 105, 212] = 1, 2
    mapped = frame.scored_section(labels)
    assert mapped.shape == SHAPE and mapped[-1, -1] == 2
    assert (mapped == 1).sum() == 4  # pixel centres at 20 and 60 nm in a voxel of 64 nm


def break_json(**changes):
    def change(folder):
        path = folder / "marked/a.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


BROKEN = {
    "no folder": (shutil.rmtree, "no folder of frames at"),
    "no image": (lambda f: (f / "marked/a.png").unlink(), "a.json: there is no image a.png"),
    "no mask": (
        lambda f: (
            shutil.copy(f / "marked/a.png", f / "marked/e.png")
            and shutil.copy(f / "marked/a.json", f / "marked/e.json")
        ),
        "e_invalid.png is missing",
    ),
    "other size": (
        lambda f: save(f / "marked/a_invalid.png", np.zeros((9, 12), np.uint8)),
        "has 12 x 9 pixels, and its image has 340 x 170",
    ),
    "no JSON": (lambda f: (f / "marked/a.json").write_text("{"), "cannot be read as JSON"),
    "list": (lambda f: (f / "marked/a.json").write_text("[]"), "needs the keys nm_per_px"),
    "other keys": (lambda f: (f / "marked/a.json").write_text("{}"), "needs the keys nm_per_px"),
    "soma": (break_json(somas=[{"x": 1}]), "a soma needs the keys x_px"),
    "text": (break_json(somas=[soma("a", 1)]), "radius_px of a soma must be numbers"),
    "flag": (break_json(somas=[soma(1, 1, "yes")]), "certain and cut_by_edge true or false"),
    "radius": (break_json(somas=[soma(1, 1) | {"radius_px": 0}]), "it must be above 0"),
    "area": (break_json(no_soma_polygons=[[1, 2]]), "no_soma_polygons must be numbers"),
    "line": (break_json(no_soma_polygons=[{"points": [[0, 0]]}]), "at least three points"),
    "scale": (break_json(nm_per_px="wide"), "must be numbers"),
    "coarse": (break_json(nm_per_px=100), "coarser than those of the segmentation network"),
    "section": (break_json(section=5), "section 5 does not exist"),
    "picture": (lambda f: (f / "marked/a.png").write_bytes(b"no"), "cannot be read as a picture"),
    "nothing": (
        lambda f: [shutil.rmtree(f / name) for name in ("marked", "nuclei", "empty")],
        "has no annotated image",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_invalid_folder_is_refused_with_the_reason(frames, case):
    change, message = BROKEN[case]
    change(frames)
    with pytest.raises(UserError, match=message):
        for file in find_frames(frames, RESOLUTION)[0]:
            file.read()


def test_nuclei_outside_the_image_and_invalid_options_are_refused(frames, weights):
    (frames / "nuclei/b.csv").write_text("x_nm,y_nm,z_nm\n90000,1,1\n")
    with pytest.raises(UserError, match="1 of 1 nuclei lie outside"):
        bench(frames / "nuclei", *weights, "--sections", "64")
    with pytest.raises(UserError, match="three numbers from 0.5"):
        bench(frames, "--resolution", "0", "1", "1")
    assert bench(frames, "--methods", "magic").exit_code == 2


def test_grey_saved_in_colour_is_read_and_colours_and_16_bits_are_refused(tmp_path):
    Image.new("RGB", (4, 3), (10, 10, 10)).save(tmp_path / "rgb.png")
    grey = read_section(tmp_path / "rgb.png")
    assert grey.shape == (3, 4) and grey.dtype == np.uint8 and (grey == 10).all()
    for mode, colour in (("RGB", (10, 60, 10)), ("RGBA", (10, 60, 10, 255)), ("P", (9, 0, 0))):
        Image.new("RGB", (40, 30), colour[:3]).convert(mode).save(tmp_path / "colour.png")
        with pytest.raises(UserError, match=r"colour.png is in colour, and grey values"):
            read_section(tmp_path / "colour.png")
    Image.fromarray(np.zeros((3, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match="convert it to 8-bit grey values"):
        read_section(tmp_path / "deep.png")
    with pytest.raises(UserError, match="no picture at"):
        read_section(tmp_path / "none.png")


def test_a_picture_is_read_as_upright_as_viewers_show_it(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the orientation: turned by a quarter
    Image.fromarray(np.full((24, 32), 90, np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert read_section(tmp_path / "a.jpg").shape == (32, 24)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_most_somas_of_a_real_frame_are_found(shared_data, tmp_path):
    """Apply the shipped weights to one marked section of a fly brain."""
    source = shared_data("fafb_frames/marked/fafb_020.json")
    for name in ("fafb_020.json", "fafb_020.png", "fafb_020_invalid.png"):
        shutil.copy(source.with_name(name), tmp_path / name)
    printed = json.loads(bench(tmp_path, "--json").stdout)
    counts = printed["totals"]["flysoma"]["marks"]["counts"]
    assert counts["whole"]["marks"] == 11 and counts["whole"]["found"] >= 9
    assert counts["whole"]["merged"] == counts["in_no_soma"] == 0
