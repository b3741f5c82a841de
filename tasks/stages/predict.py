"""Stage 1, predict: image > both networks > probabilities, tile by tile. The image is read once, and here alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ...axes import Zyx
from ...models.inference.lattice import WHOLE, Lattice
from ...models.inference.levels import FULL, as_nibbles, bytes_from
from ..run import predictor
from ..volumes.geometry import Box, vec3
from ..volumes.resample import covered, resample
from ..volumes.tiles import CORES, FIELDS, put_tile
from ..volumes.tissue import Tissue
from .stage import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from ...models.inference.windows import Predictor, View

_PLAN = "plans/predict.json"
_SPECK = 8  # of the least core that is a seed, the part that lets the segmentation network look at a tile


class PredictStage(Stage):
    """The localization network in every tile, the segmentation network in those that a core lies in or near.

    Attributes:
      many_tiles: a volume of so many is worth the seconds that networks on a GPU take to be compiled.
    """

    name = "predict"
    scratch = (f"{CORES}/", f"{FIELDS}/")
    many_tiles = 4000

    def prepare(self) -> None:
        tissue, run = Tissue(self.run.config.image, self.run.config.mask), self.run
        lattice, origin = run.tiles.fine, run.segment_grid.bounds.lo
        kept = {}
        for index in range(len(run.tiles.grid)):
            numbers = [
                lattice.number(tile)
                for tile in run.tiles.in_block(index)
                if tissue.meets(
                    Box.from_zyx(*lattice.owned(tile), origin), run.config.segment.resolution_nm
                )
            ]
            if numbers:
                kept[index] = numbers
        run.store.put_json(_PLAN, kept)

    @cached_property
    def tiles_of(self) -> dict[int, list[int]]:
        """Numbers of the tiles with tissue, by block."""
        return {int(index): numbers for index, numbers in self.run.store.get_json(_PLAN).items()}

    def plan(self) -> Sequence[int]:
        return sorted(self.tiles_of)

    @cached_property
    def networks(self) -> tuple[Predictor, Predictor]:
        """Localization and segmentation. Raises UserError when they are not those that the run was begun with."""
        self.run.check_origin()
        lasting = math.prod(self.run.tiles.fine.shape) >= self.many_tiles
        config = self.run.config
        return predictor(config.locate.weights, lasting), predictor(config.segment.weights, lasting)

    @cached_property
    def lattices(self) -> tuple[Lattice, Lattice]:
        """Of both, with windows as they like them."""
        locate, segment = (predictor.network.multiple for predictor in self.networks)
        return self.run.tiles.coarse.fitted(locate), self.run.tiles.fine.fitted(segment)

    def read(self, index: int) -> Any:
        """What the windows of a block's tiles see, where the networks are, at both resolutions."""
        run, config = self.run, self.run.config
        tiles = [run.tiles.fine.tile(number) for number in self.tiles_of[index]]
        origins = (run.locate_grid.bounds, run.segment_grid.bounds)
        coarse, fine = (
            _hull(lattice, tiles, bounds) for lattice, bounds in zip(self.lattices, origins)
        )
        own_nm = config.segment.resolution_nm
        below = covered(coarse, config.locate.resolution_nm, own_nm, origins[1])
        whole = Box(
            vec3([min(pair) for pair in zip(fine.lo, below.lo)]),
            vec3([max(pair) for pair in zip(fine.hi, below.hi)]),
        )
        image, first = run.image.read(whole, own_nm), whole.corners_zyx(origins[1].lo)[0]
        around = self.networks[1].view(image, first)
        shrunk = resample(around.image, whole, own_nm, coarse, config.locate.resolution_nm)
        return replace(around, image=shrunk, first=coarse.corners_zyx(origins[0].lo)[0]), around

    def work(self, index: int, data: Any) -> Any:
        config, (seen, around) = self.run.config, data
        networks = self.networks
        before = sum(network.busy_s for network in networks)
        coarse, fine = self.lattices
        level = round(config.locate.threshold * FULL)
        voxel_um3 = float(np.prod(config.locate.resolution_nm)) * 1e-9
        speck = config.locate.min_core_um3 / _SPECK / voxel_um3
        tiles = [coarse.tile(number) for number in self.tiles_of[index]]
        tiles = _not_black(seen, coarse, tiles)
        found, wanted = [], []
        asked = ((_window(seen, coarse, tile), WHOLE) for tile in tiles)
        for tile, (core,) in zip(tiles, networks[0].each(asked, partial(bytes_from, level))):
            own = core[coarse.own_part(tile)]
            if own.any():
                found.append((CORES, coarse.number(tile), own.copy()))
            if np.count_nonzero(core) > speck:
                wanted.append(tile)
        asked = ((_window(around, fine, tile), fine.own_part(tile)) for tile in wanted)
        for tile, both in zip(wanted, networks[1].each(asked, as_nibbles)):
            found.append((FIELDS, fine.number(tile), both))
        network_s = sum(network.busy_s for network in networks) - before
        counters = {"tiles": len(tiles), "windows": len(wanted), "network_s": round(network_s, 3)}
        return found, counters

    def write(self, index: int, found: Any) -> dict[str, Any]:
        tiles, counters = found
        for folder, number, values in tiles:
            put_tile(self.run.store, folder, number, values)
        return counters | {"voxels": self.run.predict_box(index).voxels}


def _hull(lattice: Lattice, tiles: Sequence[Zyx], bounds: Box) -> Box:
    """What the windows of tiles see of a volume, x, y, z, with the volume's own offset."""
    starts = np.array([lattice.start(tile) for tile in tiles])
    past = starts.max(axis=0) + lattice.window
    return Box.from_zyx(starts.min(axis=0), past, bounds.lo).intersect(bounds)


def _not_black(view: View, lattice: Lattice, tiles: Sequence[Zyx]) -> list[Zyx]:
    """Those tiles that hold something; they are asked together, since a GPU answers late."""
    import torch

    most = [_window(view, lattice, tile)[lattice.own_part(tile)].max() for tile in tiles]
    return [tile for tile, value in zip(tiles, torch.stack(most).tolist()) if value]


def _window(view: View, lattice: Lattice, tile: Zyx) -> Tensor:
    return view.window(lattice.start(tile), lattice.window)
