"""What every stage of a run shares: its config, its store, its layers and grids; and what a stage is.

torch and cloudvolume are imported by what uses them: the state of a run is told without.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import UserError
from ..models.shipped import find_weights, fingerprint
from .config import RunConfig, parse_config
from .geometry import BlockGrid, Box, Vec3, vec3
from .store import RunStore
from .tiles import Tiles

if TYPE_CHECKING:
    from ..models.predict import Predictor
    from .volume import ImageLayer, LabelLayer, Nm3

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
        from .volume import ImageLayer

        return ImageLayer(self.config.image, self.config.fill_missing)

    @property
    def somas_path(self) -> str:
        return f"{self.path}/somas"

    @cached_property
    def somas(self) -> LabelLayer:
        from .volume import LabelLayer

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


class Stage:
    """One step of the pipeline over all its tasks.

    Attributes:
      name: also the folder of its receipts.
      scratch: prefixes of what only later stages of the run read.
    """

    name = ""
    scratch: tuple[str, ...] = ()

    def __init__(self, run: Run) -> None:
        self.run = run

    def prepare(self) -> None:
        """Once, by the coordinator, before tasks are made: create what they write into."""

    def plan(self) -> Sequence[int]:
        """Indices of the stage's tasks, in order."""
        raise NotImplementedError

    def read(self, index: int) -> Any:
        """What a task needs, read ahead while another task is worked on."""

    def work(self, index: int, data: Any) -> Any:
        """The task itself, on what `read` gave; the same index gives the same bytes. Returns what `write` wants."""
        raise NotImplementedError

    def write(self, index: int, found: Any) -> dict[str, Any]:
        """Write what was found, while the next task is worked on; returns counters for the receipt.

        A stage that does not need this writes in `work`, which then returns the counters.
        """
        return found

    def finish(self) -> dict[str, Any]:
        """The reduce step: once, by the coordinator, when every receipt is there."""
        return {}


def voxels(length_nm: float, resolution_nm: Sequence[float]) -> Vec3:
    """A length in whole voxels of each axis, rounded up."""
    return vec3([-int(-length_nm // r) for r in resolution_nm])


def flip(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    """x, y, z to z, y, x, and back."""
    a, b, c = values
    return c, b, a


@lru_cache(maxsize=4)
def predictor(weights: str, lasting: bool = False) -> Predictor:
    """The network of a stage, loaded once in each process; `lasting`: for many windows."""
    from ..models.predict import Predictor  # which bring in torch
    from ..models.weights import load_network

    return Predictor(load_network(weights), lasting=lasting)
