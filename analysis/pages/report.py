"""The report of a run: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..morphology.classes import GLIA, NEURON
from ..tables.checks import CHECK, check_somas
from ..tables.doubts import doubtful_somas
from ..tables.seams import NO_SEAMS
from ..tables.somas import knows_nuclei, soma_table, without_nucleus
from .figures import all_plots
from .html import definition_list, escape, page, picture, section, table
from .plots import Plot, inline_svg

_MAX_LISTED = 200  # somas to look at
_MARGIN_NM = 5000.0  # around the somas if the bounds of the volume are not known
_DASH = "\u2013"
_METHOD = (
    "Liu et al., A Soma Segmentation Benchmark in Full Adult Fly Brain, "
    "IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR), 2023, pp. 7402-7411"
)


def report_page(
    frame: pd.DataFrame,
    summary: Mapping[str, Any],
    figures: Mapping[str, bytes],
    suspects: Mapping[str, bytes] | None = None,
) -> str:
    """Return the page of a run's report.

    Args:
      frame: table of somas; see `tables.somas.COLUMNS`. May be empty.
      summary: information about the run, in which each key is optional:
        title (str); lead (str, a sentence below the title); facts (name to text);
        bounds_nm (lower and upper corner of the volume, x, y, z); seams (`tables.seams.Seams`);
        open (str, the command that opens the result);
        link (str, a neuroglancer URL); scores (str, a text table, if there is ground truth);
        stages (list of dicts with equal keys, such as stage, tasks, seconds);
        provenance (name to text); config (str, YAML); files (name to relative link).
      figures: PNG files by caption.
      suspects: PNG files of somas to look at by caption.
    """
    somas = soma_table(frame)
    title = str(summary.get("title", "Somas"))
    sections = [
        _header(title, somas, summary),
        section("Plausibility checks", _checks(somas, summary)),
        *(picture(caption, data) for caption, data in figures.items()),
        *_plots(report_plots(somas, summary)),
        section("Somas to look at", _doubtful(somas, summary, suspects or {})),
        _scores(summary),
        section("Run time", _stages(summary.get("stages", []))),
        _provenance(summary),
        section("Citation", _cite()),
    ]
    return page(title, "\n".join(part for part in sections if part))


def _header(title: str, somas: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    parts = [f"<header><h1>{escape(title)}</h1>"]
    if summary.get("lead"):
        parts.append(f'<p class="lead">{escape(summary["lead"])}</p>')
    parts.append(_tiles(somas))
    if summary.get("facts"):
        parts.append(definition_list(summary["facts"]))
    if summary.get("open"):
        parts.append(
            f"<p>Open the result in neuroglancer with</p><pre><code>{escape(summary['open'])}</code></pre>"
        )
    links = dict(summary.get("files", {}))
    if summary.get("link"):
        links["Neuroglancer"] = summary["link"]
    if links:
        anchors = " &middot; ".join(
            f'<a href="{escape(target)}">{escape(name)}</a>' for name, target in links.items()
        )
        parts.append(f'<p class="links">{anchors}</p>')
    return "\n".join([*parts, "</header>"])


def _tiles(somas: pd.DataFrame) -> str:
    whole = somas[~somas["touches_edge"]]
    tiles = [
        (f"{len(somas):,}", "soma" if len(somas) == 1 else "somas"),
        (f"{len(somas) - len(whole):,}", "of these cut by the volume edge"),
        (_median(whole, "volume_um3", 1.0, "µm³"), "median volume, of whole somas"),
        (_median(whole, "equivalent_diameter_um", 1.0, "µm"), "median diameter, of whole somas"),
        (_median(somas, "nearest_nm", 1e-3, "µm"), "median neighbour distance"),
        (f"{int(somas['suspicious'].sum()):,}", "suspicious"),
    ]
    if knows_nuclei(somas):
        tiles += [
            (f"{int((somas['class'] == NEURON).sum()):,}", "neurons"),
            (f"{int((somas['class'] == GLIA).sum()):,}", "glia"),
            (f"{int(without_nucleus(somas).sum()):,}", "whole, without a nucleus"),
            (f"{int((somas['n_nuclei'] > 1).sum()):,}", "with several nuclei"),
        ]
    cells = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def report_plots(somas: pd.DataFrame, summary: Mapping[str, Any]) -> list[Plot]:
    """Return the figures of a report in order; arguments as for `report_page`."""
    return all_plots(soma_table(somas), _bounds(somas, summary), summary.get("seams", NO_SEAMS))


def _bounds(somas: pd.DataFrame, summary: Mapping[str, Any]) -> Any:
    """Return the bounds of the volume, or a box around the somas if they are not known."""
    if summary.get("bounds_nm") is not None:
        return summary["bounds_nm"]
    positions = somas[["x_nm", "y_nm", "z_nm"]].to_numpy(np.float64)
    if len(positions) == 0:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return tuple(positions.min(axis=0) - _MARGIN_NM), tuple(positions.max(axis=0) + _MARGIN_NM)


def _checks(somas: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    checks = check_somas(somas, _bounds(somas, summary), summary.get("seams", NO_SEAMS))
    rows = "".join(
        f'<dt>{escape(c.question)}</dt><dd><b class="{"warn" if c.verdict == CHECK else ""}">'
        f"{escape(c.verdict)}</b></dd><dd>{escape(c.reason)}</dd>"
        for c in checks
    )
    return f'<dl class="checks">{rows}</dl>'


def _plots(plots: Sequence[Plot]) -> list[str]:
    shown = [
        f"<figure>{inline_svg(plot)}<figcaption>{escape(plot.caption)}</figcaption></figure>"
        for plot in plots
    ]
    return [
        section("Positions", shown[0]),
        section("Sizes, shapes and distances", f'<div class="pairs">{"".join(shown[1:])}</div>'),
    ]


def _doubtful(
    somas: pd.DataFrame, summary: Mapping[str, Any], pictures: Mapping[str, bytes]
) -> str:
    doubtful = doubtful_somas(somas, summary.get("seams", NO_SEAMS))
    if len(doubtful) == 0:
        return (
            "<p>There is none: no guard refused a join, and no soma is exceptional in its nuclei, seeds, neurites, "
            "convexity, size, confidence or place at a seam.</p>"
        )
    view = summary.get("open")
    rows = []
    for soma in doubtful.head(_MAX_LISTED).to_dict("records"):
        position = [f"{soma[f'{a}_nm']:.0f}" for a in "xyz"]
        rows.append(
            (
                str(soma["id"]),
                ", ".join(position),
                str(soma["doubt"]),
                _number(soma["volume_um3"], ".1f"),
                _number(soma["convexity"], ".2f"),
                _number(soma["confidence"], ".2f"),
                "yes" if soma["touches_edge"] else "",
                f"{view} --at {' '.join(position)}" if view else "",
            )
        )
    head = (
        "id",
        "position (x, y, z; nm)",
        "reason",
        "volume (µm³)",
        "convexity",
        "confidence",
        "touches edge",
        "command",
    )
    lead = (
        "<p>Inspect these somas first. Several nuclei, seeds or neurites, a low convexity or a large volume suggest "
        "that somas are merged; no nucleus, a small volume or an end at a seam, that a soma is split. <i>Join "
        "refused</i>: a guard, a rule that refuses implausible joins, kept the soma apart from an adjacent object.</p>"
    )
    note = ""
    if len(doubtful) > _MAX_LISTED:
        note = f"<p>The first {_MAX_LISTED} of {len(doubtful):,} are listed.</p>"
    shown = "".join(picture(caption, data) for caption, data in pictures.items())
    return lead + table(head, rows) + note + shown


def _scores(summary: Mapping[str, Any]) -> str:
    if not summary.get("scores"):
        return ""
    return section("Scores against ground truth", f"<pre>{escape(summary['scores'])}</pre>")


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    if not stages:
        return "<p>No run times were recorded.</p>"
    head = list(stages[0])
    rows = [[_cell(stage.get(name, "")) for name in head] for stage in stages]
    return table(head, rows)


def _provenance(summary: Mapping[str, Any]) -> str:
    parts = []
    if summary.get("provenance"):
        parts.append(definition_list(summary["provenance"]))
    if summary.get("config"):
        parts.append(
            f"<details><summary>Configuration</summary><pre>{escape(summary['config'])}</pre></details>"
        )
    return section("Provenance", "".join(parts)) if parts else ""


def _cite() -> str:
    return (
        "<p>flysoma first localizes somas and then segments the surroundings of each, a method introduced by "
        f"{escape(_METHOD)}. Please cite this paper in publications that use these results, and state the version of "
        "flysoma and the weights listed above.</p>"
    )


def _median(somas: pd.DataFrame, name: str, factor: float, unit: str) -> str:
    values = somas[name].to_numpy(np.float64)
    values = values[np.isfinite(values)]
    return f"{float(np.median(values)) * factor:.3g} {unit}" if len(values) else _DASH


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _number(value: Any, form: str) -> str:
    return format(value, form) if np.isfinite(value) else _DASH
