"""What every stage of a run shares: its config, its store, its layers and grids; and what a stage is.

torch and cloudvolume are imported by what uses them: the state of a run is told without.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from .. import __version__
from ..axes import Nm3, Vec3
from ..errors import UserError
from ..models.networks.shipped import find_weights, fingerprint
from .config import RunConfig, parse_config
from .store import RunStore
from .volumes.geometry import BlockGrid, Box, vec3, voxels
from .volumes.tiles import Tiles

if TYPE_CHECKING:
    from ..models.inference.windows import Predictor
    from .volumes.image import ImageLayer
    from .volumes.labels import LabelLayer

ID_BITS = 20  # a block's own labels take the low bits of an id, the block's index the rest


class Run:
    """One config applied to one volume; everything it makes lies under one cloud path."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.path = config.output
        self.store = RunStore(config.output)

    @classmethod
    def open(cls, path: str) -> Run:
        """The run whose config.yaml lies at a path. Raises UserError when there is none."""
        store = RunStore(path)
        text = store.get("config.yaml")
        if text is None:
            raise UserError(
                f"no run at {store.cloudpath}: it has no config.yaml; start one with 'flysoma run CONFIG'"
            )
        config = parse_config(text.decode(), f"{store.cloudpath}/config.yaml")
        return cls(config.model_copy(update={"output": store.cloudpath}))

    def check_origin(self) -> None:
        """Raise UserError when this is not the flysoma that the run was begun with, or the weights are others."""
        begun = self.store.get_json("manifest.json") or {}
        before = begun.get("versions", {}).get("flysoma", "of no known version")
        if before != __version__:
            raise UserError(
                f"{self.path} was begun with flysoma {before} and this is {__version__}; "
                "go on with that one, or choose another output"
            )
        for name, digest in begun["weights_sha256"].items():
            weights = getattr(self.config, name).weights
            if fingerprint(find_weights(weights)) != digest:
                raise UserError(
                    f"{weights} is not the file that {self.path} was begun with; put it back, or choose another output"
                )

    @cached_property
    def image(self) -> ImageLayer:
        from .volumes.image import ImageLayer

        return ImageLayer(self.config.image, self.config.fill_missing)

    @property
    def somas_path(self) -> str:
        return f"{self.path}/somas"

    @cached_property
    def somas(self) -> LabelLayer:
        from .volumes.labels import LabelLayer

        return LabelLayer(self.somas_path)

    @cached_property
    def locate_grid(self) -> BlockGrid:
        locate = self.config.locate
        return self._grid(locate.resolution_nm, locate.block_vx, locate.halo_nm)

    @cached_property
    def segment_grid(self) -> BlockGrid:
        segment = self.config.segment
        return self._grid(segment.resolution_nm, segment.block_vx, segment.halo_nm)

    @cached_property
    def tiles(self) -> Tiles:
        """What both networks see, tile by tile."""
        chunks_nm = self.image.chunks_nm(self.config.segment.resolution_nm)
        return Tiles.of(self.config, self.locate_grid.bounds, self.segment_grid.bounds, chunks_nm)

    def predict_box(self, index: int) -> Box:
        """The voxels, as the segmentation network has them, of a block of tiles."""
        tiles = self.tiles.in_block(index)
        first, past = self.tiles.fine.owned(tiles[0])[0], self.tiles.fine.owned(tiles[-1])[1]
        return Box.from_zyx(first, past, self.segment_grid.bounds.lo)

    @cached_property
    def overlap_vx(self) -> Vec3:
        """Half the thickness of the slabs in which neighbours are compared, voxels."""
        half = voxels(self.config.stitch.overlap_nm, self.config.segment.resolution_nm)
        return vec3([min(a, b) for a, b in zip(half, self.segment_grid.halo)])

    def _grid(self, resolution_nm: Nm3, block: Vec3, halo_nm: float) -> BlockGrid:
        return BlockGrid(
            self.image.working_bounds(resolution_nm), block, voxels(halo_nm, resolution_nm)
        )


@lru_cache(maxsize=4)
def predictor(weights: str, lasting: bool = False) -> Predictor:
    """The network of a stage, loaded once in each process; `lasting`: for many windows."""
    from ..models.inference.windows import Predictor  # which bring in torch
    from ..models.networks.weights import load_network

    return Predictor(load_network(weights), lasting=lasting)
