"""Versions of the somas: what each kind of edit changes, and what stays."""

import json

import numpy as np
import pandas as pd
import pytest
from cloudfiles import CloudFiles
from edited_runs import (
    apply,
    assert_files_follow,
    centre_nm,
    chunk_name,
    edit,
    ids,
    off_centre_nm,
    said,
    table,
)
from five_balls import OFFSET, RESOLUTION, digest, somas
from object_stores import AWS, moto

from flysoma.errors import UserError
from flysoma.scripts.results import compare
from flysoma.tasks.layers.labels import LabelLayer
from flysoma.tasks.results.comparing import compare_versions
from flysoma.tasks.review.importing import read_edits
from flysoma.tasks.review.settling import in_force, joined
from flysoma.tasks.run import Run
from flysoma.tasks.stages.measure import MeasureStage


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
