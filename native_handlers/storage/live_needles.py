"""Every live needle of a volume in the order of .dat, with the memory of one window and one needle.

The walk goes from header to header and reads a body only where the index leads to it, so what was overwritten or
deleted costs nothing but its header. It follows the growth of .dat: a needle that is overwritten while the walk goes
on is met again at its new place, so each needle that is there all the time is yielded, at least once.

Source: weed/storage/volume_read.go (ScanVolumeFileFrom), weed/storage/volume_read_all.go. Wilful differences:
upstream yields deleted needles as if they were live, for its map remembers where they were, and payloads with a wrong
checksum as if they were right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.errors import Corrupt
from native_handlers.format.needle import Needle, NeedleHeader, actual_size, parse_needle, parse_needle_header
from native_handlers.format.types import NEEDLE_HEADER_BYTES, to_stored
from native_handlers.storage.errors import ReadFailed
from native_handlers.storage.index_base import Location

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.storage.volume_open import Opened
    from native_handlers.storage.volume_read import VolumeReader

_WINDOW_BYTES = 1 << 20


class _Window:
    """Reads through a piece of the file, so that small records do not cost a system call each."""

    def __init__(self, reader: VolumeReader, opened: Opened) -> None:
        self._reader, self._opened = reader, opened
        self._piece, self._start = b"", 0

    def read(self, length: int, offset: int) -> bytes:
        """That, or fewer bytes at the end of the file."""
        at = offset - self._start
        if not 0 <= at <= len(self._piece) - length:
            wanted = min(max(length, _WINDOW_BYTES), self._opened.dat_end_bytes - offset)
            self._piece, self._start, at = self._read(wanted, offset), offset, 0
        return self._piece[at : at + length]

    def _read(self, length: int, offset: int) -> bytes:
        try:
            data = self._reader.files.read(self._opened.dat.fd, length, offset)
        except OSError as error:
            self._reader.health.failed(error)
            raise ReadFailed(self._opened.dat.path, offset, error) from error
        self._reader.health.succeeded()
        return data


def walk_live_needles(reader: VolumeReader, opened: Opened, is_wanted: Callable[[], bool]) -> Iterator[Needle]:
    """The needles, each whole and checked. `opened` is held open by the caller; `is_wanted` may end the walk early.

    What cannot be walked over at the end of a damaged file ends the walk, for no index entry leads there.

    Raises:
        FormatError: a live record is corrupt.
        ReadFailed: the disk failed.
    """
    version = opened.super_block.version
    window = _Window(reader, opened)
    position = opened.super_block.size_bytes
    while position < opened.dat_end_bytes and is_wanted():
        head = window.read(NEEDLE_HEADER_BYTES, position)
        if len(head) < NEEDLE_HEADER_BYTES:
            return
        header = parse_needle_header(head)
        is_live = _is_live(opened, header, position)
        length = actual_size(header.size, version)
        if header.size < 0 or position + length > opened.dat_end_bytes:
            if is_live:
                raise Corrupt(f"needle {header.needle_id:x}", f"size {header.size} at offset {position}")
            return
        if is_live:
            if length <= _WINDOW_BYTES:
                yield parse_needle(window.read(length, position), version)
            else:
                yield _read_large(reader, opened, header, position)
        position += length


def _read_large(reader: VolumeReader, opened: Opened, header: NeedleHeader, position: int) -> Needle:
    """The needle, its payload read by itself: cutting it out of the record would copy it under the interpreter lock."""
    location = Location(to_stored(position), header.size)
    read = reader.read_record(opened, header.needle_id, location, want_data=False)
    try:
        if read.payload is not None:
            read.keep_payload(read.payload.read(0, read.payload.length_bytes))
        return read.needle
    finally:
        read.release()


def _is_live(opened: Opened, header: NeedleHeader, position: int) -> bool:
    location = opened.index.get(header.needle_id)
    return location is not None and location.size >= 0 and location.offset == to_stored(position)
