"""Rebuilds the index of a volume from its records.

No other process may use the volume meanwhile. Source: weed/command/fix.go.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import asdict, field
from typing import TYPE_CHECKING, Any

from native_handlers.arrays import np
from native_handlers.format.errors import FormatError
from native_handlers.format.idx import row_bytes
from native_handlers.format.needle import actual_size, parse_needle_header
from native_handlers.format.types import ALIGNMENT_BYTES, NEEDLE_HEADER_BYTES, to_bytes_offset, to_stored
from native_handlers.records import dataclass
from native_handlers.storage.check import find_signs
from native_handlers.storage.disk.aside import aside_path
from native_handlers.storage.fix_rows import DamagedRanges, DatContent, NewRows, RowColumns
from native_handlers.storage.index.build import encode_rows, parse_rows
from native_handlers.storage.model.file_kinds import receiving_path
from native_handlers.storage.system.files import SharedFile, read_file, replace_file
from native_handlers.storage.volume.dat_head import read_super_block
from native_handlers.storage.volume.index_place import with_index_found
from native_handlers.storage.volume.info_file import load_volume_info
from native_handlers.storage.volume.row_place import row_offset
from native_handlers.storage.volume.scan import DatScan, RecordSearch, ScanEnd
from native_handlers.storage.volume.soundness import foreign_index

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from native_handlers.format.needle import NeedleHeader
    from native_handlers.format.super_block import SuperBlock
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths
    from native_handlers.storage.volume.scan import DatRecord

_MAX_PROBLEMS = 100
_MAX_STEPS = 64
"""So many headers are followed from a damaged record."""
MAX_SEARCH_FACTOR = 4
"""The searches for records behind damage read so many times the length of .dat at most."""


@dataclass(slots=True)
class Fixed:
    """The result for one volume.

    Args:
        record_count: the number of sound records in .dat, deletions included.
        is_changed: whether the .idx was replaced. A copy of the old .idx is `kept_as`.
        problems: records that could not be entered, or the reason why nothing was changed.
    """

    base: str
    record_count: int = 0
    is_changed: bool = False
    kept_as: str = ""
    problems: list[str] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        """The fields as values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        done = "its index is made anew" if self.is_changed else "its index is as it was"
        kept = f", the old one is {self.kept_as}" if self.kept_as else ""
        lines = [f"{self.base}: {done} ({self.record_count} records){kept}"]
        return "\n".join([*lines, *(f"  {problem}" for problem in self.problems)])


def fix_index(
    files: Files,
    paths: VolumePaths,
    offset_width_bytes: int,
    passed: Callable[[int], object],
    *,
    is_width_known: bool = False,
) -> Fixed:
    """Writes a new .idx with all records of .dat in their order, and replaces the old .idx, unless that has these rows.

    A damaged record whose header leads to a sound record, or to the end, keeps its row: no older content of its needle
    counts again, and a read fails by the checksum. Upstream reads the headers alone, and does so too. After other bytes
    that are no record, the old index, if there is one, gives the next record, and else a search for one. An empty
    record is a deletion, unless the old index has it as an empty file. The old index also gives the ids of records that
    were stored under another id than they carry, deletions without a record, and the rows of damaged records.

    Args:
        passed: gets the number of .dat bytes read since its last call.
        is_width_known: whether offsets have that width also where the .vif cannot be parsed. Else nothing is done for
            such a volume without an old index: nothing says there how wide its offsets are.

    A crash leaves the old or the new index in its place. A copy of the old one has another name (``.aside``) before the
    new one takes its place.

    Raises OSError: the old or the new index is in its place.
    """
    paths = with_index_found(files, paths)
    fixed = Fixed(str(paths.base))
    loaded = load_volume_info(files, paths.file(".vif"))
    info = loaded.info
    if loaded.error is not None:
        doubt = f".vif cannot be parsed: {loaded.error}"
        idx = files.facts(paths.file(".idx"))
        if not is_width_known and (idx is None or not idx.size_bytes):
            fixed.problems = [f"nothing is done: {doubt}; there is no index either, and -offset.bytes sets the width"]
            return fixed
        fixed.problems = [doubt]
    if info.bytes_offset not in {0, offset_width_bytes}:
        widths = f"its .vif says {info.bytes_offset}-byte offsets, and this run has {offset_width_bytes}-byte ones"
        fixed.problems.append(f"nothing is done: {widths}")
        return fixed
    signs = find_signs(files, paths, info, offset_width_bytes)
    if signs.problems:
        fixed.problems += [f"nothing is done, for something is unfinished: {problem}" for problem in signs.problems]
        return fixed
    dat = SharedFile.open(files, paths.file(".dat"), os.O_RDONLY)
    try:
        _Fix(files, paths, offset_width_bytes, fixed).run(dat, passed)
    except FormatError as error:
        fixed.problems.append(f"nothing is done: {error}")
    finally:
        dat.release()
    return fixed


class _Scanned:
    """The records of a .dat file, in their order, and the ranges without a sound record."""

    def __init__(self) -> None:
        self._ids, self._places, self._sizes, self._are_sound = array("Q"), array("q"), array("i"), array("b")
        self._damage = [array("q") for _ in DamagedRanges._fields]

    def add(self, header: NeedleHeader, place: int, *, is_sound: bool = True) -> None:
        self._ids.append(header.needle_id)
        self._places.append(place)
        self._sizes.append(header.size)
        self._are_sound.append(is_sound)

    def add_damage(self, start_bytes: int, end_bytes: int) -> None:
        for column, value in zip(self._damage, (start_bytes, end_bytes, len(self._ids)), strict=True):
            column.append(value)

    def records(self) -> RowColumns:
        """The ids that the records carry, their places, and the lengths of their bodies."""
        return RowColumns(
            np.array(self._ids, np.uint64), np.array(self._places, np.int64), np.array(self._sizes, np.int32)
        )

    def are_sound(self) -> NDArray[np.bool_]:
        """Which of the records have the right checksum. The other ones have a row for their header."""
        return np.array(self._are_sound, np.bool_)

    def damage(self) -> DamagedRanges:
        return DamagedRanges(*(np.array(column, np.int64) for column in self._damage))


class _Fix:
    def __init__(self, files: Files, paths: VolumePaths, width: int, fixed: Fixed) -> None:
        self._files, self._width, self._fixed = files, width, fixed
        self._idx = paths.file(".idx")
        self._old = read_file(files, self._idx)
        rows = self._old or b""
        whole = rows[: len(rows) // row_bytes(width) * row_bytes(width)]
        self._has_whole_rows = self._old is not None and whole == rows
        self._old_rows = RowColumns(*parse_rows(whole, width))
        self._order = np.argsort(self._old_rows.places, kind="stable")
        self._sorted_places = self._old_rows.places[self._order]

    def run(self, dat: SharedFile, passed: Callable[[int], object]) -> None:
        size, block = self._files.facts_of(dat.fd).size_bytes, read_super_block(self._files, dat.fd)
        foreign = foreign_index(self._files, dat.fd, self._old or b"", block.version, size, self._width)
        if foreign is not None and foreign.is_other_width:
            self._add(f"nothing is done: {foreign.why}; -offset.bytes sets the width")
            return
        content = self._scan(dat, block, size, passed)
        self._fixed.record_count = int(np.count_nonzero(content.are_sound))
        new = NewRows(content, self._old_rows)
        self._tell(new)
        if self._has_whole_rows and new.equal_old:
            return
        self._replace(encode_rows(*new.rows, self._width) + encode_rows(*new.deletions, self._width))

    def _tell(self, new: NewRows) -> None:
        if new.behind_end:
            self._add(f".idx: {new.behind_end} of its rows lead behind the end of .dat")
        for needle_id, place, size in zip(*(column.tolist() for column in new.unsound), strict=True):
            where = f"at {to_bytes_offset(place)}"
            if size < 0:
                self._add(f".idx: needle {needle_id:x} stays deleted; the record of its deletion {where} is damaged")
            else:
                self._add(f".idx: needle {needle_id:x} stays {where}, where .dat has no sound record: no read succeeds")
        for needle_id in new.unrecorded.ids.tolist():
            self._add(f".idx: needle {needle_id:x} stays deleted; .dat has no record of its deletion")

    def _add(self, problem: str) -> None:
        if len(self._fixed.problems) < _MAX_PROBLEMS:
            self._fixed.problems.append(problem)

    def _replace(self, rows: bytes) -> None:
        """Replaces the old index by `rows`. A copy of the old one is on disk under another name before that: a crash at
        any step leaves the old or the new index in its place, and the old one somewhere.
        """
        # A start removes a file of that name. The directory is locked: one that is there is of an interrupted run.
        temporary = receiving_path(self._idx)
        if self._old is not None:
            aside = aside_path(self._files, self._idx)
            replace_file(self._files, aside, self._old, temporary)
            self._fixed.kept_as = aside.name
        replace_file(self._files, self._idx, rows, temporary)
        self._fixed.is_changed = True

    def _scan(self, dat: SharedFile, block: SuperBlock, size: int, passed: Callable[[int], object]) -> DatContent:
        found = _Scanned()
        search = RecordSearch(self._files, dat.fd, block.version, size, MAX_SEARCH_FACTOR * size)
        position = block.size_bytes
        passed(position)
        while position < size:
            scan = DatScan(self._files, dat.fd, block.version, position, size)
            why = ""
            for record in scan:
                if not record.header.size and self._had_content(dat, record, block.version, size):
                    why = f"needle {record.header.needle_id:x} has lost its size at {record.offset_bytes}"
                    break
                found.add(record.header, row_offset(record.offset_bytes, self._width))
                passed(record.end_bytes - record.offset_bytes)
            if not why and scan.result is ScanEnd.COMPLETE:
                break
            start = scan.stopped_at_bytes
            damaged = self._led_on(dat, start, block.version, size) if scan.result is ScanEnd.GARBAGE else None
            if damaged is None:
                position = self._next_place(dat, search, start, block.version, size)
                found.add_damage(start, position)
            else:
                position = start + actual_size(damaged.size, block.version)
                found.add_damage(start, position)
                found.add(damaged, row_offset(start, self._width), is_sound=False)
            passed(position - start)
            self._add(f".dat: {why or scan.why}; {position - start} bytes hold no sound record")
        return DatContent(found.records(), found.are_sound(), found.damage(), size, block.version, self._width)

    def _led_on(self, dat: SharedFile, start_bytes: int, version: int, size: int) -> NeedleHeader | None:
        """The header of the damaged record there, where its length leads on: to a sound record with content, or to the
        end. In between there may be deletions, and few other damaged records.

        None also where the old index knows of a record before that, and the record is there: then the length is wrong.
        """
        first, position, following = None, start_bytes, self._following(start_bytes)
        for _ in range(_MAX_STEPS):
            head = self._files.read(dat.fd, NEEDLE_HEADER_BYTES, position)
            if len(head) < NEEDLE_HEADER_BYTES or not head.strip(b"\0"):
                return None
            header = parse_needle_header(head)
            end = position + actual_size(header.size, version)
            if header.size < 0 or end > size or (first is None and not header.size):
                return None
            if first is None:
                first = header
                if following is not None and following < end and self._leads(dat, following, version, size):
                    return None
            elif header.size and next(iter(DatScan(self._files, dat.fd, version, position, end)), None) is not None:
                return first
            if end == size:
                return first
            position = end
        return None

    def _next_place(self, dat: SharedFile, search: RecordSearch, start_bytes: int, version: int, size: int) -> int:
        """Where to go on behind bytes that lead nowhere: at the next record of the old index. Where none is there, at
        the next place that has one, if that comes first.
        """
        following = self._following(start_bytes)
        if following is not None and following < size and self._leads(dat, following, version, size):
            return following
        places = (following, search.find(start_bytes + ALIGNMENT_BYTES), size)
        return min(one for one in places if one is not None)

    def _following(self, start_bytes: int) -> int | None:
        """The next place behind that one in the old index."""
        number = int(np.searchsorted(self._sorted_places, to_stored(start_bytes), "right"))
        return to_bytes_offset(int(self._sorted_places[number])) if number < len(self._sorted_places) else None

    def _had_content(self, dat: SharedFile, record: DatRecord, version: int, size: int) -> bool:
        """Whether damage of the header has made this empty record of another one: no checksum covers a header.

        The old index says then that there is content. Beyond that, either the next record is where it says, or no
        record with content follows the empty one.
        """
        sizes = self._sizes_at(record.offset_bytes)
        if not sizes or min(sizes) <= 0:
            return False
        ends = [record.offset_bytes + actual_size(one, version) for one in sizes]
        if any(end == size or self._leads(dat, end, version, size) for end in ends):
            return True
        following = DatScan(self._files, dat.fd, version, record.end_bytes, size)
        has_content = any(one.header.size for one in following)
        return not has_content and following.result is not ScanEnd.COMPLETE

    def _leads(self, dat: SharedFile, start_bytes: int, version: int, size: int) -> bool:
        """Whether the old index places a record there that is there."""
        sizes = self._sizes_at(start_bytes)
        record = next(iter(DatScan(self._files, dat.fd, version, start_bytes, size)), None) if sizes else None
        return record is not None and record.header.size in {max(one, 0) for one in sizes}

    def _sizes_at(self, offset_bytes: int) -> list[int]:
        """The sizes in those rows of the old index that place a record there."""
        first, behind = np.searchsorted(self._sorted_places, (to_stored(offset_bytes), to_stored(offset_bytes) + 1))
        sizes: list[int] = self._old_rows.sizes[self._order[first:behind]].tolist()
        return sizes
