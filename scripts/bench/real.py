"""`flysoma bench real`: flysoma and baselines on real images with known somas."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from ...analysis.metrics.marks import SectionCounts, SectionResult, score_marks
from ...analysis.metrics.point_scores import PointScores, score_points
from ...analysis.pages.html import escape, page, section, table
from ...analysis.pages.marks import marks_figure
from ...axes import Nm3
from ...errors import UserError
from ...tasks.config import Segment
from ...tasks.grids.geometry import flip
from ..options import resolution_option
from ..progress import Bars
from .frames import KINDS, Frame, Kind, find_frames
from .methods.baselines import METHODS, Answer, Sample, Weights, parse_names, weight_options

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
class FrameScores:
    """Scores of one method on one frame, or on several frames added.

    Attributes:
      counts: counts of the marked section.
      nuclei: scores of the nuclei in the whole volume; None for other kinds of frames.
      frames: number of frames.
      seconds: running time of the method.
    """

    counts: SectionCounts = field(default_factory=SectionCounts)
    nuclei: PointScores | None = None
    frames: int = 1
    seconds: float = 0.0

    def __add__(self, other: FrameScores) -> FrameScores:
        nuclei = self.nuclei or other.nuclei
        if self.nuclei and other.nuclei:
            pairs = zip(asdict(self.nuclei).values(), asdict(other.nuclei).values())
            nuclei = PointScores(*(a + b for a, b in pairs))
        frames, seconds = self.frames + other.frames, self.seconds + other.seconds
        return FrameScores(self.counts + other.counts, nuclei, frames, seconds)


@dataclass(frozen=True)
class Results:
    """Scores of all methods on all frames.

    Attributes:
      kinds: kind of each frame, by name.
      scores: scores by frame and method.
      details: verdicts on marks and objects by frame and method, as plain values.
      skipped: a line for each folder with images that have no annotation.
    """

    methods: list[str]
    kinds: dict[str, Kind]
    skipped: list[str]
    scores: dict[str, dict[str, FrameScores]] = field(default_factory=dict)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, frame: str, method: str, scores: FrameScores, result: SectionResult) -> None:
        """Add the scores of a method on a frame."""
        self.scores.setdefault(frame, {})[method] = scores
        self.details.setdefault(frame, {})[method] = asdict(scores) | result.to_json()

    def totals(self, method: str) -> dict[Kind, FrameScores]:
        """Return the sum of the scores of a method for each kind of frame."""
        totals: dict[Kind, FrameScores] = {}
        for frame, row in self.scores.items():
            kind = self.kinds[frame]
            totals[kind] = totals[kind] + row[method] if kind in totals else row[method]
        return {kind: totals[kind] for kind in KINDS if kind in totals}

    def rows(self, kind: Kind) -> list[list[str]]:
        """Return the cells of each frame of a kind and method, and of the sums."""
        several = len(self.methods) > 1
        rows = [
            _row(f"{frame} {method}" if several else frame, scores)
            for frame, row in self.scores.items()
            if self.kinds[frame] == kind
            for method, scores in row.items()
        ]
        sums = [(m, totals[kind]) for m in self.methods if kind in (totals := self.totals(m))]
        return rows + [_row(f"all {total.frames}, {method}", total) for method, total in sums]


@click.command("real")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--methods",
    default="flysoma",
    show_default=True,
    help="Methods to compare, separated by commas.",
)
@weight_options
@click.option(
    "--sections",
    type=click.IntRange(8, 1024),
    default=96,
    show_default=True,
    help="Number of times a 2D image is repeated along z.",
)
@resolution_option(
    "Voxel size in nm, X Y Z; x and y of nm_per_px in a JSON file take precedence.",
    default=(40.0, 40.0, 40.0),
    show_default=True,
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for a picture of each image, index.html, real.json, and answers/ (.npz), which a repeated command "
    "reuses.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    folder: Path,
    methods: str,
    locate_weights: str,
    segment_weights: str,
    sections: int,
    resolution: Nm3,
    output: Path | None,
    as_json: bool,
) -> None:
    """Score flysoma and baselines on real images with known somas.

    Reads the images in FOLDER and in the folders below it. An image NAME.png needs NAME.json (somas marked as discs) or
    NAME.csv (nuclei, as for `bench nuclei`) beside it; images in a folder `empty` have no somas. NAME_invalid.png is
    white where pixels are excluded. 2D images (png, jpg) are repeated along z; 3D images are tif, nii, nii.gz, h5, npy
    or npz files. docs/benchmark.md describes the formats.
    """
    chosen = parse_names(methods, METHODS, "--methods")
    weights = Weights(locate_weights, segment_weights)
    files, skipped = find_frames(folder, resolution)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    results = Results(chosen, {file.name: file.kind for file in files}, skipped)
    with Bars() as bars:
        for number, file in enumerate(files):
            bars("images", number, len(files))
            frame = file.read()
            cache = None if output is None else output / "answers" / _cache_name(frame, sections)
            working = frame.to_working(sections)
            sample = Sample(working, flip(Segment().resolution_nm), weights, cache)
            for method in chosen:
                _score(frame, method, sample.answer(method), results, output)
        bars("images", len(files), len(files))
    text = _to_json(results, weights, sections)
    if output is not None:
        (output / "real.json").write_text(text + "\n")
        (output / "index.html").write_text(_index_page(results))
    click.echo(text if as_json else _table(results))


def _cache_name(frame: Frame, sections: int) -> str:
    """Return the prefix of the files that keep answers; an answer is for one voxel size and one number of sections."""
    depth = sections if frame.is_flat else len(frame.image)
    return f"{frame.name}-{frame.voxel_nm[2]:g}nm-{depth}".replace("/", "-")


def _score(
    frame: Frame, method: str, answer: Answer, results: Results, output: Path | None
) -> None:
    """Add the scores of an answer to the results, and write the picture of the marked section."""
    labels = frame.scored_section(answer.labels)
    result = score_marks(labels, frame.marks, frame.voxel_nm[2], frame.no_soma, frame.valid)
    nuclei = _score_nuclei(frame, answer.labels) if frame.kind == "nuclei" else None
    scores = FrameScores(result.counts, nuclei, seconds=answer.seconds)
    results.add(frame.name, method, scores, result)
    if output is not None:
        whole = result.counts.whole
        title = f"{frame.name}, {method}: {whole.found} of {whole.marks - whole.hidden} whole somas found"
        image = frame.image[frame.section]
        picture = marks_figure(title, image, labels, result, frame.no_soma, frame.valid)
        (output / _picture_name(frame.name, method)).write_bytes(picture)


def _score_nuclei(frame: Frame, labels: np.ndarray) -> PointScores:
    voxel_nm = flip(Segment().resolution_nm)
    points = frame.nuclei_nm / voxel_nm - 0.5
    if frame.is_flat:
        points[:, 0] = len(labels) // 2
    outside = int(((points < -0.5) | (points > np.array(labels.shape) - 0.5)).any(axis=1).sum())
    if outside:
        raise UserError(f"{frame.name}: {outside} of {len(points)} nuclei lie outside the image")
    return score_points(labels, points, voxel_nm)


def _to_json(results: Results, weights: Weights, sections: int) -> str:
    return json.dumps(
        {
            "weights": asdict(weights),
            "sections": sections,
            "totals": {
                method: {kind: asdict(total) for kind, total in results.totals(method).items()}
                for method in results.methods
            },
            "frames": results.details,
            "skipped": results.skipped,
        },
        indent=2,
    )


def _row(name: str, scores: FrameScores) -> list[str]:
    counts, nuclei = scores.counts, scores.nuclei
    cells: list[int | str]
    if nuclei is not None:
        cells = [nuclei.points, nuclei.own, "", nuclei.shared, "", nuclei.missed, "", ""]
        cells += [nuclei.objects, nuclei.without, ""]
    else:
        whole, cut, uncertain = counts.whole, counts.cut, counts.uncertain
        cells = [whole.marks - whole.hidden, whole.found, whole.found_50, whole.merged]
        cells += [whole.outline, whole.missed, f"{cut.found}/{cut.marks - cut.hidden}"]
        cells += [f"{uncertain.found}/{uncertain.marks - uncertain.hidden}"]
        cells += [counts.objects, counts.unmarked, counts.in_no_soma]
    return [name, *map(str, cells), f"{scores.seconds:.0f}"]


def _table(results: Results) -> str:
    parts = []
    for kind in KINDS:
        rows = results.rows(kind)
        if rows:
            widths = [max(map(len, column)) for column in zip(_HEAD, *rows)]
            lines = [
                "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
                for row in (list(_HEAD), *rows)
            ]
            parts.append("\n".join([_TITLES[kind], *lines]))
    parts += [f"skipped: {line}" for line in results.skipped]
    return "\n\n".join(parts)


def _picture_name(frame: str, method: str) -> str:
    return f"{frame}-{method}.png".replace("/", "-").replace(" ", "-")


def _index_page(results: Results) -> str:
    """Return a page with the tables and all pictures, which are files beside it."""
    parts = ["<header><h1>Real images</h1></header>"]
    for kind in KINDS:
        rows = results.rows(kind)
        if rows:
            pictures = [
                _picture_name(frame, method)
                for frame, row in results.scores.items()
                if results.kinds[frame] == kind
                for method in row
            ]
            figures = "\n".join(
                f'<figure><img src="{escape(p)}" alt=""></figure>' for p in pictures
            )
            parts.append(section(_TITLES[kind], table(_HEAD, rows, pictures) + figures))
    if results.skipped:
        lines = "<br>".join(map(escape, results.skipped))
        parts.append(section("Skipped", f"<p>{lines}</p>"))
    return page("Real images", "\n".join(parts))
