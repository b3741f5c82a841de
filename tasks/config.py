"""The config of a run: validated, saved with all defaults, and hashed.

Lengths are in nm and volumes in um3; the unit is in the name. Triples are x, y, z.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..analysis.morphology.classes import CLASSES
from ..axes import MAX_VOXEL_NM, MIN_VOXEL_NM, Zyx
from ..errors import UserError
from ..models.inference.lattice import zyx
from ..models.networks.weights_files import PREFIX
from .config_files import parse_yaml, read_config, shorten, validate
from .storage.store import RunStore, local_folder, normalize_cloudpath, writable_cloudpath

_Edge = Annotated[int, Field(ge=64, le=1 << 16)]
_Margin = Annotated[int, Field(ge=0, le=1 << 16)]
_Count = Annotated[int, Field(ge=1, le=1 << 16)]
_VoxelNm = Annotated[float, Field(ge=MIN_VOXEL_NM, le=MAX_VOXEL_NM)]
VoxelNm3 = tuple[_VoxelNm, _VoxelNm, _VoxelNm]
HaloNm = Annotated[float, Field(ge=0, le=100_000)]
LengthNm = Annotated[float, Field(ge=0, le=1e9)]
Vx3 = tuple[_Edge, _Edge, _Edge]
Margin3 = tuple[_Margin, _Margin, _Margin]
Count3 = tuple[_Count, _Count, _Count]
Share = Annotated[float, Field(gt=0, lt=1)]
_MAX_PADDING_VX = (7, 12, 12)  # z, y, x
CHUNK = 64  # edge of the output's chunks, voxels; cores are whole chunks


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("block_vx", check_fields=False)
    @classmethod
    def _whole_chunks(cls, value: Vx3) -> Vx3:
        if any(v % CHUNK for v in value):
            raise ValueError(f"must be multiples of {CHUNK}, the output's chunk")
        return value

    @field_validator("weights", check_fields=False)
    @classmethod
    def _absolute(cls, value: str) -> str:
        """Make the path of a file absolute, so that it is valid in workers with another working directory."""
        return value if value.startswith(PREFIX) else os.path.abspath(os.path.expanduser(value))


class Predict(_Section):
    """How both networks go over the volume, in voxels of the segmentation network.

    Attributes:
      window_vx: largest window.
      margin_vx: what a window sees on each side of its tile.
      block_tiles: tiles per task.
      threads: of the networks on a CPU. The last digits of a probability depend on their number.
    """

    window_vx: Vx3 = (256, 256, 160)
    margin_vx: Margin3 = (32, 32, 14)
    block_tiles: Count3 = (4, 4, 6)
    threads: Annotated[int, Field(ge=1, le=1024)] = 1

    @property
    def windows_zyx(self) -> tuple[Zyx, Zyx, Zyx]:
        """The largest window, its margin, and its padding at the ends of the volume, z, y, x."""
        margin = self.margin_vx[::-1]
        return self.window_vx[::-1], margin, zyx(map(min, margin, _MAX_PADDING_VX))


class Locate(_Section):
    """How seeds are found.

    Attributes:
      weights: of the localization network; a name or a file.
      resolution_nm: working resolution.
      threshold: least p(core).
      min_core_um3: least volume of a core that is a seed.
      min_distance_nm: of two seeds that are closer, the one with the higher score is kept.
      block_vx, halo_nm: core and halo of a block.
    """

    weights: str = "flysoma/locate-v4"
    resolution_nm: VoxelNm3 = (64.0, 64.0, 240.0)
    threshold: Share = 0.5
    min_core_um3: Annotated[float, Field(ge=0)] = 0.8
    min_distance_nm: LengthNm = 1500.0
    block_vx: Vx3 = (512, 512, 128)
    halo_nm: HaloNm = 4096.0


class Segment(_Section):
    """How somas are segmented.

    Attributes:
      weights: of the segmentation network; a name or a file.
      resolution_nm: working resolution, and the resolution of `somas/`.
      interior_threshold: least p(interior).
      block_vx, halo_nm: core and halo of a block.
    """

    weights: str = "flysoma/segment-v5"
    resolution_nm: VoxelNm3 = (64.0, 64.0, 40.0)
    interior_threshold: Share = 0.8333
    block_vx: Vx3 = (256, 256, 256)
    halo_nm: HaloNm = 4096.0


class Stitch(_Section):
    """When labels of neighbouring blocks are one soma; see `match_slab`.

    Attributes:
      overlap_nm: half the thickness of the slab in which two blocks are compared.
      min_overlap_um3: least overlap of two labels.
      single_ratio, dual_ratio: least overlap as a share of one label, and of both.
    """

    overlap_nm: Annotated[float, Field(gt=0, le=1e9)] = 1000.0
    min_overlap_um3: Annotated[float, Field(ge=0)] = 0.005
    single_ratio: Share = 0.4
    dual_ratio: Share = 0.3


class Midline(_Section):
    """The brain's midline plane: a point on it, and a normal that points to the side numbered 1; x, y, z."""

    point_nm: tuple[float, float, float]
    normal: tuple[float, float, float]

    @field_validator("normal")
    @classmethod
    def _not_zero(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if not any(value):
            raise ValueError("must not be 0 along all axes")
        return value


class Soma(_Section):
    """Limits of a soma's size.

    Attributes:
      min_volume_um3: least volume of a soma.
      max_diameter_nm: diameter of a ball of the largest volume.
      min_confidence: least mean probability of the interior, off the boundary.
      min_nucleus_um3: least volume of a nucleus.
    """

    min_volume_um3: Annotated[float, Field(ge=0)] = 1.05
    max_diameter_nm: Annotated[float, Field(gt=0, le=1e9)] = 20000.0
    min_confidence: Annotated[float, Field(ge=0, lt=1)] = 0.87
    min_nucleus_um3: Annotated[float, Field(gt=0)] = 0.5


Price = Annotated[float, Field(ge=0)]


class Prices(_Section):
    """Prices of the cloud, in any currency, for `flysoma plan --price` and `flysoma status`."""

    gpu_hour: Price = 0.0
    cpu_hour: Price = 0.0
    gb_read: Price = 0.0
    gb_written: Price = 0.0
    million_reads: Price = 0.0
    million_writes: Price = 0.0


class RunConfig(_Section):
    """The config of one run on one volume. Frozen; unknown keys are an error.

    Attributes:
      image, output: cloud paths of the image, and of everything that the run writes.
      mask: cloud path of a segmentation that is 0 where there is no tissue.
      fill_missing: whether missing chunks of the image are read as black.
      classes: the classes of somas that the result holds, if the network predicts nuclei. Somas without a nucleus that
        the edge of the volume cuts are always kept.
      queue: URL of the queue.
    """

    image: str
    output: str
    mask: str | None = None
    midline: Midline | None = None
    fill_missing: bool = False
    predict: Predict = Predict()
    locate: Locate = Locate()
    segment: Segment = Segment()
    stitch: Stitch = Stitch()
    soma: Soma = Soma()
    classes: tuple[str, ...] = CLASSES
    queue: str | None = None
    prices: Prices = Prices()

    @field_validator("classes")
    @classmethod
    def _some_classes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value) or set(value) - set(CLASSES):
            raise ValueError(f"name some of {', '.join(CLASSES)}, each once")
        return tuple(name for name in CLASSES if name in value)

    @field_validator("image", "mask")
    @classmethod
    def _cloudpath(cls, value: str | None) -> str | None:
        return None if value is None else normalize_cloudpath(value)

    @field_validator("output")
    @classmethod
    def _writable(cls, value: str) -> str:
        return writable_cloudpath(value)

    @model_validator(mode="after")
    def _output_holds_no_input(self) -> RunConfig:
        for name in ("image", "mask"):
            path = getattr(self, name)
            if path is not None and _lies_in(path, self.output):
                raise ValueError(
                    f"{name} {path} lies in output {self.output}, which the run writes into; choose another"
                )
            if path is not None and _lies_in(self.output, path):
                raise ValueError(
                    f"output {self.output} lies in {name} {path}, which a run only reads; choose another"
                )
        return self

    @model_validator(mode="after")
    def _windows_exceed_margins(self) -> RunConfig:
        for axis in range(3):
            window, margin = self.predict.window_vx[axis], self.predict.margin_vx[axis]
            step = math.ceil(self.locate.resolution_nm[axis] / self.segment.resolution_nm[axis])
            if window - 2 * margin <= step:
                raise ValueError(
                    f"predict.window_vx of {window} along {'xyz'[axis]} leaves {window - 2 * margin} voxels between "
                    f"margins of {margin}, and needs more than the {step} of a voxel of locate.resolution_nm"
                )
        return self

    @property
    def content_hash(self) -> str:
        """sha256 of the keys that determine the result: all but output, queue and prices."""
        return hashlib.sha256(json.dumps(self._determining(), sort_keys=True).encode()).hexdigest()

    def _determining(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"queue", "output", "prices"})

    def to_yaml(self) -> str:
        """Return the config as YAML, with all defaults."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def differences(self, other: RunConfig) -> list[str]:
        """List the keys that determine the result and differ, with the values of both configs."""
        ours, theirs = _flat(self._determining()), _flat(other._determining())
        return [
            f"{key}: {ours.get(key)} here, {theirs.get(key)} there"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key)
        ]


def _lies_in(path: str, place: str) -> bool:
    """Return whether a cloudpath is another or lies below it, links of the file system followed."""
    path, place = (
        cloudpath if folder is None else os.path.realpath(folder)
        for cloudpath, folder in ((p, local_folder(p)) for p in (path, place))
    )
    return f"{path}/".startswith(f"{place}/")


PRESETS: dict[str, dict[str, Any]] = {
    # thresholds of Liu et al., CVPR 2023, for their U-Net
    "published": {
        "segment": {"interior_threshold": 0.98},
        "stitch": {"min_overlap_um3": 0.00512, "single_ratio": 0.4, "dual_ratio": 0.3},
        "soma": {"min_volume_um3": 1.05, "min_confidence": 0.0},
    }
}


def parse_config(text: str | bytes, source: str) -> RunConfig:
    """Parse a RunConfig from YAML, which may name a preset, as in `preset: published`.

    Args:
      source: name of the text in error messages.

    Raises:
      UserError: one line that names every wrong key.
    """
    values = parse_yaml(text, source, "'image:' and 'output:'")
    preset = values.pop("preset", None)
    if preset is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise UserError(
                f"{source}: no preset {shorten(preset)}; there is: {', '.join(PRESETS)}"
            )
        values = _merge(PRESETS[preset], values)
    return validate(RunConfig, values, source)


def load_config(path: str | Path) -> RunConfig:
    """Parse a RunConfig from a YAML file. Raises UserError if the file is missing or wrong.

    The output of the config of a run is the folder in which it lies, also if the run has been moved or copied.
    """
    config = parse_config(read_config(path), str(path))
    folder, _, name = normalize_cloudpath(str(path)).rpartition("/")
    if name == "config.yaml" and RunStore(folder).get("manifest.json") is not None:
        return config.model_copy(update={"output": folder})
    return config


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
