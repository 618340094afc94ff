"""The place in .dat of an index row's record, also beyond the reach of the row's offset.

Offsets of 4 bytes reach 32 GiB. Deletions go on beyond that, as upstream, and old servers wrote data there: the row's
offset then begins again at 0. The record decides between the two places: the one with the row's id and size is meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.arrays import np
from native_handlers.format.needle import parse_needle_header
from native_handlers.format.types import (
    ALIGNMENT_BYTES,
    NEEDLE_HEADER_BYTES,
    max_volume_size_bytes,
    to_bytes_offset,
    to_stored,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from native_handlers.format.idx import IdxEntry

_WINDOW_BYTES = 1 << 16
"""The greatest length of one read of `places_of`: headers of small records come together, and little is read between
those of large ones."""


def row_offset(offset_bytes: int, offset_width_bytes: int) -> int:
    """The offset in the row of a record at `offset_bytes`, in units of 8 bytes."""
    return to_stored(offset_bytes % max_volume_size_bytes(offset_width_bytes))


def place_of(read: Callable[[int, int], bytes], entry: IdxEntry, offset_width_bytes: int, dat_end_bytes: int) -> int:
    """The offset in bytes of the record of `entry`. `read` gets a length and an offset below `dat_end_bytes`, and may
    raise.
    """
    offset = to_bytes_offset(entry.offset)
    beyond = offset + max_volume_size_bytes(4)
    if offset_width_bytes != 4 or beyond + NEEDLE_HEADER_BYTES > dat_end_bytes:
        return offset
    header = parse_needle_header(read(NEEDLE_HEADER_BYTES, beyond))
    is_meant = header.needle_id == entry.needle_id and header.size == max(entry.size, 0)
    if not is_meant:
        return offset
    near = parse_needle_header(read(NEEDLE_HEADER_BYTES, offset))
    return offset if (near.needle_id, near.size) == (header.needle_id, header.size) else beyond


def places_of(  # noqa: PLR0913, PLR0917  `place_of`, with the columns of many rows
    read: Callable[[int, int], bytes],
    keys: NDArray[np.uint64],
    offsets: NDArray[np.int64],
    sizes: NDArray[np.int32],
    offset_width_bytes: int,
    dat_end_bytes: int,
    passed: Callable[[int], object] = lambda _count: None,
) -> NDArray[np.int64]:
    """As `place_of`, of the rows with these ids, offsets and sizes. Reads nothing unless .dat goes on beyond the reach
    of offsets.

    Args:
        read: may return fewer bytes than asked for where .dat ends.
        passed: called with the number of bytes read since its last call; returns when more may be read. Its exceptions
            pass through.
    """
    places = offsets * ALIGNMENT_BYTES
    if offset_width_bytes != 4 or dat_end_bytes <= max_volume_size_bytes(4):
        return places
    bodies = np.maximum(sizes, 0)

    def match(rows: NDArray[np.intp], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """For which of these rows, in the order of `starts`, the record there has the row's id and size."""
        found = np.zeros(len(rows), np.bool_)
        first = 0
        while first < len(rows):
            behind = int(np.searchsorted(starts, starts[first] + _WINDOW_BYTES - NEEDLE_HEADER_BYTES, "right"))
            batch = slice(first, behind)
            length = int(starts[behind - 1] - starts[first]) + NEEDLE_HEADER_BYTES
            headers = _headers(read(length, int(starts[first])), starts[batch] - starts[first], length)
            found[batch] = (headers["key"] == keys[rows[batch]]) & (headers["size"] == bodies[rows[batch]])
            passed(length)
            first = behind
        return found

    order = np.argsort(places, kind="stable")
    order = order[places[order] + max_volume_size_bytes(4) + NEEDLE_HEADER_BYTES <= dat_end_bytes]
    is_beyond = match(order, places[order] + max_volume_size_bytes(4))
    order = order[is_beyond]
    order = order[~match(order, places[order])]
    places[order] += max_volume_size_bytes(4)
    return places


def _headers(data: bytes, positions: NDArray[np.int64], length_bytes: int) -> NDArray[np.void]:
    """The headers at these positions of `data`. Bytes that are missing count as zeros."""
    table = np.frombuffer(data.ljust(length_bytes, b"\0"), np.uint8)
    kind = np.dtype([("cookie", ">u4"), ("key", ">u8"), ("size", ">i4")])
    rows = np.ascontiguousarray(table[positions[:, None] + np.arange(NEEDLE_HEADER_BYTES)])
    headers: NDArray[np.void] = rows.view(kind)[:, 0]
    return headers
