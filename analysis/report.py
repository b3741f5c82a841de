"""The report of a run: one HTML file that needs nothing else, for screen (light or dark) and paper.

Also names `overview_figure` and `Section`, the picture that goes with it.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .overview import Section, overview_figure
from .plots import (
    plot_confidence,
    plot_maps,
    plot_neighbours,
    plot_sphericity,
    plot_volumes,
)
from .tables import soma_table

__all__ = ["Section", "overview_figure", "report_page"]

_LISTED = 200  # suspicious somas
_METHOD = (
    "Liu et al., A Soma Segmentation Benchmark in Full Adult Fly Brain, "
    "IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR), 2023, pp. 7402-7411"
)


def report_page(
    frame: pd.DataFrame, summary: Mapping[str, Any], figures: Mapping[str, bytes]
) -> str:
    """index.html of a run's report.

    Args:
      frame: the table of somas; see `tables.COLUMNS`. May be empty.
      summary: what else is known of the run; each key may be absent:
        title (str); lead (str, one sentence below it); facts (name to text, shown as a list);
        bounds_nm ((x, y, z), (x, y, z)) of the volume; open (str, the command that opens the result);
        link (str, a neuroglancer URL); scores (str, a text table, when there is a truth);
        stages (list of dicts with the same keys, such as stage, tasks, seconds);
        provenance (name to text); config (str, YAML); files (name to relative link).
      figures: caption to PNG.
    """
    somas = soma_table(frame)
    title = str(summary.get("title", "Somas"))
    sections = [
        _header(title, somas, summary),
        *(_picture(caption, data) for caption, data in figures.items()),
        _section("Where they are", _maps(somas, summary)),
        _section("How they are", _measures(somas)),
        _section("To look at", _suspicious(somas)),
        _scores(summary),
        _section("Time", _stages(summary.get("stages", []))),
        _provenance(summary),
        _section("How to cite", _cite()),
    ]
    body = "\n".join(part for part in sections if part)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">'
        f"<title>{_e(title)}</title>\n<style>{_CSS}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _header(title: str, somas: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    parts = [f"<header><h1>{_e(title)}</h1>"]
    if summary.get("lead"):
        parts.append(f'<p class="lead">{_e(summary["lead"])}</p>')
    parts.append(_tiles(somas))
    if summary.get("facts"):
        parts.append(_pairs(summary["facts"]))
    if summary.get("open"):
        parts.append(f"<p>Open it with</p><pre><code>{_e(summary['open'])}</code></pre>")
    links = dict(summary.get("files", {}))
    if summary.get("link"):
        links["open in neuroglancer"] = summary["link"]
    if links:
        shown = " &middot; ".join(
            f'<a href="{_e(target)}">{_e(name)}</a>' for name, target in links.items()
        )
        parts.append(f'<p class="links">{shown}</p>')
    return "\n".join([*parts, "</header>"])


def _tiles(somas: pd.DataFrame) -> str:
    tiles = [
        (f"{len(somas):,}", "soma" if len(somas) == 1 else "somas"),
        (_median(somas, "volume_um3", 1.0, "µm³"), "median volume"),
        (_median(somas, "equivalent_diameter_um", 1.0, "µm"), "median diameter"),
        (_median(somas, "nearest_nm", 1e-3, "µm"), "median nearest neighbour"),
        (f"{int(somas['touches_edge'].sum()):,}", "cut by the volume's edge"),
        (f"{int(somas['suspicious'].sum()):,}", "suspicious"),
    ]
    cells = "".join(
        f"<div><b>{_e(value)}</b><span>{_e(name)}</span></div>" for value, name in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _maps(somas: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    bounds = summary.get("bounds_nm")
    if bounds is None:
        places = somas[["x_nm", "y_nm", "z_nm"]].to_numpy(np.float64)
        if len(places) == 0:
            return "<p>No somas, so no map.</p>"
        room = 5000.0
        bounds = tuple(places.min(axis=0) - room), tuple(places.max(axis=0) + room)
    caption = "Three projections of the volume; circles have the somas' size. y runs downward."
    return f"<figure>{plot_maps(somas, bounds)}<figcaption>{caption}</figcaption></figure>"


def _measures(somas: pd.DataFrame) -> str:
    plots = (
        (plot_volumes(somas), "Volume."),
        (plot_neighbours(somas), "Distance between a soma's centre and the nearest other one."),
        (plot_sphericity(somas), "Sphericity against volume; suspicious somas stand out in red."),
        (plot_confidence(somas), "Mean certainty of the network over each soma."),
    )
    figures = "".join(f"<figure>{p}<figcaption>{_e(c)}</figcaption></figure>" for p, c in plots)
    return f'<div class="pairs">{figures}</div>'


def _suspicious(somas: pd.DataFrame) -> str:
    odd = somas[somas["suspicious"]].sort_values("volume_um3", ascending=False)
    if len(odd) == 0:
        return "<p>No soma is suspicious: no guard had to keep stitching from joining anything.</p>"
    rows = [
        (
            str(row.id),
            f"{row.x_nm:.0f}, {row.y_nm:.0f}, {row.z_nm:.0f}",
            _number(row.volume_um3, ".1f"),
            _number(row.sphericity, ".2f"),
            _number(row.confidence, ".2f"),
            "yes" if row.touches_edge else "",
        )
        for row in odd.head(_LISTED).itertuples()
    ]
    head = ("id", "position (nm, x y z)", "volume (µm³)", "sphericity", "confidence", "at edge")
    more = f"<p>The largest {_LISTED} of {len(odd):,}; the table has all.</p>"
    lead = "<p>A guard kept stitching from joining these with a neighbour; look at them first.</p>"
    return lead + _table(head, rows) + (more if len(odd) > _LISTED else "")


def _scores(summary: Mapping[str, Any]) -> str:
    if not summary.get("scores"):
        return ""
    return _section("Against the truth", f"<pre>{_e(summary['scores'])}</pre>")


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    if not stages:
        return "<p>No stage was timed.</p>"
    head = list(stages[0])
    rows = [[_cell(stage.get(name, "")) for name in head] for stage in stages]
    return _table(head, rows)


def _provenance(summary: Mapping[str, Any]) -> str:
    parts = []
    if summary.get("provenance"):
        parts.append(_pairs(summary["provenance"]))
    if summary.get("config"):
        parts.append(
            f"<details><summary>Config</summary><pre>{_e(summary['config'])}</pre></details>"
        )
    return _section("Provenance", "".join(parts)) if parts else ""


def _cite() -> str:
    return (
        f"<p>The two stages, localization and then segmentation around each soma, follow {_e(_METHOD)}. "
        "Cite it when you publish what was found here, and name the version of flysoma and the weights "
        "listed above.</p>"
    )


def _picture(caption: str, data: bytes) -> str:
    source = base64.b64encode(data).decode()
    text = _e(caption)
    return (
        f'<figure class="wide"><img src="data:image/png;base64,{source}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_e(title)}</h2>\n{content}</section>"


def _pairs(values: Mapping[str, Any]) -> str:
    rows = "".join(f"<dt>{_e(k)}</dt><dd>{_e(v)}</dd>" for k, v in values.items())
    return f"<dl>{rows}</dl>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{_e(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_e(value)}</td>" for value in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _median(somas: pd.DataFrame, name: str, factor: float, unit: str) -> str:
    values = somas[name].to_numpy(np.float64)
    values = values[np.isfinite(values)]
    return f"{float(np.median(values)) * factor:.3g} {unit}" if len(values) else "\u2013"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _number(value: Any, form: str) -> str:
    return format(value, form) if np.isfinite(value) else "\u2013"


def _e(value: Any) -> str:
    return html.escape(str(value))


_CSS = """
:root { --paper: #fcfbf8; --ink: #22262a; --soft: #666c72; --grid: #e4e1da; --panel: #f3f1ec;
  --accent: #2f7396; --warn: #c2452d; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e3e1dc; --soft: #9aa0a6;
  --grid: #2c3035; --panel: #1d2024; --accent: #63adcf; --warn: #ee7b5f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; font-weight: 600; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; font-weight: 600; margin: 2.6rem 0 .8rem; padding-top: .7rem;
  border-top: 1px solid var(--grid); }
a { color: var(--accent); }
.lead { color: var(--soft); margin: 0; font-size: 1.05rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1px;
  margin: 1.6rem 0; }
.tiles div { box-shadow: 0 0 0 1px var(--grid); padding: .8rem .9rem; }
.tiles b { display: block; font-size: 1.5rem; line-height: 1.25; font-weight: 600;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.tiles span { color: var(--soft); font-size: .85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.4rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 1.2rem 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 3px; }
figcaption { color: var(--soft); font-size: .88rem; margin-top: .45rem; }
.plot { width: 100%; height: auto; display: block; color: var(--ink); overflow: visible; }
.pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(21rem, 1fr)); gap: 1rem 2rem; }
.pairs figure { margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .32rem .8rem; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
pre { background: var(--panel); padding: .8rem 1rem; overflow-x: auto; font: .85rem/1.5 ui-monospace, monospace;
  border-radius: 3px; }
summary { cursor: pointer; color: var(--soft); }
@media print {
  :root { --paper: #fff; --ink: #000; --soft: #444; --grid: #ccc; --panel: #f4f4f4; --accent: #2f7396;
    --warn: #c2452d; }
  main { max-width: none; padding: 0; }
  figure, tr, .tiles { break-inside: avoid; }
  h2 { break-after: avoid; }
  .pairs { grid-template-columns: 1fr 1fr; }
  pre { white-space: pre-wrap; }
}
"""
