"""Records as they are on disk: read at a place that the caller names, and written in the form of another server.

Upstream trusts the caller: it stores any bytes behind a header, and a size far below zero ends its process. Here a
record is stored only when it is whole and its checksum fits, and every range is checked before the read. The caller
holds the volume's files open. Source: weed/storage/volume_write.go (WriteNeedleBlob),
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
    tail_size,
)
from native_handlers.format.types import (
    CHECKSUM_BYTES,
    DATA_LENGTH_BYTES,
    NEEDLE_HEADER_BYTES,
    SUPPORTED_VERSIONS,
    max_volume_size_bytes,
)
from native_handlers.storage.model.errors import BadRecordRange, BlobRefused, ReadFailed
from native_handlers.storage.volume.record_reader import MAX_META_BYTES, parse_record_head, parse_record_rest

if TYPE_CHECKING:
    from native_handlers.storage.index.sorted_segment import NeedleValue
    from native_handlers.storage.volume.read import VolumeReader
    from native_handlers.storage.volume.state import VolumeState

_END_OF_FILE = "EOF"


def blob_size(size: int, version: int) -> int:
    """The length of a record whose body is `size` bytes. A size just below zero, a deletion's, has a length too.

    Raises:
        BadRecordRange: no record has that size.
    """
    length = actual_size(size, version)
    if length < NEEDLE_HEADER_BYTES:
        raise BadRecordRange(f"invalid needle size {size}")
    return length


def read_blob(reader: VolumeReader, state: VolumeState, offset_bytes: int, size: int) -> bytes:
    """The bytes at `offset_bytes`, as many as a record with a body of `size` bytes has. Whether they are a record is
    not checked.

    Raises:
        BadRecordRange: the range is not wholly in the file; nothing was read.
        ReadFailed: the disk failed.
    """
    return _read(reader, state, blob_size(size, state.super_block.version), offset_bytes)


def read_meta(reader: VolumeReader, state: VolumeState, offset_bytes: int, size: int) -> Needle:
    """The needle whose record is at `offset_bytes`, without its payload. A negative size is that of a deletion's
    record.

    The checksum is the stored one.

    Raises:
        BadRecordRange: there is no record of that size.
        FormatError: the metadata is corrupt; upstream answers with the part that it could parse.
        ReadFailed: the disk failed.
    """
    size = max(size, 0)
    if reader.offset_width_bytes != 4:
        return _read_meta_at(reader, state, offset_bytes, size)
    try:
        return _read_meta_at(reader, state, offset_bytes, size)
    except _OtherSize:
        # Old servers let 4-byte offsets wrap around.
        return _read_meta_at(reader, state, offset_bytes + max_volume_size_bytes(4), size)


class _OtherSize(BadRecordRange):
    """There is a record of another size."""


def _read_meta_at(reader: VolumeReader, state: VolumeState, offset: int, size: int) -> Needle:
    version = state.super_block.version
    head = _read(reader, state, NEEDLE_HEADER_BYTES + DATA_LENGTH_BYTES, offset)
    header = parse_needle_header(head)
    if header.size != size:
        what = f"found id {header.needle_id:x} size {header.size}, expected size {size}"
        raise _OtherSize(f"size mismatch for entry at offset {offset}: {what}")
    needle, start, meta_bytes = parse_record_head(header, head, version)
    if not 0 <= meta_bytes <= MAX_META_BYTES:
        # Upstream's count includes the tail and the padding after the metadata.
        counted = actual_size(size, version) - NEEDLE_HEADER_BYTES - DATA_LENGTH_BYTES - needle.data_size
        where = f"DataSize={needle.data_size}, size={size}, offset={offset}"
        raise BadRecordRange(f"invalid needle meta size {counted}: {where}")
    rest = _read(reader, state, meta_bytes + tail_size(version), offset + start + needle.data_size)
    parse_record_rest(needle, rest, meta_bytes, version)
    return needle


def _read(reader: VolumeReader, state: VolumeState, length: int, offset: int) -> bytes:
    """Reads exactly `length` bytes. The end of the file is known, so no buffer is larger than the file, whatever the
    caller claims.
    """
    if offset < 0:
        raise BadRecordRange(f"readat {state.dat.path}: negative offset")
    if offset + length > state.dat_end_bytes:
        raise BadRecordRange(_END_OF_FILE)
    try:
        data = reader.files.read(state.dat.fd, length, offset)
    except OSError as error:
        reader.health.failed(error)
        raise ReadFailed(state.dat.path, offset, error) from error
    reader.health.succeeded()
    if len(data) < length:
        raise BadRecordRange(_END_OF_FILE)
    return data


def parse_blob(needle_id: int, blob: bytes, size: int, version: int) -> Needle:
    """Parses `blob`, which is to be stored under `needle_id`: a whole record, with its padding and no more.

    Upstream accepts a record without padding, and one with bytes behind it. Every later record is then misplaced for a
    walk over the file. It accepts a wrong checksum, too.

    Raises:
        BlobRefused: `blob` is no such record.
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


def is_stored(reader: VolumeReader, state: VolumeState, needle: Needle, location: NeedleValue) -> bool:
    """Whether the record at `location` has the size, cookie and payload of `needle`; False for an unreadable record."""
    if location.size != needle.size:
        return False
    try:
        read = reader.read_record(state, needle.needle_id, location, want_data=True)
    except (ReadFailed, FormatError):
        return False
    try:
        return read.needle.cookie == needle.cookie and read.holds(needle)
    except ReadFailed:
        return False
    finally:
        read.release()
