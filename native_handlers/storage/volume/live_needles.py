"""Yields every live needle of a volume in the order of .dat, with the memory of one window and one needle.

The walk goes from header to header and reads a body only where the index leads to it. So an overwritten or deleted
needle costs only its header. The walk follows the growth of .dat: a needle that is overwritten meanwhile is met again
at its new place. So each needle that exists all the time is yielded, at least once.

Source: weed/storage/volume_read.go (ScanVolumeFileFrom), weed/storage/volume_read_all.go. Wilful differences: upstream
yields deleted needles as live ones, because its map remembers their places, and payloads with a wrong checksum as right
ones.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from native_handlers.format.errors import Corrupt, FormatError
from native_handlers.format.idx import IdxEntry
from native_handlers.format.needle import Needle, NeedleHeader, actual_size, parse_needle, parse_needle_header
from native_handlers.format.types import NEEDLE_HEADER_BYTES, NeedleId, StoredOffset, to_stored
from native_handlers.storage.index.sorted_segment import NeedleValue
from native_handlers.storage.model.errors import ReadFailed
from native_handlers.storage.volume.row_place import place_of, row_offset
from native_handlers.storage.volume.window import DatWindow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.storage.volume.read import VolumeReader
    from native_handlers.storage.volume.state import VolumeState

WINDOW_BYTES = 1 << 20


def walk_live_needles(reader: VolumeReader, state: VolumeState, is_wanted: Callable[[], bool]) -> Iterator[Needle]:
    """Yields the needles, each whole and checked. The caller holds `state` open; `is_wanted` may end the walk early.

    A damaged end of the file that no index entry leads to ends the walk.

    Raises:
        FormatError: a live record is corrupt.
        ReadFailed: the disk failed.
    """
    version = state.super_block.version
    window = DatWindow(partial(_read, reader, state), state.dat_end_bytes, WINDOW_BYTES)
    position = state.super_block.size_bytes
    while position < state.dat_end_bytes and is_wanted():
        window.end_bytes = state.dat_end_bytes
        head = window.read(NEEDLE_HEADER_BYTES, position)
        if len(head) < NEEDLE_HEADER_BYTES:
            return
        header = parse_needle_header(head)
        is_live = _is_live(reader, state, header, position)
        length = actual_size(header.size, version)
        if header.size < 0 or position + length > state.dat_end_bytes:
            if is_live:
                error = Corrupt(f"needle {header.needle_id:x}", f"size {header.size} at offset {position}")
                reader.damage.found(header.needle_id, error)
                raise error
            return
        if is_live:
            if length <= WINDOW_BYTES:
                yield _parse(reader, header.needle_id, window.read(length, position), version)
            else:
                yield _read_large(reader, state, header, position)
        position += length


def _read(reader: VolumeReader, state: VolumeState, length_bytes: int, offset_bytes: int) -> bytes:
    try:
        data = reader.files.read(state.dat.fd, length_bytes, offset_bytes)
    except OSError as error:
        reader.health.failed(error)
        raise ReadFailed(state.dat.path, offset_bytes, error) from error
    reader.health.succeeded()
    return data


def _parse(reader: VolumeReader, needle_id: int, record: bytes, version: int) -> Needle:
    try:
        return parse_needle(record, version)
    except FormatError as error:
        reader.damage.found(needle_id, error)
        raise


def _read_large(reader: VolumeReader, state: VolumeState, header: NeedleHeader, position: int) -> Needle:
    """The needle, its payload read separately: cutting the payload out of the record would copy it under the
    interpreter lock.
    """
    location = NeedleValue(to_stored(position), header.size)
    read = reader.read_record(state, header.needle_id, location, want_data=False)
    try:
        if read.payload is not None:
            read.keep_payload(read.payload.read(0, read.payload.length_bytes))
        return read.needle
    finally:
        read.release()


def _is_live(reader: VolumeReader, state: VolumeState, header: NeedleHeader, position: int) -> bool:
    location = state.index.get(header.needle_id)
    width = reader.offset_width_bytes
    if location is None or location.size < 0 or location.offset != row_offset(position, width):
        return False
    entry = IdxEntry(NeedleId(header.needle_id), StoredOffset(location.offset), location.size)
    return place_of(partial(_read, reader, state), entry, width, state.dat_end_bytes) == position
