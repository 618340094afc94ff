"""Verifies erasure-coded volumes: the index, the needles in local or in all shards, and the bytes of each local shard.

Source: weed/storage/erasure_coding/ec_volume_scrub.go, weed/storage/store_ec_scrub.go, weed/storage/idx/check.go.
"""

from __future__ import annotations

from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.format.crc import crc32c_extend
from native_handlers.format.errors import FormatError
from native_handlers.format.idx import IdxEntry, row_bytes
from native_handlers.format.needle import actual_size, parse_needle
from native_handlers.format.types import ALIGNMENT_BYTES, TOMBSTONE_SIZE, NeedleId, StoredOffset, to_bytes_offset
from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.bitrot import Protection, differing_blocks
from native_handlers.storage.model.errors import Deleted
from native_handlers.storage.system.files import FileRetired
from native_handlers.storage.volume.record_mover import Rows
from native_handlers.storage.volume.scrub import Problems, check_overlaps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.storage.erasure_coding.bitrot import Checksums, ShardSums
    from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
    from native_handlers.storage.erasure_coding.ec_volume import EcShard, EcVolume
    from native_handlers.storage.erasure_coding.layout import Interval
    from native_handlers.storage.erasure_coding.reader import EcReader

_PIECE_BYTES = 1 << 20
_PIECE_ROWS = 1 << 14


@dataclass(slots=True)
class EcScrub:
    """The results. `broken_shards` has the size of each broken shard, in bytes."""

    file_count: int = 0
    problems: Problems = field(default_factory=Problems)
    broken_shards: dict[int, int] = field(default_factory=dict)

    @property
    def errors(self) -> list[str]:
        """The problems in upstream's words, at most `MAX_PROBLEMS` and a line that says that there are more."""
        return self.problems.listed()

    @property
    def is_broken(self) -> bool:
        return bool(self.errors or self.broken_shards)


class EcScrubber:
    """Verifies one volume.

    Args:
        passed: called with the number of bytes read. It waits where reading is too fast, and raises when the result is
            not wanted any more.
    """

    def __init__(self, ec: EcVolumeSet, reader: EcReader, volume: EcVolume, passed: Callable[[int], None]) -> None:
        self._ec, self._reader, self._volume, self._passed = ec, reader, volume, passed
        self._width = ec.width
        self._layout = volume.layout
        self._found = EcScrub()
        # What was known of the holders before may be out of date: a balancing may just have moved the shards.
        self._began_s = reader.locations.now_s()

    def index(self) -> EcScrub:
        """Checks that no two needles overlap and that the rows are whole. Raises OSError, StorageError."""
        self._check_index()
        return self._found

    def local(self) -> EcScrub:
        """Checks the index, and every needle as far as its shards are here. Raises OSError, StorageError."""
        for entry in self._live(self._check_index()):
            self._check_local(entry)
        return self._found

    def full(self, *, checks_deleted: bool) -> EcScrub:
        """Checks the index, and every needle in shards here or elsewhere; computes nothing. Raises OSError,
        StorageError.

        A needle that a holder has deleted is not checked. Upstream checks zeros in place of its bytes, and names a
        needle in several blocks that is deleted at a later one.

        Args:
            checks_deleted: reports also where index and record differ in whether the needle is deleted.
        """
        for entry in self._live(self._check_index()):
            self._check_full(entry, checks_deleted=checks_deleted)
        return self._found

    def checksums(self) -> EcScrub:
        """Checks the bytes of each local shard by the .ecsum; nothing without one. Raises OSError."""
        found, volume = self._found, self._volume
        protection, sums = volume.checksums()
        if protection is Protection.INVALID:
            name = f"ec volume {volume.id}: bitrot sidecar is malformed/unverifiable (sidecar integrity)"
            found.problems.add(name)
        if sums is None:
            return found
        copies = [one for one in self._ec.copies(volume.id) if one.encode_ts_ns == volume.encode_ts_ns]
        shards = {shard.id: shard for one in copies for shard in one.shards.values()}
        for shard in shards.values():
            now: EcShard | None = shard
            while now is not None:
                try:
                    self._check_shard(now, sums)
                    break
                except FileRetired:
                    now = self._opened_anew(now)
        if len(found.broken_shards) > volume.ratio.parity:
            found.problems = Problems()
            found.problems.add(
                f"ec volume {volume.id}: {len(found.broken_shards)}/{len(shards)} local shards mismatch"
                f" (> parity {volume.ratio.parity}): suspect stale sidecar, not flagging shard corruption"
            )
            found.broken_shards.clear()
        return found

    def _check_index(self) -> Rows:
        """Checks the rows against one another, and counts and returns them."""
        found, volume = self._found, self._volume
        content = volume.read_rows()
        length = row_bytes(self._width)
        count = len(content) // length
        if not content:
            found.problems.add(f"zero-size ECX file for EC volume {volume.id}")
        for start in range(0, len(content), _PIECE_BYTES):
            self._passed(min(_PIECE_BYTES, len(content) - start))
        rows = Rows.parsed(content[: count * length], self._width)
        check_overlaps(rows, rows.offsets * ALIGNMENT_BYTES, volume.version, found.problems)
        if count * length != len(content):
            found.problems.add(f"expected an index file of size {count * length}, got {len(content)}")
        found.file_count = count
        return rows

    def _live(self, rows: Rows) -> Iterator[IdxEntry]:
        """The rows of needles, in the order of the index."""
        for start in range(0, len(rows.keys), _PIECE_ROWS):
            piece = rows.take(slice(start, start + _PIECE_ROWS))
            piece = piece.take(piece.sizes != TOMBSTONE_SIZE)
            self._passed(0)
            for key, offset, size in zip(*(column.tolist() for column in piece), strict=True):
                yield IdxEntry(NeedleId(key), StoredOffset(offset), size)

    def _intervals(self, entry: IdxEntry) -> list[Interval]:
        size = abs(entry.size)
        length = actual_size(size, self._volume.version)
        return list(self._layout.locate(to_bytes_offset(entry.offset), length))

    def _check_local(self, entry: IdxEntry) -> None:
        volume, intervals = self._volume, self._intervals(entry)
        record = bytearray()
        is_whole, used = True, []
        for number, interval in enumerate(intervals, 1):
            here = self._ec.find_shard(volume.id, interval.shard_id, volume.encode_ts_ns)
            if here is None:
                is_whole = False
                continue
            shard = here[1]
            used.append(shard.id)
            what = f"chunk {number}/{len(intervals)}"
            if interval.offset_bytes + interval.length_bytes > shard.size_bytes:
                text = f"local shard {shard.id} for needle {entry.needle_id} is too short ({shard.size_bytes})"
                self._broken(shard, f"{text}, cannot read {what}")
                is_whole = False
                continue
            data = self._read(shard, interval, f"{what} for needle {entry.needle_id}")
            self._passed(len(data or b""))
            is_whole = is_whole and data is not None
            if is_whole:
                record += data or b""
        if is_whole:
            self._check_needle(
                entry,
                record,
                f"needle {entry.needle_id} on volume {volume.id}, shards {_listed(sorted(used))}",
            )

    def _read(self, shard: EcShard, interval: Interval, what: str) -> bytes | None:
        try:
            data = shard.read(interval.length_bytes, interval.offset_bytes)
        except FileRetired:
            # Closed meanwhile, as by a balancing: not here.
            return None
        except OSError as error:
            self._broken(
                shard, f"failed to read {what} from local shard {shard.id} at offset {interval.offset_bytes}: {error}"
            )
            return None
        if len(data) != interval.length_bytes:
            text = f"expected {interval.length_bytes} bytes for {what} from local shard {shard.id}, got {len(data)}"
            self._broken(shard, text)
            return None
        return data

    def _check_full(self, entry: IdxEntry, *, checks_deleted: bool) -> None:
        volume, intervals = self._volume, self._intervals(entry)
        shards = _listed(sorted(interval.shard_id for interval in intervals))
        name = f"EC volume {volume.id}, needle {entry.needle_id} on shards {shards}"
        record = bytearray()
        for number, interval in enumerate(intervals, 1):
            try:
                data = self._read_directly(entry, interval)
            except Deleted:
                # At the holder alone, since the coding: no damage, and the holder sends no bytes to check.
                if checks_deleted:
                    self._found.problems.add(f"{name}: size mismatch: index {entry.size}, record 0")
                self._passed(0)
                return
            if data is None:
                self._found.problems.add(
                    f"failed to read EC shard {interval.shard_id} for needle {entry.needle_id} on volume {volume.id}"
                    f" (interval {number}/{len(intervals)})"
                )
                self._found.broken_shards[interval.shard_id] = interval.length_bytes
                self._passed(0)
                break
            self._passed(len(data))
            record += data
        wanted = sum(interval.length_bytes for interval in intervals)
        if len(record) != wanted:
            self._found.problems.add(f"{name}: expected {wanted} bytes, got {len(record)}")
            return
        self._check_needle(entry, record, name, checks_deleted=checks_deleted)

    def _read_directly(self, entry: IdxEntry, interval: Interval) -> memoryview | None:
        """See `EcReader.read_directly`. A shard may move during the scrub, so the master is asked once more before the
        shard is called broken. Raises Deleted.
        """
        read = partial(self._reader.read_directly, self._volume, entry.needle_id, interval)
        asked_s = self._reader.locations.now_s()
        data = read(since_s=self._began_s)
        if data is None and interval.shard_id not in self._found.broken_shards:
            data = read(since_s=asked_s)
        return data

    def _check_needle(self, entry: IdxEntry, record: bytearray, name: str, *, checks_deleted: bool = False) -> None:
        try:
            needle = parse_needle(memoryview(record), self._volume.version)
        except FormatError as error:
            self._found.problems.add(f"{name}: {error}")
            return
        # A difference in whether the needle is deleted is no damage.
        differs = (entry.size < 0) != (needle.size == 0)
        if needle.size != entry.size and (not differs or checks_deleted):
            self._found.problems.add(f"{name}: size mismatch: index {entry.size}, record {needle.size}")

    def _opened_anew(self, shard: EcShard) -> EcShard | None:
        """The shard that took the place of a closed one; None where there is none of this coding."""
        found = self._ec.find_shard(self._volume.id, shard.id, self._volume.encode_ts_ns)
        if found is None or found[1] is shard or found[0].encode_ts_ns != self._volume.encode_ts_ns:
            return None
        return found[1]

    def _check_shard(self, shard: EcShard, sums: Checksums) -> None:
        """Raises FileRetired: the shard was closed meanwhile."""
        volume, entry = self._volume, sums.shards[shard.id]
        name = f"ec volume {volume.id} shard {shard.id}"
        if shard.size_bytes != entry.covered_bytes:
            text = f"{name}: size {shard.size_bytes} != covered_size {entry.covered_bytes} (truncated or extended)"
            self._broken(shard, text)
            return
        try:
            blocks = self._blocks(shard, entry, sums.block_bytes)
        except OSError as error:
            self._broken(shard, f"{name}: {error}")
            return
        for number in differing_blocks(entry, shard.size_bytes, blocks):
            at = number * sums.block_bytes
            self._broken(shard, f"{name}: checksum mismatch at block {number} (offset {at})")

    def _blocks(self, shard: EcShard, entry: ShardSums, block_bytes: int) -> list[int]:
        sums = []
        for start in range(0, entry.covered_bytes, block_bytes):
            checksum = 0
            for at in range(start, min(start + block_bytes, entry.covered_bytes), _PIECE_BYTES):
                data = shard.read(_PIECE_BYTES, at)
                checksum = crc32c_extend(checksum, data)
                self._passed(len(data))
            sums.append(checksum)
        return sums

    def _broken(self, shard: EcShard, text: str) -> None:
        self._found.problems.add(text)
        self._found.broken_shards[shard.id] = shard.size_bytes


def _listed(numbers: list[int]) -> str:
    """The numbers in Go's form of a slice."""
    return f"[{' '.join(map(str, numbers))}]"
