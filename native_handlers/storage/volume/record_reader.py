"""Reads one needle's record: whole with one pread, or, when large, its metadata and the place of its payload.

Source: weed/storage/needle/needle_read.go, needle_read_page.go, weed/storage/volume_read.go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.format import crc
from native_handlers.format.errors import ChecksumMismatch, Corrupt, SizeMismatch, Truncated
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
    DATA_LENGTH_BYTES,
    NEEDLE_HEADER_BYTES,
    VERSION_1,
    max_volume_size_bytes,
    to_bytes_offset,
)
from native_handlers.storage.errors import ReadFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.format.needle import NeedleHeader
    from native_handlers.storage.files import SharedFile
    from native_handlers.storage.index_base import Location
    from native_handlers.storage.io_health import IoHealth

WHOLE_READ_LIMIT_BYTES = 1 << 20
"""A body longer than this is not read whole, unless the payload must be transformed anyway."""
_MAX_META_BYTES = 128 * 1024
_COMPARE_BYTES = 1 << 20
_CHECK_BYTES = 256 * 1024
"""Fits a core's cache, so that what was just copied is summed up without going to memory again."""


class PayloadSlice:
    """A payload that lies in an open file, which stays open until `release`.

    What its disk does is counted: each read that fails, and as a success only a read that gets to the payload's end
    while none of this slice has failed. A reader stops at a failure, so the sound bytes before a bad spot must not end
    the run of errors. Source: weed/storage/volume_read.go, readNeedleDataInto.
    """

    __slots__ = ("_file", "_has_failed", "_health", "_offset_bytes", "length_bytes")

    def __init__(self, file: SharedFile, offset_bytes: int, length_bytes: int, health: IoHealth) -> None:
        file.retain()
        self._file: SharedFile | None = file
        self._health = health
        self._has_failed = False
        self._offset_bytes = offset_bytes
        self.length_bytes = length_bytes

    def read(self, start_bytes: int, length_bytes: int) -> bytes:
        """Bytes of the payload from its byte `start_bytes` on; fewer only where the file has been cut short.

        Raises:
            ReadFailed: the disk failed.
        """
        assert self._file is not None, "read after release"
        offset = self._offset_bytes + start_bytes
        try:
            data = self._file.read(min(length_bytes, self.length_bytes - start_bytes), offset)
        except OSError as error:
            raise self._failed(self._file, offset, error) from error
        self._has_read_to(start_bytes + len(data))
        return data

    def read_into(self, start_bytes: int, buffer: memoryview) -> int:
        """Fills `buffer`, which the rest of the payload fills, from the payload's byte `start_bytes` on.

        Returns how many bytes there were, fewer only where the file has been cut short.

        Raises:
            ReadFailed: the disk failed.
        """
        assert self._file is not None, "read after release"
        assert start_bytes + len(buffer) <= self.length_bytes, "read beyond the payload"
        offset = self._offset_bytes + start_bytes
        try:
            count = self._file.read_into(buffer, offset)
        except OSError as error:
            raise self._failed(self._file, offset, error) from error
        self._has_read_to(start_bytes + count)
        return count

    def read_cached_into(self, start_bytes: int, buffer: memoryview) -> None:
        """As `read_into` without waiting for a disk, of which it says nothing then.

        Raises:
            NotCached: memory does not hold enough to fill `buffer`.
        """
        assert self._file is not None, "read after release"
        assert start_bytes + len(buffer) <= self.length_bytes, "read beyond the payload"
        self._file.read_cached_into(buffer, self._offset_bytes + start_bytes)

    def send_cached(self, start_bytes: int, length_bytes: int, socket_fd: int) -> int:
        """Sends the beginning of a range straight from memory to a socket, and returns how much of it.

        Raises:
            NotCached: memory does not hold all of it; nothing was sent.
            BlockingIOError, ConnectionError: from the socket.
            ReadFailed: the disk failed all the same.
        """
        assert self._file is not None, "read after release"
        assert start_bytes + length_bytes <= self.length_bytes, "read beyond the payload"
        offset = self._offset_bytes + start_bytes
        try:
            return self._file.send_cached(socket_fd, length_bytes, offset)
        except (BlockingIOError, ConnectionError):
            raise
        except OSError as error:
            raise self._failed(self._file, offset, error) from error

    def _failed(self, file: SharedFile, offset_bytes: int, error: OSError) -> ReadFailed:
        self._has_failed = True
        self._health.failed(error)
        return ReadFailed(file.path, offset_bytes, error)

    def _has_read_to(self, end_bytes: int) -> None:
        if end_bytes == self.length_bytes and not self._has_failed:
            self._health.succeeded()

    def release(self) -> None:
        """Lets the file go; nothing can be read afterwards. May be called again."""
        file, self._file = self._file, None
        if file is not None:
            file.release()


@dataclass(slots=True)
class NeedleRead:
    """A needle that was read. Call `release` when done with it, in every case.

    `payload` is set instead of `needle.data` when the payload was left on disk; its checksum was then not verified:
    see `check_payload`.
    """

    needle: Needle
    payload: PayloadSlice | None = None

    @property
    def verify(self) -> int:
        """The stored checksum, to hold against that of a streamed payload. See `fits`."""
        return self.needle.checksum

    def fits(self, computed_crc: int) -> bool:
        """Whether the whole payload, whose CRC-32C is `computed_crc`, is what was stored."""
        return crc.matches(self.needle.checksum, computed_crc)

    def check_payload(self) -> int:
        """Reads a payload that was left on disk and compares its checksum, and returns that in the present form;
        afterwards the page cache holds the payload, as a rule.

        For a thread: takes as long as the disk does. Memory is a piece's.

        Raises:
            ChecksumMismatch: the payload is not what was stored.
            Truncated: the file ends before it does.
            ReadFailed: the disk failed.
        """
        if self.payload is None:
            return self.needle.checksum
        piece = memoryview(bytearray(_CHECK_BYTES))
        return self._read_checked(self.payload, lambda _start, length: piece[:length])

    def load_payload(self, buffer: memoryview) -> None:
        """The same, with the payload put into `buffer`, which is as long."""
        assert self.payload is not None, "the payload is in memory already"
        assert len(buffer) == self.payload.length_bytes
        self._read_checked(self.payload, lambda start, length: buffer[start : start + length])

    def keep_payload(self, data: bytes) -> None:
        """Makes `data`, which was read from the place of a payload that was left on disk, that of the needle.

        Raises:
            ChecksumMismatch: it is not what was stored.
            Truncated: it is too short.
        """
        if len(data) < self.needle.data_size:
            raise Truncated(f"needle {self.needle.needle_id:x}", self.needle.data_size, len(data))
        computed = crc.crc32c(data)
        self._check_fits(computed)
        self.needle.data, self.needle.checksum = data, computed

    def _read_checked(self, payload: PayloadSlice, place_of: Callable[[int, int], memoryview]) -> int:
        """Reads the payload piece by piece to where `place_of` says for a start and a length; returns its checksum."""
        computed, total = 0, payload.length_bytes
        for start in range(0, total, _CHECK_BYTES):
            piece = place_of(start, min(_CHECK_BYTES, total - start))
            count = payload.read_into(start, piece)
            if count < len(piece):
                raise Truncated(f"needle {self.needle.needle_id:x}", total, start + count)
            computed = crc.crc32c_extend(computed, piece)
        self._check_fits(computed)
        return computed

    def _check_fits(self, computed: int) -> None:
        if not self.fits(computed):
            raise ChecksumMismatch(self.needle.needle_id, self.needle.checksum, computed)

    def holds(self, needle: Needle) -> bool:
        """Whether this has the payload of `needle`, whose checksum is set. Raises ReadFailed."""
        if self.needle.data_size != len(needle.data) or not self.fits(needle.checksum):
            return False
        if self.payload is None:
            return self.needle.data == needle.data
        data = memoryview(needle.data)
        for start in range(0, len(data), _COMPARE_BYTES):
            piece = data[start : start + _COMPARE_BYTES]
            if self.payload.read(start, len(piece)) != piece:
                return False
        return True

    def release(self) -> None:
        if self.payload is not None:
            self.payload.release()


@dataclass(slots=True)
class RecordReader:
    """Reads records of one open .dat file. `read_bytes` is a read of `Files`, and decides what is waited for."""

    read_bytes: Callable[[int, int, int], bytes]
    dat: SharedFile
    version: int
    offset_width_bytes: int
    health: IoHealth

    def read(self, needle_id: int, location: Location, *, want_data: bool) -> NeedleRead:
        """The needle at `location`, whose size is positive.

        Without `want_data` a large payload is left on disk even where it would have to be transformed. A record that
        was read whole counts as a success of the disk, a part of one does not; a failure is the caller's to count.

        Raises:
            FormatError: the record is not what the index says, or is corrupt.
            OSError: a read failed.
        """
        offset = to_bytes_offset(location.offset)
        try:
            return self._read_at(needle_id, location.size, offset, want_data=want_data)
        except SizeMismatch:
            if self.offset_width_bytes != 4:
                raise
            # Old servers let 4-byte offsets wrap around.
            wrapped = offset + max_volume_size_bytes(4)
            return self._read_at(needle_id, location.size, wrapped, want_data=want_data)

    def _read_at(self, needle_id: int, size: int, offset: int, *, want_data: bool) -> NeedleRead:
        if size <= WHOLE_READ_LIMIT_BYTES:
            return NeedleRead(self._read_whole(needle_id, size, offset))
        needle, payload_offset = self._read_meta(needle_id, size, offset)
        if want_data and (needle.is_compressed or needle.is_chunk_manifest):
            return NeedleRead(self._read_whole(needle_id, size, offset))
        return NeedleRead(needle, PayloadSlice(self.dat, payload_offset, needle.data_size, self.health))

    def _read_whole(self, needle_id: int, size: int, offset: int) -> Needle:
        record = self.read_bytes(self.dat.fd, actual_size(size, self.version), offset)
        self.health.succeeded()
        self._check_header(record, needle_id, size)
        return parse_needle(record, self.version)

    def _check_header(self, record: bytes, needle_id: int, size: int) -> NeedleHeader:
        """As upstream has it the index decides which record a needle is: WriteNeedleBlob may enter a record under
        another id than it carries.
        """
        header = parse_needle_header(record)
        if header.size != size:
            raise SizeMismatch(needle_id, size, header.size)
        return header

    def _read_meta(self, needle_id: int, size: int, offset: int) -> tuple[Needle, int]:
        head = self.read_bytes(self.dat.fd, NEEDLE_HEADER_BYTES + DATA_LENGTH_BYTES, offset)
        header = self._check_header(head, needle_id, size)
        if len(head) < NEEDLE_HEADER_BYTES + DATA_LENGTH_BYTES:
            raise Truncated(f"needle {needle_id:x}", actual_size(size, self.version), len(head))
        needle = Needle(needle_id=header.needle_id, cookie=header.cookie, size=size, data_size=size)
        start, meta_bytes = NEEDLE_HEADER_BYTES, 0
        if self.version != VERSION_1:
            needle.data_size = int.from_bytes(head[NEEDLE_HEADER_BYTES:], "big")
            start += DATA_LENGTH_BYTES
            meta_bytes = size - DATA_LENGTH_BYTES - needle.data_size
            if not 0 <= meta_bytes <= _MAX_META_BYTES:
                why = (
                    f"invalid needle meta size {meta_bytes}: DataSize={needle.data_size}, size={size}, offset={offset}"
                )
                raise Corrupt(f"needle {needle_id:x}", why)
        tail_bytes = tail_size(self.version)
        rest = self.read_bytes(self.dat.fd, meta_bytes + tail_bytes, offset + start + needle.data_size)
        parse_needle_tail(needle, memoryview(rest)[meta_bytes:], self.version)
        parse_needle_meta(needle, memoryview(rest)[:meta_bytes])
        return needle, offset + start
