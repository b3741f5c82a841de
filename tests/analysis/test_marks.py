"""Scores of a section against marked discs, on arrays small enough to count the answer by hand."""

import numpy as np
import pytest

from flysoma.analysis.metrics.marks import GroupCounts, Mark, SectionCounts, score_marks
from flysoma.analysis.pages.marks import marks_figure

PIXEL_NM = 500.0  # four pixels are 1 um2, one pixel is the width of a rim


def section(*boxes, shape=(20, 20)):
    """Labels 1, 2, ... of boxes (y from, y to, x from, x to)."""
    labels = np.zeros(shape, np.uint32)
    for label, (top, bottom, left, right) in enumerate(boxes, start=1):
        labels[top:bottom, left:right] = label
    return labels


def score(labels, *marks, **rest):
    return score_marks(labels, marks, PIXEL_NM, **rest)


def test_a_disc_of_radius_two_has_thirteen_pixels():
    disc = Mark(5, 7, 2).disc((20, 20))
    assert disc.sum() == 13 and disc[7, 3] and disc[9, 5] and not disc[8, 3]
    assert Mark(0, 0, 2).disc((20, 20)).sum() == 6  # the quarter that lies in the image


@pytest.mark.parametrize(
    ("box", "iou", "verdict", "at_half"),
    [
        ((5, 10, 3, 8), 13 / 25, "found", 1),  # 5 x 5 around the disc
        ((5, 10, 3, 9), 13 / 30, "found", 0),  # 5 x 6
        ((5, 10, 3, 10), 13 / 35, "outline", 0),  # 5 x 7: 0.371
        ((7, 8, 3, 8), 5 / 13, "outline", 0),  # the row through the middle
        ((9, 10, 3, 8), 1 / 17, "missed", 0),  # a row that has one pixel of the disc
        ((15, 16, 15, 16), 0.0, "missed", 0),
    ],
)
def test_a_mark_is_found_at_an_iou_of_two_fifths(box, iou, verdict, at_half):
    result = score(section(box), Mark(5, 7, 2))
    (mark,) = result.marks
    assert mark.verdict == verdict and mark.iou == pytest.approx(iou)
    assert mark.label == (1 if iou else 0)
    assert result.counts.whole == GroupCounts(**{"marks": 1, verdict: 1, "found_50": at_half})


def test_an_object_on_a_quarter_of_a_disc_is_an_outline_and_less_is_missed():
    """Three of thirteen pixels are 0.23, four are 0.31."""
    three, four = section((7, 8, 3, 6)), section((7, 8, 3, 7))
    assert score(three, Mark(5, 7, 2)).marks[0].verdict == "missed"
    assert score(four, Mark(5, 7, 2)).marks[0].verdict == "outline"


def test_an_object_with_two_certain_marks_merges_them():
    labels = section((5, 10, 3, 13))  # 50 pixels over two discs of 13
    result = score(labels, Mark(5, 7, 2), Mark(10, 7, 2))
    assert [mark.verdict for mark in result.marks] == ["merged", "merged"]
    assert result.counts.merges == 1 and result.counts.whole.merged == 2
    cut = score(labels, Mark(5, 7, 2), Mark(10, 7, 2, cut_by_edge=True))
    assert cut.counts.merges == 1
    assert cut.counts.whole == GroupCounts(marks=1, merged=1)
    assert cut.counts.cut == GroupCounts(marks=1, merged=1)


def test_an_uncertain_mark_neither_merges_nor_counts_as_an_error():
    labels = section((5, 10, 3, 8))
    labels[labels == 1] = 7
    result = score(labels, Mark(5, 7, 2), Mark(5, 8, 2, certain=False), Mark(15, 15, 2, False))
    assert result.counts.whole == GroupCounts(marks=1, found=1, found_50=1)
    assert result.counts.uncertain.marks == 2 and result.counts.uncertain.missed == 1
    assert result.counts.merges == 0 and result.marks[0].label == 7


def test_the_object_with_the_highest_iou_counts():
    labels = section((5, 10, 3, 8), (4, 5, 3, 8))
    labels[5, 3:8] = 2  # takes a pixel of the disc
    result = score(labels, Mark(5, 7, 2))
    assert result.marks[0].label == 1 and result.marks[0].iou == pytest.approx(12 / 21)


def test_objects_without_a_mark_count_if_they_have_one_um2():
    """No mark is near (15, 15); three pixels are 0.75 um2, four are 1 um2."""
    for pixels, role, unmarked in ((3, "small", 0), (4, "unmarked", 1)):
        result = score(section((15, 16, 12, 12 + pixels)), Mark(5, 7, 2))
        assert result.objects[0].role == role
        assert result.objects[0].area_um2 == pytest.approx(pixels / 4)
        assert result.counts.unmarked == unmarked and result.counts.objects == 1


def test_an_object_at_the_rim_of_a_mark_is_not_an_object_without_a_mark():
    """The disc dilated by one pixel extends to column 8 in row 7; two of four pixels from column 7 on lie in it."""
    at_rim, outside = section((7, 8, 7, 11)), section((7, 8, 8, 12))
    assert score(at_rim, Mark(5, 7, 2)).objects[0].role == "rim"
    assert score(outside, Mark(5, 7, 2)).objects[0].role == "unmarked"
    assert score(at_rim, Mark(5, 7, 2)).counts.unmarked == 0
    assert score(at_rim, Mark(5, 7, 2, certain=False)).objects[0].role == "rim"


def test_objects_in_areas_without_somas_are_counted():
    right = [(9.5, -0.5), (19.5, -0.5), (19.5, 19.5), (9.5, 19.5)]  # columns 10 to 19
    labels = section((1, 3, 12, 15), (5, 7, 8, 12), (9, 11, 8, 13), (18, 19, 17, 20))
    result = score(labels, no_soma=[right])
    inside = {item.label: item.in_no_soma for item in result.objects}
    assert inside == {1: True, 2: False, 3: True, 4: False}  # all; half; six of ten; small
    assert result.counts.in_no_soma == 2 and result.counts.unmarked == 3


def test_invalid_pixels_are_excluded():
    labels = section((5, 10, 3, 8), (15, 17, 15, 17))
    valid = np.ones((20, 20), bool)
    valid[:7] = False  # rows 5 and 6: four pixels of the disc, ten of the object
    valid[16] = False  # half of the other object
    result = score(labels, Mark(5, 7, 2), valid=valid)
    assert result.marks[0].iou == pytest.approx(9 / 15) and result.marks[0].verdict == "found"
    assert result.objects[1].area_um2 == 0.5 and result.counts.unmarked == 0
    valid[:8] = False  # four of thirteen are left
    hidden = score(labels, Mark(5, 7, 2), valid=valid)
    assert hidden.counts.whole == GroupCounts(marks=1, hidden=1)


def test_a_mark_cut_by_the_edge_is_scored_by_its_part_inside_the_image():
    result = score(section((0, 3, 0, 3)), Mark(0, 0, 2, cut_by_edge=True))
    assert result.marks[0].iou == pytest.approx(6 / 9)
    assert result.counts.cut.found == 1 and result.counts.whole.marks == 0


def test_a_section_without_objects_or_marks():
    empty = np.zeros((20, 20), np.uint32)
    assert score(empty).counts == SectionCounts()
    assert score(empty, Mark(5, 7, 2)).counts.whole == GroupCounts(marks=1, missed=1)
    outside = score(empty, Mark(40, 40, 2))
    assert outside.counts.whole.hidden == 1


def test_counts_can_be_added_and_verdicts_written_as_json():
    labels = section((5, 10, 3, 8))
    first = score(labels, Mark(5, 7, 2, kind="glia"))
    both = first.counts + score(labels, Mark(15, 15, 2)).counts
    assert both.whole == GroupCounts(marks=2, found=1, found_50=1, missed=1)
    assert both.objects == 2 and both.unmarked == 1
    content = first.to_json()
    assert content["marks"][0]["kind"] == "glia" and content["marks"][0]["verdict"] == "found"
    assert content["objects"] == [
        {"label": 1, "area_um2": 6.25, "role": "mark", "in_no_soma": False}
    ]


def test_the_picture_is_a_png_with_the_same_bytes_each_time():
    labels = section((5, 10, 3, 8), (15, 18, 15, 18))
    image = np.full((20, 20), 90, np.uint8)
    valid = np.ones((20, 20), bool)
    valid[0] = False
    result = score(labels, Mark(5, 7, 2, kind="neuron"), Mark(15, 5, 2, False), valid=valid)
    areas = [[(0.0, 0.0), (9.0, 0.0), (9.0, 3.0)]]
    pictures = [marks_figure("toy", image, labels, result, areas, valid) for _ in range(2)]
    assert pictures[0] == pictures[1] and pictures[0].startswith(b"\x89PNG")
