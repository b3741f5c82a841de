"""Options and types of values that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ..axes import Nm3
from ..tasks.grids.geometry import voxel_size

MAX_OFFSET_VX = 1 << 40  # products with a voxel size stay within 64 bits


class Finite(click.FloatRange):
    """A number that is neither NaN nor infinite, optionally within a range."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if not abs(number) < float("inf"):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


def resolution_option(
    text: str = "Voxel size in nm, X Y Z.", **settings: Any
) -> Callable[[Any], Any]:
    """Return the option --resolution, whose values must be a voxel size in nm."""

    def check(context: click.Context, parameter: click.Parameter, values: Nm3 | None) -> Nm3 | None:
        return None if values is None else voxel_size(values)

    return click.option("--resolution", nargs=3, type=float, callback=check, help=text, **settings)


def axes_option(files: str) -> Callable[[Any], Any]:
    """Return the option --axes for files that are named so in its help."""
    return click.option(
        "--axes",
        show_default="as the file states, otherwise zyx",
        help=f"Order of the axes in {files}.",
    )


places_option = click.option(
    "--places",
    type=click.IntRange(1, 1000),
    default=12,
    show_default=True,
    help="Number of samples of a layer or a large 3D file.",
)
dataset_option = click.option(
    "--dataset", help="Name of the array in an h5 or npz file; number of the image in a tif."
)
