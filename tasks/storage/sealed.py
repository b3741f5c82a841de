"""Checksums of the objects that one task writes and another reads.

Bytes get a trailer: a skippable frame of zstandard, which holds a BLAKE2b hash of all bytes before it. A file of
zstandard or npz with this trailer is still valid for other readers. A JSON object gets the key `checksum`.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import numpy as np

_HASH_BYTES = 8
_TRAILER = (0x184D2A50).to_bytes(4, "little") + _HASH_BYTES.to_bytes(4, "little")
_RECORD = re.compile(rb'\{"checksum": "([0-9a-f]{16})",?')


def seal(data: bytes) -> bytes:
    """Append a checksum to the bytes of an object."""
    return data + _TRAILER + _hash(data)


def unseal(data: bytes) -> bytes | None:
    """Return the bytes that `seal` was given; None if they have changed or have no checksum."""
    content, trailer = data[: -len(_TRAILER) - _HASH_BYTES], data[-len(_TRAILER) - _HASH_BYTES :]
    return content if trailer == _TRAILER + _hash(content) else None


def is_sealed(data: bytes) -> bool:
    """Return whether the bytes end with a trailer, even if the header or the hash of its frame is damaged."""
    content, trailer = data[: -len(_TRAILER) - _HASH_BYTES], data[-len(_TRAILER) - _HASH_BYTES :]
    return trailer.startswith(_TRAILER) or trailer.endswith(_hash(content))


def seal_record(record: dict[str, Any]) -> bytes:
    """Return a record as JSON with a checksum. The record may hold numpy numbers and arrays."""
    text = to_json(record)[1:]
    comma = b"," if record else b""
    return b'{"checksum": "%s"%s' % (_hash(text).hex().encode(), comma) + text


def unseal_record(data: bytes) -> dict[str, Any] | None:
    """Return the record that `seal_record` was given; None if it has changed or has no checksum."""
    match = _RECORD.match(data)
    if match is None or match[1].decode() != _hash(data[match.end() :]).hex():
        return None
    record: dict[str, Any] = json.loads(b"{" + data[match.end() :])
    return record


def to_json(value: Any) -> bytes:
    """Return a value, which may hold numpy numbers and arrays, as JSON."""
    return json.dumps(value, indent=1, sort_keys=True, default=_json_value).encode()


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_HASH_BYTES).digest()


def _json_value(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
