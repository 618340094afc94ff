"""Joins the records of .dat with the rows of the old index, for `fix`.

The records say which rows there are. The old index knows what records do not tell: whether an empty record is a file,
the id under which WriteNeedleBlob stored a record, deletions without a record, and which needle a damaged record is of.
All that is taken from an old index only where most of its rows lead to records that carry their ids. Else the old index
may be that of another volume, or of another state of the .dat. Rows that lead to damaged bytes do not count for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.arrays import np
from native_handlers.format.types import ALIGNMENT_BYTES, TOMBSTONE_SIZE, max_volume_size_bytes
from native_handlers.storage.volume.record_facts import record_lengths

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RowColumns(NamedTuple):
    """Index rows, or records that become rows. `places` are offsets in units of 8 bytes, as rows have them."""

    ids: NDArray[np.uint64]
    places: NDArray[np.int64]
    sizes: NDArray[np.int32]

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> RowColumns:
        return RowColumns(self.ids[which], self.places[which], self.sizes[which])

    def bare_deletions(self) -> NDArray[np.bool_]:
        """Which rows are deletions that name no record: those of volumes in a tier, and of shards."""
        is_bare: NDArray[np.bool_] = (self.places == 0) & (self.sizes < 0)
        return is_bare

    def without_bare_deletions(self) -> RowColumns:
        return self.take(~self.bare_deletions())

    def followed_by(self, more: RowColumns) -> RowColumns:
        ids, places = np.concatenate((self.ids, more.ids)), np.concatenate((self.places, more.places))
        return RowColumns(ids, places, np.concatenate((self.sizes, more.sizes)))

    def equals(self, other: RowColumns) -> bool:
        return bool(
            np.array_equal(self.ids, other.ids)
            and np.array_equal(self.places, other.places)
            and np.array_equal(self.sizes, other.sizes)
        )


class DamagedRanges(NamedTuple):
    """The ranges of .dat that hold no sound record, in their order. Positions are in bytes.

    `record_counts` are the numbers of records before each range.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    record_counts: NDArray[np.int64]


class DatContent(NamedTuple):
    """The result of a scan of a .dat: its records and its damage, and facts of the file.

    Args:
        records: the sound records, and the damaged ones whose header leads on.
        are_sound: which of the records are sound.
    """

    records: RowColumns
    are_sound: NDArray[np.bool_]
    damage: DamagedRanges
    size_bytes: int
    version: int
    offset_width_bytes: int


class NewRows:
    """The rows of the new index.

    Attributes:
        rows: those of all records, in the order of .dat, and those of damaged records that the old index names.
        deletions: the deletions of the old index that have no sound record. They come after `rows`.
        equal_old: whether the old index has the same `rows` in the same order, with bare deletions anywhere among them.
        unsound: those of `rows` that decide about their needle, and lead to no sound record.
        unrecorded: those of `deletions` whose record is lost.
        behind_end: the number of rows of the old index that lead behind the end of .dat; 0 where nothing is taken
            from it.
    """

    def __init__(self, dat: DatContent, old: RowColumns) -> None:
        records, led = dat.records, _look_up(dat.records, old)
        lost = _find_lost(dat, old, led)
        # Where .dat was cut off, the rows of what is gone say nothing of the others.
        is_behind = (old.places > 0) & ~lost.is_within
        expected = (old.places > 0) & (lost.range_of < 0) & ~is_behind
        is_believed = 2 * np.count_nonzero(led.is_own | led.is_mark) >= np.count_nonzero(expected)
        kept, deletions = led.is_own, np.zeros(len(old.ids), np.bool_)
        is_damaged = np.zeros(len(old.ids), np.bool_)
        if is_believed:
            kept, deletions = kept | _under_other_ids(records, old, led), old.bare_deletions() | led.is_mark
            is_damaged = (lost.range_of >= 0) & lost.is_within
        record_of = led.record_of[kept]
        has_row = np.zeros(len(records.ids), np.bool_)
        has_row[record_of] = True
        unnamed = records.take(~has_row)
        # An empty record without a row is a deletion.
        made = unnamed._replace(sizes=np.where(unnamed.sizes == 0, np.int32(TOMBSTONE_SIZE), unnamed.sizes))
        rows = old.take(kept).followed_by(made).followed_by(old.take(is_damaged))
        numbers = 2 * np.concatenate((record_of, np.flatnonzero(~has_row))) + 1
        before = 2 * dat.damage.record_counts[lost.range_of[is_damaged]]
        places = np.concatenate((np.zeros(len(numbers), np.int64), lost.starts[is_damaged]))
        order = np.lexsort((places, np.concatenate((numbers, before))))
        is_unsound = ~dat.are_sound[np.concatenate((record_of, np.flatnonzero(~has_row)))]
        is_unsound = np.concatenate((is_unsound, np.ones(np.count_nonzero(is_damaged), np.bool_)))[order]
        self.rows = rows.take(order)
        self.deletions = _final(old, deletions, unnamed)
        self.unrecorded = _no_rows()
        self.behind_end = 0
        if is_believed:
            self.behind_end = int(np.count_nonzero(is_behind))
            gone = (old.places > 0) & ~kept & ~is_damaged & ~led.is_mark
            behind, self.unrecorded = _hiding(old, gone, lost, self.rows, unnamed)
            self.rows, self.deletions = self.rows.followed_by(behind), self.deletions.followed_by(self.unrecorded)
            is_unsound = np.concatenate((is_unsound, np.ones(len(behind.ids), np.bool_)))
        self.unsound = self.rows.take(_deciding(self.rows.ids, is_unsound))
        self.equal_old = self.rows.without_bare_deletions().equals(old.without_bare_deletions())


def _no_rows() -> RowColumns:
    return RowColumns(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int32))


class _Lost(NamedTuple):
    """The rows of an index that lead to no sound record.

    Args:
        range_of: the number of the range of damage to which the row leads; -1 for other rows.
        starts: where the record of the row begins, in bytes.
        is_within: whether the record of the row ends in .dat.
    """

    range_of: NDArray[np.intp]
    starts: NDArray[np.int64]
    is_within: NDArray[np.bool_]


def _find_lost(dat: DatContent, old: RowColumns, led: _Led) -> _Lost:
    starts = old.places * ALIGNMENT_BYTES
    range_of = _range_of(starts, dat.damage)
    if dat.offset_width_bytes == 4:
        # Offsets of 4 bytes may have wrapped around.
        beyond = _range_of(starts + max_volume_size_bytes(4), dat.damage)
        is_beyond = (range_of < 0) & (beyond >= 0)
        range_of, starts = np.where(is_beyond, beyond, range_of), starts + is_beyond * max_volume_size_bytes(4)
    is_lost = (old.places > 0) & (led.record_of < 0) & ~led.is_mark
    is_within = starts + record_lengths(old.sizes, dat.version) <= dat.size_bytes
    return _Lost(np.where(is_lost, range_of, -1), starts, is_within)


def _range_of(positions: NDArray[np.int64], damage: DamagedRanges) -> NDArray[np.intp]:
    """The number of the range that holds each position, -1 for none."""
    if not len(damage.starts):
        return np.full(len(positions), -1, np.intp)
    found = np.searchsorted(damage.starts, positions, "right") - 1
    return np.where((found >= 0) & (positions < damage.ends[found]), found, -1)


def _hiding(
    old: RowColumns, gone: NDArray[np.bool_], lost: _Lost, rows: RowColumns, unnamed: RowColumns
) -> tuple[RowColumns, RowColumns]:
    """Of the rows of the old index that are `gone`: those without which older content of their needles would count in
    `rows`. The first result has those that place a record behind the end of .dat, the other one deletions, which become
    bare ones.

    A needle with an `unnamed` record is left out: the old index is that of another state of .dat for the needle.
    """
    gone = gone & (~lost.is_within & (lost.starts > 0) | (old.sizes < 0))
    candidates = np.flatnonzero(gone)
    candidates = candidates[~np.isin(old.ids[candidates], unnamed.ids)]
    candidates = np.intersect1d(candidates, _deciding(old.ids, gone))
    same = np.flatnonzero(np.isin(rows.ids, old.ids[candidates]))
    last = same[_last_of_each(rows.ids[same])]
    live = rows.ids[last[rows.sizes[last] >= 0]]
    found = old.take(candidates[np.isin(old.ids[candidates], live)])
    deletions = found.take(found.sizes < 0)
    count = len(deletions.ids)
    bare = RowColumns(deletions.ids, np.zeros(count, np.int64), np.full(count, TOMBSTONE_SIZE, np.int32))
    return found.take(found.sizes >= 0), bare


def _deciding(ids: NDArray[np.uint64], which: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The positions of those of the rows `which` that are the last ones of their ids."""
    if not which.any():
        return np.empty(0, np.intp)
    same = np.flatnonzero(np.isin(ids, ids[which]))
    last = same[_last_of_each(ids[same])]
    return last[which[last]]


def _last_of_each(ids: NDArray[np.uint64]) -> NDArray[np.intp]:
    """The positions of the last row of each id, ascending."""
    return np.sort(len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1])


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


def _look_up(records: RowColumns, old: RowColumns) -> _Led:
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


def _under_other_ids(records: RowColumns, old: RowColumns, led: _Led) -> NDArray[np.bool_]:
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


def _final(old: RowColumns, deletions: NDArray[np.bool_], unnamed: RowColumns) -> RowColumns:
    """Bare rows for those of the `deletions` after which no row has their id, and no record of .dat without a row."""
    is_last = np.zeros(len(old.ids), np.bool_)
    is_last[_last_of_each(old.ids)] = True
    # A deletion without a record came after the records that the rows before it name.
    came_at = np.maximum.accumulate(old.places)
    latest: dict[int, int] = {}
    for needle_id, place in zip(unnamed.ids.tolist(), unnamed.places.tolist(), strict=True):
        latest[needle_id] = max(place, latest.get(needle_id, 0))
    which = [n for n in np.flatnonzero(deletions & is_last).tolist() if latest.get(int(old.ids[n]), 0) <= came_at[n]]
    return RowColumns(old.ids[which], np.zeros(len(which), np.int64), np.full(len(which), TOMBSTONE_SIZE, np.int32))
