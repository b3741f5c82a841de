"""A config is validated as a whole; an error is one line."""

import pytest

from flysoma.errors import UserError
from flysoma.tasks.config import load_config, parse_config

GOOD = "image: /data/em\noutput: /data/run\n"


def test_defaults_are_saved_and_read_back():
    config = parse_config(GOOD, "c.yaml")
    assert config.image == "file:///data/em"
    again = parse_config(config.to_yaml(), "c.yaml")
    assert again == config
    assert again.content_hash == config.content_hash


def test_the_hash_ignores_the_queue_and_depends_on_what_determines_the_result():
    config = parse_config(GOOD, "c")
    assert parse_config(GOOD + "queue: fq://q\n", "c").content_hash == config.content_hash
    other = parse_config(GOOD + "segment: {interior_threshold: 0.9}\n", "c")
    assert other.content_hash != config.content_hash
    assert config.differences(other) == ["segment.interior_threshold: 0.8333 here, 0.9 there"]


def test_the_published_preset_can_be_overridden():
    config = parse_config("preset: published\nsegment: {halo_nm: 100}\n" + GOOD, "c")
    assert (config.segment.interior_threshold, config.segment.halo_nm) == (0.98, 100)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "wieghts: x\n", "unknown key 'wieghts'; known here: image, output"),
        (GOOD + "segment: {treshold: 1}\n", "unknown key 'segment.treshold'; known here: weights"),
        ("image: a\n", "'output' is missing"),
        (
            "image: /a/run/em\noutput: /a/run\n",
            "image file:///a/run/em lies in output file:///a/run",
        ),
        (GOOD + "mask: /data/run/somas\n", "mask file:///data/run/somas lies in output"),
        (GOOD + "segment: {resolution_nm: [64, 64]}\n", "segment.resolution_nm"),
        (GOOD + "segment: {block_vx: [100, 128, 128]}\n", "multiples of 64"),
        (GOOD + "segment: {interior_threshold: 2}\n", "less than 1"),
        ("image: ftp://x\noutput: o\n", "no such protocol"),
        ("preset: mine\n" + GOOD, "no preset 'mine'"),
        ("just words", "expected keys"),
        ("preset: [mine]\n" + GOOD, "no preset ['mine']"),
        ("a: [", "not YAML"),
        ("[" * 2000, "not YAML"),
        ("a: 2021-02-30", "not YAML"),
        ("a: " + "9" * 5000, "not YAML"),
        ("? [a]\n: b", "not YAML"),
    ],
)
def test_errors_are_one_line(text, words):
    with pytest.raises(UserError) as caught:
        parse_config(text, "c.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


LISTS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9)
)
MERGES = "a0: &a0 {k0: 1, l0: 2}\n" + "".join(
    f"a{i + 1}: &a{i + 1} {{<<: [{', '.join([f'*a{i}'] * 9)}], k{i + 1}: 1}}\n" for i in range(9)
)


@pytest.mark.parametrize(
    "text",
    [
        f"{LISTS}image: *a9\noutput: o",
        f"{LISTS}preset: *a9",
        f"{LISTS}segment: *a9\n{GOOD}",
        f"{LISTS}segment: {{resolution_nm: [*a9, *a9, *a9]}}\n{GOOD}",
        f"{MERGES}image: *a9\noutput: o",
    ],
)
def test_a_few_lines_of_yaml_do_not_fill_the_memory(text):
    with pytest.raises(UserError) as caught:
        parse_config(text, "c.yaml")
    assert len(str(caught.value)) < 5000


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nothere.yaml"):
        load_config(tmp_path / "nothere.yaml")


def test_the_output_of_a_runs_own_config_is_the_folder_in_which_it_lies(tmp_path):
    (tmp_path / "config.yaml").write_text(GOOD)
    assert load_config(tmp_path / "config.yaml").output == "file:///data/run"  # no run
    (tmp_path / "manifest.json").write_text("{}")
    for path in (tmp_path / "config.yaml", f"file://{tmp_path}/config.yaml"):
        assert load_config(path).output == f"file://{tmp_path}"


def test_relative_paths_start_at_the_working_directory(monkeypatch, tmp_path):
    (tmp_path / "configs").mkdir()
    text = "image: em\noutput: run\nmask: mask\nlocate: {weights: mine.safetensors}\n"
    (tmp_path / "configs/c.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    config = load_config("configs/c.yaml")
    assert config.locate.weights == f"{tmp_path}/mine.safetensors"
    for name in ("em", "run", "mask"):
        assert f": file://{tmp_path}/{name}\n" in config.to_yaml()
    assert config.segment.weights.startswith("flysoma/")


@pytest.mark.parametrize("value", [".inf", ".nan", "1e15"])
def test_a_halo_that_no_task_could_read_is_refused(value):
    with pytest.raises(UserError, match=r"c: segment\.halo_nm"):
        parse_config(GOOD + f"segment: {{halo_nm: {value}}}\n", "c")


def test_a_binary_config_is_one_line(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\x00\xff\xfe\x80")
    with pytest.raises(UserError, match="not text|not YAML") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
