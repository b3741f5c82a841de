"""Objects are read back unchanged; a partial JSON object counts as missing."""

import os

import numpy as np
import pytest

from flysoma.errors import UserError
from flysoma.tasks.storage import store as store_module
from flysoma.tasks.storage.damage import DamagedObject
from flysoma.tasks.storage.store import RunStore, normalize_cloudpath


def test_objects_are_read_back(tmp_path):
    store = RunStore(str(tmp_path))
    store.put_json("a/1.json", {"n": np.int64(3), "v": np.array([1.5])})
    store.put_arrays("b/2.npz", {"x": np.arange(3)})
    assert store.get_json("a/1.json") == {"n": 3, "v": [1.5]}
    assert (store.get_arrays("b/2.npz")["x"] == [0, 1, 2]).all()
    assert store.get("none") is None and store.get_json("none") is None


def test_indices_are_the_numbers_in_a_folder(tmp_path):
    store = RunStore(str(tmp_path))
    for n in (3, 12):
        store.put_json(f"receipts/locate/{n}.json", {})
    store.put_json("receipts/locate_more/5.json", {})
    assert store.indices("receipts/locate") == {3, 12}


def test_partial_json_is_missing(tmp_path):
    store = RunStore(str(tmp_path))
    store.put("r/1.json", b'{"a": ')
    store.put_json("r/2.json", {"a": 1})
    assert store.get_json("r/1.json") is None
    assert store.get_jsons(["r/1.json", "r/2.json"]) == {"r/2.json": {"a": 1}}


def test_a_path_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        RunStore(str(tmp_path)).put("file/x.json", b"{}")


def test_cloudpaths_are_normalized(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert normalize_cloudpath("precomputed://gs://b/x/") == "gs://b/x"
    assert normalize_cloudpath("x/y") == "file://" + os.path.join(str(tmp_path), "x/y")
    with pytest.raises(UserError, match="no such protocol"):
        normalize_cloudpath("ftp://x")
    with pytest.raises(UserError, match=r"^https://\.\.\.@host/x: .*password") as caught:
        normalize_cloudpath("https://me:planted@host/x")
    assert "planted" not in str(caught.value)


def test_arrays_are_read_in_order_and_none_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_BATCH", 3)
    store = RunStore(str(tmp_path))
    numbers = [7, 2, 10, 4, 0]
    for n in numbers:
        store.put_arrays(f"t/{n}.npz", {"n": np.array([n])})
    tables = store.get_many_arrays(f"t/{n}.npz" for n in numbers)
    assert [int(table["n"][0]) for table in tables] == numbers
    with pytest.raises(DamagedObject, match="t/3.npz is missing"):
        list(store.get_many_arrays(["t/7.npz", "t/3.npz"]))


def test_records_are_flushed_to_the_disk(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: flushed.append(os.readlink(f"/proc/self/fd/{handle}"))
    )
    store = RunStore(str(tmp_path))
    store.put_record("receipts/locate/1.json", {"n": 1})
    store.put_arrays("seeds/blocks/1.npz", {"n": np.zeros(3)})
    assert len(flushed) == 1 and "/receipts/locate/" in flushed[0]


def test_records_are_read_back_and_a_changed_one_is_none(tmp_path):
    store = RunStore(str(tmp_path))
    for record in ({}, {"b": [1, 2], "a": {"c": None}}):
        store.put_record("r/1.json", record)
        assert store.get_record("r/1.json") == record
    store.put_json("r/1.json", {"b": [1, 2]})  # without a checksum
    assert store.get_record("r/1.json") is None and store.get_record("r/2.json") is None
