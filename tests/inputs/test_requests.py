"""Bad requests: one line each, and nothing is begun."""

import errno
import os
import socket
from functools import partial

import nibabel as nib
import numpy as np
import pytest

from flysoma.errors import UserError
from flysoma.models.training.emads import read_emads
from flysoma.tasks.config import parse_config
from flysoma.tasks.config_files import read_config
from flysoma.tasks.faults import Fault
from flysoma.tasks.fleet.metrics import Metrics
from flysoma.tasks.grids.geometry import voxel_size
from flysoma.tasks.storage.store import normalize_cloudpath, writable_cloudpath
from flysoma.tasks.volumes.files import read_array
from flysoma.tasks.volumes.grey import rescale_grey

GOOD = "image: /data/em\noutput: /data/run\n"


def bomb():
    """YAML that is small and whose value would be 9 ** 9 words as text."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for above, name in zip("abcdefgh", "bcdefghi"):
        lines.append(f"{name}: &{name} [{', '.join([f'*{above}'] * 9)}]")
    return "\n".join([*lines, "image: *i", "output: *i", ""])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (bomb(), "image: Input should be a valid string"),
        ("image: &a [*a]\noutput: x\n", "image: Input should be a valid string"),
        (f"image: {'[' * 5000}{']' * 5000}\noutput: x\n", "too many levels"),
        ("image: 2026-13-45\noutput: x\n", "not YAML"),
        (f"image: {'9' * 5000}\noutput: x\n", "not YAML"),
        (GOOD + "preset: [a]\n", "no preset ['a']"),
        (GOOD + "preset: {a: 1}\n", "no preset {'a': 1}"),
        (GOOD + "segment: {halo_nm: .inf}\n", "segment.halo_nm: Input should be a finite number"),
        (GOOD + "segment: {halo_nm: .nan}\n", "segment.halo_nm"),
        (GOOD + "segment: {halo_nm: 1.0e+15}\n", "segment.halo_nm"),
        (GOOD + "segment: {resolution_nm: [.nan, 64, 40]}\n", "segment.resolution_nm.0"),
        (GOOD + "segment: {resolution_nm: [0.064, 64, 40]}\n", "segment.resolution_nm.0"),
        (GOOD + "segment: {resolution_nm: [1.0e+30, 64, 40]}\n", "segment.resolution_nm.0"),
        (GOOD + "segment: {block_vx: [6400000000000, 64, 64]}\n", "segment.block_vx.0"),
        (GOOD + "soma: {max_diameter_nm: .inf}\n", "soma.max_diameter_nm"),
        (GOOD + "midline: {point_nm: [.nan, 0, 0], normal: [1, 0, 0]}\n", "midline.point_nm.0"),
        (GOOD + "prices: {gpu_hour: .nan}\n", "prices.gpu_hour"),
        ("image: /data/em\noutput: mem://x\n", "mem://x cannot be written and shared"),
        ("image: /data/em\noutput: http://host/x\n", "cannot be written and shared"),
        ("image: /data/em\noutput: /\n", "root of the file system"),
        ("image: /data/em\noutput: file:///\n", "root of the file system"),
        ("image: /data/em\noutput: ''\n", "'' is not a path"),
        ("image: gs://\noutput: x\n", "'gs://' is not a path"),
        ("image: /data/em\noutput: /data/em/run\n", "lies in image file:///data/em"),
        ("image: /data/em\noutput: /data/em\n", "lies in output"),
        ("image: gs://bucket/em\noutput: gs://bucket/em/run\n", "lies in image"),
        ('image: "/data/a\\0b"\noutput: x\n', "control character"),
        ('image: "/data/a\\nb"\noutput: x\n', "control character"),
    ],
)
def test_a_bad_config_is_refused_in_one_short_line(text, part):
    with pytest.raises(UserError) as caught:
        parse_config(text, "c.yaml")
    line = str(caught.value)
    assert part in line and "\n" not in line and len(line) < 2000


def test_an_output_that_is_a_link_into_the_image_is_refused(tmp_path):
    (tmp_path / "em").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "em")
    with pytest.raises(UserError, match="lies in"):
        parse_config(f"image: {tmp_path}/em\noutput: {tmp_path}/link/run\n", "c")


def test_a_config_that_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero", "/dev/null"):
        with pytest.raises(UserError, match="it is not a file"):
            read_config(path)
    (tmp_path / "large").write_text("# " + "x" * (1 << 20))
    with pytest.raises(UserError, match="more than 1 MB"):
        read_config(tmp_path / "large")
    for path in ("x" * 300, "a\0b", tmp_path / "none"):
        with pytest.raises(UserError, match="cannot read config"):
            read_config(path)


def test_a_byte_order_mark_is_no_key(tmp_path):
    (tmp_path / "c.yaml").write_text(GOOD, encoding="utf-8-sig")
    assert parse_config(read_config(tmp_path / "c.yaml"), "c").output == "file:///data/run"


@pytest.mark.parametrize(
    "values",
    [
        (0.064, 0.064, 0.04),
        (-64, 64, 40),
        (0, 64, 40),
        (float("nan"), 64, 40),
        (float("inf"), 64, 40),
        (1e30, 64, 40),
        (64, 64),
    ],
)
def test_a_voxel_size_that_is_not_in_nm_is_refused(values):
    with pytest.raises(UserError, match="is not in nm"):
        voxel_size(values)


def test_paths():
    assert normalize_cloudpath("precomputed://gs://bucket/em/") == "gs://bucket/em"
    assert normalize_cloudpath("/") == "file:///"
    assert writable_cloudpath("file:///data/em/") == "file:///data/em"


@pytest.mark.parametrize("high", [65535.0, 1e9])
def test_a_range_that_leaves_no_contrast_is_refused(high):
    grey = np.random.default_rng(0).integers(60, 200, (4, 32, 32)).astype(np.uint16)
    with pytest.raises(UserError, match="the values go from 60 to 199"):
        rescale_grey(grey, 0, high, "a")
    assert rescale_grey(grey, 60, 199, "a").max() == 255


def test_values_that_are_all_nan_are_refused():
    with pytest.raises(UserError, match="only NaN"):
        rescale_grey(np.full((4, 4, 4), np.nan, np.float32), 0, 1, "a")


def test_a_port_in_use_is_told():
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        with pytest.raises(UserError, match="choose another with --metrics-port"):
            Metrics(other.getsockname()[1])


def test_an_emads_folder_at_another_voxel_size_is_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros((8, 16, 16), np.uint8), np.diag([0.008, 0.008, 0.04, 1]))
    image.header.set_xyzt_units("micron")
    for name in ("a_raw", "a_mask"):
        (tmp_path / "a").mkdir(exist_ok=True)
        nib.save(image, tmp_path / f"a/{name}.nii.gz")
    read = partial(read_array, resolution_nm=(16, 16, 40))
    with pytest.raises(UserError, match="8 x 8 x 40 nm.*16 x 16 x 40 nm"):
        list(read_emads(tmp_path, read))


@pytest.mark.parametrize("number", [errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP])
def test_an_error_of_a_path_is_one_line(number):
    assert "check the path" in Fault.of(OSError(number, os.strerror(number), "/a/b")).text
