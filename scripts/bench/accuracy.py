"""`flysoma bench accuracy`: flysoma and baselines on phantoms of unseen seeds, in one table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from ...analysis.metrics.evaluation import MIN_EDGE_UM3, ArrayLabels, evaluate
from ...analysis.metrics.touching_pairs import find_touching_pairs
from ...analysis.pages.evaluation import evaluation_page
from ...axes import Voxel, Zyx
from ...models.phantom.make import Difficulty, make_phantom
from ..progress import Bars
from .accuracy_plots import accuracy_figure
from .accuracy_scores import MethodScores, RunScores, pool_run_scores, pool_scores
from .methods.baselines import METHODS, Sample, Weights, method_options, parse_names

_COLUMNS = (
    *("f1", "precision", "recall", "ap50", "ap75", "map", "merges", "splits"),
    *("touching_apart", "volume_bias", "boundary_nm", "seconds"),
)


@dataclass(frozen=True)
class TestSet:
    """Phantoms of one difficulty and voxel size, whole brains of seeds that no network was trained on.

    Attributes:
      tones: for each seed, gamma and the grey levels that black and white become; empty: unchanged.
    """

    difficulty: Difficulty
    seeds: tuple[int, ...]
    shape: Zyx = (192, 384, 384)
    voxel_nm: Voxel = (40.0, 64.0, 64.0)
    tones: tuple[tuple[float, int, int], ...] = ()

    def make(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the image and labels of a phantom."""
        phantom = make_phantom(self.shape, self.voxel_nm, self.seeds[number], self.difficulty)
        if not self.tones:
            return phantom.image, phantom.neurons
        gamma, black, white = self.tones[number]
        curve = np.rint(black + (white - black) * np.linspace(0, 1, 256) ** gamma)
        return curve.astype(np.uint8)[phantom.image], phantom.neurons


SETS = {
    "typical": TestSet("typical", (101, 102, 103, 104, 105, 106)),
    "clean": TestSet("clean", (121,)),
    "worst": TestSet("worst", (117, 118, 119, 120)),
    "out_of_distribution": TestSet(  # contrast outside the range of all training data
        "typical",
        (141, 142, 143, 144),
        tones=((2.5, 0, 255), (0.4, 0, 255), (1.0, 100, 160), (1.6, 20, 110)),
    ),
    "32 nm": TestSet("typical", (131,), (192, 640, 640), (40.0, 32.0, 32.0)),
}
_FORMER_NAMES = {"unlike": "out_of_distribution"}


@click.command("accuracy")
@click.option(
    "--sets",
    default=",".join(SETS),
    show_default=True,
    help="Test sets to score, separated by commas.",
)
@method_options
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for accuracy.json, accuracy.svg, a page of the worst cases of each phantom, and answers/ (.npz), "
    "which a repeated command reuses.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    sets: str,
    methods: str,
    locate_weights: str,
    segment_weights: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """Score flysoma and baselines on phantoms of unseen seeds.

    All methods use the same weights.
    """
    sets = ",".join(_FORMER_NAMES.get(name, name) for name in sets.split(","))
    names = parse_names(sets, SETS, "--sets")
    chosen = parse_names(methods, METHODS, "--methods")
    weights = Weights(locate_weights, segment_weights)
    results: dict[str, Any] = {}
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    with Bars() as bars:
        for name in names:
            results[name] = _score_set(name, chosen, weights, output, bars)
            text = json.dumps({"weights": asdict(weights), "sets": results}, indent=2)
            if output is not None:
                (output / "accuracy.json").write_text(text + "\n")
                (output / "accuracy.svg").write_bytes(accuracy_figure(results))
            if not as_json:
                click.echo(_table(name, results[name]) + "\n")
    if as_json:
        click.echo(text)


def _score_set(
    name: str, methods: Sequence[str], weights: Weights, output: Path | None, bars: Bars
) -> dict[str, Any]:
    """Return the scores of every method on a set, and those that only a run of flysoma has."""
    test = SETS[name]
    scores: dict[str, list[MethodScores]] = {method: [] for method in methods}
    runs: list[RunScores] = []
    total = len(test.seeds) * len(methods)
    for number, seed in enumerate(test.seeds):
        bars(name, number * len(methods), total)
        image, labels = test.make(number)
        stem = f"{name}-{seed}".replace(" ", "-")
        sample = Sample(
            image, test.voxel_nm, weights, None if output is None else output / "answers" / stem
        )
        pairs = find_touching_pairs(labels, test.voxel_nm)
        truth = ArrayLabels(labels)
        for step, method in enumerate(methods, start=1):
            answer = sample.answer(method)
            pred = ArrayLabels(answer.labels)
            evaluation = evaluate(pred, truth, test.voxel_nm, min_edge_um3=MIN_EDGE_UM3)
            scores[method].append(MethodScores.of(evaluation, pairs, answer.seconds))
            if method == "flysoma":
                runs.append(RunScores.of(evaluation, answer, labels, test.voxel_nm))
                if output is not None:
                    page = evaluation_page(
                        f"{name}, seed {seed}",
                        evaluation,
                        pred,
                        truth,
                        test.voxel_nm,
                        ArrayLabels(image).read,
                    )
                    (output / f"{stem}.html").write_text(page)
            bars(name, number * len(methods) + step, total)
    rows = {method: pool_scores(phantoms) for method, phantoms in scores.items()}
    return {"methods": rows} | (pool_run_scores(runs) if runs else {})


def _table(name: str, result: dict[str, Any]) -> str:
    rows = result["methods"]
    first = next(iter(rows.values()))
    lines = [
        f"{name}: {first['truth']} somas, {first['touching_pairs']} touching pairs",
        " ".join([f"{'':20}", *(f"{c:>{max(9, len(c))}}" for c in _COLUMNS)]),
    ]
    for method, row in rows.items():
        cells = [
            f"{row[c]:{max(9, len(c))}.{0 if c in ('boundary_nm', 'seconds') else 3}f}"
            for c in _COLUMNS
        ]
        lines.append(" ".join([f"{method:20}", *cells]))
    for key in ("localization", "seams", "confidence"):
        if key in result:
            lines.append(f"{key}: " + _format(result[key]))
    return "\n".join(lines)


def _format(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{k.replace('_', ' ')} {v:.3f}" if isinstance(v, float) else f"{k.replace('_', ' ')} {v}"
        for k, v in values.items()
        if k != "bins"
    )
