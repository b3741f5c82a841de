"""The figure of the accuracy benchmark."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_COLOURS = ("#2f7396", "#c2452d", "#8a9aa5", "#b9a44c", "#6b5b95")


def accuracy_figure(results: dict[str, Any]) -> bytes:
    """Return an SVG: F1 and AP50 of each method on each set, and the share of correct somas by confidence."""
    with mpl.rc_context({"svg.hashsalt": "flysoma", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots(1, 3, width_ratios=(2, 2, 1.3))
        for axis, score in zip(axes, ("f1", "ap50")):
            _bars(axis, results, score)
        _reliability(axes[2], results)
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False
        )
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _bars(axis: Any, results: dict[str, Any], score: str) -> None:
    methods = list(next(iter(results.values()))["methods"])
    width = 0.85 / len(methods)
    for number, method in enumerate(methods):
        positions = [i + (number - (len(methods) - 1) / 2) * width for i in range(len(results))]
        heights = [result["methods"][method][score] for result in results.values()]
        axis.bar(positions, heights, 0.94 * width, color=_COLOURS[number % 5], label=method)
    axis.set_xticks(range(len(results)), list(results))
    axis.set_ylim(0, 1)
    axis.set_title(score.upper(), loc="left")
    axis.spines[["top", "right"]].set_visible(False)


def _reliability(axis: Any, results: dict[str, Any]) -> None:
    axis.plot([0.5, 1], [0.5, 1], color="#bbbbbb", lw=1)
    for number, (name, result) in enumerate(results.items()):
        bins = result.get("confidence", {}).get("bins", [])
        if bins:
            confidence, correct, _ = zip(*bins)
            axis.plot(confidence, correct, "o-", ms=4, color=_COLOURS[number % 5])
            axis.annotate(name, (confidence[0], correct[0]), fontsize=8)
    axis.set_xlabel("confidence")
    axis.set_title("share of correct somas", loc="left")
    axis.spines[["top", "right"]].set_visible(False)
