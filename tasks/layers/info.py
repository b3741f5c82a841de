"""The info file of a precomputed layer: read, checked against the specification, and completed with its defaults."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from cloudfiles import CloudFiles
from cloudvolume.chunks import SUPPORTED_ENCODINGS
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ...axes import MIN_VOXEL_NM
from ...errors import UserError
from ..faults import Fault, first_line
from ..storage.store import local_folder, normalize_cloudpath

_MAX_REDIRECTS = 10
_Count = Annotated[int, Field(gt=0, lt=1 << 31)]
_Offset = Annotated[int, Field(gt=-(1 << 40), lt=1 << 40)]
_Bits = Annotated[int, Field(ge=0, le=64)]
_Size = Annotated[int | float, Field(gt=0, lt=1e12)]  # whole numbers stay whole
_MAX_VOXELS = 1 << 60
_Type = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")

    @field_validator("type", "data_type", "encoding", mode="before", check_fields=False)
    @classmethod
    def _lower(cls, value: Any) -> Any:
        """Neuroglancer reads these in any case."""
        return value.lower() if isinstance(value, str) else value


class _Sharding(BaseModel):
    """How chunks are packed into shards."""

    type: Literal["neuroglancer_uint64_sharded_v1"] = Field(alias="@type")
    hash: Literal["identity", "murmurhash3_x86_128"]
    preshift_bits: _Bits
    minishard_bits: _Bits
    shard_bits: _Bits
    minishard_index_encoding: Literal["raw", "gzip"] = "raw"
    data_encoding: Literal["raw", "gzip"] = "raw"

    @model_validator(mode="after")
    def _fit_a_number(self) -> _Sharding:
        if self.minishard_bits + self.shard_bits > 64:
            raise ValueError("minishard_bits and shard_bits are more than 64 bits")
        return self


class _Scale(_Part):
    """A scale; `voxel_offset`, `sharding` and the size of compressed blocks may be left out."""

    key: str
    size: tuple[_Count, _Count, _Count]
    resolution: tuple[_Size, _Size, _Size]
    chunk_sizes: Annotated[list[tuple[_Count, _Count, _Count]], Field(min_length=1)]
    encoding: str
    voxel_offset: tuple[_Offset, _Offset, _Offset] = (0, 0, 0)
    sharding: _Sharding | None = Field(default=None, exclude=True)  # kept as it is stored
    compressed_segmentation_block_size: tuple[_Count, _Count, _Count] | None = Field(
        default=None, exclude=True
    )

    @field_validator("size")
    @classmethod
    def _countable(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if math.prod(values) >= _MAX_VOXELS:
            raise ValueError(f"{' x '.join(map(str, values))} voxels are more than a volume has")
        return values

    @field_validator("resolution")
    @classmethod
    def _in_nm(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if min(values) < MIN_VOXEL_NM:
            raise ValueError(f"{' x '.join(f'{v:g}' for v in values)} is not in nm")
        return values

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in SUPPORTED_ENCODINGS:
            raise ValueError(f"is not one of {', '.join(map(str, SUPPORTED_ENCODINGS))}")
        return value


class _Info(_Part):
    type: Literal["image", "segmentation"]
    data_type: _Type
    num_channels: _Count
    scales: Annotated[list[_Scale], Field(min_length=1)]

    @model_validator(mode="after")
    def _holds_its_type(self) -> _Info:
        if self.type == "segmentation" and self.data_type == "float32":
            raise ValueError("a segmentation of data_type float32")
        encodings = {scale.encoding for scale in self.scales}
        if "compressed_segmentation" in encodings and self.data_type not in ("uint32", "uint64"):
            raise ValueError(f"encoding compressed_segmentation of data_type {self.data_type}")
        return self


def read_info(cloudpath: str) -> tuple[str, dict[str, Any]]:
    """Read the info of a layer; return the layer's path, to which redirects lead, and its info.

    Raises:
      UserError: there is no layer, or its info is invalid.
    """
    path = normalize_cloudpath(cloudpath)
    for _ in range(_MAX_REDIRECTS):
        info = _parse(cloudpath, _fetch(cloudpath, path))
        redirect = info.get("redirect") if isinstance(info, dict) else None
        if not isinstance(redirect or "", str):
            raise _invalid(cloudpath, f"redirect: {redirect!r:.100} is not a path")
        if not redirect or normalize_cloudpath(redirect) == path:
            return path, _complete(cloudpath, info)
        path = normalize_cloudpath(redirect)
    raise UserError(f"{cloudpath} redirects more than {_MAX_REDIRECTS} times; give the final path")


def _fetch(cloudpath: str, path: str) -> bytes:
    folder = local_folder(path)
    try:
        data = CloudFiles(path, progress=False).get("info")
    except NotADirectoryError as err:
        raise UserError(
            f"{cloudpath} is a file, and a precomputed layer is needed; "
            "make one with 'flysoma ingest FILE CLOUDPATH --resolution X Y Z' and name that"
        ) from err
    except IsADirectoryError:
        data = None
    except Exception as err:
        if Fault.of(err).kind != "error":
            raise
        # it is not what its Content-Encoding or the suffix .gz says; each codec raises its own errors
        raise _invalid(cloudpath, f"it cannot be decompressed: {first_line(err)}") from err
    if data is None:
        raise UserError(
            f"no precomputed layer at {cloudpath}: {_content(path, folder)}; "
            "check the path, or make a layer with 'flysoma ingest FILE CLOUDPATH'"
        )
    content: bytes = data
    return content


def _content(path: str, folder: str | None) -> str:
    """Say what is at a path that has no info file."""
    if path.startswith(("http://", "https://")):
        return "the server has no info file there, or does not show it"
    try:
        first = next(iter(CloudFiles(path, progress=False).list(flat=True)), None)
    except FileNotFoundError:
        first = None
    return "nothing there" if first is None else "other files, but no info file"


def _parse(cloudpath: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as err:
        raise _invalid(cloudpath, "it is not JSON") from err


def _complete(cloudpath: str, info: Any) -> dict[str, Any]:
    """Return an info with all keys of the specification; keys of other programs are kept.

    Mip 0 is the finest scale, whatever the order of the scales in the file.
    """
    try:
        checked = _Info.model_validate(info).model_dump()
    except ValidationError as err:
        first = err.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "its content"
        raise _invalid(cloudpath, f"{where}: {first['msg']}") from err
    plain: dict[str, Any] = json.loads(json.dumps(checked))  # lists for tuples
    scales = [stored | known for stored, known in zip(info["scales"], plain["scales"])]
    scales.sort(key=lambda scale: math.prod(scale["resolution"]))
    return info | plain | {"scales": scales}


def _invalid(cloudpath: str, reason: str) -> UserError:
    return UserError(
        f"{cloudpath} is not a precomputed layer: its info file is invalid ({reason}); "
        "make a layer with 'flysoma ingest FILE CLOUDPATH'"
    )
