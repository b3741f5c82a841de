"""`flysoma bench real`: score flysoma and other ways on real images of which the somas are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from ...analysis.metrics.marks import SectionCounts, SectionResult, score_marks
from ...analysis.metrics.points import PointScores, score_points
from ...analysis.pages.marks import marks_figure
from ...analysis.pages.page import escape, page, section, table
from ...axes import Nm3, Voxel
from ...errors import UserError
from ...tasks.config import Locate, Segment
from ..progress import Bars
from .frames import KINDS, Frame, Kind, find_frames
from .ways.rivals import RIVALS, Answer, Block, Weights, chosen

_HEAD = (
    *("", "somas", "found", "IoU 0.5", "merged", "outline", "missed", "cut found"),
    *("uncertain", "objects", "unmarked", "no soma", "seconds"),
)
_TITLES = {
    "marks": "Images with marked somas",
    "nuclei": "Images with nuclei",
    "empty": "Images without somas",
}


@dataclass(frozen=True)
class Judged:
    """What one way found in one frame, or in several added up.

    Attributes:
      counts: of the section of the marks.
      nuclei: scores of the nuclei of the whole volume; None where marks are judged.
      seconds: time that the way took.
    """

    counts: SectionCounts = field(default_factory=SectionCounts)
    nuclei: PointScores | None = None
    frames: int = 1
    seconds: float = 0.0

    def __add__(self, other: Judged) -> Judged:
        nuclei = self.nuclei or other.nuclei
        if self.nuclei and other.nuclei:
            both = zip(asdict(self.nuclei).values(), asdict(other.nuclei).values())
            nuclei = PointScores(*(a + b for a, b in both))
        frames, seconds = self.frames + other.frames, self.seconds + other.seconds
        return Judged(self.counts + other.counts, nuclei, frames, seconds)


@click.command("real")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--way", "ways", default="flysoma", show_default=True, help="Which ways, as a,b,c.")
@click.option("--locate-weights", default=Locate().weights, show_default=True)
@click.option("--segment-weights", default=Segment().weights, show_default=True)
@click.option(
    "--sections",
    type=click.IntRange(8, 1024),
    default=96,
    show_default=True,
    help="How often a 2D image is repeated in z.",
)
@click.option(
    "--resolution",
    nargs=3,
    type=float,
    default=(40.0, 40.0, 40.0),
    show_default=True,
    help="Voxel size in nm, X Y Z, of images that do not tell theirs.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for a picture of every image, index.html, real.json, and answers/ (.npz), which are not computed "
    "again when the same command is given again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    folder: Path,
    ways: str,
    locate_weights: str,
    segment_weights: str,
    sections: int,
    resolution: Nm3,
    output: Path | None,
    as_json: bool,
) -> None:
    """Score flysoma and other ways on the real images in FOLDER and the folders below it.

    Beside an image NAME.png lies NAME.json (somas marked as discs) or NAME.csv (nuclei, as for `bench nuclei`);
    images in a folder `empty` hold no soma; NAME_invalid.png is white where pixels are not judged. 2D images
    are repeated in z; 3D images are tif, nii.gz, h5, npy or npz. docs/benchmark.md has the forms.
    """
    names = chosen(ways, RIVALS, "--way")
    if min(resolution) <= 0:
        raise UserError("a resolution is three numbers above zero, in nm, x y z")
    weights = Weights(locate_weights, segment_weights)
    found, skipped = find_frames(folder, resolution)
    results: dict[str, dict[str, Judged]] = {}
    details: dict[str, Any] = {}
    kinds: dict[str, Kind] = {one.name: one.kind for one in found}
    with Bars() as bars:
        for number, one in enumerate(found):
            bars("images", number, len(found))
            frame = one.read()
            image = frame.working(sections)
            kept = None if output is None else output / "answers" / _file_name(frame, sections)
            block = Block(image, _working_nm(), weights, kept)
            results[frame.name], details[frame.name] = {}, {}
            for way in names:
                judged, result = _judge(frame, block.answer(way))
                results[frame.name][way] = judged
                details[frame.name][way] = _as_json(judged) | result.to_json()
                if output is not None:
                    labels = frame.judged_section(block.answer(way).labels)
                    _draw(output, frame, way, labels, result)
        bars("images", len(found), len(found))
    totals = {way: _totals(kinds, {n: row[way] for n, row in results.items()}) for way in names}
    text = json.dumps(
        {
            "weights": asdict(weights),
            "sections": sections,
            "totals": {w: {k: _as_json(j) for k, j in t.items()} for w, t in totals.items()},
            "frames": details,
            "skipped": skipped,
        },
        indent=2,
    )
    if output is not None:
        (output / "real.json").write_text(text + "\n")
        (output / "index.html").write_text(_index(kinds, results, totals, skipped))
    click.echo(text if as_json else _report(kinds, results, totals, skipped))


def _working_nm() -> Voxel:
    x, y, z = Segment().resolution_nm
    return z, y, x


def _file_name(frame: Frame, sections: int) -> str:
    """How the files of answers begin: an answer belongs to a voxel size and a number of sections."""
    depth = sections if frame.is_flat else len(frame.image)
    return f"{frame.name}-{frame.voxel_nm[2]:g}nm-{depth}".replace("/", "-")


def _judge(frame: Frame, answer: Answer) -> tuple[Judged, SectionResult]:
    """Scores of an answer, and the verdicts in the section of the marks."""
    flat = frame.judged_section(answer.labels)
    result = score_marks(flat, frame.marks, frame.voxel_nm[2], frame.no_soma, frame.valid)
    nuclei = None
    if frame.kind == "nuclei":
        points = frame.nuclei_nm / _working_nm() - 0.5
        if frame.is_flat:
            points[:, 0] = len(answer.labels) // 2
        size = np.array(answer.labels.shape)
        outside = int(((points < -0.5) | (points > size - 0.5)).any(axis=1).sum())
        if outside:
            raise UserError(
                f"{frame.name}: {outside} of {len(points)} nuclei lie outside the image"
            )
        nuclei = score_points(answer.labels, points, _working_nm())
    return Judged(result.counts, nuclei, seconds=answer.seconds), result


def _totals(kinds: dict[str, Kind], judged: dict[str, Judged]) -> dict[str, Judged]:
    """The sum of the frames of each kind that there is."""
    totals: dict[str, Judged] = {}
    for name, one in judged.items():
        kind = kinds[name]
        totals[kind] = totals[kind] + one if kind in totals else one
    return {kind: totals[kind] for kind in KINDS if kind in totals}


def _as_json(judged: Judged) -> dict[str, Any]:
    return asdict(judged)


def _row(name: str, judged: Judged) -> list[str]:
    counts, nuclei = judged.counts, judged.nuclei
    tail = [counts.objects, counts.unmarked, counts.in_no_soma]
    if nuclei is not None:
        own = [nuclei.points, nuclei.own, "", nuclei.shared, "", nuclei.missed, "", ""]
        tail = [nuclei.objects, nuclei.without, ""]  # type: ignore[list-item]
    else:
        whole, cut, doubt = counts.whole, counts.cut, counts.uncertain
        own = [whole.marks - whole.hidden, whole.found, whole.found_50, whole.merged]
        own += [whole.outline, whole.missed, f"{cut.found}/{cut.marks - cut.hidden}"]
        own += [f"{doubt.found}/{doubt.marks - doubt.hidden}"]
    return [name, *map(str, own), *map(str, tail), f"{judged.seconds:.0f}"]


def _rows(
    kinds: dict[str, Kind],
    results: dict[str, dict[str, Judged]],
    totals: dict[str, dict[str, Judged]],
    kind: Kind,
) -> list[list[str]]:
    """A row for each frame of a kind and way, and the sums."""
    several = len(totals) > 1
    rows = [
        _row(f"{name} {way}" if several else name, judged)
        for name, row in results.items()
        if kinds[name] == kind
        for way, judged in row.items()
    ]
    sums = [(way, total[kind]) for way, total in totals.items() if kind in total]
    return rows + [_row(f"all {total.frames}, {way}", total) for way, total in sums]


def _report(
    kinds: dict[str, Kind],
    results: dict[str, dict[str, Judged]],
    totals: dict[str, dict[str, Judged]],
    skipped: Sequence[str],
) -> str:
    parts = []
    for kind in KINDS:
        rows = _rows(kinds, results, totals, kind)
        if rows:
            widths = [max(map(len, column)) for column in zip(_HEAD, *rows)]
            lines = [
                "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
                for row in (list(_HEAD), *rows)
            ]
            parts.append("\n".join([_TITLES[kind], *lines]))
    parts += [f"skipped: {line}" for line in skipped]
    return "\n\n".join(parts)


def _picture_name(name: str, way: str) -> str:
    return f"{name}-{way}.png".replace("/", "-").replace(" ", "-")


def _draw(output: Path, frame: Frame, way: str, labels: np.ndarray, result: SectionResult) -> None:
    output.mkdir(parents=True, exist_ok=True)
    whole = result.counts.whole
    title = f"{frame.name}, {way}: {whole.found} of {whole.marks - whole.hidden} whole somas found"
    picture = marks_figure(
        title, frame.image[frame.section], labels, result, frame.no_soma, frame.valid
    )
    (output / _picture_name(frame.name, way)).write_bytes(picture)


def _index(
    kinds: dict[str, Kind],
    results: dict[str, dict[str, Judged]],
    totals: dict[str, dict[str, Judged]],
    skipped: Sequence[str],
) -> str:
    """A page with the tables and all pictures, which lie beside it."""
    parts = ["<header><h1>Real images</h1></header>"]
    for kind in KINDS:
        rows = _rows(kinds, results, totals, kind)
        if rows:
            pictures = [
                _picture_name(name, way)
                for name, row in results.items()
                if kinds[name] == kind
                for way in row
            ]
            figures = "\n".join(
                f'<figure><img src="{escape(p)}" alt=""></figure>' for p in pictures
            )
            parts.append(section(_TITLES[kind], table(_HEAD, rows, pictures) + figures))
    if skipped:
        parts.append(section("Skipped", "<p>" + "<br>".join(map(escape, skipped)) + "</p>"))
    return page("Real images", "\n".join(parts))
