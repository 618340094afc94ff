"""Moves the records of index rows from one .dat file to the end of another, many at a time.

Rows are taken in the given order, a megabyte of records at once. Small records are read together, with the bytes
between them, checked together, and written in runs. Of large records the ends are read, and the kernel copies the rest.
Payloads are not verified: a damaged payload stays damaged, and readers and scrubs find it.

Source: weed/storage/volume_vacuum.go, which decodes and encodes record by record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from native_handlers.arrays import np
from native_handlers.format.types import (
    ALIGNMENT_BYTES,
    NEEDLE_HEADER_BYTES,
    max_volume_size_bytes,
)
from native_handlers.storage.index.build import parse_rows
from native_handlers.storage.model.errors import ReadFailed, WriteFailed
from native_handlers.storage.volume.record_facts import (
    HEAD_BYTES,
    META_BYTES,
    Pieces,
    are_records,
    have_expired,
    payload_lengths,
    record_lengths,
)
from native_handlers.storage.volume.row_place import places_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from native_handlers.storage.system.files import Files, SharedFile
    from native_handlers.storage.volume.write_state import IoHealth

BATCH_BYTES = 1 << 20
"""The bytes of one batch. A batch stays in a processor's cache between the read and the write. Its needles of 64 KiB
are so many that the work for the batch takes less time than the copying."""
LARGE_BYTES = 256 * 1024
"""The kernel copies records of this average length: checking their ends costs up to three short reads each, and the
kernel copies no faster than records are read and written."""
WINDOW_BYTES = 2 * BATCH_BYTES
_TAIL_BYTES = 12
_PIECE_BYTES = HEAD_BYTES + META_BYTES + _TAIL_BYTES


class Rows(NamedTuple):
    """Index rows as columns: needle ids, offsets in units of 8 bytes, sizes (negative for a deletion)."""

    keys: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int32]

    @classmethod
    def parsed(cls, rows: bytes, offset_width_bytes: int) -> Rows:
        """Whole index rows as columns."""
        return cls(*parse_rows(rows, offset_width_bytes))

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Rows:
        return Rows(self.keys[which], self.offsets[which], self.sizes[which])

    def joined(self, *others: Rows) -> Rows:
        """These rows, followed by those of `others`."""
        every = (self, *others)
        return Rows(
            np.concatenate([rows.keys for rows in every]),
            np.concatenate([rows.offsets for rows in every]),
            np.concatenate([rows.sizes for rows in every]),
        )


class Moved(NamedTuple):
    """The result of one batch.

    Args:
        rows: of the records that were written, with their new offsets.
        missing: the rows that lead to no record.
        source_bytes: the end of the batch in the source.
        written_bytes: the bytes written.
    """

    rows: Rows
    missing: Rows
    source_bytes: int
    written_bytes: int


class Expiry(NamedTuple):
    """The facts that decide on expiry. `volume_ttl_minutes` is 0 where the volume has no TTL."""

    volume_ttl_minutes: int
    now_s: int


class Target(NamedTuple):
    """The file that is written to."""

    path: Path
    fd: int


class RecordMover:
    """Moves records of `source`, whose last one ends at `source_end_bytes`, to `target` from `end_bytes` on.

    Afterwards `end_bytes` is the end of the last moved record. The caller holds `source` open.
    """

    def __init__(  # noqa: PLR0913, PLR0917  two files, and how to read them
        self,
        files: Files,
        source: SharedFile,
        target: Target,
        end_bytes: int,
        version: int,
        offset_width_bytes: int,
        health: IoHealth,
    ) -> None:
        self._files, self._source, self._target = files, source, target
        self._version, self._width, self._health = version, offset_width_bytes, health
        self.source_end_bytes = 0
        self.end_bytes = end_bytes
        self._buffer = np.zeros(WINDOW_BYTES + META_BYTES + HEAD_BYTES, np.uint8)

    def move(self, rows: Rows, expiry: Expiry | None = None) -> Iterator[Moved]:
        """Moves the records of `rows` and yields once for each batch. Expired records are left out.

        Raises:
            ReadFailed, WriteFailed: earlier batches are in the target, and perhaps a part of this one.
        """
        lengths = record_lengths(rows.sizes, self._version)
        ends = np.cumsum(lengths)
        start = 0
        while start < len(ends):
            before = int(ends[start - 1]) if start else 0
            end = max(start + 1, int(np.searchsorted(ends, before + BATCH_BYTES, "right")))
            yield self._move_batch(rows.take(slice(start, end)), lengths[start:end], expiry)
            start = end

    def _move_batch(self, rows: Rows, lengths: NDArray[np.int64], expiry: Expiry | None) -> Moved:
        starts = places_of(self._read_bytes, *rows, self._width, self.source_end_bytes)
        is_inside = starts + lengths <= self.source_end_bytes
        batch = _Batch(rows.take(is_inside), starts[is_inside], lengths[is_inside])
        missing = rows.take(~is_inside)
        source_bytes = int(batch.ends.max()) if len(batch.starts) else 0
        is_large = len(batch.starts) and batch.lengths.sum() >= LARGE_BYTES * len(batch.starts)
        pieces = self._look_at_ends(batch) if is_large else self._read(batch)
        is_there = are_records(pieces, batch.rows.sizes)
        missing = missing.joined(batch.rows.take(~is_there))
        if expiry is not None:
            is_there &= ~have_expired(pieces, batch.rows.sizes, self._version, expiry.volume_ttl_minutes, expiry.now_s)
        wanted = batch.take(is_there)
        first = self.end_bytes
        if is_large:
            self._copy(wanted)
        else:
            self._write(wanted, pieces.heads[is_there])
        places = first + np.cumsum(wanted.lengths) - wanted.lengths
        offsets = places % max_volume_size_bytes(self._width) // ALIGNMENT_BYTES
        moved = Rows(wanted.rows.keys, offsets, wanted.rows.sizes)
        return Moved(moved, missing, source_bytes, self.end_bytes - first)

    # ---- reading

    def _read_bytes(self, length_bytes: int, offset_bytes: int) -> bytes:
        buffer = bytearray(length_bytes)
        self._read_into(memoryview(buffer), offset_bytes)
        return bytes(buffer)

    def _read_into(self, buffer: memoryview, offset_bytes: int) -> None:
        try:
            count = self._source.read_into(buffer, offset_bytes)
        except OSError as error:
            self._health.failed(error)
            raise ReadFailed(self._source.path, offset_bytes, error) from error
        if count < len(buffer):
            # The file is shorter than it was: the missing part is read as zeros, which are no record.
            buffer[count:] = bytes(len(buffer) - count)
        self._health.succeeded()

    def _read(self, batch: _Batch) -> Pieces:
        """Reads whole records: with the bytes between them where those are few, else run by run."""
        heads = np.zeros(0, np.int64)
        if len(batch.starts):
            base = int(batch.starts.min())
            span = int(batch.ends.max()) - base
            if span <= WINDOW_BYTES and self._has_read(span, base):
                heads = batch.starts - base
            else:
                self._read_runs(batch)
                heads = np.cumsum(batch.lengths) - batch.lengths
        metas = heads + HEAD_BYTES
        if len(heads):
            # No record leads beyond the buffer, whatever its lengths say.
            metas = np.minimum(metas + payload_lengths(self._buffer, heads), WINDOW_BYTES)
        return Pieces(self._buffer, heads, metas, heads + NEEDLE_HEADER_BYTES + np.maximum(batch.rows.sizes, 0))

    def _has_read(self, length_bytes: int, offset_bytes: int) -> bool:
        """Reads a range at once. Returns False where that fails: the unreadable part may lie between the records."""
        try:
            count = self._source.read_into(self._buffer.data[:length_bytes], offset_bytes)
        except OSError:
            return False
        return count == length_bytes

    def _read_runs(self, batch: _Batch) -> None:
        at = 0
        for start, end in batch.runs(batch.starts):
            self._read_into(self._buffer.data[at : at + end - start], start)
            at += end - start

    def _look_at_ends(self, batch: _Batch) -> Pieces:
        """Reads the first bytes of each record, and those behind the payload."""
        count = len(batch.starts)
        buffer = np.zeros(count * _PIECE_BYTES + META_BYTES, np.uint8)
        heads = np.arange(count, dtype=np.int64) * _PIECE_BYTES
        view = buffer.data
        for head, start in zip(heads.tolist(), batch.starts.tolist(), strict=True):
            self._read_into(view[head : head + HEAD_BYTES], start)
        metas, tails = heads + HEAD_BYTES, heads + HEAD_BYTES + META_BYTES
        payloads = payload_lengths(buffer, heads)
        bodies = np.maximum(batch.rows.sizes, 0).astype(np.int64)
        columns = zip(
            metas.tolist(), tails.tolist(), batch.starts.tolist(), payloads.tolist(), bodies.tolist(), strict=True
        )
        for meta, tail, start, payload, body in columns:
            tail_at = start + NEEDLE_HEADER_BYTES + body
            meta_at = start + HEAD_BYTES + payload
            if meta_at < tail_at:
                self._read_into(view[meta : meta + min(META_BYTES, tail_at - meta_at)], meta_at)
            self._read_into(view[tail : tail + _TAIL_BYTES], tail_at)
        return Pieces(buffer, heads, metas, tails)

    # ---- writing

    def _write(self, batch: _Batch, heads: NDArray[np.int64]) -> None:
        view = self._buffer.data
        parts = [view[start:end] for start, end in batch.runs(heads)]
        try:
            self._files.write(self._target.fd, parts, self.end_bytes)
        except OSError as error:
            raise self._write_failed(error) from error
        self.end_bytes += int(batch.lengths.sum())

    def _copy(self, batch: _Batch) -> None:
        for start, end in batch.runs(batch.starts):
            try:
                self._files.copy(self._source.fd, start, self._target.fd, self.end_bytes, end - start)
            except OSError as error:
                # The error may be of either file: reading or writing may have failed.
                raise self._write_failed(error) from error
            self.end_bytes += end - start

    def _write_failed(self, error: OSError) -> WriteFailed:
        self._health.failed(error)
        return WriteFailed(self._target.path, self.end_bytes, error)


class _Batch(NamedTuple):
    """Rows with the positions and lengths of their records, in bytes."""

    rows: Rows
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def ends(self) -> NDArray[np.int64]:
        return self.starts + self.lengths

    def take(self, which: NDArray[np.bool_]) -> _Batch:
        return _Batch(self.rows.take(which), self.starts[which], self.lengths[which])

    def runs(self, places: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Start and end of each run of adjacent records, where the records are at `places`."""
        if not len(places):
            return []
        ends = places + self.lengths
        breaks = np.flatnonzero(places[1:] != ends[:-1])
        first, last = np.append(0, breaks + 1), np.append(breaks, len(places) - 1)
        return list(zip(places[first].tolist(), ends[last].tolist(), strict=True))
