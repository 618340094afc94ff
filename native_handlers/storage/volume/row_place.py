"""The place in .dat of an index row's record, also beyond the reach of the row's offset.

Offsets of 4 bytes reach 32 GiB. Deletions go on beyond that, as upstream, and old servers wrote data there: the row's
offset then begins again at 0. The record decides between the two places: the one with the row's id and size is meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.idx import IdxEntry
from native_handlers.format.needle import parse_needle_header
from native_handlers.format.types import (
    ALIGNMENT_BYTES,
    NEEDLE_HEADER_BYTES,
    NeedleId,
    StoredOffset,
    max_volume_size_bytes,
    to_bytes_offset,
    to_stored,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray


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
) -> NDArray[np.int64]:
    """As `place_of`, of the rows with these ids, offsets and sizes. Reads nothing unless .dat goes on beyond the reach
    of offsets.
    """
    places = offsets * ALIGNMENT_BYTES
    if offset_width_bytes == 4 and dat_end_bytes > max_volume_size_bytes(4):
        columns = zip(keys.tolist(), offsets.tolist(), sizes.tolist(), strict=True)
        for index, (key, offset, size) in enumerate(columns):
            entry = IdxEntry(NeedleId(key), StoredOffset(offset), size)
            places[index] = place_of(read, entry, offset_width_bytes, dat_end_bytes)
    return places
