"""The report page is valid and self-contained; figures, pictures of sections and checks show the table."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pytest
from html_pages import read
from PIL import Image
from soma_rows import make_somas

from flysoma.analysis.pages.plots import plot_files
from flysoma.analysis.pages.report import report_page, report_plots
from flysoma.analysis.pages.sections import Section, draw_sections, find_outlines, label_colour
from flysoma.analysis.tables.checks import CHECK, GOOD, UNKNOWN, check_somas
from flysoma.analysis.tables.doubts import doubtful_somas
from flysoma.analysis.tables.seams import NO_SEAMS, Seams, face_distances

BOUNDS = ((0, 0, 0), (60e3, 50e3, 40e3))
SUMMARY = {
    "title": "Somas of <demo> & more",
    "lead": "120 somas in 60 x 50 x 40 um.",
    "facts": {"image": "gs://bucket/image"},
    "bounds_nm": BOUNDS,
    "open": "flysoma view run",
    "link": "https://viewer.example/#!{}",
    "scores": "AP50  0.95",
    "stages": [{"stage": "locate", "tasks": 1200, "seconds": 3.25}],
    "provenance": {"flysoma": "0.1.0"},
    "config": "image: gs://bucket/image\n",
    "files": {"somas.csv": "../tables/somas.csv"},
}


def sections(n=1, truth=False, shape=(60, 90)):
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.uint64)
    y, x = np.ogrid[: shape[0], : shape[1]]
    labels[(y - 30) ** 2 + (x - 30) ** 2 < 15**2] = 2**60 + 1
    labels[(y - 30) ** 2 + (x - 65) ** 2 < 12**2] = 7
    image = rng.integers(60, 190, shape).astype(np.uint8)
    shifted = np.roll(labels, 4, 1) if truth else None
    return [Section(f"z = {i} um", image, labels, (64.0, 64.0), shifted) for i in range(n)]


def picture(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("n", [0, 1, 2, 120])
def test_the_page_is_complete_for_any_number_of_somas(n):
    page = report_page(make_somas(n), SUMMARY, {"overview": draw_sections(sections())})
    checker, words = read(page)
    assert f"{n} soma" in words and "Liu et al." in words and "1,200" in words
    assert all(source.startswith("data:image/png;base64,") for source in checker.loaded)


def test_headlines_name_the_somas_that_the_edge_cuts_and_measure_the_others():
    somas = make_somas(4).assign(touches_edge=[True, True, False, False])
    somas["volume_um3"] = [1.0, 2.0, 70.0, 90.0]
    _, words = read(report_page(somas, SUMMARY, {}))
    assert re.search(r"2 *of these cut by the volume edge", words)
    assert re.search(r"80 µm³ *median volume, of whole somas", words)


def test_the_page_needs_no_summary():
    _, words = read(report_page(make_somas(0), {}, {}))
    assert "0 somas" in words and "No run times were recorded." in words
    read(report_page(make_somas(5), {}, {}))


def test_text_of_users_is_escaped():
    page = report_page(make_somas(1), SUMMARY, {"<b>caption": b"png"})
    assert "Somas of &lt;demo&gt; &amp; more" in page
    assert "<demo>" not in page and "<b>caption" not in page


def test_suspicious_somas_are_listed_largest_first_and_no_others():
    somas = make_somas(12)
    somas["suspicious"] = somas.id.isin([3, 8])
    somas.loc[somas.id == 8, "volume_um3"] = 400.0
    page = report_page(somas, SUMMARY, {})
    listed = re.findall(r"<tr><td>(\d+)</td><td>[-\d]+, ", page)
    assert listed == ["8", "3"]
    somas = somas.assign(suspicious=False, volume_um3=60.0)
    assert "There is none: no guard" in report_page(somas, SUMMARY, {})


def test_each_sign_of_an_error_is_a_reason_to_look():
    somas = make_somas(20).assign(suspicious=False, touches_edge=False, volume_um3=60.0)
    somas["convexity"] = 0.93
    at = seams([20e3, 40e3], [], [])
    for a in "xyz":
        somas[f"bb_end_{a}_nm"] = 15e3
    assert len(doubtful_somas(somas, at)) == 0
    signs = {
        "join refused": ("suspicious", True),
        "several seeds": ("n_seeds", 2),
        "several neurites": ("neurites", 2),
        "not convex": ("convexity", 0.8),
        "large": ("volume_um3", 300.0),
        "small": ("volume_um3", 5.0),
        "low confidence": ("confidence", 0.5),
        "ends at a seam": ("bb_end_x_nm", 40e3),
    }
    for number, (column, value) in enumerate(signs.values()):
        somas.loc[number, column] = value
    found = doubtful_somas(somas, at)
    assert found.sort_values("id")["doubt"].tolist() == list(signs)
    somas.loc[7, "neurites"] = 3
    assert doubtful_somas(somas, at)["doubt"].iloc[0] == "several neurites, ends at a seam"
    page = report_page(somas, SUMMARY | {"seams": at}, {})
    x, y, z = somas.loc[7, ["x_nm", "y_nm", "z_nm"]]
    assert f"flysoma view run --at {x:.0f} {y:.0f} {z:.0f}" in page
    somas.loc[:, "touches_edge"] = True
    assert set(doubtful_somas(somas, at)["doubt"]) == {
        *("join refused", "several seeds", "several neurites", "low confidence"),
    }


def test_somas_with_no_or_several_nuclei_come_first_and_are_counted():
    somas = make_somas(60).assign(suspicious=False, touches_edge=False, n_nuclei=1)
    somas["class"] = np.where(somas.id <= 20, "glia", "neuron")
    somas.loc[somas.id == 8, "suspicious"] = True
    somas.loc[somas.id == 3, "n_nuclei"] = 2
    somas.loc[somas.id.isin([4, 5]), "n_nuclei"] = 0
    somas.loc[somas.id == 5, "touches_edge"] = True  # its nucleus may lie beyond the volume
    somas["volume_um3"], somas["convexity"], somas["confidence"] = 60.0 - somas.id / 100, 0.93, 0.95
    page = report_page(somas, SUMMARY, {})
    assert re.findall(r"<tr><td>(\d+)</td><td>[-\d]+, ", page) == ["3", "4", "8"]
    words = read(page)[1]
    assert "several nuclei" in words and "no nucleus" in words and "join refused" in words
    assert "1 of the 59 somas" in words and "1 have several" in words
    assert re.search("20 *glia", words) and re.search("40 *neurons", words)


def test_a_long_list_of_suspicious_somas_is_truncated_with_a_note():
    somas = make_somas(450)
    somas["suspicious"] = True
    page = report_page(somas, SUMMARY, {})
    assert len(re.findall(r"<tr><td>\d+</td><td>[-\d]+, ", page)) == 200
    assert "The first 200 of 450" in page


def test_plots_use_the_colours_of_the_page():
    page = report_page(make_somas(30), SUMMARY, {})
    assert page.count('<svg class="plot"') == 7
    assert "currentColor" in page and "var(--accent)" in page
    assert "#010203" not in page and "#070809" not in page
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_the_same_run_gives_the_same_page():
    somas = make_somas(20)
    assert report_page(somas, SUMMARY, {}) == report_page(somas, SUMMARY, {})
    assert draw_sections(sections()) == draw_sections(sections())


def test_many_somas_keep_the_page_small():
    page = report_page(make_somas(20_000, (400, 300, 200)), {}, {})
    assert len(page) < 10e6


@pytest.mark.parametrize("bounds", [((0, 0, 0), (1e6, 1e3, 1e3)), ((5e5,) * 3, (5e5 + 1,) * 3)])
def test_maps_of_extreme_volumes_do_not_fail(bounds):
    read(report_page(make_somas(3), {"bounds_nm": bounds}, {}))


def test_somas_without_measures_do_not_fail():
    somas = make_somas(4)[["id", "x_nm", "y_nm", "z_nm"]]
    _, words = read(report_page(somas, SUMMARY, {}))
    assert "no data" in words


def test_sections_show_each_label_in_its_colour():
    image = picture(draw_sections(sections()))
    for label in (2**60 + 1, 7):
        colour = np.array(label_colour(label)) * 255
        assert (np.abs(image - colour).max(axis=2) < 30).sum() > 50
    blank = sections()
    plain = [Section(s.title, s.image, np.zeros_like(s.labels), s.pixel_nm) for s in blank]
    assert np.ptp(picture(draw_sections(plain)), axis=2).max() < 12


def test_sections_with_truth_have_a_legend():
    without, with_truth = draw_sections(sections()), draw_sections(sections(truth=True))
    assert picture(with_truth).shape[0] > picture(without).shape[0]  # a legend below


@pytest.mark.parametrize("n", [0, 1, 3, 6])
def test_any_number_of_sections_can_be_drawn(n):
    assert picture(draw_sections(sections(n), title="run")).shape[1] == 1600


def test_sections_have_physical_proportions():
    (one,) = sections(shape=(60, 90))
    flat = Section(one.title, one.image, one.labels, (32.0, 64.0))
    tall = picture(draw_sections([one])).shape[0]
    low = picture(draw_sections([flat])).shape[0]
    assert low < 0.62 * tall


def test_outlines_lie_on_the_border_of_each_label():
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 8:20] = 3
    (line,) = find_outlines(labels)[3]
    assert line.min(axis=0) == pytest.approx([7.5, 4.5], abs=0.6)
    assert line.max(axis=0) == pytest.approx([19.5, 14.5], abs=0.6)
    assert (
        set(find_outlines(np.full((4, 4), 9))) == {9} and find_outlines(np.zeros((4, 4), int)) == {}
    )


def figures_of(somas, **summary):
    return report_plots(somas, {"bounds_nm": BOUNDS} | summary)


def seams(*at):
    return Seams(tuple(np.array(a, float) for a in at), (20e3, 20e3, 20e3))


def test_figures_are_written_as_files():
    somas = make_somas(60)
    somas["depth_nm"] = somas["z_nm"]
    plots = figures_of(somas, seams=seams([20e3, 40e3], [20e3], []))
    names = [plot.name for plot in plots]
    assert {"maps", "depth", "seams", "blocks", "neurites"} <= set(names) and len(names) == 10
    for plot in plots:
        files = plot_files(plot)
        assert files == plot_files(plot)
        assert files[f"{plot.name}.pdf"].startswith(b"%PDF")
        svg = files[f"{plot.name}.svg"].decode()
        assert "currentColor" not in svg and "#010203" not in svg
        table = pd.read_csv(io.BytesIO(files[f"{plot.name}.csv"]))
        assert len(table.columns) >= 1
    blocks = next(plot for plot in plots if plot.name == "blocks")
    assert blocks.data["somas"].sum() == 60 and len(blocks.data) == 6


def verdicts(somas, at=NO_SEAMS):
    return {c.question.split()[1]: c.verdict for c in check_somas(somas, BOUNDS, at)}


def test_verdicts_on_a_plausible_and_on_an_empty_table():
    somas = make_somas(300)
    assert set(verdicts(somas).values()) == {GOOD}
    few = verdicts(make_somas(3))
    assert few.pop("somas") == GOOD and set(few.values()) == {UNKNOWN}  # without seams
    assert CHECK not in verdicts(make_somas(0)).values()


def test_each_check_detects_its_fault():
    good = make_somas(300)

    def failed(somas, at=NO_SEAMS):
        return [c.question for c in check_somas(somas, BOUNDS, at) if c.verdict == CHECK]

    crowded = good.assign(nearest_nm=good["nearest_nm"] / 10)
    assert failed(crowded) == ["Is the number of somas plausible?"]
    sizes = good.assign(volume_um3=np.where(np.arange(300) % 3 == 0, 900.0, good["volume_um3"]))
    assert "Do soma sizes have a single peak?" in failed(sizes)
    crumbs = good.assign(volume_um3=np.where(np.arange(300) % 5 == 0, 3.0, good["volume_um3"]))
    assert "Are fragments rare?" in failed(crumbs)
    many = good.assign(neurites=2)
    assert failed(many) == ["Does each soma have one neurite?"]
    nuclei = good.assign(n_nuclei=np.where(np.arange(300) % 10 == 0, 2, 1))
    assert failed(nuclei) == ["Does each soma have one nucleus?"]
    assert failed(good.assign(n_nuclei=1)) == []
    at = seams(np.arange(1, 3) * 20e3, [], [])
    assert failed(good, at) == []
    cut = good.copy()
    near = np.abs(cut["bb_end_x_nm"] - 20e3) < 4000
    cut.loc[near, "bb_end_x_nm"] = 20e3
    assert failed(cut, at) == ["Are somas intact at seams between blocks?"]


def test_seam_distances_are_to_the_nearest_seam():
    somas = make_somas(200)
    at = np.array([15e3, 22e3, 48e3])
    distances = face_distances(somas, Seams((at, at[:0], at[:0]), (1e4, 1e4, 1e4)))
    whole = somas[~somas["touches_edge"]]
    ends = np.concatenate([whole["bb_start_x_nm"], whole["bb_end_x_nm"]])
    assert distances == pytest.approx(np.abs(ends[:, None] - at).min(axis=1))
    assert len(face_distances(somas, seams([], [], []))) == 0
