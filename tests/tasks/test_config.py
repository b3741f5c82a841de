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
    assert config.differences(other) == ["segment.interior_threshold: 0.8 here, 0.9 there"]


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
        ("a: [", "not YAML"),
    ],
)
def test_errors_are_one_line(text, words):
    with pytest.raises(UserError) as caught:
        parse_config(text, "c.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="nothere.yaml"):
        load_config(tmp_path / "nothere.yaml")
