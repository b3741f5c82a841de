"""`flysoma compare`: what two runs disagree on, in words, as a table and as a page."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
from five_balls import flysoma
from html_pages import read

from flysoma.analysis.metrics.evaluation import ArrayLabels, evaluate
from flysoma.analysis.pages.comparison import comparison_page, comparison_table
from flysoma.tasks.run import Run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, undisturbed):
    """A run, and one without its first ball, with two balls as one, and with something of its own."""
    a, b = undisturbed, tmp_path_factory.mktemp("compare") / "b"
    shutil.copytree(a, b)
    run = Run.open(str(b))
    labels = run.somas.read(run.somas.bounds)
    labels[labels == 1] = 0
    labels[labels == 3] = 2
    labels[-20:, -25:, -25:] = 9
    run.somas.write(run.somas.bounds, labels)
    return a, b


def test_what_differs_is_told_with_its_place(runs, tmp_path):
    a, b = map(str, runs)
    table, report = tmp_path / "c.csv", tmp_path / "c.html"
    done = flysoma("compare", a, b, "--table", str(table), "--report", str(report))
    assert done.returncode == 0, done.stderr
    assert "3 somas match, of 5 in A and 4 in B" in done.stdout
    rows = pd.read_csv(table, dtype=str).fillna("").set_index("kind")
    assert set(rows.index) == {"only in A", "only in B", "several in A, one in B"}
    assert rows.loc["only in A", "ids_a"] == "1" and rows.loc["only in B", "ids_b"] == "9"
    assert rows.loc["several in A, one in B", "ids_a"] == "2 3"
    words = rows.loc["only in A", "look"].split()
    assert words[:2] == ["flysoma", "view"] and words[-4] == "--at"
    z, y, x = ((c + o + 0.5) * v for c, o, v in zip((33, 100, 62), (30, -9, 17), (40, 64, 64)))
    assert [float(w) for w in words[-3:]] == pytest.approx([x, y, z], abs=70)
    checker, _ = read(report.read_text())
    assert all(source.startswith("data:") for source in checker.loaded)
    assert done.stdout == flysoma("compare", a, b).stdout


def test_a_run_agrees_with_itself(runs):
    done = flysoma("compare", str(runs[0]), str(runs[0]))
    assert "5 somas match, of 5 in A and 5 in B, median IoU 1.000" in done.stdout
    assert "view" not in done.stdout


def test_cases_in_buckets_are_links(runs):
    both = []
    for path in runs:
        somas = Run.open(str(path)).somas
        both.append(ArrayLabels(somas.read(somas.bounds)))
    voxel = (40.0, 64.0, 64.0)
    found = evaluate(*both, voxel, min_truth_um3=0)
    rows = comparison_table(found, voxel, (0, 0, 0), lambda at: f"https://viewer/#!{at[0]:.0f}")
    text = comparison_page(("a", "b"), found, tuple(both), voxel, None, rows)
    assert text.count('<a href="https://viewer/#!') == len(rows) == 3


def test_what_cannot_be_compared_is_said(runs, tmp_path):
    done = flysoma("compare", str(runs[0]), str(tmp_path))
    assert done.returncode == 2 and "no run at" in done.stderr and done.stderr.count("\n") == 1
