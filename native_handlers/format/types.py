"""Constants of all volume files, and the distinct integer types that keep their units apart.

Source: weed/storage/types (needle_types.go, needle_id_type.go, offset_4bytes.go, offset_5bytes.go).
"""

from __future__ import annotations

from functools import cache
from typing import NewType

VolumeId = NewType("VolumeId", int)
"""32 bits; its text form is decimal."""
NeedleId = NewType("NeedleId", int)
"""64 bits; its text form is hex."""
Cookie = NewType("Cookie", int)
"""32 random bits that make file ids unguessable."""
ByteOffset = NewType("ByteOffset", int)
"""A position in a .dat file, in bytes."""
StoredOffset = NewType("StoredOffset", int)
"""A position in a .dat file as index rows hold it, in units of 8 bytes. 0 means: no record."""

ALIGNMENT_BYTES = 8
"""Every needle record starts at a multiple of so many bytes."""
NEEDLE_HEADER_BYTES = 16
CHECKSUM_BYTES = 4
TIMESTAMP_BYTES = 8
DATA_LENGTH_BYTES = 4
"""The length field in front of the payload, in versions 2 and 3."""

TOMBSTONE_SIZE = -1
"""The size in the index row of a deletion."""

MAX_NEEDLE_ID = 2**64 - 1
MAX_APPEND_AT_NS = 2**64 - 1
"""The greatest append time. A copied volume may have a record with that time; later records get the same time."""
UINT32_MASK = 2**32 - 1

OFFSET_WIDTHS_BYTES = (4, 5)
DEFAULT_OFFSET_WIDTH_BYTES = 4

VERSION_1 = 1
VERSION_2 = 2
VERSION_3 = 3
CURRENT_VERSION = VERSION_3
SUPPORTED_VERSIONS = (VERSION_1, VERSION_2, VERSION_3)


@cache
def max_volume_size_bytes(offset_width_bytes: int) -> int:
    """The greatest .dat size that offsets of this width can address: 32 GiB for 4 bytes, 8 TiB for 5."""
    return ALIGNMENT_BYTES << (8 * offset_width_bytes)


def to_stored(offset: int) -> StoredOffset:
    """Converts `offset` from bytes (a multiple of 8) to units of 8 bytes."""
    return StoredOffset(offset // ALIGNMENT_BYTES)


def to_bytes_offset(offset: int) -> ByteOffset:
    """Converts `offset` from units of 8 bytes to bytes."""
    return ByteOffset(offset * ALIGNMENT_BYTES)


def align_up(offset: int) -> int:
    """The first multiple of 8 that is not below `offset`."""
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def normal_disk_type(text: str) -> str:
    """The wire form of a disk type: lower case, blanks included, and "" for hdd.

    Source: weed/storage/types/volume_disk_type.go.
    """
    lowered = text.lower()
    return "" if lowered == "hdd" else lowered
