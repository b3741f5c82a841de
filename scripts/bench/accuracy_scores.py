"""The scores of the accuracy benchmark, pool_matchings over phantoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...analysis.metrics.evaluation import MIN_EDGE_UM3, Evaluation
from ...analysis.metrics.matching import pool_matchings
from ...analysis.metrics.objects import find_objects
from ...analysis.metrics.touching_pairs import count_separated
from ...axes import Voxel
from ...tasks.config import Segment
from .methods.baselines import BLOCK_VX, Answer

_CONFIDENT = 0.9
_BINS = 5


@dataclass(frozen=True)
class MethodScores:
    """One method on one phantom.

    Attributes:
      pairs: pairs of true somas that touch and are scored.
      pairs_apart: how many of them are not merged.
    """

    evaluation: Evaluation
    pairs: int
    pairs_apart: int
    seconds: float

    @classmethod
    def of(
        cls, evaluation: Evaluation, pairs: set[tuple[int, int]], seconds: float
    ) -> MethodScores:
        """Select the touching pairs that are scored, and count those kept apart."""
        scored = set(evaluation.matching.truth.tolist())
        own = {pair for pair in pairs if scored >= set(pair)}
        merged = [case.truth for case in evaluation.cases if case.kind == "merge"]
        return cls(evaluation, len(own), count_separated(own, merged), seconds)


@dataclass(frozen=True)
class RunScores:
    """What only a run of flysoma gives, on one phantom.

    Attributes:
      seeds: counts of `seed_counts`.
      cut: true labels that a seam between blocks cuts.
    """

    evaluation: Evaluation
    answer: Answer
    seeds: dict[str, int]
    cut: np.ndarray

    @classmethod
    def of(
        cls, evaluation: Evaluation, answer: Answer, labels: np.ndarray, voxel_nm: Voxel
    ) -> RunScores:
        """Score the seeds of an answer and find the true labels that a seam cuts."""
        seeds = seed_counts(evaluation, answer, labels, voxel_nm)
        return cls(evaluation, answer, seeds, _cut_by_seams(labels, voxel_nm))


def pool_scores(phantoms: Sequence[MethodScores]) -> dict[str, float]:
    """Return the scores of a method on several phantoms, as if they were one volume."""
    matching = pool_matchings([each.evaluation.matching for each in phantoms])
    scores = [each.evaluation.scores for each in phantoms]
    truth, pred = len(matching.truth), len(matching.pred)
    hits = int(matching.matched_pred(0.5).sum())
    matched = np.array([s.truth * s.recall for s in scores])
    shares = matched / max(1.0, matched.sum())
    pairs = sum(each.pairs for each in phantoms)
    return {
        "truth": truth,
        "predicted": pred,
        "precision": hits / max(1, pred),
        "recall": hits / max(1, truth),
        "f1": 2 * hits / max(1, pred + truth),
        "ap50": matching.average_precision(0.5),
        "ap75": matching.average_precision(0.75),
        "map": float(np.mean([matching.average_precision(0.5 + 0.05 * i) for i in range(10)])),
        "merges": sum(s.merges for s in scores) / max(1, truth),
        "splits": sum(s.splits for s in scores) / max(1, truth),
        "touching_pairs": pairs,
        "touching_apart": sum(each.pairs_apart for each in phantoms) / max(1, pairs),
        "mean_iou": float(np.mean(matching.pair_iou)) if len(matching.pair_iou) else 0.0,
        "volume_bias": matching.volume_bias,
        "boundary_nm": float(np.dot(shares, [s.boundary_mean_nm or 0.0 for s in scores])),
        "dice": float(np.mean([s.dice for s in scores])),
        "voi": float(np.mean([s.voi_split + s.voi_merge for s in scores])),
        "arand": float(np.mean([s.arand for s in scores])),
        "seconds": sum(each.seconds for each in phantoms),
    }


def pool_run_scores(phantoms: Sequence[RunScores]) -> dict[str, Any]:
    """Return the scores of localization, seams and confidence over several phantoms."""
    seeds = {key: sum(each.seeds[key] for each in phantoms) for key in phantoms[0].seeds}
    counts = sum((_seam_counts(each) for each in phantoms), np.zeros((2, 3), int))
    inside, across = 2 * counts[:, 0] / np.maximum(1, counts[:, 1] + counts[:, 2])
    confidence = np.array(
        [
            each.answer.confidence.get(int(i), 0.0)
            for each in phantoms
            for i in each.evaluation.matching.pred
        ]
    )
    hits = [each.evaluation.matching.matched_pred(0.5) for each in phantoms]
    return {
        "localization": seeds
        | {
            "recall": seeds["found"] / max(1, seeds["somas"]),
            "false_share": seeds["false"] / max(1, seeds["seeds"]),
        },
        "seams": {
            "f1_inside": float(inside),
            "f1_across": float(across),
            "somas_across": int(counts[1, 2]),
        },
        "confidence": _reliability(confidence, np.concatenate(hits)),
    }


def seed_counts(
    evaluation: Evaluation, answer: Answer, truth: np.ndarray, voxel_nm: Voxel
) -> dict[str, int]:
    """Score localization alone: true somas of 14 um3 or more that hold a seed, and seeds outside all somas."""
    assert answer.seeds is not None
    places = np.clip(np.rint(answer.seeds).astype(int), 0, np.array(truth.shape) - 1)
    labels = truth[tuple(places.T)]
    matching = evaluation.matching
    um3 = matching.truth_voxels * float(np.prod(voxel_nm)) * 1e-9
    large = matching.truth[um3 >= MIN_EDGE_UM3]
    return {
        "somas": len(large),
        "found": len(np.intersect1d(large, labels)),
        "seeds": len(labels),
        "false": int((labels == 0).sum()),
    }


def _cut_by_seams(labels: np.ndarray, voxel_nm: Voxel) -> np.ndarray:
    """Return the labels that lie in more than one of flysoma's blocks."""
    block_nm = np.array(BLOCK_VX[::-1]) * Segment().resolution_nm[::-1]
    objects = find_objects(labels)
    first, last = ((at + 0.5) * voxel_nm // block_nm for at in (objects.lo, objects.hi - 1))
    return objects.ids[(first != last).any(axis=1)]


def _seam_counts(phantom: RunScores) -> np.ndarray:
    """Count hits, predicted and true somas (columns) inside blocks and across seams (rows)."""
    counts = np.zeros((2, 3), int)
    matching, answer = phantom.evaluation.matching, phantom.answer
    hit_pred, hit_truth = matching.matched_pred(0.5), matching.matched_truth(0.5)
    crossing = np.isin(matching.pred, list(answer.crosses_seam))
    matched_crossing = np.zeros(len(matching.truth), bool)
    matched_crossing[matching.pair_truth] = crossing[matching.pair_pred]
    for row, own in enumerate((~crossing, crossing)):
        counts[row, 0] = (hit_pred & own).sum()
        counts[row, 1] = own.sum()
    missed = matching.truth[~hit_truth]
    missed_across = np.isin(missed, phantom.cut).sum()
    counts[1, 2] = (hit_truth & matched_crossing).sum() + missed_across
    counts[0, 2] = (hit_truth & ~matched_crossing).sum() + len(missed) - missed_across
    return counts


def _reliability(confidence: np.ndarray, correct: np.ndarray) -> dict[str, Any]:
    """Return mean confidence, share of correct somas and their number, for quantiles of the confidence."""
    edges = np.quantile(confidence, np.linspace(0, 1, _BINS + 1)) if len(confidence) else []
    bins = []
    for low, high in zip(edges, edges[1:]):
        own = (confidence >= low) & ((confidence < high) | (high == edges[-1]))
        if own.any():
            bins.append([float(confidence[own].mean()), float(correct[own].mean()), int(own.sum())])
    confident = confidence > _CONFIDENT
    return {
        "bins": bins,
        "over_0.9": int(confident.sum()),
        "right_of_these": float(correct[confident].mean()) if confident.any() else None,
    }
