"""Verifies a volume: its index rows against one another, and each record of a row.

A scrub sees the volume as of its beginning, takes no lock and changes nothing. It reads .dat in the order of the
records, each record once, whatever the order of the rows.

Source: weed/storage/volume_checking.go (ScrubIndex, scrubVolumeData), weed/storage/idx/check.go.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from native_handlers.format.crc import crc32c
from native_handlers.format.errors import FormatError, SizeMismatch
from native_handlers.format.idx import row_bytes
from native_handlers.format.needle import (
    FLAG_HAS_LAST_MODIFIED,
    FLAG_HAS_MIME,
    FLAG_HAS_NAME,
    FLAG_HAS_PAIRS,
    FLAG_HAS_TTL,
    parse_needle,
    parse_needle_header,
    tail_size,
)
from native_handlers.format.super_block import SUPER_BLOCK_BYTES, super_block_size
from native_handlers.format.types import ALIGNMENT_BYTES, DATA_LENGTH_BYTES, NEEDLE_HEADER_BYTES, VERSION_1
from native_handlers.storage.index.build import parse_rows
from native_handlers.storage.model.errors import ReadFailed, StorageError
from native_handlers.storage.volume.record_facts import HEAD_BYTES, record_lengths
from native_handlers.storage.volume.record_mover import Rows
from native_handlers.storage.volume.scan import DatScan
from native_handlers.storage.volume.window import DatWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from native_handlers.storage.volume.append_log import AppendLog

MAX_PROBLEMS = 1000
"""The greatest number of problems in one result: a damaged volume may have millions."""
_WINDOW_BYTES = 1 << 20
_TELL_BYTES = 64 << 10
"""So much is gone through before the caller hears of it."""
_LEAST_BYTES = DATA_LENGTH_BYTES + 1
"""Of a body, beside the payload: its length and the flags."""
_SIZES = struct.Struct(">iI")
_CHECKSUM = struct.Struct(">I")
_FLAGS_OF_FIELDS = FLAG_HAS_NAME | FLAG_HAS_MIME | FLAG_HAS_LAST_MODIFIED | FLAG_HAS_TTL | FLAG_HAS_PAIRS


class ScrubResult(NamedTuple):
    """The number of rows, and the problems in upstream's words; a sound volume has none."""

    row_count: int
    problems: list[str]


def scrub_index(log: AppendLog) -> ScrubResult:
    """Looks for rows whose records overlap, and for a partial row. Raises ReadFailed."""
    rows = _rows_of(log)
    return ScrubResult(len(rows.keys), _bounded(_index_problems(log, rows)))


def scrub_data(log: AppendLog, volume_id: int, passed: Callable[[int], object]) -> ScrubResult:
    """As `scrub_index`, and also reads the record of every row that is no deletion, with its checksum.

    Args:
        passed: called with the number of bytes processed; returns when more may be read. Its exceptions pass through.

    Raises:
        ReadFailed: .idx cannot be read. A record that cannot be read is a problem of the volume.
    """
    rows = _rows_of(log)
    problems = _index_problems(log, rows)
    lengths = record_lengths(rows.sizes, log.version)
    order = np.argsort(rows.offsets, kind="stable")
    window = DatWindow(log.read_dat, log.dat_end_bytes, _WINDOW_BYTES)
    live = order[rows.sizes[order] >= 0]
    columns = (rows.keys[live].tolist(), rows.offsets[live].tolist(), rows.sizes[live].tolist(), lengths[live].tolist())
    untold_bytes = 0
    for key, offset, size, length in zip(*columns, strict=True):
        why = _why_unreadable(log, window, offset * ALIGNMENT_BYTES, size, length)
        if why is not None and len(problems) <= MAX_PROBLEMS:
            problems.append(f"failed to read needle {key} on volume {volume_id}: {why}")
        untold_bytes += length
        if untold_bytes >= _TELL_BYTES:
            passed(untold_bytes)
            untold_bytes = 0
    passed(untold_bytes)
    # A deletion without a record takes no room.
    has_record = (rows.offsets != 0) | (rows.sizes >= 0)
    wanted_bytes = int(lengths[has_record].sum()) + _start_of(log)
    problems += _size_problems(log, volume_id, len(rows.keys), wanted_bytes)
    return ScrubResult(len(rows.keys), _bounded(problems))


def _bounded(problems: list[str]) -> list[str]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    return [*problems[:MAX_PROBLEMS], f"and more than {MAX_PROBLEMS} problems; the rest is not listed"]


def _rows_of(log: AppendLog) -> Rows:
    length = log.row_count * row_bytes(log.offset_width_bytes)
    try:
        raw = log.files.read(log.idx.fd, length, 0)
    except OSError as error:
        raise ReadFailed(log.idx.path, 0, error) from error
    return Rows(*parse_rows(raw, log.offset_width_bytes))


def _index_problems(log: AppendLog, rows: Rows) -> list[str]:
    problems = _overlaps(rows, log.version)
    length = row_bytes(log.offset_width_bytes)
    size = log.files.facts_of(log.idx.fd).size_bytes
    if len(rows.keys) != log.row_count or size % length:
        problems.append(f"expected an index file of size {len(rows.keys) * length}, got {size}")
    return problems


def _overlaps(rows: Rows, version: int) -> list[str]:
    order = np.lexsort((rows.sizes, rows.offsets))
    order = order[(rows.offsets[order] != 0) | (rows.sizes[order] >= 0)]
    starts: NDArray[np.int64] = rows.offsets[order] * ALIGNMENT_BYTES
    ends = starts + record_lengths(rows.sizes[order], version) - 1
    found = np.flatnonzero(starts[1:] <= ends[:-1])[: MAX_PROBLEMS + 1] + 1
    return [
        f"needle {int(rows.keys[order[at]])} (#{int(order[at]) + 1}) at [{int(starts[at])}-{int(ends[at])}] overlaps "
        f"needle {int(rows.keys[order[at - 1]])} at [{int(starts[at - 1])}-{int(ends[at - 1])}]"
        for at in found.tolist()
    ]


def _why_unreadable(log: AppendLog, window: DatWindow, start: int, size: int, length: int) -> str | None:
    if start + length > log.dat_end_bytes:
        return f"its record ends at {start + length}, and .dat at {log.dat_end_bytes}"
    try:
        is_small = length <= _WINDOW_BYTES
        record = window.read(length if is_small else NEEDLE_HEADER_BYTES, start)
        if is_small and _is_plain_and_sound(record, size, log.version):
            return None
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


def _is_plain_and_sound(record: bytes, size: int, version: int) -> bool:
    """Whether a record is a payload with nothing beside it, and its checksum fits; False says nothing.

    Most records of some volumes are such, and to take a record apart takes longer than its checksum.
    """
    tail = NEEDLE_HEADER_BYTES + size
    if version == VERSION_1 or size <= _LEAST_BYTES or len(record) < tail + tail_size(version):
        return False
    header_size, payload_bytes = _SIZES.unpack_from(record, NEEDLE_HEADER_BYTES - 4)
    if header_size != size or payload_bytes != size - _LEAST_BYTES or record[tail - 1] & _FLAGS_OF_FIELDS:
        return False
    (stored,) = _CHECKSUM.unpack_from(record, tail)
    return bool(stored == crc32c(record[HEAD_BYTES : tail - 1]))


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
