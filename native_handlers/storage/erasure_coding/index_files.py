"""The .ecx file of an erasure-coded volume: its needles by id; and the .ecj file: the ids that were deleted since.

Deletions go into the .ecj, and into the .ecx when shards are rebuilt.

Source: weed/storage/erasure_coding/ec_encoder.go (WriteSortedFileFromIdx), ec_volume.go (SearchNeedleFromSortedIndex).
"""

from __future__ import annotations

import os
import struct
from contextlib import ExitStack
from itertools import zip_longest
from typing import TYPE_CHECKING

from native_handlers.arrays import np
from native_handlers.format.idx import IdxEntry, iter_entries, row_bytes
from native_handlers.format.types import TOMBSTONE_SIZE, UINT32_MASK
from native_handlers.storage.erasure_coding.errors import BadEcIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from native_handlers.storage.system.files import Files

ID_BYTES = 8
_KEY = struct.Struct(">Q")
_ROWS_AT_ONCE = 256
"""The last read of a search is 4 KiB."""
_SCANNED_ROWS = 1 << 15
"""A piece of an .ecx that is read as a whole is half a MiB."""


def rows_of(content: bytes, width: int) -> NDArray[np.void]:
    """The rows as a table: key, low, high where offsets have 5 bytes, size. A partial row at the end is left out."""
    offset = [("low", ">u4")] if width == 4 else [("low", ">u4"), ("high", "u1")]
    kind = np.dtype([("key", ">u8"), *offset, ("size", ">i4")])
    return np.frombuffer(content, kind, len(content) // kind.itemsize)


def sorted_rows(idx: bytes, width: int) -> bytes:
    """The .ecx rows of the needles that the rows of an .idx leave live. A partial row at the end is left out."""
    rows = rows_of(idx, width)
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
    rows = rows_of(ecx, width)
    return [int(one) for one in rows["key"][rows["size"] < 0]]


def deleted_ids_in(files: Files, path: Path, width: int) -> NDArray[np.uint64]:
    """As `deleted_ids` of the .ecx at `path`, without holding the file in memory; none without a file. Raises
    OSError.
    """
    try:
        fd = files.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return np.empty(0, np.uint64)
    try:
        found = [rows["key"][rows["size"] < 0] for _, rows in _pieces_of(files, fd, width)]
    finally:
        files.close(fd)
    return np.concatenate([np.empty(0, np.uint64), *found]).astype(np.uint64)


def live_rows_of(files: Files, fd: int, width: int, needle_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The numbers of the rows of an open .ecx that have one of `needle_ids` as live, in order. The file is not held in
    memory. Raises OSError.

    Args:
        needle_ids: ascending, and not empty.
    """
    found = [np.empty(0, np.int64)]
    for first, rows in _pieces_of(files, fd, width):
        keys = rows["key"].astype(np.uint64)
        nearest = needle_ids[np.minimum(np.searchsorted(needle_ids, keys), len(needle_ids) - 1)]
        found.append(np.flatnonzero((rows["size"] >= 0) & (nearest == keys)) + first)
    return np.concatenate(found)


def _pieces_of(files: Files, fd: int, width: int) -> Iterator[tuple[int, NDArray[np.void]]]:
    """The rows of an open .ecx in pieces, each with the number of its first row. Raises OSError."""
    first = 0
    while piece := files.read(fd, _SCANNED_ROWS * row_bytes(width), first * row_bytes(width)):
        yield first, rows_of(piece, width)
        first += _SCANNED_ROWS


def has_same_needles(files: Files, paths: tuple[Path, Path], width: int) -> bool:
    """Whether two .ecx have the same needles at the same places. Either may have more deletions. Raises OSError."""
    with ExitStack() as stack:
        fds = []
        for path in paths:
            fds.append(files.open(path, os.O_RDONLY))
            stack.callback(files.close, fds[-1])
        if len({files.facts_of(fd).size_bytes for fd in fds}) > 1:
            return False
        nothing = 0, rows_of(b"", width)
        pieces = zip_longest(*(_pieces_of(files, fd, width) for fd in fds), fillvalue=nothing)
        return all(_are_same_needles(one, other, width) for (_, one), (_, other) in pieces)


def _are_same_needles(one: NDArray[np.void], other: NDArray[np.void], width: int) -> bool:
    if len(one) != len(other):
        return False
    are_live = (one["size"] >= 0) & (other["size"] >= 0)
    differ = (one["key"] != other["key"]) | (offsets_of(one, width) != offsets_of(other, width))
    return not (differ | (are_live & (one["size"] != other["size"]))).any()


def with_deletions(ecx: bytes, deleted: Iterable[int], width: int, path: Path) -> bytes:
    """The rows of an .ecx with those of the `deleted` ids marked as deleted. Unknown ids are left out.

    Raises:
        BadEcIndex: the last row is partial.
    """
    check_whole(ecx, width, path)
    content = bytearray(ecx)
    rows = rows_of(bytes(ecx), width)
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


def check_whole(ecx: bytes, width: int, path: Path) -> None:
    """Raises BadEcIndex unless the rows are whole: an .ecx is written at once, so a partial row is damage."""
    if len(ecx) % row_bytes(width):
        raise BadEcIndex(f"read ecx {path}: unexpected EOF")


def offsets_of(rows: NDArray[np.void], width: int) -> NDArray[np.int64]:
    """The offsets of `rows_of`, in units of 8 bytes."""
    offsets = rows["low"].astype(np.int64)
    return offsets if width == 4 else offsets | rows["high"].astype(np.int64) << 32


def with_offsets(rows: NDArray[np.void], offsets: NDArray[np.int64], width: int) -> bytes:
    """The bytes of `rows` with other offsets, in units of 8 bytes."""
    moved = rows.copy()
    moved["low"] = offsets & UINT32_MASK
    if width == 5:
        moved["high"] = offsets >> 32
    return bytes(moved.tobytes())


def count_rows(ecx: bytes, width: int) -> tuple[int, int, int]:
    """The number of rows of live needles, that of deleted ones, and the sum of all sizes."""
    sizes = rows_of(ecx, width)["size"].astype(np.int64)
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
