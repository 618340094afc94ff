"""Rows of .idx and .ecx files: needle id (8), offset in units of 8 bytes (4 or 5), size (4), big endian.

The 5-byte offset is not a 40-bit number: its low 32 bits come first, big endian, then the highest byte.
Source: weed/storage/idx/walk.go, weed/storage/types/offset_5bytes.go.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.errors import Truncated, UnsupportedOffsetWidth
from native_handlers.format.types import UINT32_MASK, NeedleId, StoredOffset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ROW_4 = struct.Struct(">QIi")
_ROW_5 = struct.Struct(">QIBi")


class IdxEntry(NamedTuple):
    """One index row. `offset` counts units of 8 bytes; 0 means no record. `size` is negative for a deletion."""

    needle_id: NeedleId
    offset: StoredOffset
    size: int


def row_bytes(offset_width_bytes: int) -> int:
    """The length of one row: 16 or 17.

    Raises:
        UnsupportedOffsetWidth: the width is neither 4 nor 5.
    """
    if offset_width_bytes not in (4, 5):
        raise UnsupportedOffsetWidth(offset_width_bytes)
    return 12 + offset_width_bytes


def encode_entry(needle_id: int, offset: int, size: int, offset_width_bytes: int) -> bytes:
    """Encodes one row. `offset` is in units of 8 bytes.

    Raises:
        struct.error: a number does not fit its field: a bug of the caller.
        UnsupportedOffsetWidth: the width is neither 4 nor 5.
    """
    if offset_width_bytes == 4:
        return _ROW_4.pack(needle_id, offset, size)
    if offset_width_bytes == 5:
        return _ROW_5.pack(needle_id, offset & UINT32_MASK, offset >> 32, size)
    raise UnsupportedOffsetWidth(offset_width_bytes)


@cache
def row_encoder(offset_width_bytes: int) -> Callable[[int, int, int], bytes]:
    """A function that encodes one row from needle id, offset (in units of 8 bytes) and size, as `encode_entry` does.

    Raises:
        UnsupportedOffsetWidth: the width is neither 4 nor 5.
    """
    if row_bytes(offset_width_bytes) == _ROW_4.size:
        return _ROW_4.pack
    return lambda needle_id, offset, size: encode_entry(needle_id, offset, size, offset_width_bytes)


def parse_entry(row: bytes | memoryview, offset_width_bytes: int) -> IdxEntry:
    """Parses the row at the start of `row`.

    Raises:
        Truncated: `row` is shorter than a row.
        UnsupportedOffsetWidth: the width is neither 4 nor 5.
    """
    length = row_bytes(offset_width_bytes)
    if len(row) < length:
        raise Truncated("index row", length, len(row))
    return entry_at(row, 0, offset_width_bytes)


def entry_at(rows: bytes | memoryview, number: int, offset_width_bytes: int) -> IdxEntry:
    """The row `number` of `rows`, counted from 0.

    Raises:
        struct.error: `rows` has no such row: a bug of the caller.
        UnsupportedOffsetWidth: the width is neither 4 nor 5.
    """
    at = number * row_bytes(offset_width_bytes)
    if offset_width_bytes == 4:
        return IdxEntry._make(_ROW_4.unpack_from(rows, at))
    needle_id, low, high, size = _ROW_5.unpack_from(rows, at)
    return IdxEntry(needle_id, StoredOffset(low | high << 32), size)


def iter_entries(rows: bytes | memoryview, offset_width_bytes: int) -> Iterator[IdxEntry]:
    """Parses the whole rows in `rows`, in order. A partial row at the end is left out.

    Raises:
        UnsupportedOffsetWidth: the width is neither 4 nor 5.
    """
    length = row_bytes(offset_width_bytes)
    whole = memoryview(rows)[: len(rows) // length * length]
    if offset_width_bytes == 4:
        return map(IdxEntry._make, _ROW_4.iter_unpack(whole))
    return (IdxEntry(NeedleId(i), StoredOffset(o | h << 32), s) for i, o, h, s in _ROW_5.iter_unpack(whole))
