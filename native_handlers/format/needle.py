"""Needle records: each holds one stored file; records follow one another in a .dat file.

A record is a header (cookie 4, needle id 8, size 4), a body of `size` bytes, a tail (checksum 4, in version 3 also
append time 8) and 1 to 8 bytes of padding to a multiple of 8. All numbers are big endian. In version 1 the body is the
payload. From version 2 on the body is payload length (4), payload, flags (1), then the fields that the flags name: name
(1 + n), MIME type (1 + n), last modification (5), TTL (2), pairs (2 + n). An empty payload makes an empty body: all
metadata is lost, and the record looks like that of a deletion.

Padding has no meaning: readers ignore it. Upstream writes there whatever its buffer held. The encoder here writes the
same bytes, so that both engines write the same file.

Source: weed/storage/needle (needle_read.go, needle_read_tail.go, needle_write_v1.go, needle_write_v2.go).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format import crc
from native_handlers.format.errors import ChecksumMismatch, Corrupt, NeedleTooWide, Truncated, UnsupportedVersion
from native_handlers.format.ttl import EMPTY_TTL, Ttl
from native_handlers.format.types import (
    ALIGNMENT_BYTES,
    CHECKSUM_BYTES,
    DATA_LENGTH_BYTES,
    NEEDLE_HEADER_BYTES,
    SUPPORTED_VERSIONS,
    TIMESTAMP_BYTES,
    UINT32_MASK,
    VERSION_1,
    VERSION_3,
)
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

FLAG_IS_COMPRESSED = 0x01
FLAG_HAS_NAME = 0x02
FLAG_HAS_MIME = 0x04
FLAG_HAS_LAST_MODIFIED = 0x08
FLAG_HAS_TTL = 0x10
FLAG_HAS_PAIRS = 0x20
FLAG_IS_CHUNK_MANIFEST = 0x80

LAST_MODIFIED_BYTES = 5
MAX_NAME_BYTES = 255
MAX_MIME_BYTES = 255
MAX_PAIRS_BYTES = 65535
_HEADER = struct.Struct(">IQi")
_DATA_LENGTH = struct.Struct(">I")
_TAIL = struct.Struct(">I")
_TAIL_3 = struct.Struct(">IQ")


class NeedleHeader(NamedTuple):
    """The first 16 bytes of a record. `size` is the body length; it may be negative in a corrupt file."""

    cookie: int
    needle_id: int
    size: int

    def encode(self) -> bytes:
        """The 16 bytes."""
        return _HEADER.pack(*self)


@dataclass(slots=True)
class Needle:
    """One stored file. Set the flags through the properties: a value without its flag is not stored.

    `data` is the payload as stored (compressed when `is_compressed`). `size` is the body length; encoding and parsing
    set it. Index rows hold this `size`, which is larger than the payload. `checksum` is the plain CRC-32C.
    """

    needle_id: int = 0
    cookie: int = 0
    data: bytes | memoryview = b""
    flags: int = 0
    name: bytes = b""
    mime: bytes = b""
    last_modified_s: int = 0
    ttl: Ttl | None = None
    pairs: bytes = b""
    checksum: int = 0
    append_at_ns: int = 0
    size: int = 0
    data_size: int = 0
    """Length of the payload on disk, known also when the payload itself was not read."""

    def _set(self, flag: int, value: bool) -> None:  # noqa: FBT001  the setters below are its only callers
        self.flags = self.flags | flag if value else self.flags & ~flag

    @property
    def is_compressed(self) -> bool:
        return bool(self.flags & FLAG_IS_COMPRESSED)

    @is_compressed.setter
    def is_compressed(self, value: bool) -> None:
        self._set(FLAG_IS_COMPRESSED, value)

    @property
    def has_name(self) -> bool:
        return bool(self.flags & FLAG_HAS_NAME)

    @has_name.setter
    def has_name(self, value: bool) -> None:
        self._set(FLAG_HAS_NAME, value)

    @property
    def has_mime(self) -> bool:
        return bool(self.flags & FLAG_HAS_MIME)

    @has_mime.setter
    def has_mime(self, value: bool) -> None:
        self._set(FLAG_HAS_MIME, value)

    @property
    def has_last_modified(self) -> bool:
        return bool(self.flags & FLAG_HAS_LAST_MODIFIED)

    @has_last_modified.setter
    def has_last_modified(self, value: bool) -> None:
        self._set(FLAG_HAS_LAST_MODIFIED, value)

    @property
    def has_ttl(self) -> bool:
        return bool(self.flags & FLAG_HAS_TTL)

    @has_ttl.setter
    def has_ttl(self, value: bool) -> None:
        self._set(FLAG_HAS_TTL, value)

    @property
    def has_pairs(self) -> bool:
        return bool(self.flags & FLAG_HAS_PAIRS)

    @has_pairs.setter
    def has_pairs(self, value: bool) -> None:
        self._set(FLAG_HAS_PAIRS, value)

    @property
    def is_chunk_manifest(self) -> bool:
        return bool(self.flags & FLAG_IS_CHUNK_MANIFEST)

    @is_chunk_manifest.setter
    def is_chunk_manifest(self, value: bool) -> None:
        self._set(FLAG_IS_CHUNK_MANIFEST, value)


def tail_size(version: int) -> int:
    """Bytes between body and padding: the checksum, and in version 3 the append time."""
    return CHECKSUM_BYTES + TIMESTAMP_BYTES if version == VERSION_3 else CHECKSUM_BYTES


def padding_size(size: int, version: int) -> int:
    """The length of the padding, 1 to 8 bytes: a record that ends aligned gets 8, not 0."""
    return ALIGNMENT_BYTES - (NEEDLE_HEADER_BYTES + size + tail_size(version)) % ALIGNMENT_BYTES


def actual_size(size: int, version: int) -> int:
    """The length on disk of a record whose body is `size` bytes: header, body, tail and padding."""
    unpadded = NEEDLE_HEADER_BYTES + size + tail_size(version)
    return unpadded - unpadded % ALIGNMENT_BYTES + ALIGNMENT_BYTES


def etag(needle: Needle) -> str:
    """The entity tag without quotes: 8 hex digits of the checksum."""
    return f"{needle.checksum:08x}"


def encode_needle(needle: Needle, version: int) -> bytes:
    """Encodes the whole record, padding included. Sets `needle.size` and `needle.data_size`.

    `needle.checksum` is written unchanged: the caller computes it from the payload.

    Raises:
        NeedleTooWide: MIME type or pairs do not fit. A longer name is cut at 255 bytes instead, as upstream does.
        UnsupportedVersion: `version` is not 1, 2 or 3.
    """
    return b"".join(encode_needle_parts(needle, version))


def encode_needle_parts(needle: Needle, version: int) -> Sequence[bytes | memoryview]:
    """The pieces of `encode_needle`'s record. The payload is one of the pieces and is not copied. Same effects and
    errors.
    """
    if version not in SUPPORTED_VERSIONS:
        raise UnsupportedVersion(version)
    body: list[bytes | memoryview] = []
    if len(needle.data):
        body = [needle.data] if version == VERSION_1 else _encode_body(needle)
    needle.data_size = len(needle.data)
    needle.size = sum(len(part) for part in body)
    header = _HEADER.pack(needle.cookie, needle.needle_id, needle.size)
    tail = needle.checksum.to_bytes(CHECKSUM_BYTES, "big")
    if version == VERSION_3:
        tail += needle.append_at_ns.to_bytes(TIMESTAMP_BYTES, "big")
    return [header, *body, tail + _padding(needle, version)]


def _encode_body(needle: Needle) -> list[bytes | memoryview]:
    if needle.has_mime and len(needle.mime) > MAX_MIME_BYTES:
        raise NeedleTooWide("MIME type", len(needle.mime), MAX_MIME_BYTES)
    if needle.has_pairs and len(needle.pairs) > MAX_PAIRS_BYTES:
        raise NeedleTooWide("pairs", len(needle.pairs), MAX_PAIRS_BYTES)
    meta = bytearray((needle.flags,))
    if needle.has_name:
        name = needle.name[:MAX_NAME_BYTES]
        meta.append(len(name))
        meta += name
    if needle.has_mime:
        meta.append(len(needle.mime))
        meta += needle.mime
    if needle.has_last_modified:
        meta += (needle.last_modified_s & (1 << 8 * LAST_MODIFIED_BYTES) - 1).to_bytes(LAST_MODIFIED_BYTES, "big")
    if needle.has_ttl:
        meta += (EMPTY_TTL if needle.ttl is None else needle.ttl).to_bytes()
    if needle.has_pairs:
        meta += len(needle.pairs).to_bytes(2, "big")
        meta += needle.pairs
    return [len(needle.data).to_bytes(DATA_LENGTH_BYTES, "big"), needle.data, bytes(meta)]


def _padding(needle: Needle, version: int) -> bytes:
    """The bytes that upstream's reused header buffer holds where upstream takes the padding from."""
    if version == VERSION_3:
        left_over = needle.size.to_bytes(8, "big")[4:] + bytes(4)
    else:
        left_over = needle.needle_id.to_bytes(8, "big")
        if version != VERSION_1 and needle.size and needle.has_last_modified:
            left_over = (needle.last_modified_s & UINT32_MASK).to_bytes(4, "big") + left_over[4:]
    return left_over[: padding_size(needle.size, version)]


def parse_needle_header(raw: bytes | memoryview) -> NeedleHeader:
    """Parses the header in the first 16 bytes of `raw`.

    Raises:
        Truncated: `raw` is shorter than 16 bytes.
    """
    if len(raw) < NEEDLE_HEADER_BYTES:
        raise Truncated("needle header", NEEDLE_HEADER_BYTES, len(raw))
    return NeedleHeader._make(_HEADER.unpack_from(raw))


def parse_needle(record: bytes | memoryview, version: int) -> Needle:
    """Parses the needle in `record` and checks its payload. Bytes after the tail (padding, more records) are ignored.

    Raises:
        Truncated: `record` ends before the tail does.
        Corrupt: lengths contradict one another, or the size is negative.
        ChecksumMismatch: neither the plain nor the legacy checksum fits the payload.
        UnsupportedVersion: `version` is not 1, 2 or 3.
    """
    if version not in SUPPORTED_VERSIONS:
        raise UnsupportedVersion(version)
    header = parse_needle_header(record)
    if header.size < 0:
        raise Corrupt(f"needle {header.needle_id:x}", f"size {header.size} is negative")
    end = NEEDLE_HEADER_BYTES + header.size
    if len(record) < end + tail_size(version):
        raise Truncated(f"needle {header.needle_id:x}", end + tail_size(version), len(record))
    needle = Needle(needle_id=header.needle_id, cookie=header.cookie, size=header.size)
    if version == VERSION_1:
        needle.data = bytes(record[NEEDLE_HEADER_BYTES:end])
    elif header.size:
        _parse_body(needle, memoryview(record)[NEEDLE_HEADER_BYTES:end])
    needle.data_size = len(needle.data)
    _parse_tail(needle, record, end, version)
    if needle.data:
        _verify(needle)
    return needle


def _verify(needle: Needle) -> None:
    computed = crc.crc32c(needle.data)
    if not crc.matches(needle.checksum, computed):
        raise ChecksumMismatch(needle.needle_id, needle.checksum, computed)
    # The stored checksum may have the legacy form; ETags and copies have the current form.
    needle.checksum = computed


def _parse_body(needle: Needle, body: memoryview) -> None:
    if len(body) < DATA_LENGTH_BYTES:
        raise Corrupt(f"needle {needle.needle_id:x}", f"body of {len(body)} bytes has no room for a payload length")
    data_end = DATA_LENGTH_BYTES + _DATA_LENGTH.unpack_from(body)[0]
    if data_end == DATA_LENGTH_BYTES:
        # No writer makes such a body: a needle without payload has no body. Accepting it would skip the checksum.
        raise Corrupt(f"needle {needle.needle_id:x}", f"body of {len(body)} bytes says that its payload is empty")
    if data_end > len(body):
        raise Corrupt(f"needle {needle.needle_id:x}", "index out of range 1: the payload exceeds the body")
    needle.data = bytes(body[DATA_LENGTH_BYTES:data_end])
    parse_needle_meta(needle, body[data_end:])


def parse_needle_meta(needle: Needle, meta: memoryview) -> None:
    """Fills in the flags and the fields that they name from `meta`, the part of a body after the payload (versions 2
    and 3).

    A body that ends early at a field border is accepted, as upstream does: the missing fields stay unset.

    Raises:
        Corrupt: a field reaches beyond the end of `meta`.
    """
    fields = _Fields(needle.needle_id, meta)
    if fields.is_at_end:
        return
    needle.flags = fields.take(1, 0)[0]
    if needle.has_name and not fields.is_at_end:
        needle.name = bytes(fields.take(fields.take(1, 2)[0], 2))
    if needle.has_mime and not fields.is_at_end:
        needle.mime = bytes(fields.take(fields.take(1, 3)[0], 3))
    if needle.has_last_modified and not fields.is_at_end:
        needle.last_modified_s = int.from_bytes(fields.take(LAST_MODIFIED_BYTES, 4), "big")
    if needle.has_ttl and not fields.is_at_end:
        needle.ttl = Ttl.from_bytes(fields.take(2, 5))
    if needle.has_pairs and not fields.is_at_end:
        needle.pairs = bytes(fields.take(int.from_bytes(fields.take(2, 6), "big"), 7))


class _Fields:
    """Takes fields off the front of a buffer. `step` is the number of a field in error texts, as in upstream's."""

    __slots__ = ("_left", "_needle_id")

    def __init__(self, needle_id: int, buffer: memoryview) -> None:
        self._needle_id = needle_id
        self._left = buffer

    @property
    def is_at_end(self) -> bool:
        return not len(self._left)

    def take(self, length: int, step: int) -> memoryview:
        if length > len(self._left):
            raise Corrupt(f"needle {self._needle_id:x}", f"index out of range {step}: a field exceeds the body")
        taken, self._left = self._left[:length], self._left[length:]
        return taken


def parse_needle_tail(needle: Needle, tail: bytes | memoryview, version: int) -> None:
    """Fills in the stored checksum (unverified) and append time from the bytes after a body.

    Raises:
        Truncated: `tail` is shorter than a tail.
    """
    if len(tail) < tail_size(version):
        raise Truncated(f"tail of needle {needle.needle_id:x}", tail_size(version), len(tail))
    _parse_tail(needle, tail, 0, version)


def _parse_tail(needle: Needle, buffer: bytes | memoryview, start: int, version: int) -> None:
    if version == VERSION_3:
        needle.checksum, needle.append_at_ns = _TAIL_3.unpack_from(buffer, start)
    else:
        (needle.checksum,) = _TAIL.unpack_from(buffer, start)
