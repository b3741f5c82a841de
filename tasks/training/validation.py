"""Validation by soma: how many somas of the held-out volumes a network gets right. Arrays are z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import edt
import numpy as np

from ...analysis.metrics.evaluation import MIN_EDGE_UM3, MIN_TRUTH_UM3, match_arrays
from ...analysis.metrics.matching import pool_matchings
from ...models.inference.instances import make_instances
from ...models.inference.predictor import Predictor, predict_all
from ...models.inference.seeds import drop_duplicates, find_seeds
from ...models.networks.network import Network
from ...models.training.config import TrainConfig
from ...models.training.dataset import Volume
from ...models.training.targets import UNKNOWN
from ...models.training.validation import score_voxels
from ..config import Locate, Predict, Segment


def score_somas(network: Network, volumes: Sequence[Volume], config: TrainConfig) -> dict[str, Any]:
    """Score a network by voxel and by soma.

    segment     AP50 of the somas that grow from a seed in the middle of each true soma
    locate      F1 of the seeds: a true soma is detected if it holds a seed; a seed is false if it lies in no soma, or
                in one that holds another seed

    Returns:
      The scores by name. `score` orders networks: the score by soma, then the IoU of the voxels.
    """
    scores = score_voxels(network, volumes, config)
    by_soma = (_segment if config.role == "segment" else _locate)(network, volumes)
    return scores | by_soma | {"score": [*by_soma.values(), scores["iou"]]}


def _segment(network: Network, volumes: Sequence[Volume]) -> dict[str, float]:
    predictor, voxel_nm, matchings = Predictor(network), network.spec.voxel_nm, []
    for volume in volumes:
        threshold = Segment().interior_threshold
        interior, boundary = _probabilities(predictor, volume, threshold)[:2]
        seeds = _middles(np.where(volume.labels == UNKNOWN, 0, volume.labels), voxel_nm)
        labels, owner, _ = make_instances(
            interior, boundary, seeds, voxel_nm, threshold, MIN_TRUTH_UM3
        )
        labels = np.where(np.append(-1, owner)[labels] < 0, 0, labels)  # a soma has a seed
        matchings.append(match_arrays(labels, volume.labels, voxel_nm, MIN_EDGE_UM3, {UNKNOWN}))
    return {"ap50": round(pool_matchings(matchings).average_precision(0.5), 4)}


def _locate(network: Network, volumes: Sequence[Volume]) -> dict[str, float]:
    predictor, voxel_nm, rule = Predictor(network), network.spec.voxel_nm, Locate()
    hits = scored_seeds = somas = 0
    for volume in volumes:
        probability = _probabilities(predictor, volume)[0]
        seeds = find_seeds(probability, voxel_nm, rule.threshold, rule.min_core_um3)
        keep = drop_duplicates(
            (seeds.positions + 0.5) * voxel_nm, seeds.scores, rule.min_distance_nm
        )
        places = np.rint(seeds.positions[keep]).astype(int)
        under = volume.labels[tuple(places.T)]
        scored = match_arrays(
            np.zeros_like(volume.labels), volume.labels, voxel_nm, MIN_EDGE_UM3, {UNKNOWN}
        ).truth
        ignored = np.setdiff1d(np.unique(volume.labels), [0, *scored.tolist()])
        scored_seeds += int((~np.isin(under, ignored)).sum())
        hits += len(np.intersect1d(under, scored))
        somas += len(scored)
    total = scored_seeds + somas
    return {"seed_f1": round(2 * hits / total if total else 1.0, 4)}


def _probabilities(
    predictor: Predictor, volume: Volume, threshold: float | None = None
) -> np.ndarray:
    return predict_all(predictor, volume.image, *Predict().windows_zyx, threshold)


def _middles(labels: np.ndarray, voxel_nm: tuple[float, float, float]) -> np.ndarray:
    """Return the deepest voxel of each soma, (n, 3)."""
    depth = edt.edt(labels, anisotropy=voxel_nm, black_border=False, parallel=1).ravel()
    flat = labels.ravel()
    order = np.lexsort((-depth, flat))
    order = order[flat[order] > 0]
    first = np.ones(len(order), bool)
    first[1:] = flat[order][1:] != flat[order][:-1]
    return np.stack(np.unravel_index(order[first], labels.shape), axis=1).astype(float)
