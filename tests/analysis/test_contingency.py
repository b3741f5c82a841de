"""Contingency tables are exact, complete and additive."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flysoma.analysis.metrics import contingency as module
from flysoma.analysis.metrics.contingency import contingency, merge, overlap_table
from flysoma.errors import UserError

IDS = st.sampled_from([0, 1, 2, 7, 2**32 + 1, 2**53 + 1, 2**64 - 1])
LABELS = hnp.arrays(np.uint64, (4, 5, 6), elements=IDS)


def as_dict(table):
    return {
        (int(x), int(y)): int(n) for x, y, n in zip(table.a, table.b, table.counts, strict=True)
    }


@settings(deadline=None, max_examples=40)
@given(LABELS, LABELS)
def test_counts_every_pair_exactly(a, b):
    expected = Counter(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    assert as_dict(contingency(a, b)) == dict(expected)


@settings(deadline=None, max_examples=20)
@given(LABELS, LABELS)
def test_large_tables_are_counted_like_small_ones(a, b):
    limit = module._DENSE_CELLS
    small = contingency(a, b)
    try:
        module._DENSE_CELLS = 0
        large = contingency(a, b)
    finally:
        module._DENSE_CELLS = limit
    assert as_dict(small) == as_dict(large)


@settings(deadline=None, max_examples=30)
@given(LABELS, LABELS, st.integers(0, 4), st.integers(0, 5))
def test_blocks_add_up_to_the_whole(a, b, z, y):
    cuts = np.s_[:z, :y], np.s_[z:, :y], np.s_[:z, y:], np.s_[z:, y:]
    parts = [contingency(a[c], b[c]) for c in cuts]
    whole = contingency(a, b)
    assert as_dict(merge(parts)) == as_dict(whole)
    assert as_dict(merge(parts[::-1])) == as_dict(whole)
    assert np.array_equal(merge(parts).a, whole.a)


def test_neighbouring_ids_beyond_float_precision_stay_apart():
    a = np.array([2**63, 2**63 + 1, 2**63 + 2, 0], np.uint64)
    b = np.array([1, 1, 0, 5], np.uint8)
    labels_a, labels_b, counts = overlap_table(a, b)
    assert labels_a.tolist() == [2**63, 2**63 + 1]
    assert labels_b.tolist() == [1, 1] and counts.tolist() == [1, 1]


def test_memory_order_does_not_matter():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, (5, 6, 7)).astype(np.uint32)
    b = rng.integers(0, 4, (5, 6, 7)).astype(np.int64)
    assert as_dict(contingency(np.asfortranarray(a), b)) == as_dict(contingency(a, b))


def test_bool_and_empty_arrays_work():
    mask = np.array([True, False, True])
    assert as_dict(contingency(mask, mask)) == {(0, 0): 1, (1, 1): 2}
    assert contingency(np.zeros((0, 3), int), np.zeros((0, 3), int)).voxels == 0
    assert merge([]).voxels == 0


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "same shape"),
        (np.zeros(2), np.zeros(2, int), "whole numbers"),
        (np.array([-1, 0]), np.zeros(2, int), "negative"),
    ],
)
def test_wrong_input_is_refused_in_one_line(a, b, word):
    with pytest.raises(UserError, match=word) as caught:
        contingency(a, b)
    assert "\n" not in str(caught.value)
