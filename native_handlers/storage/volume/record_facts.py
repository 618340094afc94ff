"""Facts of many records at once: their lengths, whether they are sound, and whether they have expired.

For work that goes through a whole volume: parsing record by record takes longer than reading them.

Source: weed/storage/volume_vacuum.go (VisitNeedle, copyDataBasedOnIndexFile), weed/storage/needle/needle_read.go,
weed/storage/needle/crc.go.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from native_handlers.arrays import np
from native_handlers.format.crc import crc32c_of_each, matches
from native_handlers.format.needle import (
    FLAG_HAS_LAST_MODIFIED,
    FLAG_HAS_MIME,
    FLAG_HAS_NAME,
    FLAG_HAS_PAIRS,
    FLAG_HAS_TTL,
    LAST_MODIFIED_BYTES,
    tail_size,
)
from native_handlers.format.ttl import MINUTES_OF_UNIT
from native_handlers.format.types import (
    ALIGNMENT_BYTES,
    CHECKSUM_BYTES,
    DATA_LENGTH_BYTES,
    NEEDLE_HEADER_BYTES,
    TIMESTAMP_BYTES,
    VERSION_1,
    VERSION_3,
)
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEAD_BYTES = NEEDLE_HEADER_BYTES + DATA_LENGTH_BYTES
"""The first bytes of a record: its header, and the length of its payload."""
META_BYTES = 1 + 256 + 256 + 5 + 2
"""From the flags on, so many bytes reach the end of the TTL in any record."""
_TTL_BYTES = 2
_PAIRS_LENGTH_BYTES = 2
_NS = 10**9


@cache
def _seconds_of_unit() -> NDArray[np.int64]:
    seconds = np.zeros(256, np.int64)
    seconds[: len(MINUTES_OF_UNIT)] = np.array(MINUTES_OF_UNIT) * 60
    return seconds


def record_lengths(sizes: NDArray[np.int32] | NDArray[np.int64], version: int) -> NDArray[np.int64]:
    """`actual_size` of many bodies. A negative size is that of a deletion, which has no body."""
    unpadded = np.maximum(sizes, 0).astype(np.int64) + (NEEDLE_HEADER_BYTES + tail_size(version))
    return unpadded - unpadded % ALIGNMENT_BYTES + ALIGNMENT_BYTES


@dataclass(frozen=True, slots=True)
class Pieces:
    """Records, or the needed parts of each, in one buffer.

    `heads`, `metas` and `tails` are the positions in `buffer` of each record's first 20 bytes, of its bytes from the
    flags on, and of its checksum. `buffer` has room for `META_BYTES` behind the last of them.
    """

    buffer: NDArray[np.uint8]
    heads: NDArray[np.int64]
    metas: NDArray[np.int64]
    tails: NDArray[np.int64]


def payload_lengths(buffer: NDArray[np.uint8], heads: NDArray[np.int64]) -> NDArray[np.int64]:
    """The length of each payload in the records of versions 2 and 3 at `heads`."""
    return _numbers(buffer, heads + NEEDLE_HEADER_BYTES, DATA_LENGTH_BYTES)


def are_records(pieces: Pieces, sizes: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Whether each header has the size of its index row. The id is not compared: records may be stored under other ids
    than they carry.
    """
    there = _numbers(pieces.buffer, pieces.heads + NEEDLE_HEADER_BYTES - 4, 4)
    fits: NDArray[np.bool_] = there == np.maximum(sizes, 0)
    return fits


def are_sound(
    buffer: NDArray[np.uint8], heads: NDArray[np.int64], sizes: NDArray[np.int32], version: int
) -> NDArray[np.bool_]:
    """Whether `parse_needle` takes each record and its header has the size of its index row.

    False says nothing: records of version 1, and bodies that end before all fields that their flags name, are not
    examined.

    Args:
        buffer: has each record from header to tail, at its position in `heads`.
        sizes: of the index rows; not negative.
    """
    fits = _numbers(buffer, heads + NEEDLE_HEADER_BYTES - 4, 4) == sizes
    sound: NDArray[np.bool_] = fits & (sizes == 0)
    if version == VERSION_1:
        return sound
    which = np.flatnonzero(fits & (sizes > DATA_LENGTH_BYTES))
    starts = heads[which] + HEAD_BYTES
    payloads, tails = payload_lengths(buffer, heads[which]), heads[which] + NEEDLE_HEADER_BYTES + sizes[which]
    has_meta = (payloads > 0) & (starts + payloads < tails)
    which, starts, payloads, tails = which[has_meta], starts[has_meta], payloads[has_meta], tails[has_meta]
    has_fields = _ends_of_fields(buffer, starts + payloads, tails) <= tails
    which, starts, payloads, tails = which[has_fields], starts[has_fields], payloads[has_fields], tails[has_fields]
    computed = crc32c_of_each(buffer, starts.tolist(), (starts + payloads).tolist())
    stored = _numbers(buffer, tails, CHECKSUM_BYTES).tolist()
    sound[which] = list(map(matches, stored, computed))
    return sound


def _ends_of_fields(buffer: NDArray[np.uint8], metas: NDArray[np.int64], tails: NDArray[np.int64]) -> NDArray[np.int64]:
    """The end of the last field that the flags at `metas` name; beyond `tails` where the fields do not fit."""
    flags, at = buffer[metas], metas + 1
    for flag in (FLAG_HAS_NAME, FLAG_HAS_MIME):
        # A position behind the body reads a byte of the tail. The result is beyond `tails`, whatever that byte is.
        at += np.where(_has(flags, flag), buffer[np.minimum(at, tails)].astype(np.int64) + 1, 0)
    at += np.where(_has(flags, FLAG_HAS_LAST_MODIFIED), LAST_MODIFIED_BYTES, 0)
    at += np.where(_has(flags, FLAG_HAS_TTL), _TTL_BYTES, 0)
    lengths = _numbers(buffer, np.minimum(at, tails), _PAIRS_LENGTH_BYTES)
    at += np.where(_has(flags, FLAG_HAS_PAIRS), _PAIRS_LENGTH_BYTES + lengths, 0)
    return at


def have_expired(
    pieces: Pieces, sizes: NDArray[np.int32], version: int, volume_ttl_minutes: int, now_s: int
) -> NDArray[np.bool_]:
    """Which records a vacuum leaves out because they have expired.

    Upstream counts the volume's TTL from the last-modified time. Wilful differences: in a volume without a TTL the
    record's own TTL counts, where upstream leaves the record out at once. A record that readers still get stays:
    readers count from the time of the append.
    """
    expired = np.zeros(len(sizes), np.bool_)
    if version == VERSION_1:
        return expired
    buffer, metas = pieces.buffer, pieces.metas
    # A body ends with the flags or later, or is empty.
    meta_lengths = sizes.astype(np.int64) - DATA_LENGTH_BYTES - payload_lengths(buffer, pieces.heads)
    which = np.flatnonzero((sizes > 0) & (meta_lengths > 0))
    which = which[_has(buffer[metas[which]], FLAG_HAS_TTL | FLAG_HAS_LAST_MODIFIED)]
    if not len(which):
        return expired
    starts, flags = metas[which], buffer[metas[which]]
    at = starts + 1
    for flag in (FLAG_HAS_NAME, FLAG_HAS_MIME):
        at += np.where(_has(flags, flag), buffer[at].astype(np.int64) + 1, 0)
    modified_s = _numbers(buffer, at, LAST_MODIFIED_BYTES)
    at += LAST_MODIFIED_BYTES
    own_s = buffer[at].astype(np.int64) * _seconds_of_unit()[buffer[at + 1]]
    is_whole = at + _TTL_BYTES - starts <= meta_lengths[which]
    lives_s = volume_ttl_minutes * 60 or own_s
    is_over = (own_s > 0) & (now_s >= modified_s + lives_s)
    expired[which] = is_whole & is_over & (now_s > _appended_s(pieces, which, version) + own_s)
    return expired


def _appended_s(pieces: Pieces, which: NDArray[np.intp], version: int) -> NDArray[np.int64]:
    if version != VERSION_3:
        return np.zeros(len(which), np.int64)
    at = pieces.tails[which] + CHECKSUM_BYTES
    nanoseconds = _bytes_at(pieces.buffer, at, TIMESTAMP_BYTES).view(">u8")[:, 0]
    return (nanoseconds // np.uint64(_NS)).astype(np.int64)


def _has(flags: NDArray[np.uint8], wanted: int) -> NDArray[np.bool_]:
    has: NDArray[np.bool_] = (flags & wanted) == wanted
    return has


def _numbers(buffer: NDArray[np.uint8], at: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """The big endian numbers of `length` bytes (at most 7) at the positions `at`."""
    wide = np.zeros((len(at), 8), np.uint8)
    wide[:, 8 - length :] = _bytes_at(buffer, at, length)
    return wide.view(">i8")[:, 0].astype(np.int64)


def _bytes_at(buffer: NDArray[np.uint8], at: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = buffer[at[:, np.newaxis] + np.arange(length)]
    return found
