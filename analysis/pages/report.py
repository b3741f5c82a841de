"""The report of a run: one HTML file that needs nothing else, for screen (light or dark) and paper.

Also names `overview_figure` and `Section`, the picture that goes with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..tables.checks import CHECK, check_somas
from ..tables.seams import NO_SEAMS
from ..tables.somas import soma_table
from .figures import all_plots
from .html import escape, page, pairs, picture, section, table
from .plots import Plot, inline
from .sections import Section, overview_figure

__all__ = ["Section", "overview_figure", "report_page"]

_LISTED = 200  # suspicious somas
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
    """index.html of a run's report.

    Args:
      frame: the table of somas; see `tables.COLUMNS`. May be empty.
      summary: what else is known of the run; each key may be absent:
        title (str); lead (str, one sentence below it); facts (name to text, shown as a list);
        bounds_nm ((x, y, z), (x, y, z)) of the volume; seams (`seams.Seams`);
        open (str, the command that opens the result);
        link (str, a neuroglancer URL); scores (str, a text table, when there is a truth);
        stages (list of dicts with the same keys, such as stage, tasks, seconds);
        provenance (name to text); config (str, YAML); files (name to relative link).
      figures: caption to PNG.
      suspects: caption to PNG, of suspicious somas.
    """
    somas = soma_table(frame)
    title = str(summary.get("title", "Somas"))
    sections = [
        _header(title, somas, summary),
        section("Is it right?", _checks(somas, summary)),
        *(picture(caption, data) for caption, data in figures.items()),
        *_plots(report_plots(somas, summary)),
        section("To look at", _suspicious(somas, suspects or {})),
        _scores(summary),
        section("Time", _stages(summary.get("stages", []))),
        _provenance(summary),
        section("How to cite", _cite()),
    ]
    return page(title, "\n".join(part for part in sections if part))


def _header(title: str, somas: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    parts = [f"<header><h1>{escape(title)}</h1>"]
    if summary.get("lead"):
        parts.append(f'<p class="lead">{escape(summary["lead"])}</p>')
    parts.append(_tiles(somas))
    if summary.get("facts"):
        parts.append(pairs(summary["facts"]))
    if summary.get("open"):
        parts.append(f"<p>Open it with</p><pre><code>{escape(summary['open'])}</code></pre>")
    links = dict(summary.get("files", {}))
    if summary.get("link"):
        links["open in neuroglancer"] = summary["link"]
    if links:
        shown = " &middot; ".join(
            f'<a href="{escape(target)}">{escape(name)}</a>' for name, target in links.items()
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
        f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def report_plots(somas: pd.DataFrame, summary: Mapping[str, Any]) -> list[Plot]:
    """The figures of a report, in their order; arguments as for `report_page`."""
    return all_plots(soma_table(somas), _bounds(somas, summary), summary.get("seams", NO_SEAMS))


def _bounds(somas: pd.DataFrame, summary: Mapping[str, Any]) -> Any:
    """The volume, or what is around the somas where it is not known."""
    if summary.get("bounds_nm") is not None:
        return summary["bounds_nm"]
    places = somas[["x_nm", "y_nm", "z_nm"]].to_numpy(np.float64)
    if len(places) == 0:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    room = 5000.0
    return tuple(places.min(axis=0) - room), tuple(places.max(axis=0) + room)


def _checks(somas: pd.DataFrame, summary: Mapping[str, Any]) -> str:
    checks = check_somas(somas, _bounds(somas, summary), summary.get("seams", NO_SEAMS))
    rows = "".join(
        f'<dt>{escape(c.question)}</dt><dd><b class="{"warn" if c.verdict == CHECK else ""}">'
        f"{escape(c.verdict)}</b> {escape(c.reason)}</dd>"
        for c in checks
    )
    return f'<dl class="checks">{rows}</dl>'


def _plots(plots: Sequence[Plot]) -> list[str]:
    shown = [
        f"<figure>{inline(plot)}<figcaption>{escape(plot.caption)}</figcaption></figure>"
        for plot in plots
    ]
    return [
        section("Where they are", shown[0]),
        section("How they are", f'<div class="pairs">{"".join(shown[1:])}</div>'),
    ]


def _suspicious(somas: pd.DataFrame, pictures: Mapping[str, bytes]) -> str:
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
    shown = "".join(picture(caption, data) for caption, data in pictures.items())
    return lead + table(head, rows) + (more if len(odd) > _LISTED else "") + shown


def _scores(summary: Mapping[str, Any]) -> str:
    if not summary.get("scores"):
        return ""
    return section("Against the truth", f"<pre>{escape(summary['scores'])}</pre>")


def _stages(stages: Sequence[Mapping[str, Any]]) -> str:
    if not stages:
        return "<p>No stage was timed.</p>"
    head = list(stages[0])
    rows = [[_cell(stage.get(name, "")) for name in head] for stage in stages]
    return table(head, rows)


def _provenance(summary: Mapping[str, Any]) -> str:
    parts = []
    if summary.get("provenance"):
        parts.append(pairs(summary["provenance"]))
    if summary.get("config"):
        parts.append(
            f"<details><summary>Config</summary><pre>{escape(summary['config'])}</pre></details>"
        )
    return section("Provenance", "".join(parts)) if parts else ""


def _cite() -> str:
    return (
        f"<p>The two stages, localization and then segmentation around each soma, follow {escape(_METHOD)}. "
        "Cite it when you publish what was found here, and name the version of flysoma and the weights "
        "listed above.</p>"
    )


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
