"""The shipped weights on real tissue; a test skips where its data is absent."""

from pathlib import Path

import numpy as np
import pytest

from flysoma.tasks.arrays import predict_array

DATA = Path(__file__).parents[1] / "data"


def test_no_soma_in_a_crop_of_real_fly_neuropil():
    with np.load(DATA / "fib25_crop.npz") as file:
        assert not predict_array(file["image"], (20.0, 20.0, 20.0)).labels.any()


@pytest.mark.slow
def test_no_soma_in_real_fly_neuropil(shared_data):
    with np.load(shared_data("neuropil/fib25_medulla_20nm_zyx.npz")) as file:
        assert not predict_array(file["image"], (20.0, 20.0, 20.0)).labels.any()


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_somas_of_a_real_section_are_separate_and_resin_is_empty(shared_data):
    from PIL import Image

    section = np.asarray(Image.open(shared_data("fanc/fanc_rind_2d_40nm.png")).convert("L"))
    labels = predict_array(np.repeat(section[None], 96, axis=0), (40.0, 40.0, 40.0)).labels[48]
    somas = {label for label in np.unique(labels) if (labels == label).sum() > 2000} - {0}
    assert len(somas) >= 15
    y, x = np.indices(section.shape)
    sheath = np.interp(x, [465, 610, 725, 820, 940], [0, 120, 217, 300, 415])  # its outer face
    resin = y < sheath - 10
    assert not labels[resin].any()
