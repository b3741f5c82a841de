"""Versions of the somas that were interrupted, and damage to the files of a run with versions."""

import shutil
from pathlib import Path

import pytest
from cloudfiles import CloudFiles
from edited_runs import apply, centre_nm, chunk_name, edit, ids, said
from five_balls import RESOLUTION, digest

from flysoma.errors import UserError
from flysoma.scripts.results import apply as apply_script
from flysoma.scripts.results import compare, publish, view
from flysoma.scripts.runs import status
from flysoma.tasks.review.edits import EditLog
from flysoma.tasks.run import Run
from flysoma.tasks.storage import store as stores
from flysoma.tasks.storage.damage import DamagedObject


class Killed(BaseException):
    pass


@pytest.fixture
def kill_at(monkeypatch):
    """A function that makes the k-th write fail half-way (0: none), and returns the number of writes until then."""
    count = {"writes": 0, "last": 0}

    def dies():
        count["writes"] += 1
        return count["writes"] == count["last"]

    def write_atomically(path, *arguments):
        if dies():
            raise Killed
        write(path, *arguments)

    def puts(self, files, *arguments, **options):
        files = list(files) if not isinstance(files, (tuple, dict)) else [files]
        if not dies():
            return put(self, files, *arguments, **options)
        if len(files) > 1:
            put(self, files[: len(files) // 2], *arguments, **options)
        raise Killed

    def delete(self, paths, *arguments, **options):
        if dies():
            raise Killed
        return erase(self, paths, *arguments, **options)

    write, put, erase = stores.write_atomically, CloudFiles.puts, CloudFiles.delete
    monkeypatch.setattr(stores, "write_atomically", write_atomically)
    monkeypatch.setattr(CloudFiles, "puts", puts)
    monkeypatch.setattr(CloudFiles, "delete", delete)

    def arm(last):
        before, count["writes"], count["last"] = count["writes"], 0, last
        return before

    return arm


def content(path):
    """Every object of a run but for the lock, which a killed process leaves."""
    return {name: value for name, value in digest(path).items() if name != "coordinator.json"}


@pytest.mark.parametrize(
    "step",
    [29, pytest.param(3, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])],
    ids=["some", "many"],
)
def test_killed_at_any_write_it_ends_with_the_same_bytes(copied, tmp_path, kill_at, step):
    one, two, three, four, five = ids(copied)
    apply(copied.path, edit("join", ids=[one, two]), edit("remove", id=five))
    edits = [
        edit("part", id=min(one, two), points_nm=[centre_nm(0), centre_nm(1)], version=2),
        edit("add", point_nm=centre_nm(4), version=2),
        edit("join", ids=[three, four], version=2),
    ]
    EditLog(copied.store).append(edits)
    start = Path(copied.path.removeprefix("file://"))
    whole = shutil.copytree(start, tmp_path / "whole")
    kill_at(0)
    apply(whole)
    writes, expected, states = kill_at(0), content(whole), set()
    for last in range(1, writes + 1, step):
        path = shutil.copytree(start, tmp_path / f"killed-{last}")
        kill_at(last)
        with pytest.raises(Killed):
            apply(path)
        kill_at(0)
        run = Run.open(str(path))
        try:
            run.check_version()
            states.add(run.version)
        except UserError as err:
            assert "is between versions 2 and 3" in str(err)
            states.add("between")
        apply(path)
        assert content(path) == expected, last
        shutil.rmtree(path)
    assert states >= {2, "between"}


def test_between_versions_a_run_says_so(copied, kill_at):
    EditLog(copied.store).append([edit("remove", id=ids(copied)[0])])
    kill_at(12)
    with pytest.raises(Killed):
        apply(copied.path)
    kill_at(0)
    link, copy = ["--link", "https://a.b"], [f"{copied.path}-copy"]
    for command, words in ((view.command, link), (publish.command, copy)):
        with pytest.raises(UserError, match="is between versions 1 and 2 of its somas"):
            said(command, copied.path, *words)
    assert "finish it with 'flysoma apply" in said(status.command, copied.path)
    assert "version 2 of the somas; 1 edits, 1 somas gone" in said(
        apply_script.command, copied.path
    )
    assert "version 2 of the somas" in said(status.command, copied.path)
    assert "nothing to apply; version 2" in said(apply_script.command, copied.path)


def test_a_changed_layer_is_not_repaired_to_its_first_version(copied):
    from flysoma.tasks.fleet.repair import request

    apply(copied.path, edit("remove", id=ids(copied)[0]))
    with pytest.raises(UserError, match="has changed it since a task made it"):
        request(
            copied, DamagedObject(copied.path, "somas/64_64_40/17-81_-9-55_30-94", "is missing")
        )


def test_a_lost_chunk_stops_before_anything_is_changed(copied):
    gone = ids(copied)[0]
    mip = "_".join(map(str, RESOLUTION))
    (name, *_) = [
        f"somas/{mip}/{chunk_name(block.core)}"
        for block in copied.segment_grid
        if (copied.somas.read(block.core) == gone).any()
    ]
    copied.store.delete([name])
    with pytest.raises(UserError, match=f"{name} is missing, and the next version"):
        apply(copied.path, edit("remove", id=gone))
    assert copied.store.names("versions/") == []


def test_a_damaged_record_of_a_version_is_an_error(copied):
    apply(copied.path, edit("remove", id=1))
    copied.store.put("versions/2.json", copied.store.get("versions/2.json")[:-9])
    with pytest.raises(UserError, match="versions/2.json is damaged"):
        apply(copied.path, edit("remove", id=2))


@pytest.mark.parametrize("command", [compare.command, publish.command])
def test_a_truncated_table_of_somas_is_one_line(command, copied):
    data = copied.store.get("tables/somas.parquet")
    copied.store.put("tables/somas.parquet", data[: len(data) // 2])
    words = {
        compare.command: [f"{copied.path}@1"] * 2,
        publish.command: [copied.path, f"{copied.path}-copy"],
    }
    with pytest.raises(UserError, match="somas.parquet is truncated or damaged; restore it"):
        said(command, *words[command])
    assert not Path(f"{copied.path}-copy".removeprefix("file://")).exists()
