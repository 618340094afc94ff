"""Checks the record that is last in a .dat file against the index row that names it.

It yields the append time that later ones must exceed. Constant work for a healthy version 3 volume: the header and
the append time are read. Source: weed/storage/volume_checking.go (verifyNeedleIntegrity, verifyDeletedNeedleIntegrity).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.format.needle import actual_size, parse_needle_header
from native_handlers.format.types import (
    CHECKSUM_BYTES,
    NEEDLE_HEADER_BYTES,
    TIMESTAMP_BYTES,
    VERSION_3,
    max_volume_size_bytes,
    to_bytes_offset,
)
from native_handlers.storage.dat_scan import DatScan

if TYPE_CHECKING:
    from native_handlers.format.idx import IdxEntry
    from native_handlers.storage.files import Files


@dataclass(frozen=True, slots=True)
class LastRecord:
    """Where the last indexed record ends; `problem` is set when the record is not what the row says."""

    end_bytes: int
    append_at_ns: int = 0
    problem: str | None = None


def check_last_record(
    files: Files, fd: int, row: IdxEntry, version: int, dat_size_bytes: int, offset_width_bytes: int
) -> LastRecord:
    """What the record at `row` proves. Raises OSError when it cannot be read."""
    size = max(row.size, 0)
    offset = to_bytes_offset(row.offset)
    found = _check_at(files, fd, row.needle_id, size, offset, version, dat_size_bytes)
    if found.problem is None or offset_width_bytes != 4:
        return found
    # Old servers let 4-byte offsets wrap around: the record may be one whole addressable range further on.
    wrapped = offset + max_volume_size_bytes(4)
    if wrapped >= dat_size_bytes:
        return found
    second = _check_at(files, fd, row.needle_id, size, wrapped, version, dat_size_bytes)
    return found if second.problem else second


def _check_at(
    files: Files, fd: int, needle_id: int, size: int, offset: int, version: int, dat_size_bytes: int
) -> LastRecord:
    end = offset + actual_size(size, version)
    if end > dat_size_bytes:
        return LastRecord(end, problem=f"data file has {dat_size_bytes} bytes, less than expected {end} bytes")
    header = parse_needle_header(files.read(fd, NEEDLE_HEADER_BYTES, offset))
    if header.size != size:
        return LastRecord(end, problem=f"size mismatch at {offset}: {header.size} on disk, {size} in the index")
    if header.needle_id != needle_id:
        why = f"index key {needle_id:x} does not match needle's Id {header.needle_id:x} at {offset}"
        return LastRecord(end, problem=why)
    if version == VERSION_3 and end == dat_size_bytes:
        at = offset + NEEDLE_HEADER_BYTES + size + CHECKSUM_BYTES
        return LastRecord(end, int.from_bytes(files.read(fd, TIMESTAMP_BYTES, at), "big"))
    scan = DatScan(files, fd, version, offset, end)
    record = next(iter(scan), None)
    if record is None:
        return LastRecord(end, problem=scan.why)
    return LastRecord(end, record.append_at_ns)
