"""What the stages of a run share: its config, store, layers, grids and tissue.

torch and cloudvolume are imported where they are used, so that the state of a run can be shown without them.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from .. import __version__
from ..axes import Nm3, Vec3
from ..errors import UserError
from ..models.networks.weights_files import find_weights, fingerprint, names_nuclei
from .config import RunConfig, parse_config
from .grids.geometry import Block, BlockGrid, Box, to_voxels, vec3
from .grids.tiles import Tiles, blocks_near
from .soma_versions import FIRST_VERSION, SomaVersion, read_versions
from .storage.damage import DamagedChunk, DamagedObject
from .storage.store import RunStore

if TYPE_CHECKING:
    import pandas as pd

    from ..models.inference.predictor import Predictor
    from .layers.image import ImageLayer
    from .layers.labels import LabelLayer
    from .layers.tissue import Tissue


def stored_path(stage: str) -> str:
    """Return the path, in a run, of the numbers of the objects that a stage's tasks stored."""
    return f"stored/{stage}.npz"


def stored_kind(layer: str, number: int) -> str:
    """Return the kind, in `stored_numbers`, of the objects of a mip or region of a layer of labels."""
    return str(number) if layer == "somas" else f"{layer}-{number}"


ID_BITS = 20  # low bits of an id: a block's own labels; the other bits: the block's index


class Fingerprints(BaseModel):
    """The sha256 of the weights of both networks."""

    model_config = ConfigDict(extra="forbid")

    locate: str
    segment: str


class Manifest(BaseModel):
    """What a run was begun with.

    Attributes:
      versions: of flysoma and of the libraries that it computes with.
      config_hash, image_info_sha256: sha256 of the config and of the image's info.
      image_sample_sha256: sha256 of the content of some chunks of the image, by name.
      has_nuclei: whether the segmentation network predicts nuclei.
    """

    versions: dict[str, str]
    config_hash: str
    image_info_sha256: str
    image_sample_sha256: dict[str, str]
    weights_sha256: Fingerprints
    has_nuclei: bool = False


class Run:
    """One config applied to one volume; all its output lies under one cloud path."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.path = config.output
        self.store = RunStore(config.output)
        self._stored: dict[str, dict[str, np.ndarray]] = {}

    @classmethod
    def open(cls, path: str) -> Run:
        """Open the run whose config.yaml lies at a path. Raises UserError if there is none."""
        store = RunStore(path)
        data = store.get("config.yaml")
        if data is None:
            raise UserError(
                f"no run at {store.cloudpath}: it has no config.yaml; start one with 'flysoma run CONFIG'"
            )
        config = parse_config(data, f"{store.cloudpath}/config.yaml")
        return cls(config.model_copy(update={"output": store.cloudpath}))

    @cached_property
    def manifest(self) -> Manifest:
        """What the run was begun with. Raises UserError if the manifest is missing or damaged."""
        try:
            return Manifest.model_validate_json(self.store.get("manifest.json") or b"")
        except ValidationError:
            raise UserError(
                f"{self.path} was begun with flysoma of no known version: its manifest.json is missing or damaged; "
                "restore it, or choose another output"
            ) from None

    def check_origin(self) -> None:
        """Raise UserError if the run was begun with another version of flysoma, other weights or another image."""
        manifest = self.manifest
        version = manifest.versions.get("flysoma", "of no known version")
        if version != __version__:
            raise UserError(
                f"{self.path} was begun with flysoma {version} and this is {__version__}; "
                "resume it with that version, or choose another output"
            )
        for name, digest in manifest.weights_sha256:
            weights = getattr(self.config, name).weights
            if fingerprint(find_weights(weights)) != digest:
                raise UserError(
                    f"{weights} is not the file that {self.path} was begun with; "
                    "restore that file, or choose another output"
                )
        if self.image.info_sha256 != manifest.image_info_sha256:
            raise UserError(
                f"the info of {self.config.image} is not the one that {self.path} was begun with; "
                "restore it, or choose another output"
            )

    def check_image(self) -> None:
        """Raise UserError if one of the chunks that the manifest has sampled holds another image now."""
        now = self.image.sample(self.config.segment.resolution_nm)
        for name, digest in self.manifest.image_sample_sha256.items():
            if now.get(name, digest) != digest:
                raise UserError(
                    f"chunk {name} of {self.config.image} is not the one that {self.path} was begun with; "
                    "restore the image, or choose another output"
                )

    @cached_property
    def image(self) -> ImageLayer:
        """The image that the run reads."""
        from .layers.image import ImageLayer

        return ImageLayer(self.config.image, self.config.fill_missing)

    @cached_property
    def has_nuclei(self) -> bool:
        """Whether the segmentation network predicts nuclei, so that the run writes them."""
        if self.store.get("manifest.json") is None:  # a forecast
            return names_nuclei(self.config.segment.weights)
        return self.manifest.has_nuclei

    @property
    def layer_names(self) -> list[str]:
        """The layers of labels: the somas, and their nuclei if there are any."""
        return ["somas", "nuclei"] if self.has_nuclei else ["somas"]

    @property
    def somas_path(self) -> str:
        return f"{self.path}/somas"

    @property
    def nuclei_path(self) -> str:
        return f"{self.path}/nuclei"

    @cached_property
    def somas(self) -> LabelLayer:
        """The segmentation that the run writes. Raises DamagedObject if it cannot be opened."""
        return self._open_labels("somas")

    @cached_property
    def nuclei(self) -> LabelLayer:
        """The nuclei of the somas, with the same ids; see `somas`."""
        return self._open_labels("nuclei")

    def layer(self, name: str) -> LabelLayer:
        """Return the layer of one of `layer_names`."""
        layer: LabelLayer = getattr(self, name)
        return layer

    def _open_labels(self, name: str) -> LabelLayer:
        from .layers.labels import LabelLayer

        try:
            return LabelLayer(f"{self.path}/{name}")
        except UserError as err:
            raise DamagedObject(self.path, f"{name}/info", "is missing or damaged") from err

    def stored_numbers(self, stage: str, kind: str) -> np.ndarray:
        """Return the numbers of the objects of a kind that the tasks of a finished stage stored, ascending.

        Raises DamagedObject if their list is missing or has changed.
        """
        if stage not in self._stored:
            self._stored[stage] = self.store.get_arrays(stored_path(stage))
        return self._stored[stage].get(kind, np.zeros(0, np.int64))

    def put_stored_numbers(self, stage: str, numbers: dict[str, np.ndarray]) -> None:
        """Write which objects the tasks of a stage stored: their numbers, ascending, by kind."""
        self.store.put_arrays(stored_path(stage), numbers)
        self._stored[stage] = numbers

    def read_somas(self, box: Box) -> np.ndarray:
        """Read labels of `somas/` for a task; see `read_labels`."""
        return self.read_labels("somas", box)

    def read_labels(self, name: str, box: Box, mip: int = 0, stage: str = "relabel") -> np.ndarray:
        """Read labels of one of `layer_names` for a task: uint64, z, y, x.

        Args:
          stage: the finished stage that made this mip.
        Raises:
          DamagedObject: a chunk that a task stored is missing or cannot be decoded.
        """
        stored = self.stored_numbers(stage, stored_kind(name, mip))
        try:
            return self.layer(name).read_stored(box, mip, stored)
        except DamagedChunk as err:
            delattr(self, name)  # whose cache remembers that the chunk is missing
            raise DamagedObject(self.path, f"{name}/{err.name}", err.reason) from err

    def soma_table(self) -> pd.DataFrame:
        """Return the table of somas. Raises UserError if the run has none yet, or is between two versions."""
        self.check_version()
        table = self.read_table("tables/somas.parquet")
        if table is None:
            raise UserError(
                f"{self.path} has no table of somas yet: finish it with 'flysoma run {self.path}/config.yaml'"
            )
        return table

    def read_table(self, path: str) -> pd.DataFrame | None:
        """Read a table of somas; None if there is none. Raises UserError if it is damaged."""
        from ..analysis.tables.somas import read_parquet

        data = self.store.get(path)
        try:
            return None if data is None else read_parquet(data)
        except ValueError as err:
            raise UserError(
                f"{self.path}/{path} is truncated or damaged; restore it from a copy of the run"
            ) from err

    def versions(self) -> list[SomaVersion]:
        """Return the versions of the somas after the first, in order; only the last one can be unfinished."""
        return read_versions(self.store)

    @property
    def version(self) -> int:
        """The newest finished version of the somas."""
        return FIRST_VERSION + sum(version.finished for version in self.versions())

    def check_version(self) -> None:
        """Raise UserError if `flysoma apply` has begun a version of the somas and not finished it."""
        for version in self.versions():
            if not version.finished:
                raise UserError(
                    f"{self.path} is between versions {version.number - 1} and {version.number} of its somas; "
                    f"finish it with 'flysoma apply {self.path}'"
                )

    @cached_property
    def tissue(self) -> Tissue:
        """Where the volume has tissue."""
        from .layers.tissue import Tissue

        return Tissue(self.config.image, self.config.mask)

    @cached_property
    def tissue_tiles(self) -> np.ndarray:
        """Which tiles may hold tissue: bool, one value per tile, z, y, x."""
        bounds, resolution_nm = self.segment_grid.bounds, self.config.segment.resolution_nm
        return self.tissue.tiles(self.tiles.fine, bounds, resolution_nm)

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
        """The tiles in which both networks see the volume."""
        chunks_nm = self.image.chunks_nm(self.config.segment.resolution_nm)
        return Tiles.of(self.config, self.locate_grid.bounds, self.segment_grid.bounds, chunks_nm)

    @cached_property
    def blocks_near_tissue(self) -> list[Block]:
        """The blocks of the segment grid that can hold a soma: an upper bound of what segment plans."""
        grid = self.segment_grid
        return [grid[index] for index in blocks_near(self.tissue_tiles, self.tiles.fine, grid)]

    def predict_box(self, index: int) -> Box:
        """Return the box of a block of tiles, in voxels of the segmentation network."""
        tiles = self.tiles.in_block(index)
        first, past = (
            self.tiles.fine.tile_bounds(tiles[0])[0],
            self.tiles.fine.tile_bounds(tiles[-1])[1],
        )
        return Box.from_zyx(first, past, self.segment_grid.bounds.lo)

    @cached_property
    def overlap_vx(self) -> Vec3:
        """Half the thickness, in voxels, of the slabs in which neighbouring blocks are compared."""
        half = to_voxels(self.config.stitch.overlap_nm, self.config.segment.resolution_nm)
        return vec3([min(a, b) for a, b in zip(half, self.segment_grid.halo)])

    def _grid(self, resolution_nm: Nm3, block: Vec3, halo_nm: float) -> BlockGrid:
        bounds = self.image.working_bounds(resolution_nm)
        return BlockGrid(bounds, block, to_voxels(halo_nm, resolution_nm))


def predictor(weights: str, engine: str = "") -> Predictor:
    """Load a network, once per process unless the content of its file changes.

    Args:
      engine: as for `Predictor`.
    """
    return _predictor(weights, fingerprint(find_weights(weights)), engine)


@lru_cache(maxsize=4)
def _predictor(weights: str, _fingerprint: str, engine: str) -> Predictor:
    from ..models.inference.predictor import Predictor  # imports torch
    from ..models.networks.weights import load_network

    return Predictor(load_network(weights), engine=engine)
