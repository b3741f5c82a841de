"""`flysoma look`: measure how an image looks, without any label."""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np

from ...analysis.look.measure import Block, CannotMeasure, measure_look
from ...analysis.look.stats import LookStats, look_distance
from ...analysis.pages.look import look_figure, look_rows
from ...axes import Nm3, Vec3
from ...errors import UserError
from ...tasks.config import Segment
from ...tasks.volumes.files import FORMATS, read_array
from ...tasks.volumes.geometry import Box, vec3
from ...tasks.volumes.image import ImageLayer
from ...tasks.volumes.sections import SECTION_FORMATS, read_section

_BLOCK_VX: Vec3 = (256, 256, 16)  # x, y, z
_TRIES = 8  # places for each block that is wanted
_INVALID = "_invalid"


@click.command("look")
@click.argument("image")
@click.option(
    "--resolution",
    nargs=3,
    type=float,
    help="Voxel size in nm, X Y Z: of a file (needed), of PNGs (40 40 40 without), or at which a layer is read.",
)
@click.option("--axes", default="zyx", show_default=True, help="Order of the axes in a file.")
@click.option("--dataset", help="Name of the array inside an h5 or npz file.")
@click.option(
    "--places",
    type=click.IntRange(1, 1000),
    default=12,
    show_default=True,
    help="How many places of a 3D image are measured.",
)
@click.option(
    "--beside",
    type=click.Path(path_type=Path),
    help="JSON of another look: its distance is told.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Picture (.png) to write.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    image: str,
    resolution: Nm3 | None,
    axes: str,
    dataset: str | None,
    places: int,
    beside: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure how IMAGE looks where there is tissue: grey levels, contrast, noise, blur, spectra, sections.

    IMAGE is a precomputed layer, a 3D file (tif, nii, nii.gz, h5, npy, npz), a PNG, or a folder of PNGs, each a
    section of its own; NAME_invalid.png is white where pixels of NAME.png are left out.
    """
    if resolution is not None and min(resolution) <= 0:
        raise UserError("a resolution is three numbers above zero, in nm, x y z")
    other = None if beside is None else _read_look(beside)
    blocks, voxel_nm = _blocks(image, resolution, axes, dataset, places)
    try:
        look = measure_look(blocks, voxel_nm)
    except CannotMeasure as err:
        raise UserError(f"the look of {image} cannot be measured: {err}") from err
    if output is not None:
        middle = blocks[len(blocks) // 2].image
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(look_figure(Path(image).name, look, middle[len(middle) // 2], other))
    if as_json:
        apart = {} if other is None else {"distance": vars(look_distance(look, other))}
        click.echo(json.dumps(look.to_json() | apart, indent=2))
        return
    rows = look_rows(look)
    if other is not None:
        found = look_distance(look, other)
        rows.append(("distance to the other look", f"{found.total:.2f}"))
        rows += [(f"  {name}", f"{value:.2f}") for name, value in found.parts.items()]
    click.echo("\n".join(f"{name:<32}{value}" for name, value in rows))


def _blocks(
    image: str, resolution: Nm3 | None, axes: str, dataset: str | None, places: int
) -> tuple[list[Block], Nm3]:
    """Blocks of the image to measure, and their voxel size, z, y, x."""
    path = Path(image).expanduser()
    lower = path.name.lower()
    pictures = _pictures(path)
    if pictures:
        x, y, _ = resolution or (40.0, 40.0, 40.0)
        return [_flat(picture) for picture in pictures], (0.0, y, x)
    if path.is_file() or lower.endswith(FORMATS):
        if resolution is None:
            raise UserError(f"{image} is a file: give its voxel size with --resolution X Y Z")
        array = read_array(path, axes, dataset)
        if array.dtype != np.uint8:
            raise UserError(f"{image} holds {array.dtype} voxels; a look is measured of uint8")
        x, y, z = resolution
        return _sampled(array, places), (z, y, x)
    layer = ImageLayer(image, fill_missing=True)
    working = resolution or layer.resolutions_nm[layer.source_mip(Segment().resolution_nm)]
    x, y, z = working
    return _of_layer(layer, working, places), (z, y, x)


def _pictures(path: Path) -> list[Path]:
    """The pictures that a path names, without masks; none where it is no picture and no folder of some."""
    if path.name.lower().endswith(SECTION_FORMATS):
        return [path]
    if not path.is_dir() or (path / "info").exists():
        return []
    there = [p for p in sorted(path.iterdir()) if p.name.lower().endswith(SECTION_FORMATS)]
    return [p for p in there if not p.stem.endswith(_INVALID)]


def _flat(path: Path) -> Block:
    image = read_section(path)
    mask = path.with_name(f"{path.stem}{_INVALID}.png")
    if not mask.exists():
        return Block(image[None])
    valid = read_section(mask) < 128
    if valid.shape != image.shape:
        raise UserError(
            f"{mask} is {valid.shape[1]} x {valid.shape[0]} pixels and its image {image.shape[1]} x {image.shape[0]}"
        )
    return Block(image[None], valid)


def _sampled(array: np.ndarray, places: int) -> list[Block]:
    """Blocks of an array: all of it where it is small."""
    box = Box((0, 0, 0), vec3(array.shape[::-1]))
    boxes = _places(box, places)
    blocks = [array[b.slices_zyx((0, 0, 0))] for b in boxes]
    return [Block(block) for block in _with_most_tissue(blocks, places)]


def _of_layer(layer: ImageLayer, resolution_nm: Nm3, places: int) -> list[Block]:
    """Blocks of a layer, at places where it is not black."""
    blocks: list[np.ndarray] = []
    for box in _places(layer.working_bounds(resolution_nm), places):
        block = layer.read(box, resolution_nm)
        if 2 * np.count_nonzero(block) > block.size:
            blocks.append(block)
        if len(blocks) == places:
            break
    if not blocks:
        raise UserError(
            f"{layer.cloudpath}: no place of those that were looked at is mostly tissue; ask for more --places"
        )
    return [Block(block) for block in blocks]


def _places(bounds: Box, places: int) -> list[Box]:
    """Boxes at random, always the same ones; the whole where it is no larger than one."""
    size = [min(n, edge) for n, edge in zip(bounds.size, _BLOCK_VX)]
    room = [n - edge for n, edge in zip(bounds.size, size)]
    if not any(room):
        return [bounds]
    random = np.random.default_rng(0)
    shifts = random.integers(0, np.array(room) + 1, (_TRIES * places, 3)).tolist()
    corners = [vec3([lo + s for lo, s in zip(bounds.lo, shift)]) for shift in shifts]
    return [Box(lo, vec3([a + n for a, n in zip(lo, size)])) for lo in corners]


def _with_most_tissue(blocks: list[np.ndarray], places: int) -> list[np.ndarray]:
    """The first blocks that are mostly not black, or, without such, the first ones."""
    lit = [block for block in blocks if 2 * np.count_nonzero(block) > block.size]
    return (lit or blocks)[:places]


def _read_look(path: Path) -> LookStats:
    try:
        return LookStats.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise UserError(f"{path} is no look as 'flysoma look --json' prints it: {err}") from err
