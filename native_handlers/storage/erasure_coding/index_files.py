"""The .ecx file of an erasure-coded volume: its needles by id; and the .ecj file: the ids that were deleted since.

Deletions go into the .ecj, and into the .ecx when shards are rebuilt.

Source: weed/storage/erasure_coding/ec_encoder.go (WriteSortedFileFromIdx), ec_volume.go (SearchNeedleFromSortedIndex),
ec_decoder.go (WriteIdxFileFromEcIndex).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from native_handlers.format.idx import IdxEntry, iter_entries, row_bytes
from native_handlers.format.needle import actual_size
from native_handlers.format.types import ALIGNMENT_BYTES, TOMBSTONE_SIZE
from native_handlers.storage.erasure_coding.errors import BadEcIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

ID_BYTES = 8
_KEY = struct.Struct(">Q")
_ROWS_AT_ONCE = 256
"""The last read of a search is 4 KiB."""


def _rows_of(content: bytes, width: int) -> NDArray[np.void]:
    offset = [("low", ">u4")] if width == 4 else [("low", ">u4"), ("high", "u1")]
    kind = np.dtype([("key", ">u8"), *offset, ("size", ">i4")])
    return np.frombuffer(content, kind, len(content) // kind.itemsize)


def sorted_rows(idx: bytes, width: int) -> bytes:
    """The .ecx rows of the needles that the rows of an .idx leave live. A partial row at the end is left out."""
    rows = _rows_of(idx, width)
    # The last row of each id counts, also where it is a deletion.
    last = len(rows) - 1 - np.unique(rows["key"][::-1], return_index=True)[1]
    rows = rows[last]
    has_place = rows["low"] != 0
    if width == 5:
        has_place |= rows["high"] != 0
    return bytes(rows[has_place & (rows["size"] >= 0)].tobytes())


def journal_ids(content: bytes) -> list[int]:
    """The ids in an .ecj. A partial id at the end is left out."""
    return [int(one) for one in np.frombuffer(content, ">u8", len(content) // ID_BYTES)]


def journal_rows(needle_ids: Iterable[int]) -> bytes:
    """The rows of an .ecj with these ids."""
    return b"".join(needle_id.to_bytes(ID_BYTES, "big") for needle_id in needle_ids)


def deleted_ids(ecx: bytes, width: int) -> list[int]:
    """The ids of the needles that the rows of an .ecx have as deleted. A partial row at the end is left out."""
    rows = _rows_of(ecx, width)
    return [int(one) for one in rows["key"][rows["size"] < 0]]


def with_deletions(ecx: bytes, deleted: Iterable[int], width: int, path: Path) -> bytes:
    """The rows of an .ecx with those of the `deleted` ids marked as deleted. Unknown ids are left out.

    Raises:
        BadEcIndex: the last row is partial.
    """
    check_whole(ecx, width, path)
    content = bytearray(ecx)
    rows = _rows_of(bytes(ecx), width)
    keys = rows["key"].astype(np.uint64)
    wanted = np.fromiter(deleted, np.uint64)
    places = np.searchsorted(keys, wanted)
    step = row_bytes(width)
    tombstone = TOMBSTONE_SIZE.to_bytes(4, "big", signed=True)
    for place, key in zip(places, wanted, strict=True):
        if place < len(keys) and keys[place] == key:
            end = (int(place) + 1) * step
            content[end - 4 : end] = tombstone
    return bytes(content)


def idx_rows(ecx: bytes, width: int) -> bytes:
    """The rows of an .ecx as those of an .idx: first those of live needles, then the deletions.

    A deletion has no offset, because a decoded .dat has no record of it. Such rows at the head of an .idx are the mark
    of a defect that volume servers repair, with rows for the first records of .dat. Here those may be needles that were
    deleted before the coding: without any row.
    """
    rows = _rows_of(ecx, width)
    is_gone = rows["size"] < 0
    gone = rows[is_gone]
    gone["low"] = 0
    if width == 5:
        gone["high"] = 0
    return bytes(rows[~is_gone].tobytes() + gone.tobytes())


def check_whole(ecx: bytes, width: int, path: Path) -> None:
    """Raises BadEcIndex unless the rows are whole: an .ecx is written at once, so a partial row is damage."""
    if len(ecx) % row_bytes(width):
        raise BadEcIndex(f"read ecx {path}: unexpected EOF")


def end_of_live(ecx: bytes, width: int, version: int) -> int | None:
    """The end of the last live record in the .dat; None where no needle is live."""
    rows = _rows_of(ecx, width)
    rows = rows[rows["size"] >= 0]
    if not len(rows):
        return None
    offsets = rows["low"].astype(np.int64)
    if width == 5:
        offsets |= rows["high"].astype(np.int64) << 32
    # A later record begins behind the end of an earlier one.
    last = int(offsets.argmax())
    return int(offsets[last]) * ALIGNMENT_BYTES + actual_size(int(rows["size"][last]), version)


def count_rows(ecx: bytes, width: int) -> tuple[int, int, int]:
    """The number of rows of live needles, that of deleted ones, and the sum of all sizes."""
    sizes = _rows_of(ecx, width)["size"].astype(np.int64)
    gone = int(np.count_nonzero(sizes < 0))
    return len(sizes) - gone, gone, int(np.abs(sizes[sizes != TOMBSTONE_SIZE]).sum())


def find_row(read: Callable[[int, int], bytes], ecx_bytes: int, needle_id: int, width: int) -> IdxEntry | None:
    """The row of a needle, found by bisection; None where there is none.

    Args:
        read: ``read(length, offset)`` of the .ecx. Its exceptions pass through.
    """
    step = row_bytes(width)
    low, high = 0, ecx_bytes // step
    while high - low > _ROWS_AT_ONCE:
        middle = (low + high) // 2
        (key,) = _KEY.unpack(read(ID_BYTES, middle * step))
        if key <= needle_id:
            low = middle
        else:
            high = middle
    for entry in iter_entries(read((high - low) * step, low * step), width):
        if entry.needle_id == needle_id:
            return entry
    return None
