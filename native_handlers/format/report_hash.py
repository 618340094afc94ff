"""The hash of what a heartbeat says of one volume. XORed over all volumes it is the node's digest.

A master computes the same from what it holds, so a single wrong bit means the full list is sent for ever.
Source: weed/storage/volume_report_hash.go, volume_info.go (NewVolumeInfo normalises first).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol

import xxhash

from native_handlers.format.types import UINT32_MASK

if TYPE_CHECKING:
    from native_handlers.format.replica_placement import ReplicaPlacement
    from native_handlers.format.ttl import Ttl
    from native_handlers.pb.master_pb2 import VolumeInformationMessage

_FIXED = struct.Struct("<IQQQQIIIIIB")
_MULTIPLIER = 0x9E3779B97F4A7C15
_UINT64_MASK = 2**64 - 1


class HashedReport(Protocol):
    """The facts that are hashed. `native_handlers.storage.report.VolumeReport` has them."""

    @property
    def id(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def collection(self) -> str: ...
    @property
    def file_count(self) -> int: ...
    @property
    def delete_count(self) -> int: ...
    @property
    def deleted_byte_count(self) -> int: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def replica_placement(self) -> ReplicaPlacement: ...
    @property
    def version(self) -> int: ...
    @property
    def ttl(self) -> Ttl: ...
    @property
    def compact_revision(self) -> int: ...
    @property
    def modified_at_s(self) -> int: ...
    @property
    def disk_type(self) -> str: ...
    @property
    def disk_id(self) -> int: ...
    @property
    def remote_storage_name(self) -> str: ...


def report_hash(report: HashedReport) -> int:
    """The 64-bit hash of `report`. Counts beyond 32 bits count as 2^32 - 1."""
    fixed = _FIXED.pack(
        report.id,
        report.size_bytes,
        min(report.file_count, UINT32_MASK),
        min(report.delete_count, UINT32_MASK),
        report.deleted_byte_count,
        report.replica_placement.to_byte(),
        report.version & 0xFF,
        report.ttl.to_uint32(),
        report.compact_revision,
        report.disk_id,
        report.read_only,
    )
    texts = (report.collection, report.disk_type, report.remote_storage_name)
    return _fold(fixed, report.modified_at_s, texts)


def report_hash_of_message(message: VolumeInformationMessage) -> int:
    """The hash of a volume as a heartbeat message tells of it: what the receiving master will compute."""
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
    for part in (struct.pack("<Q", modified_at_s & _UINT64_MASK), *(text.encode() for text in texts)):
        value = (value ^ xxhash.xxh64_intdigest(part)) * _MULTIPLIER & _UINT64_MASK
        value ^= value >> 29
    return value
