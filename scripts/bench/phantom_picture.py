"""Draw docs/images/phantom.jpg: a section of a phantom, alone or beside a real section at the same scale.

    python -m flysoma.scripts.bench.phantom_picture docs/images/phantom.jpg [--real SECTION.png]

The real section must have the same pixel size.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from matplotlib import image as pictures

from ...models.phantom.make import DIFFICULTIES, SCENES, Difficulty, SceneKind, make_phantom

_SECTIONS = 16
_BAR_UM = 5.0


@click.command()
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--real",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A real section to draw on the left.",
)
@click.option("--size", default=860, show_default=True, help="Pixels along each edge.")
@click.option(
    "--nm", default=40.0, show_default=True, help="Pixel size and section thickness, in nm."
)
@click.option("--seed", default=7, show_default=True, help="Seed of the phantom.")
@click.option(
    "--difficulty",
    default="clean",
    show_default=True,
    type=click.Choice(DIFFICULTIES),
    help="Image quality.",
)
@click.option(
    "--scene",
    default="brain",
    show_default=True,
    type=click.Choice(SCENES),
    help="Tissue to paint.",
)
@click.option("--outlines", is_flag=True, help="Add the section with its somas outlined.")
def main(
    output: Path,
    real: Path | None,
    size: int,
    nm: float,
    seed: int,
    difficulty: Difficulty,
    scene: SceneKind,
    outlines: bool,
) -> None:
    """Write a picture of one phantom section to OUTPUT."""
    phantom = make_phantom((_SECTIONS, size, size), (nm, nm, nm), seed, difficulty, scene)
    section, labels = phantom.image[_SECTIONS // 2], phantom.neurons[_SECTIONS // 2]
    panels = [] if real is None else [_read(real, size)]
    panels.append(_with_bar(_rgb(section), nm))
    if outlines:
        panels.append(_outlined(section, labels))
    gap = np.full((size, 6, 3), 255, np.uint8)
    row = [part for panel in panels for part in (gap, panel)][1:]
    output.parent.mkdir(parents=True, exist_ok=True)
    pictures.imsave(output, np.concatenate(row, axis=1))


def _rgb(section: np.ndarray) -> np.ndarray:
    return np.repeat(section[..., None], 3, axis=-1)


def _read(path: Path, size: int) -> np.ndarray:
    """Return the upper left part of a picture in grey, padded with white to a square."""
    picture = pictures.imread(path)
    if picture.dtype != np.uint8:
        picture = np.rint(picture * 255).astype(np.uint8)
    grey = picture if picture.ndim == 2 else picture[..., :3].mean(axis=-1).astype(np.uint8)
    canvas = np.full((size, size), 255, np.uint8)
    part = grey[:size, :size]
    canvas[: part.shape[0], : part.shape[1]] = part
    return _rgb(canvas)


def _with_bar(panel: np.ndarray, nm: float) -> np.ndarray:
    """Draw a white scale bar of 5 um at the lower left."""
    length = int(round(_BAR_UM * 1000 / nm))
    if length + 16 < panel.shape[1]:
        panel[-16:-9, 8 : 8 + length] = 255
    return panel


def _outlined(section: np.ndarray, labels: np.ndarray) -> np.ndarray:
    panel = _rgb(section)
    edge = np.zeros(labels.shape, bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    panel[edge] = (255, 70, 40)
    return panel


if __name__ == "__main__":
    main()
