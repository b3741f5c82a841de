"""The log of a review: what it takes, what it refuses, several writers, and files that are imported."""

import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from five_balls import CENTRES, OFFSET, RESOLUTION, flysoma, somas

from flysoma.errors import UserError
from flysoma.tasks.review.edits import LOG, EditLog, conflicts, parse_edit
from flysoma.tasks.review.importing import read_edits
from flysoma.tasks.run import Run
from flysoma.tasks.storage.store import RunStore

SAID = {"by": "ada", "at": "2026-01-02T03:04:05Z"}
EDITS = [
    {"edit": "remove", "id": 5},
    {"edit": "add", "point_nm": [1.5, 2, 3]},
    {"edit": "join", "ids": [5, 9]},
    {"edit": "part", "id": 2**64 - 1, "points_nm": [[1, 2, 3], [4, 5, 6]]},
    {"edit": "right", "id": 5},
    {"edit": "class", "id": 5, "class": "glia"},
    {"edit": "border", "id": 5},
]


def edit(values, **said):
    return parse_edit(SAID | said | values, "a line")


def lines(*values):
    return "".join(json.dumps(value) + "\n" for value in values)


def centre_nm(number):
    """Centre of a ball, x, y, z."""
    return [float((c + o + 0.5) * r) for c, o, r in zip(CENTRES[number][::-1], OFFSET, RESOLUTION)]


@pytest.fixture
def log(tmp_path):
    return EditLog(RunStore(str(tmp_path / "run")))


@pytest.fixture
def run(undisturbed):
    """The run of five balls; nothing is written into it."""
    return Run.open(str(undisturbed))


@pytest.mark.parametrize("values", EDITS, ids=lambda values: values["edit"])
def test_the_log_keeps_every_kind_of_edit_in_its_form(values, log, tmp_path):
    assert log.append([edit(values)]) == 1
    assert json.loads((tmp_path / "run" / LOG).read_text()) == SAID | values | {"version": 1}
    assert log.read() == [edit(values)]


def test_an_edit_that_is_in_the_log_is_not_appended_again(log):
    first, second = edit(EDITS[0]), edit(EDITS[0], by="bob")
    assert log.append([first, first]) == 1
    assert log.append([first, second]) == 1
    assert log.read() == [first, second]


def append(path, writer):
    for number in range(1, 11):
        EditLog(RunStore(path)).append([edit({"edit": "right", "id": number}, by=writer)])


def test_nothing_is_lost_when_several_people_append(tmp_path):
    with ThreadPoolExecutor(3) as writers:
        list(writers.map(append, [str(tmp_path)] * 3, ["ada", "bob", "eve"]))
    assert len(set(EditLog(RunStore(str(tmp_path))).read())) == 30


def test_only_a_last_line_may_be_cut_short(log, tmp_path, caplog):
    log.append([edit(values) for values in EDITS[:2]])
    path = tmp_path / "run" / LOG
    whole = path.read_text()
    path.write_text(whole[:-20])
    with caplog.at_level(logging.WARNING):
        assert log.read() == [edit(EDITS[0])]
    assert "line 2 is cut short" in caplog.text
    assert log.append([edit(EDITS[1])]) == 1
    assert path.read_text() == whole
    path.write_text(whole[:20] + "\n" + whole)
    with pytest.raises(UserError, match="line 1 is not JSON"):
        log.read()


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"edit": "paint", "id": 5}, "newer flysoma"),
        ([1, 2], "newer flysoma"),
        ({"edit": "remove"}, "'id' is missing"),
        ({"edit": "remove", "id": "5"}, "id: "),
        ({"edit": "remove", "id": 5, "colour": "red"}, "unknown key 'colour'"),
        ({"edit": "join", "ids": [5, 5]}, "ids: a value occurs twice"),
        ({"edit": "part", "id": 5, "points_nm": [[1, 2, 3]]}, "points_nm: "),
        ({"edit": "add", "point_nm": [1, 2, float("nan")]}, "point_nm.2: "),
        ({"edit": "class", "id": 5, "class": "dog"}, "class: "),
    ],
)
def test_a_line_that_is_no_edit_is_refused(values, reason):
    with pytest.raises(UserError, match=f"^a line: .*{reason}"):
        parse_edit(SAID | values if isinstance(values, dict) else values, "a line")


def test_people_disagree_if_their_last_verdicts_on_a_soma_differ():
    said = [
        edit({"edit": "right", "id": 5}),
        edit({"edit": "remove", "id": 5}, by="bob"),
        edit({"edit": "right", "id": 6}),
        edit({"edit": "remove", "id": 6}),  # a change of mind
        edit({"edit": "class", "id": 7, "class": "glia"}),
        edit({"edit": "right", "id": 7}, by="bob"),
        edit({"edit": "join", "ids": [9, 8]}),
        edit({"edit": "join", "ids": [8, 9]}, by="bob"),
    ]
    assert conflicts(said) == [(5, {"ada": "right", "bob": "remove"})]


def test_a_csv_names_somas_by_points_in_nm_or_voxels(run, tmp_path):
    file = tmp_path / "points.csv"
    labels = somas(run.path)
    ids = [int(labels[centre]) for centre in CENTRES]
    rows = [[*centre_nm(n), verdict] for n, verdict in enumerate(["right", "glia", "remove"])]
    rows.append([*centre_nm(0), "border"])
    corner = [float((o + 0.5) * r) for o, r in zip(OFFSET, RESOLUTION)]
    rows.append([*corner, "add"])
    file.write_text("x,y,z,verdict\n" + "".join(",".join(map(str, r)) + "\n" for r in rows))
    found = read_edits(run, file, "ada")
    assert [(e.edit, e.verdict, e.somas) for e in found[:4]] == [
        ("right", "right", (ids[0],)),
        ("class", "class glia", (ids[1],)),
        ("remove", "remove", (ids[2],)),
        ("border", "border", (ids[0],)),
    ]
    assert found[4].points == (tuple(corner),)
    assert read_edits(run, file, "ada") == found
    voxels = [[*(np.array(row[:3]) / RESOLUTION - 0.5).round(), row[3]] for row in rows]
    file.write_text("x,y,z,verdict\n" + "".join(",".join(map(str, r)) + "\n" for r in voxels))
    again = read_edits(run, file, "ada", voxels=True)
    assert [(e.verdict, e.somas, e.points) for e in again] == [
        (e.verdict, e.somas, e.points) for e in found
    ]


@pytest.mark.parametrize(
    "name, text, reason",
    [
        (
            "a.csv",
            "x,y,verdict\n1,2,right\n",
            "has the columns x,y,verdict; expected x,y,z,verdict",
        ),
        ("a.csv", "x,y,z,verdict\n1,2,3,maybe\n", "line 2: '1,2,3,maybe' is not three numbers"),
        ("a.csv", "x,y,z,verdict\n1,2,inf,right\n", "line 2: '1,2,inf,right' is not three"),
        ("a.csv", "x,y,z,verdict\n1,2,-9e9,right\n", "line 2: the point .* outside the volume"),
        ("a.csv", "x,y,z,verdict\n1100,-500,1300,right\n", "line 2: no soma at the point"),
        ("a.csv", "x,y,z,verdict\n", "holds no edits"),
        ("a.jsonl", "", "holds no edits"),
        ("a.jsonl", lines({"edit": "right", "id": 77}), "line 1: no soma 77"),
        ("a.jsonl", lines({"edit": "right", "id": 1, "version": 2}), "line 1: .* version 2"),
        ("a.jsonl", lines({"edit": "add", "point_nm": centre_nm(0)}), "line 1: soma . is at"),
        (
            "a.jsonl",
            lines({"edit": "part", "id": 1, "points_nm": [[1100, -500, 1300], centre_nm(0)]}),
            "line 1: the point .* does not lie in soma 1",
        ),
    ],
)
def test_a_file_that_does_not_fit_the_run_is_refused(name, text, reason, run, tmp_path):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UserError, match=reason):
        read_edits(run, file, "ada")


def test_the_command_imports_all_lines_or_none_and_lists_conflicts(undisturbed, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(undisturbed, path)
    file = tmp_path / "edits.jsonl"
    file.write_text(lines({"edit": "right", "id": 1}, {"edit": "right", "id": 77}))
    refused = flysoma("review", str(path), "--import", str(file))
    assert refused.returncode == 2 and "line 2: no soma 77" in refused.stderr
    assert refused.stderr.count("\n") == 1 and not (path / LOG).exists()
    file.write_text(lines({"edit": "right", "id": 1}, {"edit": "remove", "id": 1, "by": "bob"}))
    done = flysoma("review", str(path), "--import", str(file), "--by", "ada")
    assert done.returncode == 0, done.stderr
    assert "2 new edits, 0 in the log already" in done.stdout
    assert "2 edits: remove 1, right 1" in done.stdout
    assert "conflict on soma 1: ada: right; bob: remove" in done.stdout
    again = flysoma("review", str(path), "--import", str(file), "--by", "ada")
    assert "0 new edits, 2 in the log already" in again.stdout
