"""Parses the usual needle from its record in one step: a payload, compressed or not, with at most a name, a type, a
date and a TTL.

`parse_needle` reads any record, in ten times as many steps. `try_parse_cached_needle` leaves every other record to
`parse_needle`, which names the error. A test holds both to the same fields. Source: as in `needle`.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from native_handlers.format import crc
from native_handlers.format.needle import (
    FLAG_HAS_LAST_MODIFIED,
    FLAG_HAS_MIME,
    FLAG_HAS_NAME,
    FLAG_HAS_TTL,
    FLAG_IS_COMPRESSED,
    LAST_MODIFIED_BYTES,
)
from native_handlers.format.ttl import Ttl
from native_handlers.format.types import DATA_LENGTH_BYTES, NEEDLE_HEADER_BYTES, VERSION_2, VERSION_3

_FLAGS = FLAG_IS_COMPRESSED | FLAG_HAS_NAME | FLAG_HAS_MIME | FLAG_HAS_LAST_MODIFIED | FLAG_HAS_TTL
_HEADER_AND_LENGTH = struct.Struct(">IQiI")
_DATA_START = NEEDLE_HEADER_BYTES + DATA_LENGTH_BYTES
_TAILS = {VERSION_2: struct.Struct(">I"), VERSION_3: struct.Struct(">IQ")}
_new_tuple = tuple.__new__


class CachedNeedle(NamedTuple):
    """The fields of a usual needle. `checksum` is the stored checksum and that of `data`. `expires_at_ns` is 0 for
    never. `is_compressed` says what the record says: the data may be no gzip.
    """

    cookie: int
    data: bytes | memoryview
    name: bytes
    mime: bytes
    last_modified_s: int
    expires_at_ns: int
    checksum: int
    is_compressed: bool


def try_parse_cached_needle(record: bytes | memoryview, size: int, version: int) -> CachedNeedle | None:
    """Returns the needle in `record`. None leaves the record to `parse_needle`: one without a payload, with pairs, of a
    manifest, or damaged.

    Args:
        record: exactly as many bytes as an index entry of `size` announces.
        size: the body length that the index entry says.

    The data is a slice of `record`: a view where `record` is a view. Never raises.
    """
    tail, end = _TAILS.get(version), NEEDLE_HEADER_BYTES + size
    if tail is None or size <= DATA_LENGTH_BYTES or len(record) < end + tail.size:
        return None
    cookie, _, stored_size, data_bytes = _HEADER_AND_LENGTH.unpack_from(record)
    at = _DATA_START + data_bytes
    if stored_size != size or not data_bytes or at > end:
        return None
    stored_checksum, *append_at_ns = tail.unpack_from(record, end)
    data = record[_DATA_START:at]
    checksum = crc.crc32c(data)
    if stored_checksum != checksum:
        return None
    name = mime = b""
    flags = last_modified_s = expires_at_ns = 0
    if at < end:
        flags = record[at]
        at += 1
        if flags & ~_FLAGS:
            return None
        if flags & FLAG_HAS_NAME and at < end:
            start = at + 1
            at = start + record[at]
            name = bytes(record[start:at])
        if flags & FLAG_HAS_MIME and at < end:
            start = at + 1
            at = start + record[at]
            mime = bytes(record[start:at])
        if flags & FLAG_HAS_LAST_MODIFIED and at < end:
            last_modified_s = int.from_bytes(record[at : at + LAST_MODIFIED_BYTES], "big")
            at += LAST_MODIFIED_BYTES
        if flags & FLAG_HAS_TTL and at < end:
            if flags & FLAG_HAS_LAST_MODIFIED:
                expires_at_ns = Ttl(record[at], record[at + 1]).expires_at_ns(*append_at_ns or (0,))
            at += 2
        if at > end:
            return None
    # `CachedNeedle(...)` takes twice the time, because it goes through a function in Python.
    is_compressed = flags & FLAG_IS_COMPRESSED != 0
    parts = cookie, data, name, mime, last_modified_s, expires_at_ns, checksum, is_compressed
    return _new_tuple(CachedNeedle, parts)
