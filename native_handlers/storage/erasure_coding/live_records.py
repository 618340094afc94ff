"""The live records of an erasure-coded volume, and their places in the .dat that a decoding makes of them.

The new .dat has the live records in their order, and nothing else. So no record of a deleted needle is in it: neither a
lost .idx nor a tool that reads the .dat brings the needle back. Upstream decodes all records up to the last live one,
and then compacts. Source: weed/server/volume_grpc_erasure_coding.go (VolumeEcShardsToVolume).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.arrays import np
from native_handlers.format.types import ALIGNMENT_BYTES
from native_handlers.storage.erasure_coding.index_files import offsets_of, rows_of, with_offsets
from native_handlers.storage.volume.record_facts import record_lengths

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from native_handlers.format.super_block import SuperBlock

_ROWS_AT_ONCE = 1 << 14
"""Memory is for the rows and for one piece of them."""


class Run(NamedTuple):
    """Bytes of the coded .dat that another .dat has at `target_bytes`."""

    start_bytes: int
    target_bytes: int
    length_bytes: int

    def followed_by(self, other: Run) -> Run | None:
        """Both as one run; None where `other` does not follow in both files."""
        start, target, length = self
        if (start + length, target + length) != other[:2]:
            return None
        return Run(start, target, length + other.length_bytes)


class _Piece(NamedTuple):
    """Some rows, and their records: the places in the coded .dat and in the new one, and the lengths with padding."""

    rows: NDArray[np.void]
    starts_bytes: NDArray[np.int64]
    targets_bytes: NDArray[np.int64]
    lengths_bytes: NDArray[np.int64]


class LiveRecords:
    """The records in their order.

    Attributes:
        coded_bytes: the end of the last record in the coded .dat.
        dat_bytes: the length of the new .dat.
        is_compacted: whether a record has another place in the new .dat.
        last_target_bytes: the place of the last record in the new .dat.
    """

    def __init__(self, rows: NDArray[np.void], width: int, block: SuperBlock) -> None:
        """`rows` are at least one, in the order of the records."""
        self._rows, self._width, self._block = rows, width, block
        self.is_compacted = False
        for piece in self._pieces():
            self.coded_bytes = int(piece.starts_bytes[-1] + piece.lengths_bytes[-1])
            self.last_target_bytes = int(piece.targets_bytes[-1])
            self.dat_bytes = self.last_target_bytes + int(piece.lengths_bytes[-1])
            self.is_compacted |= bool((piece.starts_bytes != piece.targets_bytes).any())

    def _pieces(self) -> Iterator[_Piece]:
        end = self._block.size_bytes
        for first in range(0, len(self._rows), _ROWS_AT_ONCE):
            rows = self._rows[first : first + _ROWS_AT_ONCE]
            lengths = record_lengths(rows["size"], self._block.version)
            targets = end + np.cumsum(lengths) - lengths
            yield _Piece(rows, offsets_of(rows, self._width) * ALIGNMENT_BYTES, targets, lengths)
            end += int(lengths.sum())

    def runs(self) -> Iterator[Run]:
        """The super block and the records; those that lie together are one run."""
        last = Run(0, 0, self._block.size_bytes)
        for piece in self._pieces():
            for run in runs_of(piece.starts_bytes, piece.targets_bytes, piece.lengths_bytes):
                joined = last.followed_by(run)
                if joined is None:
                    yield last
                last = joined or run
        yield last

    def idx(self) -> Iterator[bytes]:
        """The rows of the new .dat, in pieces."""
        for piece in self._pieces():
            yield with_offsets(piece.rows, piece.targets_bytes // ALIGNMENT_BYTES, self._width)

    def find(self, needle_ids: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
        """The ids of those needles that are live, with the places of their records in the new .dat."""
        for piece in self._pieces():
            ids = piece.rows["key"].astype(np.uint64)
            found = np.flatnonzero(np.isin(ids, needle_ids))
            yield from zip(ids[found].tolist(), piece.targets_bytes[found].tolist(), strict=True)


def live_records(ecx: bytes, width: int, block: SuperBlock) -> LiveRecords | None:
    """The live records of the rows of an .ecx. None where no needle is live.

    Args:
        block: the super block of the coded .dat.
    """
    rows = rows_of(ecx, width)
    offsets = offsets_of(rows, width)
    is_live = (rows["size"] >= 0) & (offsets > 0)
    rows, offsets = rows[is_live], offsets[is_live]
    if not len(rows):
        return None
    if (offsets[1:] <= offsets[:-1]).any():
        rows = rows[np.argsort(offsets, kind="stable")]
    return LiveRecords(rows, width, block)


def newly_deleted(before: bytes, now: bytes, width: int) -> NDArray[np.uint64]:
    """The ids of the needles that are live in the rows of an .ecx, and deleted in those rows by now."""
    was, is_now = rows_of(before, width), rows_of(now, width)
    return was["key"][(was["size"] >= 0) & (is_now["size"] < 0)].astype(np.uint64)


def runs_of(starts: NDArray[np.int64], targets: NDArray[np.int64], lengths: NDArray[np.int64]) -> Iterator[Run]:
    """Joins parts that follow each other in both files. Each array has one element for each part."""
    if not len(starts):
        return
    is_first = np.ones(len(starts), np.bool_)
    is_first[1:] = (starts[1:] != (starts + lengths)[:-1]) | (targets[1:] != (targets + lengths)[:-1])
    first = np.flatnonzero(is_first)
    totals = np.add.reduceat(lengths, first)
    for start, target, length in zip(starts[first].tolist(), targets[first].tolist(), totals.tolist(), strict=True):
        yield Run(start, target, length)
