"""The hash of a heartbeat's report of one volume. The node's digest is the XOR of the hashes of all volumes.

A master computes the same digest from its own records. One wrong bit makes the master ask for the full list for ever.
Source: weed/storage/volume_report_hash.go, volume_info.go (NewVolumeInfo normalises first).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

import xxhash

from native_handlers.format.types import UINT32_MASK

if TYPE_CHECKING:
    from native_handlers.pb.master_pb2 import VolumeInformationMessage

_FIXED = struct.Struct("<IQQQQIIIIIB")
_TIME = struct.Struct("<Q")
_MULTIPLIER = 0x9E3779B97F4A7C15
_UINT64_MASK = 2**64 - 1


def report_hash_of_message(message: VolumeInformationMessage) -> int:
    """The 64-bit hash of a volume's heartbeat message, equal to the hash that the receiving master computes.

    Counts beyond 32 bits count as 2^32 - 1.
    """
    ttl = message.ttl & 0xFFFF
    fixed = _FIXED.pack(
        message.id,
        message.size,
        min(message.file_count, UINT32_MASK),
        min(message.delete_count, UINT32_MASK),
        message.deleted_byte_count,
        message.replica_placement & 0xFF,
        message.version & 0xFF,
        ttl if ttl >> 8 else 0,
        message.compact_revision,
        message.disk_id,
        message.read_only,
    )
    texts = (message.collection, message.disk_type, message.remote_storage_name)
    return _fold(fixed, message.modified_at_second, texts)


def _fold(fixed: bytes, modified_at_s: int, texts: tuple[str, ...]) -> int:
    value = xxhash.xxh64_intdigest(fixed)
    modified = xxhash.xxh64_intdigest(_TIME.pack(modified_at_s & _UINT64_MASK))
    for part in (modified, *map(_text_hash, texts)):
        value = (value ^ part) * _MULTIPLIER & _UINT64_MASK
        value ^= value >> 29
    return value


@lru_cache(maxsize=256)
def _text_hash(text: str) -> int:
    """The volumes of a server have few collections and disk types between them."""
    return xxhash.xxh64_intdigest(text.encode())
