"""`flysoma bench accuracy`: ours and its rivals on phantoms that nobody learned from, in one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from ...analysis.metrics.evaluation import MIN_EDGE_UM3, ArrayLabels, Evaluation, evaluate
from ...analysis.metrics.matching import pooled
from ...analysis.metrics.objects import find_objects
from ...analysis.metrics.touching_pairs import kept_apart, touching_pairs
from ...analysis.pages.evaluation import evaluation_page
from ...axes import Voxel, Zyx
from ...models.phantom.make import make_phantom
from ...tasks.config import Segment
from ..progress import Bars
from .accuracy_plots import accuracy_figure
from .ways.rivals import BLOCK_VX, RIVALS, Answer, Block, Weights, chosen, way_options

_SURE = 0.9
_Judged = tuple[
    Evaluation, Answer, dict[str, Any], np.ndarray
]  # with localization; somas cut by seams


@dataclass(frozen=True)
class TestSet:
    """Phantoms of one difficulty and voxel size, whole brains of seeds that are not trained on.

    Attributes:
      tones: for each seed gamma, and the grey levels that black and white become.
    """

    difficulty: str
    seeds: tuple[int, ...]
    shape: Zyx = (192, 384, 384)
    voxel_nm: Voxel = (40.0, 64.0, 64.0)
    tones: tuple[tuple[float, int, int], ...] = ()

    def make(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Image and labels of a phantom."""
        phantom = make_phantom(
            self.shape,
            self.voxel_nm,
            self.seeds[number],
            self.difficulty,  # type: ignore[arg-type]
        )
        if not self.tones:
            return phantom.image, phantom.labels
        gamma, black, white = self.tones[number]
        bent = np.rint(black + (white - black) * np.linspace(0, 1, 256) ** gamma)
        return bent.astype(np.uint8)[phantom.image], phantom.labels


SETS = {
    "typical": TestSet("typical", (101, 102, 103, 104, 105, 106)),
    "clean": TestSet("clean", (121,)),
    "worst": TestSet("worst", (117, 118, 119, 120)),
    "unlike": TestSet(  # contrast beyond what any network here is trained on
        "typical",
        (141, 142, 143, 144),
        tones=((2.5, 0, 255), (0.4, 0, 255), (1.0, 100, 160), (1.6, 20, 110)),
    ),
    "32 nm": TestSet("typical", (131,), (192, 640, 640), (40.0, 32.0, 32.0)),
}


@click.command("accuracy")
@click.option("--sets", default=",".join(SETS), show_default=True, help="Which test sets.")
@way_options
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for accuracy.json, accuracy.svg, a page of the worst cases of each phantom, and answers/ (.npz), "
    "which are not computed again when the same command is given again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    sets: str,
    rivals: str,
    locate_weights: str,
    segment_weights: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Score flysoma and other ways to find somas with the same weights, on phantoms that nobody learned from."""
    tests, ways = chosen(sets, SETS, "--sets"), chosen(rivals, RIVALS, "--rivals")
    weights = Weights(locate_weights, segment_weights)
    results: dict[str, Any] = {}
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    with Bars() as bars:
        for name in tests:
            results[name] = _score_set(name, ways, weights, output, bars)
            text = json.dumps({"weights": asdict(weights), "sets": results}, indent=2)
            if output is not None:
                (output / "accuracy.json").write_text(text + "\n")
                (output / "accuracy.svg").write_bytes(accuracy_figure(results))
            if not as_json:
                click.echo(_table(name, results[name]) + "\n")
    if as_json:
        click.echo(text)


def _score_set(
    name: str, ways: Sequence[str], weights: Weights, output: Path | None, bars: Bars
) -> dict[str, Any]:
    """Scores of every way on a set, and what only ours can tell."""
    test = SETS[name]
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    judged: list[_Judged] = []
    for number, seed in enumerate(test.seeds):
        bars(name, number * len(ways), len(test.seeds) * len(ways))
        image, labels = test.make(number)
        kept = None if output is None else output / "answers" / f"{name}-{seed}".replace(" ", "-")
        block = Block(image, test.voxel_nm, weights, kept)
        pairs = touching_pairs(labels, test.voxel_nm)
        truth = ArrayLabels(labels)
        for step, way in enumerate(ways):
            answer = block.answer(way)
            pred = ArrayLabels(answer.labels)
            scores = evaluate(pred, truth, test.voxel_nm, min_edge_um3=MIN_EDGE_UM3)
            found[way].append(_one(scores, pairs) | {"seconds": answer.seconds})
            if way == "flysoma":
                alone = _seeds(scores, answer, labels, test.voxel_nm)
                judged.append((scores, answer, alone, _cut_by_seams(labels, test.voxel_nm)))
                if output is not None:
                    title = f"{name}, seed {seed}"
                    html = evaluation_page(
                        title, scores, pred, truth, test.voxel_nm, ArrayLabels(image).read
                    )
                    (output / f"{name.replace(' ', '-')}-{seed}.html").write_text(html)
            bars(name, number * len(ways) + step + 1, len(test.seeds) * len(ways))
    rows = {way: _pool(parts) for way, parts in found.items()}
    return {"rivals": rows} | (_ours(judged) if judged else {})


def _one(found: Evaluation, pairs: set[tuple[int, int]]) -> dict[str, Any]:
    """What of one phantom is added up."""
    counted = set(found.matching.truth.tolist())
    own = {pair for pair in pairs if counted >= set(pair)}
    merged = [case.truth for case in found.cases if case.kind == "merge"]
    return {
        "matching": found.matching,
        "scores": found.scores,
        "pairs": len(own),
        "apart": kept_apart(own, merged),
    }


def _pool(parts: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Scores of several phantoms as if they were one."""
    matching = pooled([part["matching"] for part in parts])
    scores = [part["scores"] for part in parts]
    truth, pred = len(matching.truth), len(matching.pred)
    hits = int(matching.hits(0.5).sum())
    matched = np.array([s.truth * s.recall for s in scores])
    shares = matched / max(1.0, matched.sum())
    pairs = sum(part["pairs"] for part in parts)
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
        "touching_apart": sum(part["apart"] for part in parts) / max(1, pairs),
        "mean_iou": float(np.mean(matching.pair_iou)) if len(matching.pair_iou) else 0.0,
        "boundary_nm": float(np.dot(shares, [s.boundary_mean_nm or 0.0 for s in scores])),
        "dice": float(np.mean([s.dice for s in scores])),
        "voi": float(np.mean([s.voi_split + s.voi_merge for s in scores])),
        "arand": float(np.mean([s.arand for s in scores])),
        "seconds": sum(part["seconds"] for part in parts),
    }


def _seeds(found: Evaluation, answer: Answer, truth: np.ndarray, voxel_nm: Voxel) -> dict[str, Any]:
    """Localization alone: true somas of 14 um3 or more that hold a seed, and seeds that lie in no soma."""
    assert answer.seeds is not None
    places = np.clip(np.rint(answer.seeds).astype(int), 0, np.array(truth.shape) - 1)
    under = truth[tuple(places.T)]
    matching = found.matching
    um3 = matching.truth_voxels * float(np.prod(voxel_nm)) * 1e-9
    large = matching.truth[um3 >= MIN_EDGE_UM3]
    return {
        "somas": len(large),
        "found": len(np.intersect1d(large, under)),
        "seeds": len(under),
        "false": int((under == 0).sum()),
    }


def _cut_by_seams(labels: np.ndarray, voxel_nm: Voxel) -> np.ndarray:
    """Labels that lie in more than one block of ours."""
    block_nm = np.array(BLOCK_VX[::-1]) * Segment().resolution_nm[::-1]
    objects = find_objects(labels)
    first, last = ((at + 0.5) * voxel_nm // block_nm for at in (objects.lo, objects.hi - 1))
    return objects.ids[(first != last).any(axis=1)]


def _ours(judged: Sequence[_Judged]) -> dict[str, Any]:
    """Localization, seams and confidence."""
    seeds = {key: sum(part[2][key] for part in judged) for key in judged[0][2]}
    counts = np.zeros((2, 3), int)  # inside blocks, across seams; hits, predicted, true
    sure, right = [], []
    for found, answer, _, cut in judged:
        matching = found.matching
        hit_pred, hit_truth = matching.hits(0.5), matching.found(0.5)
        crossing = np.isin(matching.pred, list(answer.crosses_seam))
        partner = np.zeros(len(matching.truth), bool)
        partner[matching.pair_truth] = crossing[matching.pair_pred]
        for row, own in enumerate((~crossing, crossing)):
            counts[row, 0] += int((hit_pred & own).sum())
            counts[row, 1] += int(own.sum())
        counts[1, 2] += int((hit_truth & partner).sum())
        counts[0, 2] += int((hit_truth & ~partner).sum())
        missed = matching.truth[~hit_truth]
        across = int(np.isin(missed, cut).sum())
        counts[1, 2] += across
        counts[0, 2] += len(missed) - across
        sure += [answer.confidence.get(int(i), 0.0) for i in matching.pred]
        right += hit_pred.tolist()
    f1 = 2 * counts[:, 0] / np.maximum(1, counts[:, 1] + counts[:, 2])
    confidence, correct = np.array(sure), np.array(right, bool)
    edges = np.quantile(confidence, np.linspace(0, 1, 6)) if len(confidence) else np.zeros(0)
    bins = []
    for low, high in zip(edges, edges[1:]):
        own = (confidence >= low) & ((confidence < high) | (high == edges[-1]))
        if own.any():
            bins.append([float(confidence[own].mean()), float(correct[own].mean()), int(own.sum())])
    high = confidence > _SURE
    return {
        "localization": seeds
        | {
            "recall": seeds["found"] / max(1, seeds["somas"]),
            "false_share": seeds["false"] / max(1, seeds["seeds"]),
        },
        "seams": {
            "f1_inside": float(f1[0]),
            "f1_across": float(f1[1]),
            "somas_across": int(counts[1, 2]),
        },
        "confidence": {
            "bins": bins,
            "over_0.9": int(high.sum()),
            "right_of_these": float(correct[high].mean()) if high.any() else None,
        },
    }


def _table(name: str, result: dict[str, Any]) -> str:
    columns = ("f1", "precision", "recall", "ap50", "ap75", "map", "merges", "splits")
    columns += ("touching_apart", "boundary_nm", "seconds")
    rows = result["rivals"]
    first = next(iter(rows.values()))
    lines = [
        f"{name}: {first['truth']} somas, {first['touching_pairs']} pairs that touch",
        " ".join([f"{'':20}", *(f"{c:>{max(9, len(c))}}" for c in columns)]),
    ]
    for way, row in rows.items():
        cells = [
            f"{row[c]:{max(9, len(c))}.{0 if c in ('boundary_nm', 'seconds') else 3}f}"
            for c in columns
        ]
        lines.append(" ".join([f"{way:20}", *cells]))
    for key in ("localization", "seams", "confidence"):
        if key in result:
            lines.append(f"{key}: " + _words(result[key]))
    return "\n".join(lines)


def _words(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{k.replace('_', ' ')} {v:.3f}" if isinstance(v, float) else f"{k.replace('_', ' ')} {v}"
        for k, v in values.items()
        if k != "bins"
    )
