"""Records as they are on disk: read at a place that the caller names, and written as another server has them.

Upstream believes whoever calls: it stores any bytes behind a header, and a size far below zero ends its process. Here
a record is stored only when it is whole and its checksum fits, and every range is checked before anything is read.
The volume's files are held open by whoever calls. Source: weed/storage/volume_write.go (WriteNeedleBlob),
weed/storage/needle/needle_read.go, needle_read_page.go, needle_write.go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.errors import FormatError, UnsupportedVersion
from native_handlers.format.needle import (
    Needle,
    actual_size,
    parse_needle,
    parse_needle_header,
    parse_needle_meta,
    parse_needle_tail,
    tail_size,
)
from native_handlers.format.types import (
    CHECKSUM_BYTES,
    DATA_LENGTH_BYTES,
    NEEDLE_HEADER_BYTES,
    SUPPORTED_VERSIONS,
    VERSION_1,
    max_volume_size_bytes,
)
from native_handlers.storage.errors import BadRange, BlobRefused, ReadFailed

if TYPE_CHECKING:
    from native_handlers.storage.index_base import Location
    from native_handlers.storage.volume_open import Opened
    from native_handlers.storage.volume_read import VolumeReader

_MAX_META_BYTES = 128 * 1024
_END_OF_FILE = "EOF"


def blob_size(size: int, version: int) -> int:
    """The length of a record whose body is `size` bytes. A size just below zero, a deletion's, has one too.

    Raises:
        BadRange: there is no such record.
    """
    length = actual_size(size, version)
    if length < NEEDLE_HEADER_BYTES:
        raise BadRange(f"invalid needle size {size}")
    return length


def read_blob(reader: VolumeReader, opened: Opened, offset_bytes: int, size: int) -> bytes:
    """What is at `offset_bytes`, as long as a record with a body of `size` bytes; whether it is one is not looked at.

    Raises:
        BadRange: not all of it is in the file; nothing was read.
        ReadFailed: the disk failed.
    """
    return _read(reader, opened, blob_size(size, opened.super_block.version), offset_bytes)


def read_meta(reader: VolumeReader, opened: Opened, offset_bytes: int, size: int) -> Needle:
    """The needle whose record is at `offset_bytes`, without its payload; a negative size is a deletion's record.

    Its checksum is the stored one.

    Raises:
        BadRange: there is no record of that size.
        FormatError: its metadata is corrupt; upstream tells what it makes of it.
        ReadFailed: the disk failed.
    """
    size = max(size, 0)
    if reader.offset_width_bytes != 4:
        return _read_meta_at(reader, opened, offset_bytes, size)
    try:
        return _read_meta_at(reader, opened, offset_bytes, size)
    except _OtherSize:
        # Old servers let 4-byte offsets wrap around.
        return _read_meta_at(reader, opened, offset_bytes + max_volume_size_bytes(4), size)


class _OtherSize(BadRange):
    """There is a record of another size."""


def _read_meta_at(reader: VolumeReader, opened: Opened, offset: int, size: int) -> Needle:
    version = opened.super_block.version
    head = _read(reader, opened, NEEDLE_HEADER_BYTES + DATA_LENGTH_BYTES, offset)
    header = parse_needle_header(head)
    if header.size != size:
        what = f"found id {header.needle_id:x} size {header.size}, expected size {size}"
        raise _OtherSize(f"size mismatch for entry at offset {offset}: {what}")
    needle = Needle(needle_id=header.needle_id, cookie=header.cookie, size=size, data_size=size)
    start, meta_bytes = NEEDLE_HEADER_BYTES, 0
    if size and version != VERSION_1:
        needle.data_size = int.from_bytes(head[NEEDLE_HEADER_BYTES:], "big")
        start += DATA_LENGTH_BYTES
        meta_bytes = size - DATA_LENGTH_BYTES - needle.data_size
        if not 0 <= meta_bytes <= _MAX_META_BYTES:
            # Upstream counts what follows the metadata too.
            counted = actual_size(size, version) - NEEDLE_HEADER_BYTES - DATA_LENGTH_BYTES - needle.data_size
            where = f"DataSize={needle.data_size}, size={size}, offset={offset}"
            raise BadRange(f"invalid needle meta size {counted}: {where}")
    rest = memoryview(_read(reader, opened, meta_bytes + tail_size(version), offset + start + needle.data_size))
    parse_needle_tail(needle, rest[meta_bytes:], version)
    parse_needle_meta(needle, rest[:meta_bytes])
    return needle


def _read(reader: VolumeReader, opened: Opened, length: int, offset: int) -> bytes:
    """Exactly that. The end of the file is known, so what a caller claims never makes a buffer larger than the file."""
    if offset < 0:
        raise BadRange(f"readat {opened.dat.path}: negative offset")
    if offset + length > opened.dat_end_bytes:
        raise BadRange(_END_OF_FILE)
    try:
        data = reader.files.read(opened.dat.fd, length, offset)
    except OSError as error:
        reader.health.failed(error)
        raise ReadFailed(opened.dat.path, offset, error) from error
    reader.health.succeeded()
    if len(data) < length:
        raise BadRange(_END_OF_FILE)
    return data


def parse_blob(needle_id: int, blob: bytes, size: int, version: int) -> Needle:
    """The needle in `blob`, which is to be stored under `needle_id`: a whole record, with its padding and no more.

    Upstream takes a record without padding, and one with bytes behind it; every record after it is then misplaced
    for whoever walks the file. It takes one with a wrong checksum too.

    Raises:
        BlobRefused: it is no such record.
    """
    if version not in SUPPORTED_VERSIONS:
        raise UnsupportedVersion(version)
    if len(blob) < NEEDLE_HEADER_BYTES:
        raise BlobRefused(f"needle {needle_id} blob of {len(blob)} bytes is shorter than a needle header")
    header = parse_needle_header(blob)
    if header.size != size:
        raise BlobRefused(f"needle {needle_id} size {size} does not match its blob header size {header.size}")
    if size < 0:
        at = NEEDLE_HEADER_BYTES + size + CHECKSUM_BYTES
        why = f" results in negative timestamp offset {at}" if at < 0 else ""
        raise BlobRefused(f"invalid needle size {size}{why}")
    tail_end, end = NEEDLE_HEADER_BYTES + size + tail_size(version), actual_size(size, version)
    if len(blob) < end:
        needed = tail_end if len(blob) < tail_end else end
        raise BlobRefused(f"needle blob buffer too small: need {needed} bytes, have {len(blob)}")
    if len(blob) > end:
        raise BlobRefused(f"needle blob of {len(blob)} bytes has more than the {end} bytes of its record")
    try:
        return parse_needle(blob, version)
    except FormatError as error:
        raise BlobRefused(str(error)) from error


def is_stored(reader: VolumeReader, opened: Opened, needle: Needle, location: Location) -> bool:
    """Whether the record at `location` has the size, cookie and payload of `needle`. An unreadable one has not."""
    if location.size != needle.size:
        return False
    try:
        read = reader.read_record(opened, needle.needle_id, location, want_data=True)
    except (ReadFailed, FormatError):
        return False
    try:
        return read.needle.cookie == needle.cookie and read.holds(needle)
    except ReadFailed:
        return False
    finally:
        read.release()
