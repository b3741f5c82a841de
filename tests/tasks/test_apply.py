"""Versions of the somas: what each kind of edit changes, what stays, and attempts that were killed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from cloudfiles import CloudFiles
from five_balls import CENTRES, OFFSET, RESOLUTION, digest, somas
from object_stores import AWS, moto

from flysoma.errors import UserError
from flysoma.scripts.results import apply as apply_script
from flysoma.scripts.results import compare, publish, view
from flysoma.scripts.runs import status
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.results.comparing import compare_versions
from flysoma.tasks.review import applying
from flysoma.tasks.review.edits import EditLog, parse_edit
from flysoma.tasks.review.importing import read_edits
from flysoma.tasks.review.settling import in_force, joined
from flysoma.tasks.run import Run
from flysoma.tasks.stages.measure import MeasureStage
from flysoma.tasks.stages.mips import halve
from flysoma.tasks.storage import store as stores
from flysoma.tasks.storage.damage import DamagedObject

SAID = {"by": "ada", "at": "2026-01-02T03:04:05Z"}


def edit(kind, **values):
    return parse_edit(SAID | {"edit": kind} | values, "a line")


def centre_nm(number):
    """Centre of a ball, x, y, z."""
    return [float((c + o + 0.5) * r) for c, o, r in zip(CENTRES[number][::-1], OFFSET, RESOLUTION)]


def off_centre_nm(number):
    x, y, z = centre_nm(number)
    return [x + 500, y - 300, z]


def ids(run):
    """The id at the centre of each ball; 0: none."""
    labels = somas(run.path)
    return [int(labels[centre]) for centre in CENTRES]


def table(run):
    return run.soma_table().set_index("id")


def apply(path, *edits):
    run = Run.open(str(path))
    EditLog(run.store).append(edits)
    said = []
    version = applying.apply_edits(run, said.append)
    return version, said


def said(command, *words):
    """What a command prints."""
    return CliRunner().invoke(command, words, catch_exceptions=False).output


@pytest.fixture
def light(monkeypatch):
    """A report without pictures, which take most of the time."""
    write = lambda run, frame: run.store.put("report/index.html", str(len(frame)).encode())  # noqa: E731
    monkeypatch.setattr(applying, "put_report", write)


@pytest.fixture
def copied(undisturbed, tmp_path, light):
    """A copy of a finished run."""
    return Run.open(str(shutil.copytree(undisturbed, tmp_path / "run")))


def assert_mips_follow(path):
    layer = LabelLayer(f"{path}/somas")
    for mip in range(1, len(layer.mip_bounds)):
        before, bounds = layer.mip_bounds[mip - 1], layer.mip_bounds[mip]
        scales = zip(layer.mip_resolutions_nm[mip - 1], layer.mip_resolutions_nm[mip])
        factor = tuple(round(b / a) for a, b in scales)
        halved, lo = halve(layer.read(before, mip - 1), before.lo, factor)
        made = layer.read(bounds, mip)
        place = tuple(slice(a - b, None) for a, b in zip(lo, bounds.lo))[::-1]
        assert np.array_equal(made[place], halved)
        assert made.sum() == halved.sum()


def assert_files_follow(run, there):
    """Meshes, skeletons, annotations and properties are those of the somas that are there, and of no other."""
    names = [name.partition("/")[2] for name in run.store.names("somas/mesh/")]
    meshes = {name.removeprefix("mesh/").split(":")[0].split(".")[0] for name in names}
    assert {int(name) for name in meshes if name.isdecimal() and len(name) < 3} == there
    for folder in ("somas/skeletons/", "centroids/by_id/"):
        found = {path.rpartition("/")[2] for path in run.store.names(folder)} - {"info"}
        assert set(map(int, found)) == there, folder
    properties = run.store.get_json("somas/segment_properties/info")["inline"]
    assert set(map(int, properties["ids"])) == there == set(table(run).index)
    assert set(np.unique(somas(run.path)).tolist()) == there | {0}
    assert_mips_follow(run.path)


def test_remove_takes_away_one_soma_and_leaves_every_other_byte(copied, undisturbed):
    before, gone = table(copied), ids(copied)[3]
    version, said = apply(copied.path, edit("remove", id=gone))
    assert said == [] and version.number == 2 and version.became == {gone: 0}
    assert not (somas(copied.path) == gone).any()
    kept = before.drop(gone)
    after = table(copied)
    same = [name for name in after if name not in ("nearest_nm", "neighbours_10um")]
    pd.testing.assert_frame_equal(after[same], kept[same])
    assert (after["neighbours_10um"] == kept["neighbours_10um"] - 1).all()
    assert_files_follow(copied, set(kept.index))
    blocks, chunks = set(version.blocks), copied.segment_grid
    old, new = digest(f"{undisturbed}/somas"), digest(f"{copied.path}/somas")
    changed = {name for name in old.keys() & new.keys() if old[name] != new[name]}
    mip = "_".join(map(str, RESOLUTION))
    touched = {f"{mip}/" + chunk_name(chunks[index].core) for index in blocks}
    assert {name for name in changed if name.startswith(f"{mip}/")} == touched
    assert len(touched) < len(chunks) / 2


def chunk_name(box):
    return "_".join(f"{a}-{b}" for a, b in zip(box.lo, box.hi))


def test_join_gives_both_the_lower_id_and_measures_them_as_one(copied):
    before, (one, two, *_) = table(copied), ids(copied)
    apply(copied.path, edit("join", ids=[two, one]))
    low, high = sorted((one, two))
    assert ids(copied)[:2] == [low, low]
    after = table(copied)
    assert_files_follow(copied, set(before.index) - {high})
    row, parts = after.loc[low], before.loc[[one, two]]
    assert row["voxels"] == parts["voxels"].sum() and row["n_seeds"] == 2
    assert np.isclose(row["surface_um2"], parts["surface_um2"].sum())
    assert row["confidence"] == parts["confidence"].iloc[0] and not row["verified"]
    start, end = ([f"bb_{edge}_{a}_nm" for a in "xyz"] for edge in ("start", "end"))
    assert (row[start] == parts[start].min()).all() and (row[end] == parts[end].max()).all()


def test_part_and_add_make_what_join_and_remove_have_unmade(copied, undisturbed):
    """The rows are those of version 1 to the last bit, under new ids."""
    before, (one, two, three, _, five) = table(copied), ids(copied)
    low, high = sorted((one, two))
    apply(copied.path, edit("join", ids=[one, two]), edit("remove", id=five))
    parted = edit("part", id=low, points_nm=[centre_nm(0), centre_nm(1)], version=2)
    version, said = apply(copied.path, parted, edit("add", point_nm=off_centre_nm(4), version=2))
    assert said == [] and version.new == [6, 7] and version.became == {}
    assert sorted(ids(copied)[:2]) == [low, 6] and ids(copied)[2:] == [*ids(copied)[2:4], 7]
    assert np.array_equal(somas(copied.path) > 0, somas(str(undisturbed)) > 0)
    after = table(copied)
    of_new = dict(zip((one, two, five), np.array(ids(copied))[[0, 1, 4]].tolist()))
    renamed = before.rename(index=of_new).sort_index()
    pd.testing.assert_frame_equal(after, renamed, check_exact=True)
    assert_files_follow(copied, set(renamed.index))
    old, new = digest(f"{undisturbed}/somas"), digest(f"{copied.path}/somas")
    assert (
        old[f"mesh/{five}"] == new["mesh/7"]
        and old[f"skeletons/{three}"] == new[f"skeletons/{three}"]
    )


def test_somas_are_measured_alone_as_in_their_blocks(copied):
    shapes = pd.DataFrame(copied.store.get_arrays("measure/shapes.npz"))
    for _, row in shapes.iterrows():
        soma = int(row["id"])
        alone = MeasureStage(copied).measure_soma(soma, copied.somas.bounds)
        pd.testing.assert_series_equal(alone.iloc[0], row, check_names=False, check_exact=True)


def test_verdicts_without_voxels_change_columns_only(copied, undisturbed):
    one, two, three, *_ = ids(copied)
    version, _ = apply(
        copied.path,
        edit("right", id=one),
        edit("class", id=two, **{"class": "glia"}),
        edit("border", id=three),
    )
    assert not version.touched and not version.blocks
    after = table(copied)
    assert after["verified"].to_dict() == {i: i in (one, two) for i in after.index}
    assert after.loc[two, "class"] == "glia"
    properties = copied.store.get_json("somas/segment_properties/info")["inline"]
    tags = properties["properties"][1]
    tagged = [
        i
        for i, tag in zip(properties["ids"], tags["values"])
        if tags["tags"].index("verified") in tag
    ]
    assert sorted(map(int, tagged)) == sorted((one, two))
    old, new = digest(f"{undisturbed}/somas"), digest(f"{copied.path}/somas")
    assert {name for name in old if old[name] != new[name]} == {"segment_properties/info"}
    apply(copied.path, edit("join", ids=[one, three], version=2))
    assert table(copied)["verified"].sum() == 1  # nobody has seen the joined soma


def test_applying_twice_changes_nothing_the_second_time(copied):
    apply(copied.path, edit("remove", id=ids(copied)[0]))
    before = digest(copied.path)
    assert apply(copied.path) == (None, [])
    assert digest(copied.path) == before


def test_ids_are_never_used_twice(copied):
    gone = max(ids(copied))
    number = ids(copied).index(gone)
    apply(copied.path, edit("remove", id=gone))
    apply(copied.path, edit("add", point_nm=centre_nm(number), version=2))
    apply(copied.path, edit("remove", id=6, version=3))
    version, _ = apply(copied.path, edit("add", point_nm=centre_nm(number), version=4))
    assert version.new == [7] and ids(copied)[number] == 7


def test_two_points_in_one_missing_soma_add_it_once(copied):
    apply(copied.path, edit("remove", id=ids(copied)[2]))
    version, said = apply(
        copied.path,
        edit("add", point_nm=centre_nm(2), version=2),
        edit("add", point_nm=off_centre_nm(2), version=2),
    )
    assert said == [] and version.new == [6] and len(version.edits) == 2
    assert table(copied).loc[6, "volume_um3"] == pytest.approx(9.2027, abs=1e-4)


def test_edits_that_cannot_be_applied_are_named_and_the_others_applied(copied):
    one, two, three, four, five = ids(copied)
    corner = [(o + 0.5) * r for o, r in zip(OFFSET, RESOLUTION)]
    x, y, z = centre_nm(1)
    version, said = apply(
        copied.path,
        edit("add", point_nm=corner),
        edit("part", id=two, points_nm=[[x, y, z], [x + 1, y, z]]),
        edit("part", id=three, points_nm=[centre_nm(2), centre_nm(0)]),
        edit("remove", id=99),
        edit("right", id=four),
        edit("remove", id=four, by="bob"),
        edit("remove", id=five),
        edit("right", id=five),
        edit("remove", id=one),
    )
    assert version.became == {one: 0} and version.verified == {five: True}
    assert len(version.edits) == 3  # the last word on `five` replaces the one before
    reasons = (
        "conflict on soma",
        "does not lie in soma",
        "no soma 99",
        "close together",
        "no body at the point",
    )
    assert len(said) == len(reasons)
    assert all(any(reason in line for line in said) for reason in reasons), said
    with pytest.raises(UserError, match="none of the 6 new edits"):
        apply(copied.path)


def test_a_soma_that_has_changed_must_be_reviewed_again(copied, tmp_path):
    one, two, three, *_ = ids(copied)
    apply(copied.path, edit("join", ids=[one, two]), edit("remove", id=three))
    file = tmp_path / "edits.jsonl"
    low = min(one, two)
    for soma, version, reason in (
        (three, 1, "has changed in version 2, and the edit is for version 1"),
        (low, 1, "has changed in version 2, and the edit is for version 1"),
        (three, 2, "no soma"),
        (low, 3, "for version 3 of the somas, and .* has version 2"),
    ):
        file.write_text(json.dumps({"edit": "right", "id": soma, "version": version}))
        with pytest.raises(UserError, match=reason):
            read_edits(copied, file, "ada")
    file.write_text(json.dumps({"edit": "right", "id": low}))
    (found,) = read_edits(copied, file, "ada")
    assert found.version == 2


def test_a_cleaned_run_predicts_what_it_needs_again(copied):
    for folder in ("cores/", "fields/", "blocks/", "slabs/", "receipts/", "measure/b", "measure/n"):
        copied.store.delete(copied.store.names(folder))
    before, (one, two, *_) = table(copied), ids(copied)
    apply(copied.path, edit("join", ids=[one, two]))
    low = min(one, two)
    apply(copied.path, edit("part", id=low, points_nm=[centre_nm(0), centre_nm(1)], version=2))
    after = table(copied).rename(index={6: max(one, two)}).sort_index()
    pd.testing.assert_series_equal(after["confidence"], before["confidence"])
    assert after["volume_um3"].tolist() == before["volume_um3"].tolist()


def test_versions_are_compared_by_their_tables(copied):
    one, two, three, four, five = ids(copied)
    version = f"{copied.path}@{{}}".format
    assert said(compare.command, version(1), version(1)) == "0 somas differ\n"
    apply(
        copied.path, edit("join", ids=[one, two]), edit("remove", id=five), edit("right", id=four)
    )
    apply(copied.path, edit("add", point_nm=centre_nm(4), version=2))
    changes = compare_versions(Run.open(copied.path), 1, 3).set_index("id")["change"].to_dict()
    low, high = sorted((one, two))
    assert changes == {low: "changed", high: "gone", five: "gone", four: "verified", 6: "new"}
    lines = said(compare.command, version(1), version(3))
    assert lines.startswith("5 somas differ: 2 gone, ") and f"verified     {four:>12}" in lines
    assert "1 somas differ: 1 gone" in said(compare.command, version(3), version(2))
    with pytest.raises(UserError, match="no version 4 of its somas: the newest is 3"):
        said(compare.command, version(1), version(4))
    with pytest.raises(UserError, match="give RUN@1 RUN@2"):
        said(compare.command, copied.path, version(1))


class Killed(BaseException):
    pass


@pytest.fixture
def kill_at(monkeypatch):
    """A function that lets the process die at its k-th write, half of which is done; 0: never. Returns the count."""
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


def test_a_later_edit_replaces_an_earlier_one_and_joins_add_up():
    said = [
        edit("remove", id=1),
        edit("right", id=1),
        edit("join", ids=[2, 3]),
        edit("join", ids=[3, 4]),
        edit("join", ids=[5, 6]),
        edit("remove", id=6),
        edit("class", id=1, **{"class": "glia"}),
        edit("add", point_nm=[1, 2, 3]),
    ]
    assert in_force(said) == [said[n] for n in (1, 2, 3, 5, 6, 7)]
    assert joined(
        [edit("join", ids=[4, 9]), edit("join", ids=[7, 2]), edit("join", ids=[9, 7])]
    ) == {
        4: 2,
        7: 2,
        9: 2,
    }


@pytest.mark.slow
def test_a_run_in_a_bucket_gets_the_same_version_as_one_in_a_folder(copied, monkeypatch):
    import boto3

    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    one, two, three, _, five = ids(copied)
    first = edit("join", ids=[one, two]), edit("remove", id=five)
    parted = edit("part", id=min(one, two), points_nm=[centre_nm(0), centre_nm(1)], version=2)
    second = parted, edit("add", point_nm=centre_nm(4), version=2)
    with moto() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        boto3.client("s3").create_bucket(Bucket="reviewed")
        CloudFiles(copied.path, progress=False).transfer_to("s3://reviewed/run")
        for edits in (first, second):
            for path in ("s3://reviewed/run", copied.path):
                assert apply(path, *edits)[1] == []
        there = LabelLayer("s3://reviewed/run/somas")
        here = LabelLayer(f"{copied.path}/somas")
        for mip, bounds in enumerate(here.mip_bounds):
            assert np.array_equal(there.read(bounds, mip), here.read(bounds, mip))
        bucket = Run.open("s3://reviewed/run")
        pd.testing.assert_frame_equal(table(bucket), table(copied), check_exact=True)
        assert_files_follow(bucket, set(table(copied).index))
        assert set(bucket.store.names("somas/mesh/")) == set(copied.store.names("somas/mesh/"))
