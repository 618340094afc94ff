"""The super block: the first bytes of every .dat file. They say what kind of volume it is.

Layout: version (1), replica placement (1), TTL (2), compaction revision (2, big endian), length of the extra part (2,
big endian), then the extra part. Source: weed/storage/super_block. Upstream reads the length of the extra part but not
its bytes; this codec keeps the bytes.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from native_handlers.format.errors import Corrupt, Truncated, UnsupportedVersion
from native_handlers.format.replica_placement import NO_REPLICATION, ReplicaPlacement
from native_handlers.format.ttl import EMPTY_TTL, Ttl
from native_handlers.format.types import CURRENT_VERSION, SUPPORTED_VERSIONS, VERSION_1
from native_handlers.records import dataclass

SUPER_BLOCK_BYTES = 8
MAX_EXTRA_BYTES = 256 * 256 - 2
_LAYOUT = struct.Struct(">BB2sHH")


@dataclass(frozen=True, slots=True)
class SuperBlock:
    """`extra` is an opaque protobuf message. `compaction_revision` counts the vacuums, 16 bits."""

    version: int = CURRENT_VERSION
    replica_placement: ReplicaPlacement = NO_REPLICATION
    ttl: Ttl = EMPTY_TTL
    compaction_revision: int = 0
    extra: bytes = b""

    @property
    def size_bytes(self) -> int:
        """Where the first needle record starts. Version 1 has no extra part."""
        return SUPER_BLOCK_BYTES if self.version == VERSION_1 else SUPER_BLOCK_BYTES + len(self.extra)

    def encode(self) -> bytes:
        """The block as it stands in the file.

        Raises:
            UnsupportedVersion: `version` is not 1, 2 or 3.
            Corrupt: `extra` is too long.
        """
        if self.version not in SUPPORTED_VERSIONS:
            raise UnsupportedVersion(self.version)
        if len(self.extra) > MAX_EXTRA_BYTES:
            raise Corrupt("super block", f"extra is {len(self.extra)} bytes, the most is {MAX_EXTRA_BYTES}")
        ttl = self.ttl.to_bytes()
        revision = self.compaction_revision & 0xFFFF
        head = _LAYOUT.pack(self.version, self.replica_placement.to_byte(), ttl, revision, len(self.extra))
        return head + self.extra


def super_block_size(head: bytes | memoryview) -> int:
    """The length of a super block, from the block's first 8 bytes.

    Raises:
        Truncated: `head` has fewer than 8 bytes.
    """
    if len(head) < SUPER_BLOCK_BYTES:
        raise Truncated("super block", SUPER_BLOCK_BYTES, len(head))
    return SUPER_BLOCK_BYTES if head[0] == VERSION_1 else SUPER_BLOCK_BYTES + int.from_bytes(head[6:8], "big")


def parse_super_block(raw: bytes | memoryview) -> SuperBlock:
    """Parses the super block at the start of `raw`. Bytes after the block are ignored.

    Raises:
        Truncated: `raw` ends within the block.
        UnsupportedVersion: the version byte is not 1, 2 or 3.
    """
    size_bytes = super_block_size(raw)
    if raw[0] not in SUPPORTED_VERSIONS:
        raise UnsupportedVersion(raw[0])
    if len(raw) < size_bytes:
        raise Truncated("super block with its extra part", size_bytes, len(raw))
    block = bytes(raw[:size_bytes])
    return _parse_short(block) if size_bytes == SUPER_BLOCK_BYTES else _parse_whole(block)


@lru_cache(maxsize=256)
def _parse_short(block: bytes) -> SuperBlock:
    """Parses a block without an extra part. Most volumes of a server have the same block; they share one object."""
    return _parse_whole(block)


def _parse_whole(block: bytes) -> SuperBlock:
    version, placement, ttl, revision, _ = _LAYOUT.unpack_from(block)
    extra = block[SUPER_BLOCK_BYTES:]
    return SuperBlock(version, ReplicaPlacement.from_byte(placement), Ttl.from_bytes(ttl), revision, extra)
