"""Nuclei of labels: blocks add up to the whole, and components are counted by volume."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from flysoma.analysis.morphology.nuclei import classify, count_nuclei
from flysoma.models.inference.nuclei import nuclei_of, nucleus_sums

VOXEL_NM = (40.0, 64.0, 64.0)


def fields(seed, shape=(14, 12, 10), labels=4):
    """Random labels, and smooth random probabilities of a nucleus and of glia."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.random((2, *shape)), (0, 1, 1, 1)) * 2 - 0.5
    probability = np.clip(noise * 255, 0, 255).astype(np.uint8)
    return rng.integers(0, labels + 1, shape).astype(np.uint32), *probability


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, 14), max_size=4), st.integers(0, 12))
def test_blocks_add_up_to_the_whole_volume(seed, z_cuts, y_cut):
    labels, nucleus, glia = fields(seed)
    whole = nuclei_of(labels, nucleus)
    sums = np.zeros((4, 2), np.int64)
    edges = [0, *sorted(z_cuts), len(labels)]
    for z in map(slice, edges, edges[1:]):
        for y in (slice(y_cut), slice(y_cut, None)):
            part = nuclei_of(labels[z, y], nucleus[z, y])
            assert (part == whole[z, y]).all()
            sums += nucleus_sums(labels[z, y], part, glia[z, y], 4)
    assert (sums == nucleus_sums(labels, whole, glia, 4)).all()
    assert set(np.unique(whole)) <= {0, 1, 2, 3, 4} and whole.dtype == labels.dtype
    for label in range(1, 5):
        own = labels == label
        assert sums[label - 1].tolist() == [(own & (nucleus > 127)).sum(), glia[own].sum()]
        assert (whole[own & (nucleus > 127)] == label).all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), max_size=5), st.permutations((0, 1, 2)))
def test_components_count_from_a_least_volume_on(edges, order):
    mask = np.zeros((40, 8, 8), bool)
    for number, edge in enumerate(edges):
        mask[8 * number : 8 * number + edge, 1 : 1 + edge, 1 : 1 + edge] = True
    voxel_um3 = float(np.prod(VOXEL_NM)) * 1e-9
    nuclei = count_nuclei(mask.transpose(order), VOXEL_NM, 27 * voxel_um3)
    large = sum(edge >= 3 for edge in edges)
    together = sum(edge**3 for edge in edges) >= 27
    assert nuclei.number == max(large, int(together))
    if nuclei.number:
        assert mask.transpose(order)[tuple(int(p) for p in nuclei.centre)]
    else:
        assert np.isnan(nuclei.centre).all()


def test_a_class_needs_a_nucleus():
    kinds = classify(np.array([True, True, False, False]), np.array([0.2, 0.8, 0.2, 0.8]))
    assert kinds.tolist() == ["neuron", "glia", "other", "other"]
