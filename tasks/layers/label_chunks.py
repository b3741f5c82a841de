"""Check chunks that are encoded as compressed_segmentation.

flysoma appends a checksum to the chunks that it writes; other readers ignore what follows the last value. In chunks
without one, the structure is checked: the decoder of cloud-volume trusts the offsets in a chunk, and one that is
truncated or damaged gives wrong labels, or ends the process. Format: neuroglancer's documentation of
compressed_segmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from cloudvolume import chunks

from ...axes import Vec3
from ..storage.sealed import is_sealed, seal, unseal

_BLOCK: Vec3 = (8, 8, 8)  # voxels of a block within a chunk, as cloud-volume encodes it
_BITS = (0, 1, 2, 4, 8, 16, 32)
_TABLE_OFFSET = (1 << 24) - 1  # the low bits of a header's first word


_encode, _decode = chunks.encode_compressed_segmentation, chunks.decode_compressed_segmentation


def _encode_and_seal(subvol: np.ndarray, block_size: Sequence[int]) -> bytes:
    return seal(_encode(subvol, block_size))


def _check_and_decode(
    bytestring: bytes, shape: Sequence[int], dtype: Any, block_size: Sequence[int]
) -> np.ndarray:
    content: bytes | None = bytestring
    if is_sealed(bytestring):
        content = unseal(bytestring)
        if content is None:
            raise ValueError("its checksum differs")
    assert content is not None
    check_compressed_labels(content, shape, np.dtype(dtype).itemsize, block_size)
    return _decode(content, shape, dtype, block_size)


# In place of cloud-volume's functions, so that igneous writes and reads chunks in the same way.
chunks.encode_compressed_segmentation = _encode_and_seal
chunks.decode_compressed_segmentation = _check_and_decode


def keep_labels(content: bytes, shape: Vec3, ids: np.ndarray) -> bytes:
    """Return a chunk of labels (uint64) in which all labels but some are background.

    Args:
      shape: size of the chunk, x, y, z.
      ids: the labels that stay.
    Raises:
      ValueError: the chunk is damaged.
    """
    labels = _check_and_decode(content, (*shape, 1), np.uint64, _BLOCK)
    kept = np.where(np.isin(labels, ids), labels, np.uint64(0))
    return _encode_and_seal(np.asfortranarray(kept), _BLOCK)


def check_compressed_labels(
    data: bytes, shape: Sequence[int], item_bytes: int, block: Sequence[int]
) -> None:
    """Raise ValueError if a chunk refers to bytes that it does not have.

    Args:
      shape: size of the chunk and its channels: x, y, z, c.
      item_bytes: of a label, 4 or 8.
      block: size of the blocks within the chunk, x, y, z.
    """
    if len(data) % 4:
        raise ValueError(f"{len(data)} bytes are not whole words")
    words = np.frombuffer(data, "<u4")
    channels = words[: shape[3]]
    blocks = int(np.prod([-(-n // b) for n, b in zip(shape, block)]))
    if len(channels) < shape[3]:
        raise ValueError("no offsets of channels")
    for start in channels.tolist():
        _check_channel(words[start:], blocks, item_bytes // 4, int(np.prod(block)))


def _check_channel(words: np.ndarray, blocks: int, item_words: int, block_voxels: int) -> None:
    if len(words) < 2 * blocks:
        raise ValueError(f"{len(words)} words for the headers of {blocks} blocks")
    first, values = words[: 2 * blocks].astype(np.int64).reshape(-1, 2).T
    tables, bits = first & _TABLE_OFFSET, first >> 24
    for width in np.unique(bits).tolist():
        if width not in _BITS:
            raise ValueError(f"{width} bits per voxel")
        own = bits == width
        size = -(-width * block_voxels // 32)
        if (values[own] + size).max() > len(words):
            raise ValueError("values beyond the end")
        largest = np.zeros(int(own.sum()), np.int64)
        if width:
            packed = words[values[own][:, None] + np.arange(size)]
            shifts = np.arange(0, 32, width, dtype=np.uint32)
            indices = (packed[..., None] >> shifts) & np.uint32((1 << width) - 1)
            largest = indices.max(axis=(1, 2)).astype(np.int64)
        if (tables[own] + (largest + 1) * item_words).max() > len(words):
            raise ValueError("labels beyond the end")
