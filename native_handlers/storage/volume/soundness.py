"""Checks whether the files of a volume belong together, before a start replaces or removes any of them.

The checks change nothing, and read little beyond the index; `check` does a full examination. "Sound" here means that no
check found a contradiction; opening the volume checks more.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from native_handlers.format.idx import entry_at, row_bytes
from native_handlers.format.needle import actual_size, parse_needle_header
from native_handlers.format.types import (
    NEEDLE_HEADER_BYTES,
    OFFSET_WIDTHS_BYTES,
    max_volume_size_bytes,
    to_bytes_offset,
)
from native_handlers.storage.index.build import build_index
from native_handlers.storage.model.file_kinds import NOTE, VOLUME_EXTENSIONS
from native_handlers.storage.model.report import Finding, FindingKind
from native_handlers.storage.system.files import read_file
from native_handlers.storage.volume.dat_head import super_block_of
from native_handlers.storage.volume.index_place import with_index_found
from native_handlers.storage.volume.recovery import check_last_record
from native_handlers.storage.volume.scan import DatScan, ScanEnd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths

_SAMPLES = 16
BEHIND_RECORDS = "behind its last record"
"""The beginning of a reason: all records of the index are there, and something else follows."""


def missing_files(files: Files, paths: VolumePaths) -> int:
    """How many of its files a volume lacks. Of several volumes of one id in a directory, a start opens the one that
    lacks the fewest. Raises OSError.
    """
    return sum(all(files.facts(path) is None for path in paths.sidecars(extension)) for extension in VOLUME_EXTENSIONS)


def fullest_first(files: Files, candidates: list[VolumePaths]) -> list[VolumePaths]:
    """Volumes of one id in one directory, in the order in which a start tries them. Raises OSError."""
    return sorted(candidates, key=partial(missing_files, files)) if len(candidates) > 1 else candidates


def not_opened(files: Files, opened: VolumePaths, candidates: list[VolumePaths]) -> list[Finding]:
    """The findings for other volumes with the id of `opened`, which are not touched. Raises OSError."""
    if len(candidates) == 1:
        return []
    return [
        Finding(FindingKind.ID_TAKEN, paths.base, f"{opened.base} is served")
        for paths in candidates
        if paths != opened and files.facts(paths.file(".dat")) is not None
    ]


def why_not_whole(files: Files, paths: VolumePaths, offset_width_bytes: int) -> str | None:
    """The reason why the files at `paths` may be no whole volume; None where no check contradicts. Raises OSError.

    Behind the records of the index other whole records may follow, and nothing else. So the length of the .dat is that
    of its records.
    """
    if files.facts(paths.file(NOTE)) is not None:
        return f"{paths.file(NOTE).name} lies beside it, as beside a copy that is not finished"
    dat = paths.file(".dat")
    facts = files.facts(dat)
    if facts is not None and not facts.is_readable_by_owner:
        return f"{dat.name} may not be read by its owner"
    return why_not_a_pair(
        files, dat, with_index_found(files, paths).file(".idx"), offset_width_bytes, has_records_alone=True
    )


def why_not_a_pair(
    files: Files, dat: Path, idx: Path, offset_width_bytes: int, *, has_records_alone: bool = False
) -> str | None:
    """The reason why `idx` is not the index of `dat`, whatever their names; None where no check contradicts.

    A .dat with records behind those of the index is fine: a killed server leaves such a file. With `has_records_alone`
    nothing else may be there. Raises OSError.
    """
    block = super_block_of(files, dat)
    if block is None:
        return f"{dat.name} has no super block"
    rows = read_file(files, idx)
    if rows is None:
        return f"there is no {idx.name}"
    fd = files.open(dat, os.O_RDONLY)
    try:
        size = files.facts_of(fd).size_bytes
        built = build_index(rows, offset_width_bytes, block.version)
        if built.max_end_bytes > size:
            return f"{idx.name} references end={built.max_end_bytes} but {dat.name} is {size} bytes"
        if built.last_row is None:
            return None if size <= block.size_bytes else f"{idx.name} names no record"
        last = check_last_record(files, fd, built.last_row, block.version, size, offset_width_bytes)
        if last.problem is not None or not has_records_alone:
            return last.problem
        return _why_not_records(files, fd, block.version, last.end_bytes, size)
    finally:
        files.close(fd)


def _why_not_records(files: Files, fd: int, version: int, start_bytes: int, end_bytes: int) -> str | None:
    scan = DatScan(files, fd, version, start_bytes, end_bytes)
    for _ in scan:
        pass
    return None if scan.result is ScanEnd.COMPLETE else f"{BEHIND_RECORDS}: {scan.why}"


class ForeignIndex(NamedTuple):
    """The reason why an index is not that of a .dat file. `is_other_width`: it is, but with offsets of another
    width.
    """

    why: str
    is_other_width: bool = False


def foreign_index(files: Files, fd: int, rows: bytes, version: int, dat_bytes: int, width: int) -> ForeignIndex | None:
    """The reason why `rows` are not an index of the open .dat file at all, so that repairing either from the other
    would destroy one of them. None where a row of a sample leads to its record, or no row of the sample can be looked
    up.

    Raises OSError.
    """
    leads, misses = _look_up(files, fd, rows, version, dat_bytes, width)
    if leads:
        return None
    # Rows of another width may look like deletions, and like rows that lead behind the end of .dat: no row can be
    # looked up then.
    for other in OFFSET_WIDTHS_BYTES:
        if other != width and _look_up(files, fd, rows, version, dat_bytes, other)[0]:
            why = f"its .idx has rows of {other}-byte offsets, and this server runs with {width}-byte ones"
            return ForeignIndex(why, is_other_width=True)
    if not misses:
        return None
    return ForeignIndex(f"its .idx is another volume's: none of {misses} rows that were looked up leads to its record")


def _look_up(files: Files, fd: int, rows: bytes, version: int, dat_bytes: int, width: int) -> tuple[bool, int]:
    """Whether a row of a sample leads to its record, and how many rows before it do not."""
    misses = 0
    for number in _sample(len(rows) // row_bytes(width)):
        entry = entry_at(rows, number, width)
        if not entry.offset or entry.size <= 0:
            continue
        # Old servers let 4-byte offsets wrap around: the record may be one whole addressable range further on.
        start, length_bytes = to_bytes_offset(entry.offset), actual_size(entry.size, version)
        places = [at for at in (start, start + max_volume_size_bytes(4)) if at + length_bytes <= dat_bytes]
        headers = [parse_needle_header(files.read(fd, NEEDLE_HEADER_BYTES, at)) for at in places]
        # WriteNeedleBlob stores records under other ids too, so only the size is compared.
        if any(header.size == entry.size for header in headers):
            return True, misses
        misses += bool(headers)
    return False, misses


def _sample(count: int) -> Iterator[int]:
    """Numbers of rows, of `count` rows: the first, the last, and some between them at equal distances, ascending."""
    if count <= _SAMPLES:
        yield from range(count)
        return
    for index in range(_SAMPLES):
        yield index * (count - 1) // (_SAMPLES - 1)
