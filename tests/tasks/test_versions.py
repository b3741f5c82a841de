"""Of several writers of an object one succeeds, on disk, on S3 and on Google's storage; its age is the store's."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from object_stores import AWS, moto

from flysoma.tasks.storage import versions as versions_module
from flysoma.tasks.storage.versions import FolderClock, versions


@pytest.fixture
def s3(monkeypatch):
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    with moto() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket/run"


@pytest.fixture
def gs(gcs):
    return f"gs://bucket/versions{time.time_ns()}"


@pytest.fixture
def file(tmp_path):
    return f"file://{tmp_path}/run"


@pytest.fixture(params=["file", "gs", "s3"])
def store(request):
    return versions(request.getfixturevalue(request.param))


def test_of_several_writers_one_succeeds(store, request):
    """The stand-in for S3 compares and writes without a lock, so that it gets one request at a time."""
    threads = 1 if "s3" in request.node.name else 8

    def write(tag):
        with ThreadPoolExecutor(threads) as pool:
            texts = [f"of {number} after {tag}".encode() for number in range(8)]
            tags = list(pool.map(lambda text: store.write("a/lock", text, tag), texts))
        (won,) = (number for number, tag in enumerate(tags) if tag is not None)
        there = store.read("a/lock")
        assert there.data == texts[won] and there.tag == tags[won]
        assert -2 < there.age_s < 60
        return there.tag

    assert store.read("a/lock") is None
    assert store.write("a/lock", b"x", "7") is None
    first = write(None)
    second = write(first)
    assert store.write("a/lock", b"late", first) is None
    assert store.read("a/lock").tag == second


def test_a_file_system_without_links_does_as_well(file, monkeypatch):
    def link(*_):
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", link)
    store = versions(file)
    assert store.write("lock", b"first", None) and store.write("lock", b"second", None) is None
    assert store.read("lock").data == b"first"
    assert os.listdir(file.removeprefix("file://")) == ["lock"]


def test_the_age_of_a_file_does_not_depend_on_this_machines_clock(file, monkeypatch):
    store = versions(file)
    store.write("lock", b"x", None)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert -1 < versions(file).read("lock").age_s < 60


def test_the_clock_of_a_folder_goes_on_when_nothing_can_be_written(tmp_path, monkeypatch):
    clock = FolderClock(str(tmp_path))
    before = clock.now()
    monkeypatch.setattr(versions_module, "_CLOCK_S", 0.0)
    clock = FolderClock(str(tmp_path / "gone"))
    assert abs(clock.now() - before) < 60
