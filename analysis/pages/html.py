"""Self-contained HTML pages for screen (light and dark) and print, and their elements."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any


def page(title: str, body: str) -> str:
    """Return a complete HTML file; `body` is HTML."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def picture(caption: str, data: bytes) -> str:
    """Return a PNG with a caption, embedded in the page."""
    source = base64.b64encode(data).decode()
    text = escape(caption)
    return (
        f'<figure class="wide"><img src="data:image/png;base64,{source}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def section(title: str, content: str) -> str:
    """Return a section with a heading; `content` is HTML."""
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>"


def definition_list(values: Mapping[str, Any]) -> str:
    """Return a list of names and values."""
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in values.items())
    return f"<dl>{rows}</dl>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], targets: Sequence[str] = ()) -> str:
    """Return a table of text; a wide table scrolls.

    Args:
      head: column names.
      rows: cells of each row.
      targets: URLs to which the first cells of the rows link, if any.
    """
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    cells = [[escape(value) for value in row] for row in rows]
    for row, target in zip(cells, targets):
        row[0] = f'<a href="{escape(target)}">{row[0]}</a>'
    body = "".join(
        "<tr>" + "".join(f"<td>{value}</td>" for value in row) + "</tr>" for row in cells
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def escape(value: Any) -> str:
    """Return a value as text with HTML characters escaped."""
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
.checks { grid-template-columns: max-content max-content 1fr; }
.checks b { font-weight: 600; white-space: nowrap; }
.checks b.warn { color: var(--warn); }
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
  .tiles { grid-template-columns: repeat(3, 1fr); }
  pre { white-space: pre-wrap; }
}
"""
