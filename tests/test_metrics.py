"""Scores: perfect is 1, ids decide nothing, blocks add up, hand-made cases and skimage agree."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import metrics as skimage_metrics

from flysoma.analysis.matching import match
from flysoma.analysis.metrics import evaluate, labels_at_border, score
from flysoma.analysis.overlap import contingency
from flysoma.errors import UserError

VOXEL_NM = (1000.0, 1000.0, 1000.0)  # one voxel is 1 um3
LABELS = hnp.arrays(np.uint32, (3, 6, 8), elements=st.integers(0, 5))


def boxes(*spans, shape=(4, 10, 60)):
    """Labels 1, 2, ... filling x ranges of a volume whose cross-section is 4 x 10."""
    labels = np.zeros(shape, np.uint64)
    for label, (start, stop) in enumerate(spans, start=1):
        labels[:, :, start:stop] = label
    return labels


def plain(pred, truth, **options):
    return evaluate(pred, truth, VOXEL_NM, min_truth_um3=0.0, **options)


@settings(deadline=None, max_examples=30)
@given(LABELS)
def test_a_perfect_prediction_is_perfect_in_every_score(truth):
    scores = plain(truth, truth)
    assert (scores.precision, scores.recall, scores.f1) == (1, 1, 1)
    assert (scores.ap50, scores.ap75, scores.map) == (1, 1, 1)
    assert (scores.mean_iou, scores.dice, scores.jaccard) == (1, 1, 1)
    assert (scores.merges, scores.splits) == (0, 0)
    assert (scores.voi_split, scores.voi_merge, scores.arand) == pytest.approx((0, 0, 0))


@settings(deadline=None, max_examples=30)
@given(LABELS, LABELS, st.randoms(use_true_random=False))
def test_renaming_labels_changes_nothing(pred, truth, random):
    def renamed(labels):
        names = np.array([0, *random.sample(range(1, 2**62), 5)], np.uint64)
        return names[labels]

    before, after = plain(pred, truth).to_dict(), plain(renamed(pred), renamed(truth)).to_dict()
    assert before.pop("recall_by_size") == after.pop("recall_by_size")
    assert before.pop("ap") == pytest.approx(after.pop("ap"))
    assert before == pytest.approx(after)


@settings(deadline=None, max_examples=30)
@given(LABELS, LABELS, st.integers(0, 6))
def test_tables_of_blocks_score_like_the_whole(pred, truth, cut):
    whole = score(contingency(pred, truth), 1.0)
    left = contingency(pred[:, :cut], truth[:, :cut])
    right = contingency(pred[:, cut:], truth[:, cut:])
    assert score(left + right, 1.0) == whole


@settings(deadline=None, max_examples=40)
@given(LABELS, LABELS)
def test_information_scores_agree_with_skimage(pred, truth):
    scores = plain(pred, truth)
    if not truth.any():
        assert (scores.voi_split, scores.voi_merge, scores.arand) == (0, 0, 0)
        return
    merge, split = skimage_metrics.variation_of_information(
        pred, truth, table=_swapped(pred, truth)
    )
    assert (scores.voi_split, scores.voi_merge) == pytest.approx((split, merge), abs=1e-9)
    inside = truth[truth > 0].astype(np.int64), pred[truth > 0].astype(np.int64)
    with np.errstate(invalid="ignore"):
        error, _, _ = skimage_metrics.adapted_rand_error(*inside, ignore_labels=())
    assert scores.arand == pytest.approx(np.nan_to_num(error), abs=1e-9)


def _swapped(pred, truth):
    return skimage_metrics.contingency_table(
        truth.astype(np.int64), pred.astype(np.int64), ignore_labels=(0,), normalize=True
    ).T.tocsr()


@settings(deadline=None, max_examples=40)
@given(LABELS, LABELS)
def test_the_greedy_matching_is_as_large_as_the_optimal_one(pred, truth):
    from scipy.optimize import linear_sum_assignment

    ious = np.zeros((6, 6))
    for p in range(1, 6):
        for t in range(1, 6):
            both = ((pred == p) & (truth == t)).sum()
            ious[p, t] = both / max(((pred == p) | (truth == t)).sum(), 1)
    able = ious >= 0.5
    best = able[linear_sum_assignment(~able)].sum()
    assert match(contingency(pred, truth)).hits(0.5).sum() == best


def test_shifted_object_matches_up_to_its_iou():
    truth, pred = boxes((10, 20)), boxes((12, 22))  # 8 shared of 12: IoU 2/3
    scores = plain(pred, truth)
    assert scores.mean_iou == pytest.approx(2 / 3)
    assert scores.jaccard == pytest.approx(2 / 3) and scores.dice == pytest.approx(0.8)
    assert [scores.ap[f"{t:.2f}"] for t in (0.5, 0.65, 0.7)] == [1, 1, 0]
    assert scores.map == pytest.approx(0.4)


def test_average_precision_of_a_false_alarm_that_ranks_first():
    truth = boxes((0, 5), (10, 15))
    pred = boxes((0, 5), (10, 15), (20, 30))  # the wrong one is the largest, so it ranks first
    scores = plain(pred, truth)
    assert scores.precision == pytest.approx(2 / 3) and scores.recall == 1
    assert scores.ap50 == pytest.approx(2 / 3)


def test_average_precision_of_a_miss_and_a_late_false_alarm():
    truth = boxes((0, 8), (10, 15))
    pred = boxes((0, 8), (20, 22))
    assert plain(pred, truth).ap50 == pytest.approx(51 / 101)  # recall 0 to 0.5 at precision 1


def test_merge_and_split_are_told_apart():
    whole, halves = boxes((0, 20)), boxes((0, 10), (10, 20))
    merged, split = plain(whole, halves), plain(halves, whole)
    assert (merged.merges, merged.splits) == (1, 0)
    assert (split.merges, split.splits) == (0, 1)
    assert merged.voi_merge == pytest.approx(1) and merged.voi_split == 0
    assert split.voi_split == pytest.approx(1) and split.voi_merge == 0
    assert merged.f1 == pytest.approx(2 / 3)  # IoU is exactly 0.5 with either half


def test_crumbs_of_truth_are_neither_missed_nor_false():
    truth, both, without = boxes((0, 10), (30, 31)), boxes((0, 10), (30, 31)), boxes((0, 10))
    for pred in (both, without):
        scores = evaluate(pred, truth, VOXEL_NM, min_truth_um3=41)
        assert (scores.truth, scores.truth_ignored, scores.f1, scores.ap50) == (1, 1, 1, 1)
        assert scores.centroid_f1 == 1
    assert evaluate(both, truth, VOXEL_NM, min_truth_um3=41).predicted_ignored == 1
    assert plain(without, truth).recall == 0.5


def test_partial_somas_at_the_border_can_be_ignored():
    truth, pred = boxes((10, 20), (58, 60)), boxes((10, 20))
    assert plain(pred, truth).recall == 1 / 2
    inner = np.zeros((6, 12, 62), np.uint64)
    inner[1:-1, 1:-1, :-2] = truth  # now nothing touches
    assert plain(np.zeros_like(inner), inner, min_edge_truth_um3=100).truth == 2
    inner[1:-1, 1:-1, 58:] = 2
    scores = plain(np.where(inner == 2, 0, inner), inner, min_edge_truth_um3=1000)
    assert (scores.truth, scores.truth_ignored, scores.f1) == (1, 1, 1)


def test_published_drops_small_truth_and_counts_predictions_there_as_false():
    truth = np.zeros((10, 40, 60), np.uint32)
    truth[:, :, :10] = 1  # 4000 voxels
    truth[:, :, 20:24] = 2  # 1600 voxels
    scores = evaluate(truth, truth, VOXEL_NM, published=True)
    assert (scores.truth, scores.recall, scores.precision) == (1, 1, 0.5)
    assert scores.centroid_precision == 0.5
    assert scores.ap50 == 1  # the false one is smaller and ranks last


def test_centroid_detection_forgives_a_bad_outline():
    truth, pred = boxes((10, 20)), boxes((14, 16))
    scores = plain(pred, truth)
    assert scores.f1 == 0 and scores.centroid_f1 == 1
    twice = plain(boxes((11, 13), (16, 18)), truth)
    assert (twice.centroid_precision, twice.centroid_recall) == (0.5, 1)


def test_nothing_found_in_nothing_is_perfect_and_anything_found_is_not():
    nothing, something = boxes(), boxes((0, 5))
    assert plain(nothing, nothing).f1 == plain(nothing, nothing).map == 1
    false = plain(something, nothing)
    assert (false.f1, false.ap50, false.dice, false.centroid_f1) == (0, 0, 0, 0)
    missed = plain(nothing, something)
    assert (missed.f1, missed.recall, missed.ap50, missed.dice) == (0, 0, 0, 0)


def test_truth_is_counted_by_size():
    truth = boxes((0, 1), (10, 11), (20, 30))
    scores = plain(boxes((0, 1), (20, 30)), truth)
    assert scores.recall_by_size == {"< 14": (0, 0), "14 to 65": (1, 2), "> 65": (1, 1)}


def test_more_than_255_objects_keep_their_own_ids():
    truth = np.arange(1, 1001, dtype=np.uint64).reshape(10, 10, 10)
    scores = plain(truth + np.uint64(2**60), truth)
    assert (scores.truth, scores.f1, scores.centroid_f1) == (1000, 1, 1)


def test_border_labels_are_those_on_any_face():
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[0, 2, 2], labels[2, 4, 2], labels[2, 2, 2] = 1, 2, 3
    assert labels_at_border(labels).tolist() == [1, 2]


def test_scores_go_to_json_and_to_a_readable_table():
    scores = plain(boxes((0, 10)), boxes((0, 9), (20, 30)))
    assert json.loads(json.dumps(scores.to_dict()))["ap"]["0.50"] == pytest.approx(51 / 101)
    text = scores.format()
    assert "precision 1.000  recall 0.500" in text and "ARAND" in text
    assert len({line.index("  ") > 0 for line in text.splitlines()}) == 1


def test_wrong_shapes_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"\(2, 3, 4\).*\(2, 3, 5\)"):
        evaluate(np.zeros((2, 3, 4), int), np.zeros((2, 3, 5), int), VOXEL_NM)
    with pytest.raises(UserError, match="three axes"):
        evaluate(np.zeros((3, 4), int), np.zeros((3, 4), int), VOXEL_NM)
