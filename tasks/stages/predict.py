"""predict: both networks over the image, tile by tile. No other stage reads the whole image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np

from ...axes import Zyx
from ...models.inference.encoding import FULL, encode_fields, encode_thresholded
from ...models.inference.lattice import WHOLE, Lattice
from ..engine import choose_engine, run_engine
from ..grids.geometry import Box, ceil_voxels, flip, vec3
from ..grids.resample import resample, source_box
from ..grids.tiles import CORES, FIELDS, NUCLEUS_FIELDS, margin_nm, put_tile
from ..run import predictor
from ..storage.damage import DamagedObject
from .stage import STORED, Counters, Forecast, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from ...models.inference.predictor import Predictor
    from ...models.inference.windows import View

_PLAN = "plans/predict.json"
_PAIRS = (FIELDS, NUCLEUS_FIELDS)  # where each pair of the second network's probabilities goes
_SPECK = 8  # a tile is segmented if it sees more than 1/8 of the smallest core that is a seed


@dataclass(frozen=True)
class Views:
    """The image around a block of tiles, at the resolutions of both networks."""

    coarse: View
    fine: View


@dataclass(frozen=True)
class TileValues:
    """What a task stores: (folder, number, values) of each tile; and its counters."""

    tiles: list[tuple[str, int, np.ndarray]]
    counters: Counters


class PredictStage(Stage[Views, TileValues]):
    """The localization network in every tile; the segmentation network in the tiles that hold a core or lie near one.

    Attributes:
      min_tiles_to_compile: in a volume of fewer tiles, compiling the networks takes longer than it saves.
    """

    name = "predict"
    scratch = (f"{CORES}/", f"{FIELDS}/", f"{NUCLEUS_FIELDS}/")
    min_tiles_to_compile = 4000

    def prepare(self) -> None:
        run, lattice = self.run, self.run.tiles.fine
        tiles = {index: run.tiles.in_block(index) for index in self._blocks_with_tissue()}
        plan = {
            index: [lattice.number(tile) for tile in block if run.tissue_tiles[tile]]
            for index, block in tiles.items()
        }
        run.store.put_record(_PLAN, {"tiles": plan})

    @cached_property
    def tiles_of(self) -> dict[int, list[int]]:
        """The numbers of the tiles with tissue, by block."""
        plan = self.run.store.get_record(_PLAN)
        if plan is None:
            raise DamagedObject(self.run.path, _PLAN, "is missing or damaged")
        return {int(index): numbers for index, numbers in plan["tiles"].items()}

    def plan(self) -> Sequence[int]:
        return sorted(self.tiles_of)

    def forecast(self) -> Forecast:
        run, resolution_nm = self.run, self.run.config.segment.resolution_nm
        x, y, z = map(ceil_voxels, margin_nm(run.config), resolution_nm)
        boxes = [run.predict_box(index) for index in self._blocks_with_tissue()]
        reads = [box.grow((x, y, z)).intersect(run.segment_grid.bounds) for box in boxes]
        fetched = [run.image.fetched(box, resolution_nm) for box in reads]
        voxels, bytes_in = sum(box.voxels for box in boxes), sum(count for _, count in fetched)
        source_nm = run.image.resolutions_nm[run.image.source_mip(resolution_nm)]
        source_voxels = voxels * math.prod(resolution_nm) / math.prod(source_nm)
        return Forecast(
            tasks=len(boxes),
            exact=True,
            dropped=len(run.tiles.grid) - len(boxes),
            voxels=voxels,
            bytes_in=bytes_in,
            bytes_out=voxels * (1 + run.has_nuclei),
            reads=sum(chunks for chunks, _ in fetched),
            writes=(2 + run.has_nuclei) * int(run.tissue_tiles.sum()),
            times_read=bytes_in / source_voxels if boxes else None,
        )

    def _blocks_with_tissue(self) -> list[int]:
        grid, tissue = self.run.tiles.grid, self.run.tissue_tiles
        return [b.index for b in grid if tissue[b.core.slices_zyx(grid.bounds.lo)].any()]

    @property
    def allow_compile(self) -> bool:
        """Whether the volume has so many windows that compiling the networks is worthwhile."""
        return math.prod(self.run.tiles.fine.shape) >= self.min_tiles_to_compile

    @cached_property
    def networks(self) -> tuple[Predictor, Predictor]:
        """Localization and segmentation. Raises UserError if the run was begun with other ones."""
        self.run.check_origin()
        engine, config = choose_engine(self.run.store, self.allow_compile), self.run.config
        return predictor(config.locate.weights, engine), predictor(config.segment.weights, engine)

    @cached_property
    def lattices(self) -> tuple[Lattice, Lattice]:
        """Localization and segmentation, with the window sizes that the networks need."""
        locate, segment = (predictor.network.multiple for predictor in self.networks)
        return self.run.tiles.coarse.round_window(locate), self.run.tiles.fine.round_window(segment)

    def read(self, index: int) -> Views:
        """Read what the windows of a block's tiles see, on the networks' device."""
        lattice = self.run.tiles.fine
        return self._views([lattice.tile(number) for number in self.tiles_of[index]])

    def _views(self, tiles: Sequence[Zyx]) -> Views:
        run, config = self.run, self.run.config
        bounds = (run.locate_grid.bounds, run.segment_grid.bounds)
        coarse, fine = (
            _hull(lattice, tiles, whole) for lattice, whole in zip(self.lattices, bounds)
        )
        own_nm, coarse_nm = config.segment.resolution_nm, config.locate.resolution_nm
        below = source_box(coarse, coarse_nm, own_nm, bounds[1])
        box = Box(
            vec3([min(pair) for pair in zip(fine.lo, below.lo)]),
            vec3([max(pair) for pair in zip(fine.hi, below.hi)]),
        )
        image, first = run.image.read(box, own_nm), box.corners_zyx(bounds[1].lo)[0]
        view = self.networks[1].view(image, first)
        shrunk = resample(view.image, box, own_nm, coarse, coarse_nm)
        first = coarse.corners_zyx(bounds[0].lo)[0]
        return Views(replace(view, image=shrunk, first=first), view)

    def work(self, index: int, data: Views) -> TileValues:
        import torch

        torch.set_num_threads(self.run.config.predict.threads)
        config, networks = self.run.config.locate, self.networks
        busy_s = sum(network.busy_s for network in networks)
        coarse = self.lattices[0]
        threshold = round(config.threshold * FULL)
        voxel_um3 = float(np.prod(config.resolution_nm)) * 1e-9
        speck = config.min_core_um3 / _SPECK / voxel_um3
        tiles = [coarse.tile(number) for number in self.tiles_of[index]]
        tiles = _not_black(data.coarse, coarse, tiles)
        values, near_core = [], []
        windows = ((_window(data.coarse, coarse, tile), WHOLE) for tile in tiles)
        cores = networks[0].predict(windows, partial(encode_thresholded, threshold))
        for tile, (core,) in zip(tiles, cores):
            own = core[coarse.tile_in_window(tile)]
            if own.any():
                values.append((CORES, coarse.number(tile), own.copy()))
            if np.count_nonzero(core) > speck:
                near_core.append(tile)
        values += self._fields(data.fine, near_core)
        network_s = round(sum(network.busy_s for network in networks) - busy_s, 3)
        counters = {"tiles": len(tiles), "windows": len(near_core), "network_s": network_s}
        return TileValues(values, counters)

    def _fields(self, view: View, tiles: Sequence[Zyx]) -> list[tuple[str, int, np.ndarray]]:
        """Return (folder, number, values) of what the segmentation network says in tiles."""
        fine, network = self.lattices[1], self.networks[1]
        windows = ((_window(view, fine, tile), fine.tile_in_window(tile)) for tile in tiles)
        encode = partial(encode_fields, self.run.config.segment.interior_threshold)
        predicted = zip(tiles, network.predict(windows, encode))
        return [
            (folder, fine.number(tile), pair)
            for tile, fields in predicted
            for folder, pair in zip(_PAIRS, fields)
        ]

    def redo_fields(self, numbers: Iterable[int]) -> None:
        """Predict and store the fields of tiles, whether or not a core lies near them."""
        for number in numbers:
            tiles = [self.run.tiles.fine.tile(number)]
            for folder, _, values in self._fields(self._views(tiles).fine, tiles):
                put_tile(self.run.store, folder, number, values)

    def write(self, index: int, result: TileValues) -> Counters:
        stored: dict[str, list[int]] = {}
        for folder, number, values in result.tiles:
            put_tile(self.run.store, folder, number, values)
            stored.setdefault(folder, []).append(number)
        return result.counters | {"voxels": self.run.predict_box(index).voxels, STORED: stored}

    def task_of(self, path: str) -> int | None:
        number = super().task_of(path)
        if number is None:
            return None
        place = flip(self.run.tiles.fine.tile(number))
        return self.run.tiles.grid.reaching(Box(place, vec3([p + 1 for p in place])))[0]

    @property
    def engine(self) -> str:
        network = self.networks[1]
        return f"{network.engine} on {network.device}"

    def finish(self) -> Counters:
        """Record which tiles were stored and, in the manifest, which engine has computed them."""
        self.put_stored()
        store, chosen = self.run.store, run_engine(self.run.store)
        manifest = store.get_json("manifest.json")
        if chosen is not None and manifest is not None:
            store.put_json("manifest.json", manifest | chosen)
        return {}


def _hull(lattice: Lattice, tiles: Sequence[Zyx], bounds: Box) -> Box:
    """Return the part of a volume, x, y, z, that the windows of tiles see."""
    starts = np.array([lattice.window_start(tile) for tile in tiles])
    first: list[int] = starts.min(axis=0).tolist()
    past: list[int] = (starts.max(axis=0) + lattice.window).tolist()
    return Box.from_zyx(first, past, bounds.lo).intersect(bounds)


def _not_black(view: View, lattice: Lattice, tiles: Sequence[Zyx]) -> list[Zyx]:
    """Return the tiles that are not black. All are fetched from a GPU at once, which is faster."""
    import torch

    most = [_window(view, lattice, tile)[lattice.tile_in_window(tile)].max() for tile in tiles]
    return [tile for tile, value in zip(tiles, torch.stack(most).tolist()) if value]


def _window(view: View, lattice: Lattice, tile: Zyx) -> Tensor:
    return view.window(lattice.window_start(tile), lattice.window)
