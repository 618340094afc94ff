"""Rebuilds the index of a volume from its records.

No other process may use the volume meanwhile. Source: weed/command/fix.go.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from native_handlers.arrays import np
from native_handlers.format.errors import FormatError
from native_handlers.format.idx import row_bytes
from native_handlers.format.types import TOMBSTONE_SIZE, to_bytes_offset, to_stored
from native_handlers.storage.check import find_signs
from native_handlers.storage.disk.aside import move_aside
from native_handlers.storage.index.build import encode_rows, parse_rows
from native_handlers.storage.model.file_kinds import receiving_path
from native_handlers.storage.system.files import SharedFile, read_file
from native_handlers.storage.volume.dat_head import read_super_block
from native_handlers.storage.volume.index_place import with_index_found
from native_handlers.storage.volume.info_file import load_volume_info
from native_handlers.storage.volume.row_place import row_offset
from native_handlers.storage.volume.scan import DatScan, ScanEnd

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths

_MAX_PROBLEMS = 100


@dataclass(slots=True)
class Fixed:
    """The result for one volume.

    Args:
        record_count: the number of records in .dat, deletions included.
        is_changed: whether the .idx was replaced. The old .idx was renamed to `kept_as`.
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


def fix_index(files: Files, paths: VolumePaths, offset_width_bytes: int, passed: Callable[[int], object]) -> Fixed:
    """Writes a new .idx with all records of .dat in their order, and replaces the old .idx, unless that has these rows.

    After bytes of .dat that are no record, the old index, if there is one, gives the next record. An empty record is a
    deletion, unless the old index has it as an empty file. The old index also gives the ids of records that were stored
    under another id than they carry, and deletions without a record.

    Args:
        passed: gets the number of .dat bytes read since its last call.

    Raises OSError: the index is unchanged or absent; without an index the next start makes one.
    """
    paths = with_index_found(files, paths)
    fixed = Fixed(str(paths.base))
    signs = find_signs(files, paths, load_volume_info(files, paths.file(".vif")).info, offset_width_bytes)
    if signs.problems:
        fixed.problems = [f"nothing is done, for something is unfinished: {problem}" for problem in signs.problems]
        return fixed
    dat = SharedFile.open(files, paths.file(".dat"), os.O_RDONLY)
    try:
        _Fix(files, paths, offset_width_bytes, fixed).run(dat, passed)
    except FormatError as error:
        fixed.problems.append(f"nothing is done: {error}")
    finally:
        dat.release()
    return fixed


class _ScannedRecords:
    """The records of a .dat file, in their order."""

    def __init__(self) -> None:
        self._ids, self._places, self._sizes = array("Q"), array("q"), array("i")

    def add(self, needle_id: int, place: int, size: int) -> None:
        self._ids.append(needle_id)
        self._places.append(place)
        self._sizes.append(size)

    def columns(self) -> _RowColumns:
        """The ids that the records carry, their places, and the lengths of their bodies."""
        return _RowColumns(
            np.array(self._ids, np.uint64), np.array(self._places, np.int64), np.array(self._sizes, np.int32)
        )


class _RowColumns(NamedTuple):
    """Index rows, or records that become rows. `places` are offsets in units of 8 bytes, as rows have them."""

    ids: NDArray[np.uint64]
    places: NDArray[np.int64]
    sizes: NDArray[np.int32]

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> _RowColumns:
        return _RowColumns(self.ids[which], self.places[which], self.sizes[which])

    def bare_deletions(self) -> NDArray[np.bool_]:
        """Which rows are deletions that name no record: those of volumes in a tier, and of shards."""
        is_bare: NDArray[np.bool_] = (self.places == 0) & (self.sizes < 0)
        return is_bare

    def without_bare_deletions(self) -> _RowColumns:
        return self.take(~self.bare_deletions())

    def followed_by(self, more: _RowColumns) -> _RowColumns:
        ids, places = np.concatenate((self.ids, more.ids)), np.concatenate((self.places, more.places))
        return _RowColumns(ids, places, np.concatenate((self.sizes, more.sizes)))

    def equals(self, other: _RowColumns) -> bool:
        return bool(
            np.array_equal(self.ids, other.ids)
            and np.array_equal(self.places, other.places)
            and np.array_equal(self.sizes, other.sizes)
        )


class _Fix:
    def __init__(self, files: Files, paths: VolumePaths, width: int, fixed: Fixed) -> None:
        self._files, self._width, self._fixed = files, width, fixed
        self._idx = paths.file(".idx")
        self._old = read_file(files, self._idx)
        rows = self._old or b""
        whole = rows[: len(rows) // row_bytes(width) * row_bytes(width)]
        self._has_whole_rows = self._old is not None and whole == rows
        self._old_rows = _RowColumns(*parse_rows(whole, width))
        self._starts = np.unique(self._old_rows.places)

    def run(self, dat: SharedFile, passed: Callable[[int], object]) -> None:
        records = self._scan(dat, passed).columns()
        self._fixed.record_count = len(records.ids)
        new = _NewRows(records, self._old_rows)
        if self._has_whole_rows and new.equal_old:
            return
        self._replace(encode_rows(*new.rows, self._width) + encode_rows(*new.deletions, self._width))

    def _replace(self, rows: bytes) -> None:
        staged = receiving_path(self._idx)
        fd = self._files.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            self._files.write(fd, [rows], 0)
            self._files.sync(fd)
        except BaseException:
            self._files.unlink(staged)
            raise
        finally:
            self._files.close(fd)
        if self._old is not None:
            self._fixed.kept_as = move_aside(self._files, self._idx).rpartition(" ")[2]
        self._files.rename(staged, self._idx)
        self._files.sync_directory(self._idx.parent)
        self._fixed.is_changed = True

    def _scan(self, dat: SharedFile, passed: Callable[[int], object]) -> _ScannedRecords:
        records = _ScannedRecords()
        size = self._files.facts_of(dat.fd).size_bytes
        block = read_super_block(self._files, dat.fd)
        position = block.size_bytes
        passed(position)
        while position < size:
            scan = DatScan(self._files, dat.fd, block.version, position, size)
            for record in scan:
                place = row_offset(record.offset_bytes, self._width)
                records.add(record.header.needle_id, place, record.header.size)
                passed(record.end_bytes - record.offset_bytes)
            if scan.result is ScanEnd.COMPLETE:
                break
            following = int(np.searchsorted(self._starts, to_stored(scan.stopped_at_bytes), "right"))
            position = to_bytes_offset(int(self._starts[following])) if following < len(self._starts) else size
            position = min(position, size)
            skipped = position - scan.stopped_at_bytes
            passed(skipped)
            if len(self._fixed.problems) < _MAX_PROBLEMS:
                self._fixed.problems.append(f".dat: {scan.why}; {skipped} bytes are not entered")
        return records


# ---- Joins the records of .dat with the rows of the old index.
#
# The records say which rows there are. The old index knows what records do not tell: whether an empty record is a
# file, the id under which WriteNeedleBlob stored a record, and deletions without a record. The ids and deletions are
# taken from an old index only where most of its rows lead to records that carry their ids. Else the old index may be
# that of another volume, or of another state of the .dat.


class _NewRows:
    """The rows of the new index.

    Attributes:
        rows: those of all records, in the order of .dat.
        deletions: the deletions of the old index that have no record. They come after `rows`.
        equal_old: whether the old index has the same `rows` in the same order, with bare deletions anywhere among them.
    """

    def __init__(self, records: _RowColumns, old: _RowColumns) -> None:
        led = _look_up(records, old)
        if 2 * np.count_nonzero(led.is_own | led.is_mark) < np.count_nonzero(old.places):
            kept, deletions = led.is_own, np.zeros(len(old.ids), np.bool_)
        else:
            kept, deletions = led.is_own | _under_other_ids(records, old, led), old.bare_deletions() | led.is_mark
        record_of = led.record_of[kept]
        has_row = np.zeros(len(records.ids), np.bool_)
        has_row[record_of] = True
        unnamed = records.take(~has_row)
        # An empty record without a row is a deletion.
        made = unnamed._replace(sizes=np.where(unnamed.sizes == 0, np.int32(TOMBSTONE_SIZE), unnamed.sizes))
        order = np.argsort(np.concatenate((record_of, np.flatnonzero(~has_row))), kind="stable")
        self.rows = old.take(kept).followed_by(made).take(order)
        self.deletions = _final(old, deletions, unnamed)
        self.equal_old = self.rows.without_bare_deletions().equals(old.without_bare_deletions())


class _Led(NamedTuple):
    """Where the rows of an index lead.

    Args:
        record_of: the number of a record at the place of the row and of its size; -1 where there is none.
        is_own: whether that record carries the id of the row.
        is_mark: whether the row deletes the needle whose record it names, as rows of decoded volumes may.
    """

    record_of: NDArray[np.intp]
    is_own: NDArray[np.bool_]
    is_mark: NDArray[np.bool_]


def _look_up(records: _RowColumns, old: _RowColumns) -> _Led:
    count = len(old.ids)
    led = _Led(np.full(count, -1, np.intp), np.zeros(count, np.bool_), np.zeros(count, np.bool_))
    order = np.argsort(records.places, kind="stable")
    ascending = records.places[order]
    first, behind = (np.searchsorted(ascending, old.places, side) for side in ("left", "right"))
    # Where offsets have wrapped around, several records have one place.
    for step in range(int((behind - first).max(initial=0))):
        record = order[np.minimum(first + step, len(order) - 1)]
        is_there = (first + step < behind) & (old.places > 0)
        has_id, sizes = is_there & (records.ids[record] == old.ids), records.sizes[record]
        fits = is_there & (sizes == np.maximum(old.sizes, 0))
        is_better = fits & (has_id & ~led.is_own | (led.record_of < 0))
        led.record_of[is_better] = record[is_better]
        led.is_own[fits & has_id] = True
        led.is_mark[has_id & (old.sizes < 0) & (sizes > 0)] = True
    return led


def _under_other_ids(records: _RowColumns, old: _RowColumns, led: _Led) -> NDArray[np.bool_]:
    """Which rows place a needle at a record that carries another id than the row.

    A record with a row of its own id is left out. So is a record whose id has a row that leads astray: the rows are
    those of another state of .dat then, such as before a vacuum.
    """
    is_other = (led.record_of >= 0) & ~led.is_own & (old.sizes >= 0)
    has_own_row = np.zeros(len(records.ids), np.bool_)
    has_own_row[led.record_of[led.is_own]] = True
    astray = np.unique(old.ids[~led.is_own & ~led.is_mark & (old.places > 0)])
    found = led.record_of[is_other]
    is_other[is_other] = ~has_own_row[found] & ~np.isin(records.ids[found], astray)
    return is_other


def _final(old: _RowColumns, deletions: NDArray[np.bool_], unnamed: _RowColumns) -> _RowColumns:
    """Bare rows for those of the `deletions` after which no row has their id, and no record of .dat without a row."""
    is_last = np.zeros(len(old.ids), np.bool_)
    is_last[len(old.ids) - 1 - np.unique(old.ids[::-1], return_index=True)[1]] = True
    # A deletion without a record came after the records that the rows before it name.
    came_at = np.maximum.accumulate(old.places)
    latest: dict[int, int] = {}
    for needle_id, place in zip(unnamed.ids.tolist(), unnamed.places.tolist(), strict=True):
        latest[needle_id] = max(place, latest.get(needle_id, 0))
    which = [n for n in np.flatnonzero(deletions & is_last).tolist() if latest.get(int(old.ids[n]), 0) <= came_at[n]]
    return _RowColumns(old.ids[which], np.zeros(len(which), np.int64), np.full(len(which), TOMBSTONE_SIZE, np.int32))
