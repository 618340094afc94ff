"""Walks the records of a .dat file in order and verifies each, until the end or the first bytes that are no record
(`DatScan`). Searches a range for any whole record, with bounded work (`holds_record`).

For files whose index cannot be trusted: after a crash, and in `check`. Memory stays bounded whatever lengths a file
claims. Source: weed/storage/volume_read.go:ScanVolumeFileFrom, which does not verify.
"""

from __future__ import annotations

from array import array
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.arrays import np
from native_handlers.format import crc
from native_handlers.format.needle import NeedleHeader, actual_size, parse_needle_header, tail_size
from native_handlers.format.types import (
    ALIGNMENT_BYTES,
    CHECKSUM_BYTES,
    DATA_LENGTH_BYTES,
    NEEDLE_HEADER_BYTES,
    VERSION_1,
    VERSION_3,
)
from native_handlers.records import dataclass
from native_handlers.storage.volume.window import DatWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.storage.system.files import Files

_PIECE_BYTES = 1 << 20
_SHORT_WINDOW_BYTES = 1 << 14
_MAX_META_BYTES = 1 + 256 + 256 + 5 + 2 + 2 + 65535
"""The greatest length of the part of a body after the payload."""


class DatRecord(NamedTuple):
    """A whole record. `offset_bytes` is its start, `end_bytes` the start of the next one."""

    header: NeedleHeader
    offset_bytes: int
    end_bytes: int
    append_at_ns: int


@dataclass(frozen=True, slots=True)
class OpenDat:
    """An open .dat file for comparison with its index. Records begin at `start_bytes`."""

    files: Files
    fd: int
    version: int
    start_bytes: int
    size_bytes: int
    offset_width_bytes: int

    def scan(self) -> DatScan:
        """A scan of all records."""
        return DatScan(self.files, self.fd, self.version, self.start_bytes, self.size_bytes)


class ScanEnd(Enum):
    """Why a scan ended."""

    COMPLETE = "every byte belongs to a record"
    TORN = "the last record is not all there"
    GARBAGE = "there is something that is no record"


class DatScan:
    """One pass over ``[start, end)`` of an open .dat file. After the iteration `result` and `stopped_at_bytes` are
    set.
    """

    def __init__(  # noqa: PLR0913  a range of a file, and how to read it
        self,
        files: Files,
        fd: int,
        version: int,
        start_bytes: int,
        end_bytes: int,
        *,
        window_bytes: int = _PIECE_BYTES,
    ) -> None:
        """`window_bytes` is the length of one read: small when only one record is wanted."""
        self._version = version
        self._end_bytes = end_bytes
        self._read = DatWindow(partial(files.read, fd), end_bytes, window_bytes).read
        self.stopped_at_bytes = start_bytes
        self.result = ScanEnd.COMPLETE
        self.why = ""

    def __iter__(self) -> Iterator[DatRecord]:
        """Yields the records. Raises OSError when a read fails."""
        while self.stopped_at_bytes < self._end_bytes:
            record = self._next()
            if record is None:
                return
            yield record
            self.stopped_at_bytes = record.end_bytes

    def _next(self) -> DatRecord | None:
        offset, room = self.stopped_at_bytes, self._end_bytes - self.stopped_at_bytes
        head = self._read(min(NEEDLE_HEADER_BYTES, room), offset)
        if len(head) < NEEDLE_HEADER_BYTES:
            self._stop(ScanEnd.TORN, f"{len(head)} bytes of a header")
            return None
        if head == bytes(NEEDLE_HEADER_BYTES):
            self._stop(*self._judge_zeros(offset))
            return None
        header = parse_needle_header(head)
        length = actual_size(header.size, self._version)
        if header.size < 0:
            self._stop(ScanEnd.GARBAGE, f"size {header.size}")
            return None
        if length > room:
            self._stop(ScanEnd.TORN, f"{room} bytes of a record of {length}")
            return None
        tail = self._read(tail_size(self._version), offset + NEEDLE_HEADER_BYTES + header.size)
        if header.size and not self._fits(offset, header.size, int.from_bytes(tail[:CHECKSUM_BYTES], "big")):
            self._stop(ScanEnd.GARBAGE, f"needle {header.needle_id:x} has a wrong checksum")
            return None
        append_at_ns = int.from_bytes(tail[CHECKSUM_BYTES:], "big") if self._version == VERSION_3 else 0
        return DatRecord(header, offset, offset + length, append_at_ns)

    def _stop(self, result: ScanEnd, why: str) -> None:
        self.result = result
        self.why = f"{why} at {self.stopped_at_bytes}"

    def _judge_zeros(self, offset: int) -> tuple[ScanEnd, str]:
        """Zeros up to the end are what a file system leaves of an append after a power cut."""
        while offset < self._end_bytes:
            piece = self._read(min(_PIECE_BYTES, self._end_bytes - offset), offset)
            if piece.strip(b"\0") or not piece:
                return ScanEnd.GARBAGE, "zeros where a header should be"
            offset += len(piece)
        return ScanEnd.TORN, "zeros to the end"

    def _fits(self, offset: int, size: int, stored: int) -> bool:
        start, length = offset + NEEDLE_HEADER_BYTES, size
        if self._version != VERSION_1:
            length = int.from_bytes(self._read(DATA_LENGTH_BYTES, start), "big")
            start += DATA_LENGTH_BYTES
            # No writer makes a body without a payload. Zeros would look like one, and their checksum is zero, too.
            if not length or DATA_LENGTH_BYTES + length > size:
                return False
        return crc.matches(stored, self._crc(start, length))

    def _crc(self, start: int, length: int) -> int:
        value = 0
        for position in range(start, start + length, _PIECE_BYTES):
            piece = self._read(min(_PIECE_BYTES, start + length - position), position)
            value = crc.crc32c_extend(value, piece)
        return value


# ---- Searches a range for a whole record.
#
# The bytes of the range may be a client's, who knows what is searched for. So the search has a bound. The lengths of
# one candidate may claim half the range, and there may be a candidate every eight bytes. `RangeSums` sums each byte
# once for all candidates, but for the ends of their payloads. The bound is about these bytes; a candidate counts for
# `_LEAST_COST_BYTES` at least. Random bytes stay below a third of it: one position in 65,000 is a candidate at most.

_FREE_BYTES = 64 << 20
_LEAST_COST_BYTES = 4 << 10
_MAX_SIZE = 2**31 - 1
_STEP_BYTES = 64 << 10
_STEPS_A_READ = 16
MAX_RANGE_COST_BYTES = 2 * _STEP_BYTES
"""So many bytes are read for one range at most, beside those that are read once for all ranges."""


class RangeSums:
    """The CRC-32C of ranges behind `start_bytes`, however long they are and however they overlap.

    The sum from `start_bytes` to each step of 64 KiB is computed once and kept, 4 bytes for each step. The sum of a
    range follows from two of these and from the bytes at its two ends. For one thread.
    """

    def __init__(self, read: Callable[[int, int], bytes], start_bytes: int) -> None:
        """`read` gets a length and an offset. Its exceptions pass through `of`."""
        self._read = read
        self._start = start_bytes
        self._sums = array("I", [0])

    def of(self, start_bytes: int, length_bytes: int) -> int:
        """The CRC-32C of a range, all of which the file has."""
        end = start_bytes + length_bytes
        first = -(-(start_bytes - self._start) // _STEP_BYTES)
        last = (end - self._start) // _STEP_BYTES
        if first >= last:
            return self._extended(0, start_bytes, end)
        self._sum_up_to(last)
        head = self._extended(0, start_bytes, self._place(first))
        # What the sum up to the first step has in that up to the last one cancels out.
        whole = crc.moved(head ^ self._sums[first], (last - first) * _STEP_BYTES) ^ self._sums[last]
        return self._extended(whole, self._place(last), end)

    def _place(self, step: int) -> int:
        return self._start + step * _STEP_BYTES

    def _extended(self, value: int, start: int, end: int) -> int:
        return crc.crc32c_extend(value, self._read(end - start, start)) if start < end else value

    def _sum_up_to(self, last: int) -> None:
        while len(self._sums) <= last:
            done = len(self._sums) - 1
            count = min(last - done, _STEPS_A_READ)
            data = memoryview(self._read(count * _STEP_BYTES, self._place(done)))
            for at in range(0, count * _STEP_BYTES, _STEP_BYTES):
                self._sums.append(crc.crc32c_extend(self._sums[-1], data[at : at + _STEP_BYTES]))


def holds_record(files: Files, fd: int, version: int, start_bytes: int, end_bytes: int) -> bool:
    """Whether a whole record with a payload and the right checksum starts in ``[start, end)`` at a multiple of 8, or
    may start there.

    For versions 2 and 3. The result is True without such a record where too many positions look like one: where the
    work on them exceeds that of reading the range once more, and 64 MiB. So the search reads about three times the
    range at most, and 64 MiB. In version 1 a record cannot be told from other bytes cheaply, and the result is True
    unless the range is shorter than a record.

    Raises OSError when a read fails.
    """
    if version == VERSION_1:
        return end_bytes - start_bytes > actual_size(0, version)
    read = partial(files.read, fd)
    sums = RangeSums(read, start_bytes)
    left_bytes = end_bytes - start_bytes + _FREE_BYTES
    for start, size, data_length in _candidates_in(read, version, start_bytes, end_bytes):
        left_bytes -= max(min(data_length, MAX_RANGE_COST_BYTES), _LEAST_COST_BYTES)
        if left_bytes < 0:
            return True
        body = start + NEEDLE_HEADER_BYTES
        stored = int.from_bytes(read(CHECKSUM_BYTES, body + size), "big")
        if crc.matches(stored, sums.of(body + DATA_LENGTH_BYTES, data_length)):
            return True
    return False


class _Candidate(NamedTuple):
    """A place at which the lengths of a record with a payload are plausible."""

    start_bytes: int
    size: int
    data_length: int


def _candidates_in(
    read: Callable[[int, int], bytes], version: int, start_bytes: int, end_bytes: int
) -> Iterator[_Candidate]:
    """The candidates in ``[start, end)``, which is read piece by piece; `read` gets a length and an offset."""
    for piece_start in range(start_bytes, end_bytes, _PIECE_BYTES):
        room = end_bytes - piece_start
        yield from _candidates(read(min(_PIECE_BYTES + 24, room), piece_start), piece_start, room, version)


def _candidates(piece: bytes, piece_start: int, room: int, version: int) -> Iterator[_Candidate]:
    """The candidates in `piece`, behind whose start the file has `room` bytes."""
    count = (len(piece) - NEEDLE_HEADER_BYTES - DATA_LENGTH_BYTES) // ALIGNMENT_BYTES
    if count <= 0:
        return
    words = np.frombuffer(piece, ">u4", len(piece) // 4).astype(np.int64)
    # A word is 4 bytes: a header's size is its fourth word, the payload length follows it.
    size, data_length = words[3 : 3 + 2 * count : 2], words[4 : 4 + 2 * count : 2]
    meta = size - data_length - DATA_LENGTH_BYTES
    fits = (data_length > 0) & (meta >= 0) & (meta <= _MAX_META_BYTES) & (size <= _MAX_SIZE)
    # The whole record has to fit. Its padding is one byte at least, up to a multiple of 8.
    whole_words = room // ALIGNMENT_BYTES - np.arange(count)
    fits &= size + (NEEDLE_HEADER_BYTES + tail_size(version)) < whole_words * ALIGNMENT_BYTES
    for index in map(int, np.flatnonzero(fits)):
        yield _Candidate(piece_start + index * ALIGNMENT_BYTES, int(size[index]), int(data_length[index]))


class RecordSearch:
    """Searches an open .dat file of version 2 or 3 for whole records, in several places. Few bytes are read twice for
    nothing, and no more than the limit in all.
    """

    def __init__(self, files: Files, fd: int, version: int, end_bytes: int, max_read_bytes: int) -> None:
        self._files, self._fd, self._version, self._end_bytes = files, fd, version, end_bytes
        self._left_bytes = max_read_bytes
        self._searched: tuple[int, int] | None = None

    def find(self, start_bytes: int) -> int | None:
        """The first place from `start_bytes` on, at a multiple of 8 from there, of a record with a payload and the
        right checksum. None where there is none, where none was found within the limit, and in version 1.

        Raises OSError when a read fails.
        """
        if self._version == VERSION_1:
            return None
        if self._searched is None or not self._searched[0] <= start_bytes <= self._searched[1]:
            found = self._search(start_bytes)
            self._searched = start_bytes, self._end_bytes if found is None else found
        at = self._searched[1]
        return at if at < self._end_bytes else None

    def _search(self, start_bytes: int) -> int | None:
        files, fd, version, end = self._files, self._fd, self._version, self._end_bytes
        for start, size, _ in _candidates_in(self._read, version, start_bytes, end):
            if self._left_bytes <= 0:
                return None
            scan = DatScan(files, fd, version, start, end, window_bytes=_SHORT_WINDOW_BYTES)
            if next(iter(scan), None) is not None:
                return start
            self._left_bytes -= size
        return None

    def _read(self, length_bytes: int, offset_bytes: int) -> bytes:
        data = self._files.read(self._fd, length_bytes, offset_bytes)
        self._left_bytes -= len(data)
        return data
