"""Scores: invariance to ids and blocks, agreement with skimage, and hand-derived cases."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import metrics as skimage_metrics

from flysoma.analysis.metrics.contingency import contingency
from flysoma.analysis.metrics.evaluation import evaluate_arrays
from flysoma.analysis.metrics.matching import match
from flysoma.analysis.metrics.objects import find_objects, merge_objects
from flysoma.analysis.metrics.surface_distance import surface, surface_distances
from flysoma.errors import UserError

VOXEL_NM = (1000.0, 1000.0, 1000.0)  # one voxel is 1 um3
LABELS = hnp.arrays(np.uint32, (3, 6, 8), elements=st.integers(0, 5))


def boxes(*spans, shape=(4, 10, 60)):
    """Labels 1, 2, ... filling x ranges of a volume whose cross-section is 4 x 10."""
    labels = np.zeros(shape, np.uint64)
    for label, (start, stop) in enumerate(spans, start=1):
        labels[:, :, start:stop] = label
    return labels


def score_all(pred, truth, **options):
    return evaluate_arrays(pred, truth, VOXEL_NM, min_truth_um3=0.0, **options).scores


@settings(deadline=None, max_examples=30)
@given(LABELS)
def test_a_perfect_prediction_is_perfect_in_every_score(truth):
    scores = score_all(truth, truth)
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

    before, after = (
        score_all(pred, truth).to_dict(),
        score_all(renamed(pred), renamed(truth)).to_dict(),
    )
    assert before.pop("by_size") == after.pop("by_size")
    assert before.pop("ap") == pytest.approx(after.pop("ap"))
    assert before == pytest.approx(after)


@settings(deadline=None, max_examples=30)
@given(LABELS, LABELS, st.tuples(*[st.integers(1, 7)] * 3))
def test_blocks_score_like_the_whole(pred, truth, block):
    whole = evaluate_arrays(pred, truth, VOXEL_NM, min_edge_um3=9)
    blocks = evaluate_arrays(pred, truth, VOXEL_NM, min_edge_um3=9, block=block)
    assert blocks.scores == whole.scores
    assert blocks.cases == whole.cases


@settings(deadline=None, max_examples=40)
@given(LABELS, LABELS)
def test_information_scores_agree_with_skimage(pred, truth):
    scores = score_all(pred, truth)
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
    assert match(contingency(pred, truth)).matched_pred(0.5).sum() == best


def test_shifted_object_matches_up_to_its_iou():
    truth, pred = boxes((10, 20)), boxes((12, 22))  # 8 shared of 12: IoU 2/3
    scores = score_all(pred, truth)
    assert scores.mean_iou == pytest.approx(2 / 3)
    assert scores.jaccard == pytest.approx(2 / 3) and scores.dice == pytest.approx(0.8)
    assert [scores.ap[f"{t:.2f}"] for t in (0.5, 0.65, 0.7)] == [1, 1, 0]
    assert scores.map == pytest.approx(0.4)


def test_the_volume_bias_is_the_median_over_matches():
    truth, pred = boxes((0, 10), (20, 30), (40, 50)), boxes((0, 11), (20, 29), (40, 52))
    bias = evaluate_arrays(pred, truth, VOXEL_NM, min_truth_um3=0.0).matching.volume_bias
    assert bias == pytest.approx(0.1)
    nothing = evaluate_arrays(boxes(), truth, VOXEL_NM, min_truth_um3=0.0)
    assert nothing.matching.volume_bias == 0


def test_average_precision_of_a_false_alarm_that_ranks_first():
    truth = boxes((0, 5), (10, 15))
    pred = boxes((0, 5), (10, 15), (20, 30))  # the wrong one is the largest, so it ranks first
    scores = score_all(pred, truth)
    assert scores.precision == pytest.approx(2 / 3) and scores.recall == 1
    assert scores.ap50 == pytest.approx(2 / 3)


def test_average_precision_of_a_miss_and_a_late_false_alarm():
    truth = boxes((0, 8), (10, 15))
    pred = boxes((0, 8), (20, 22))
    assert score_all(pred, truth).ap50 == pytest.approx(51 / 101)  # recall 0 to 0.5 at precision 1


def test_merges_and_splits_are_distinguished():
    whole, halves = boxes((0, 20)), boxes((0, 10), (10, 20))
    merged, split = score_all(whole, halves), score_all(halves, whole)
    assert (merged.merges, merged.splits) == (1, 0)
    assert (split.merges, split.splits) == (0, 1)
    assert merged.voi_merge == pytest.approx(1) and merged.voi_split == 0
    assert split.voi_split == pytest.approx(1) and split.voi_merge == 0
    assert merged.f1 == pytest.approx(2 / 3)  # IoU is exactly 0.5 with either half


def test_small_true_fragments_count_neither_as_missed_nor_as_false():
    truth, both, without = boxes((0, 10), (30, 31)), boxes((0, 10), (30, 31)), boxes((0, 10))
    for pred in (both, without):
        scores = evaluate_arrays(pred, truth, VOXEL_NM, min_truth_um3=41).scores
        assert (scores.truth, scores.truth_ignored, scores.f1, scores.ap50) == (1, 1, 1, 1)
        assert scores.centroid_f1 == 1
    assert evaluate_arrays(both, truth, VOXEL_NM, min_truth_um3=41).scores.predicted_ignored == 1
    assert score_all(without, truth).recall == 0.5


def test_partial_somas_at_the_border_can_be_ignored():
    truth, pred = boxes((10, 20), (58, 60)), boxes((10, 20))
    assert score_all(pred, truth).recall == 1 / 2
    inner = np.zeros((6, 12, 62), np.uint64)
    inner[1:-1, 1:-1, :-2] = truth  # no object touches the border
    assert score_all(np.zeros_like(inner), inner, min_edge_um3=100).truth == 2
    inner[1:-1, 1:-1, 58:] = 2
    scores = score_all(np.where(inner == 2, 0, inner), inner, min_edge_um3=1000)
    assert (scores.truth, scores.truth_ignored, scores.f1) == (1, 1, 1)
    # nor do predicted fragments count as false
    scores = score_all(inner, np.where(inner == 2, 0, inner), min_edge_um3=1000)
    assert (scores.predicted, scores.predicted_ignored, scores.f1) == (1, 1, 1)


def test_published_drops_small_truth_and_counts_predictions_there_as_false():
    truth = np.zeros((10, 40, 60), np.uint32)
    truth[:, :, :10] = 1  # 4000 voxels
    truth[:, :, 20:24] = 2  # 1600 voxels
    scores = evaluate_arrays(truth, truth, VOXEL_NM, published=True).scores
    assert (scores.truth, scores.recall, scores.precision) == (1, 1, 0.5)
    assert scores.centroid_precision == 0.5
    assert scores.ap50 == 1  # the false one is smaller and ranks last


def test_centroid_detection_forgives_a_bad_outline():
    truth, pred = boxes((10, 20)), boxes((14, 16))
    scores = score_all(pred, truth)
    assert scores.f1 == 0 and scores.centroid_f1 == 1
    twice = score_all(boxes((11, 13), (16, 18)), truth)
    assert (twice.centroid_precision, twice.centroid_recall) == (0.5, 1)


def test_an_empty_prediction_of_an_empty_volume_is_perfect():
    nothing, something = boxes(), boxes((0, 5))
    assert score_all(nothing, nothing).f1 == score_all(nothing, nothing).map == 1
    false = score_all(something, nothing)
    assert (false.f1, false.ap50, false.dice, false.centroid_f1) == (0, 0, 0, 0)
    missed = score_all(nothing, something)
    assert (missed.f1, missed.recall, missed.ap50, missed.dice) == (0, 0, 0, 0)


def test_somas_are_scored_by_size():
    truth = boxes((0, 1), (4, 5), (20, 30), (40, 50))  # 40 um3 twice, 400 um3 twice
    # one of each size is found, one false prediction is small, one large soma is covered by less than half
    pred = boxes((0, 1), (20, 30), (55, 56), (40, 44))
    small, middle, large = score_all(pred, truth).by_size.values()
    assert (small.truth, small.found, small.ap50) == (0, 0, 1)  # no objects and no predictions
    assert (middle.truth, middle.found) == (2, 1)
    # predictions of equal rank enter together
    assert middle.ap50 == pytest.approx(51 / 101 * 1 / 2)
    assert (large.truth, large.found) == (2, 1)
    # the partial prediction is in another size bin (160 um3)
    assert large.ap50 == pytest.approx(51 / 101 * 1 / 1)


def test_confidence_ranks_instead_of_size():
    truth, pred = boxes((0, 5), (10, 15)), boxes((0, 5), (10, 15), (20, 30))
    confidence = {1: 0.9, 2: 0.8, 3: 0.1}
    assert score_all(pred, truth).ap50 == pytest.approx(2 / 3)
    assert score_all(pred, truth, confidence=confidence).ap50 == 1
    # objects without confidence rank last
    assert score_all(pred, truth, confidence={3: 0.5}).ap50 == pytest.approx(2 / 3)


def test_cases_describe_errors_with_the_largest_first():
    truth = boxes((0, 6), (6, 11), (20, 30), (40, 50), (52, 54))
    pred = boxes((0, 11), (20, 26), (26, 30), (41, 50), (56, 60))
    cases = evaluate_arrays(pred, truth, VOXEL_NM, min_truth_um3=0.0).cases
    assert [(c.kind, c.pred, c.truth, round(c.wrong_um3)) for c in cases] == [
        ("merge", (1,), (1, 2), 200),
        ("split", (2, 3), (3,), 160),
        ("false", (5,), (), 160),
        ("missed", (), (5,), 80),
        ("border", (4,), (4,), 40),
    ]
    assert cases[0].centre == (2, 4, 2)  # of its first true object, x 0..5
    assert cases[-1].box == ((0, 0, 39), (4, 10, 51))  # padded by one voxel


def test_boundary_distance_of_shifted_and_of_nested_objects():
    voxel_nm = (40.0, 64.0, 64.0)
    # the objects continue beyond all faces except in x
    truth, pred = boxes((10, 20)), boxes((12, 22))
    scores = evaluate_arrays(pred, truth, voxel_nm, min_truth_um3=0.0).scores
    assert scores.boundary_mean_nm == scores.boundary_p95_nm == 2 * 64
    assert score_all(truth, truth).boundary_mean_nm == 0
    assert score_all(boxes(), truth).boundary_mean_nm is None

    grid = np.ogrid[-12:13, -12:13, -12:13]
    radius = np.sqrt(sum(g**2 for g in grid))
    inner, outer = radius <= 6, radius <= 9
    distances = surface_distances(inner, outer, (10.0, 10.0, 10.0))
    surfaces = surface(inner), surface(outer)
    assert distances.max() == pytest.approx(10 * skimage_metrics.hausdorff_distance(*surfaces))
    assert distances.mean() == pytest.approx(30, abs=3)
    assert surface(np.ones((3, 3, 3), bool)).sum() == 0


def test_more_than_255_objects_keep_their_own_ids():
    truth = np.arange(1, 1001, dtype=np.uint64).reshape(10, 10, 10)
    scores = score_all(truth + np.uint64(2**60), truth)
    assert (scores.truth, scores.f1, scores.centroid_f1) == (1000, 1, 1)


def test_objects_of_blocks_add_up_and_know_the_border():
    labels = np.zeros((5, 6, 7), np.uint64)
    labels[0, 2, 2], labels[2, 5, 2:4], labels[1:3, 2, 3] = 2**60, 9, 5
    whole = find_objects(labels)
    parts = merge_objects([find_objects(labels[:2]), find_objects(labels[2:], (2, 0, 0))])
    for name in ("ids", "voxels", "sums", "lo", "hi"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    assert whole.centroids.tolist() == [[1.5, 2, 3], [2, 5, 2.5], [0, 2, 2]]
    assert whole.at_border(labels.shape).tolist() == [9, 2**60]


def test_scores_go_to_json_and_to_a_readable_table():
    scores = score_all(boxes((0, 10)), boxes((0, 9), (20, 30)))
    assert json.loads(json.dumps(scores.to_dict()))["ap"]["0.50"] == pytest.approx(51 / 101)
    text = scores.format()
    assert "precision 1.000  recall 0.500" in text and "ARAND" in text
    assert len({line.index("  ") > 0 for line in text.splitlines()}) == 1


def test_wrong_shapes_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"\(2, 3, 4\).*\(2, 3, 5\)"):
        evaluate_arrays(np.zeros((2, 3, 4), int), np.zeros((2, 3, 5), int), VOXEL_NM)
    with pytest.raises(UserError, match="three axes"):
        evaluate_arrays(np.zeros((3, 4), int), np.zeros((3, 4), int), VOXEL_NM)
