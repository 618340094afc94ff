"""Checks that a decoding replaces no .dat that has more than its shards.

Upstream overwrites a .dat that is there.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from native_handlers.arrays import np
from native_handlers.format.errors import FormatError
from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.format.types import ALIGNMENT_BYTES
from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.decode import parts_of, read_part
from native_handlers.storage.erasure_coding.encode import PIECE_BYTES
from native_handlers.storage.erasure_coding.errors import DecodeFailed, EcRefused
from native_handlers.storage.erasure_coding.index_files import offsets_of, rows_of
from native_handlers.storage.erasure_coding.live_records import Run, runs_of
from native_handlers.storage.erasure_coding.parallel import check_wanted, in_parallel
from native_handlers.storage.volume.dat_head import read_super_block
from native_handlers.storage.volume.record_facts import record_lengths
from native_handlers.storage.volume.scan import DatScan, ScanEnd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.erasure_coding.layout import Interval, Layout
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.scan import DatRecord

_RECORDS_AT_ONCE = 4096


_WHAT_TO_DO = "keep that volume and delete its shards, or move its files away before the shards are decoded"


def check_replaceable(  # noqa: PLR0913, PLR0917  what the shards hold
    ec: EcVolumeSet,
    volume: EcVolume,
    shard_fds: Sequence[int],
    layout: Layout,
    block: SuperBlock,
    ecx: bytes,
    *,
    must_be_there: bool,
) -> None:
    """Checks the .dat files of the volume's name on this server, before a decoding replaces the one beside the shards.
    A .dat without a record is a stub, and may be replaced. So may the .dat that was coded, and the result of an earlier
    decoding.

    Args:
        block: the super block of the coded .dat.
        ecx: the rows of the index with all deletions.
        must_be_there: an open volume without a .dat beside the shards keeps its data elsewhere.

    Raises:
        EcRefused: one has what the shards do not hold, or is on another disk: then two disks would have the volume.
        DiskUnavailable: a disk is out of service, and may have one.
        OSError.
    """
    name = volume.place.name + ".dat"
    here = volume.place.data_dir / name
    held = _ShardContent(ec.files, shard_fds, layout, block, ecx, ec.width)
    for location in ec.locations:
        location.check_in_service()
        path = location.path / name
        facts = ec.files.facts(path)
        if facts is None and not (must_be_there and path == here):
            continue
        if facts is not None and facts.size_bytes <= SUPER_BLOCK_BYTES:
            continue
        if facts is None:
            raise EcRefused(f"volume {volume.id} is open here without {path}: its data is elsewhere; {_WHAT_TO_DO}")
        if path != here:
            raise EcRefused(f"volume {volume.id} is here as a regular volume too: {path}; {_WHAT_TO_DO}")
        if not held.has(path, facts.size_bytes):
            raise EcRefused(f"{path} has what the shards of volume {volume.id} do not hold; {_WHAT_TO_DO}")


@dataclass(frozen=True, slots=True)
class _ShardContent:
    """The content of the open data shards of a volume."""

    files: Files
    shard_fds: Sequence[int]
    layout: Layout
    block: SuperBlock
    ecx: bytes
    width: int

    def has(self, path: Path, dat_bytes: int) -> bool:
        """Whether the shards hold all that is in a .dat: each byte of it at its place, or each record."""
        fd = self.files.open(path, os.O_RDONLY)
        try:
            return self._are_equal(fd, [Run(0, 0, dat_bytes)]) or self._has_records(fd, dat_bytes)
        finally:
            self.files.close(fd)

    def _are_equal(self, fd: int, runs: Iterable[Run]) -> bool:
        try:
            in_parallel(parts_of(self.layout, runs), partial(_make_comparer, self.files, self.shard_fds, fd))
        except (_Different, DecodeFailed):
            return False
        return True

    def _has_records(self, fd: int, dat_bytes: int) -> bool:
        """Whether the .dat is made of records of the shards, and of deletions of needles that are deleted in the shards
        too. The number of vacuums may differ.
        """
        try:
            block = read_super_block(self.files, fd)
        except FormatError:
            return False
        if replace(block, compaction_revision=self.block.compaction_revision) != self.block:
            return False
        rows = rows_of(self.ecx, self.width)
        keys = rows["key"].astype(np.uint64)
        scan = DatScan(self.files, fd, block.version, block.size_bytes, dat_bytes)
        records = iter(scan)
        while found := _next_of(records):
            ids = np.array([record.header.needle_id for record in found], np.uint64)
            theirs = rows[np.minimum(np.searchsorted(keys, ids), len(rows) - 1)]
            sizes = np.array([record.header.size for record in found], np.int64)
            is_gone = theirs["size"] < 0
            if not ((theirs["key"] == ids) & (is_gone | (theirs["size"] == sizes))).all():
                return False
            has_data = ~is_gone | (sizes > 0)
            starts = offsets_of(theirs, self.width) * ALIGNMENT_BYTES
            targets = np.array([record.offset_bytes for record in found], np.int64)
            lengths = record_lengths(sizes, block.version)
            if not self._are_equal(fd, runs_of(starts[has_data], targets[has_data], lengths[has_data])):
                return False
        return scan.result is ScanEnd.COMPLETE


def _next_of(records: Iterator[DatRecord]) -> list[DatRecord]:
    """The next records. Each is read whole for its checksum."""
    found = []
    for record in islice(records, _RECORDS_AT_ONCE):
        check_wanted()
        found.append(record)
    return found


class _Different(Exception):
    """A part of the .dat is not that of the shards."""


def _make_comparer(files: Files, shard_fds: Sequence[int], dat_fd: int) -> Callable[[tuple[int, Interval]], None]:
    buffer, other = memoryview(bytearray(PIECE_BYTES)), memoryview(bytearray(PIECE_BYTES))

    def work(part: tuple[int, Interval]) -> None:
        wanted = read_part(files, shard_fds, part[1], buffer)
        found = other[: len(wanted)]
        if files.read_into(dat_fd, found, part[0]) < len(found) or bytes(found) != wanted:
            raise _Different

    return work
