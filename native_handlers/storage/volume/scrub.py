"""Verifies a volume: its index rows against one another, and each record of a row.

A scrub sees the volume as of its beginning, takes no lock and changes nothing. It reads .dat in the order of the
records, each record once, whatever the order of the rows.

Source: weed/storage/volume_checking.go (ScrubIndex, scrubVolumeData), weed/storage/idx/check.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.arrays import np
from native_handlers.format.errors import FormatError, SizeMismatch
from native_handlers.format.idx import row_bytes
from native_handlers.format.needle import parse_needle, parse_needle_header
from native_handlers.format.super_block import SUPER_BLOCK_BYTES, super_block_size
from native_handlers.format.types import NEEDLE_HEADER_BYTES, VERSION_1
from native_handlers.storage.model.errors import ReadFailed, StorageError
from native_handlers.storage.volume.record_facts import are_sound, record_lengths
from native_handlers.storage.volume.record_mover import Rows
from native_handlers.storage.volume.row_place import places_of
from native_handlers.storage.volume.scan import DatScan
from native_handlers.storage.volume.window import DatWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from native_handlers.storage.volume.append_log import AppendLog

MAX_PROBLEMS = 1000
"""The greatest number of problems in one result: a damaged volume may have millions."""
_WINDOW_BYTES = 1 << 20
_SECTOR_BYTES = 4096


class Problems:
    """The problems of one volume, in order. Those beyond `MAX_PROBLEMS` are not kept."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, text: str) -> None:
        if len(self._texts) <= MAX_PROBLEMS:
            self._texts.append(text)

    def listed(self) -> list[str]:
        """The problems; the last line says so where some were left out."""
        if len(self._texts) <= MAX_PROBLEMS:
            return list(self._texts)
        return [*self._texts[:MAX_PROBLEMS], f"and more than {MAX_PROBLEMS} problems; the rest is not listed"]


class ScrubResult(NamedTuple):
    """The number of rows, and the problems in upstream's words; a sound volume has none."""

    row_count: int
    problems: list[str]


def scrub_index(log: AppendLog, passed: Callable[[int], object]) -> ScrubResult:
    """Looks for rows whose records overlap, and for a partial row. Reads .dat only where that goes on beyond the reach
    of offsets. `passed` is as that of `scrub_data`. Raises ReadFailed.
    """
    rows, problems = _rows_of(log), Problems()
    passed(log.row_count * row_bytes(log.offset_width_bytes))
    _check_index(log, rows, _places_of(log, rows, passed), problems)
    return ScrubResult(len(rows.keys), problems.listed())


def scrub_data(log: AppendLog, volume_id: int, passed: Callable[[int], object]) -> ScrubResult:
    """As `scrub_index`, and also reads the record of every row that is no deletion, with its checksum.

    Args:
        passed: called with the number of bytes processed; returns when more may be read. Its exceptions pass through.

    Raises:
        ReadFailed: .idx cannot be read. A record that cannot be read is a problem of the volume.
    """
    rows, problems = _rows_of(log), Problems()
    places = _places_of(log, rows, passed)
    _check_index(log, rows, places, problems)
    lengths = record_lengths(rows.sizes, log.version)
    for key, why in _unreadable(log, _LiveRecords.of(rows, places, lengths), passed):
        problems.add(f"failed to read needle {key} on volume {volume_id}: {why}")
    # A deletion without a record takes no room.
    has_record = (rows.offsets != 0) | (rows.sizes >= 0)
    wanted_bytes = int(lengths[has_record].sum()) + _start_of(log)
    for text in _size_problems(log, volume_id, len(rows.keys), wanted_bytes):
        problems.add(text)
    return ScrubResult(len(rows.keys), problems.listed())


def _rows_of(log: AppendLog) -> Rows:
    length = log.row_count * row_bytes(log.offset_width_bytes)
    try:
        raw = log.files.read(log.idx.fd, length, 0)
    except OSError as error:
        raise ReadFailed(log.idx.path, 0, error) from error
    return Rows.parsed(raw, log.offset_width_bytes)


def _places_of(log: AppendLog, rows: Rows, passed: Callable[[int], object]) -> NDArray[np.int64]:
    """The places of the records in .dat, in bytes."""

    def read(length_bytes: int, offset_bytes: int) -> bytes:
        try:
            return log.read_dat(length_bytes, offset_bytes)
        except StorageError:
            # What can be read beside the unreadable place counts. The scrub reads the records once more, and reports
            # those that it cannot read then.
            if length_bytes <= _SECTOR_BYTES:
                return bytes(length_bytes)
        pieces = range(0, length_bytes, _SECTOR_BYTES)
        return b"".join(read(min(_SECTOR_BYTES, length_bytes - at), offset_bytes + at) for at in pieces)

    return places_of(read, *rows, log.offset_width_bytes, log.dat_end_bytes, passed)


def _check_index(log: AppendLog, rows: Rows, places: NDArray[np.int64], problems: Problems) -> None:
    check_overlaps(rows, places, log.version, problems)
    length = row_bytes(log.offset_width_bytes)
    size = log.files.facts_of(log.idx.fd).size_bytes
    if len(rows.keys) != log.row_count or size % length:
        problems.add(f"expected an index file of size {log.row_count * length}, got {size}")


def check_overlaps(rows: Rows, places: NDArray[np.int64], version: int, problems: Problems) -> None:
    """Adds the rows whose records, at `places`, overlap, in the order of the records."""
    order = np.lexsort((rows.sizes, places))
    order = order[(rows.offsets[order] != 0) | (rows.sizes[order] >= 0)]
    starts = places[order]
    ends = starts + record_lengths(rows.sizes[order], version) - 1
    found = np.flatnonzero(starts[1:] <= ends[:-1])[: MAX_PROBLEMS + 1] + 1
    for at in found.tolist():
        row, last = int(order[at]), int(order[at - 1])
        problems.add(
            f"needle {int(rows.keys[row])} (#{row + 1}) at [{int(starts[at])}-{int(ends[at])}] overlaps "
            f"needle {int(rows.keys[last])} at [{int(starts[at - 1])}-{int(ends[at - 1])}]"
        )


class _LiveRecords(NamedTuple):
    """The records of live rows in the order of .dat: needle ids, positions, sizes and lengths in bytes."""

    keys: NDArray[np.uint64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int32]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Rows, places: NDArray[np.int64], lengths: NDArray[np.int64]) -> _LiveRecords:
        order = np.argsort(places, kind="stable")
        live = order[rows.sizes[order] >= 0]
        return cls(rows.keys[live], places[live], rows.sizes[live], lengths[live])


def _unreadable(log: AppendLog, records: _LiveRecords, passed: Callable[[int], object]) -> Iterator[tuple[int, str]]:
    """The id of each needle that cannot be read, with the reason."""
    window = DatWindow(log.read_dat, log.dat_end_bytes, _WINDOW_BYTES)
    buffer = np.zeros(_WINDOW_BYTES, np.uint8)
    ends = records.starts + records.lengths
    first = 0
    while first < len(ends):
        end = _end_of_batch(records.starts, ends, first, log.dat_end_bytes)
        batch = slice(first, end)
        sound = _are_sound(log, buffer, records.starts[batch], ends[batch], records.sizes[batch])
        for at in (np.flatnonzero(~sound) + first).tolist():
            start, size, length = int(records.starts[at]), int(records.sizes[at]), int(records.lengths[at])
            why = _why_unreadable(log, window, start, size, length)
            if why is not None:
                yield int(records.keys[at]), why
        passed(int(records.lengths[batch].sum()))
        first = end


def _end_of_batch(starts: NDArray[np.int64], ends: NDArray[np.int64], first: int, dat_end_bytes: int) -> int:
    """The end of the records from `first` on that one window holds: at least one record, which may be longer."""
    limit = min(int(starts[first]) + _WINDOW_BYTES, dat_end_bytes)
    last = int(np.searchsorted(starts, limit, "left"))
    beyond = np.flatnonzero(ends[first:last] > limit)
    return max(first + (int(beyond[0]) if len(beyond) else last - first), first + 1)


def _are_sound(
    log: AppendLog,
    buffer: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    sizes: NDArray[np.int32],
) -> NDArray[np.bool_]:
    """Which of the records of one batch are certainly sound. The others are to be read one by one.

    Reads them into `buffer`, which has the length of a window.
    """
    start, length = int(starts[0]), int(ends.max() - starts[0])
    unknown = np.zeros(len(starts), np.bool_)
    if length > len(buffer) or start + length > log.dat_end_bytes or log.version == VERSION_1:
        return unknown
    try:
        count = log.files.read_into(log.dat.fd, buffer.data[:length], start)
    except OSError:
        # The unreadable place may lie between the records, or in one of them.
        return unknown
    return are_sound(buffer[:length], starts - start, sizes, log.version) if count == length else unknown


def _why_unreadable(log: AppendLog, window: DatWindow, start: int, size: int, length: int) -> str | None:
    if start + length > log.dat_end_bytes:
        return f"its record ends at {start + length}, and .dat at {log.dat_end_bytes}"
    try:
        is_small = length <= _WINDOW_BYTES
        record = window.read(length if is_small else NEEDLE_HEADER_BYTES, start)
        header = parse_needle_header(record)
        if header.size != size:
            return str(SizeMismatch(header.needle_id, size, header.size))
        if size and not is_small:
            scan = DatScan(log.files, log.dat.fd, log.version, start, start + length)
            return None if next(iter(scan), None) is not None else scan.why
        if size:
            parse_needle(record, log.version)
    except (FormatError, StorageError, OSError) as error:
        return str(error)
    return None


def _start_of(log: AppendLog) -> int:
    try:
        return super_block_size(log.read_dat(SUPER_BLOCK_BYTES, 0))
    except (StorageError, FormatError):
        return SUPER_BLOCK_BYTES


def _size_problems(log: AppendLog, volume_id: int, count: int, wanted_bytes: int) -> list[str]:
    size = log.dat_end_bytes
    if size < wanted_bytes:
        text = f"is smaller ({size}) than the {count} needles it contains ({wanted_bytes})"
        return [f"data file for volume {volume_id} {text}"]
    if size != wanted_bytes:
        text = f"doesn't match the size for {count} needles read ({wanted_bytes})"
        return [f"data file size for volume {volume_id} ({size}) {text}"]
    return []
