"""Reads one needle's record: whole with one pread, or, for a large one, its metadata and the place of its payload.

Source: weed/storage/needle/needle_read.go, needle_read_page.go, weed/storage/volume_read.go.
"""

from __future__ import annotations

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
    ALIGNMENT_BYTES,
    DATA_LENGTH_BYTES,
    NEEDLE_HEADER_BYTES,
    VERSION_1,
    max_volume_size_bytes,
)
from native_handlers.records import dataclass
from native_handlers.storage.model.errors import ReadFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.format.errors import FormatError
    from native_handlers.format.needle import NeedleHeader
    from native_handlers.storage.index.sorted_segment import NeedleValue
    from native_handlers.storage.system.files import SharedFile
    from native_handlers.storage.volume.write_state import IoHealth

WHOLE_READ_LIMIT_BYTES = 1 << 20
"""A longer body is not read whole, unless it is a chunk manifest."""
MANIFEST_READ_LIMIT_BYTES = 16 << 20
"""A chunk manifest with a longer payload is not read whole either."""
MAX_META_BYTES = 128 * 1024
"""A record with more metadata is corrupt."""
_COMPARE_BYTES = 1 << 20
_CHECK_BYTES = 256 * 1024
"""Fits a core's cache, so the checksum is computed without reading the copied bytes from memory again."""
_TIER_PIECE_BYTES = 2 << 20
"""Each piece from a tier costs a request, which takes as long as some MiB of its answer. Each reader holds a piece."""


class PayloadSlice:
    """A payload in an open file, which stays open until `release`.

    Its reads count for the disk's health: each failed read as a failure. A success counts only when a read reaches the
    payload's end and no read of this slice has failed. A reader stops at a failure, so the sound bytes before a bad
    sector must not end the run of errors. Source: weed/storage/volume_read.go, readNeedleDataInto.

    `piece_bytes` is the length of the reads of a reader that wants all of the payload.
    """

    __slots__ = ("_file", "_has_failed", "_health", "_offset_bytes", "length_bytes", "piece_bytes")

    def __init__(
        self,
        file: SharedFile,
        offset_bytes: int,
        length_bytes: int,
        health: IoHealth,
        *,
        piece_bytes: int = _CHECK_BYTES,
    ) -> None:
        file.retain()
        self.piece_bytes = piece_bytes
        self._file: SharedFile | None = file
        self._health = health
        self._has_failed = False
        self._offset_bytes = offset_bytes
        self.length_bytes = length_bytes

    def read(self, start_bytes: int, length_bytes: int) -> bytes:
        """Returns bytes of the payload from its byte `start_bytes` on; fewer only where the file has been cut short.

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
        """Fills `buffer` from the payload's byte `start_bytes` on. `buffer` is no longer than the rest of the payload.

        Returns the number of bytes read, fewer only where the file has been cut short.

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
        """As `read_into`, but never waits for the disk. Does not count for the disk's health.

        Raises:
            NotCached: memory does not hold enough to fill `buffer`.
        """
        assert self._file is not None, "read after release"
        assert start_bytes + len(buffer) <= self.length_bytes, "read beyond the payload"
        self._file.read_cached_into(buffer, self._offset_bytes + start_bytes)

    def send_cached(self, start_bytes: int, length_bytes: int, socket_fd: int) -> int:
        """Sends the beginning of a range directly from memory to a socket. Returns the number of bytes sent.

        Raises:
            NotCached: memory does not hold all of the range; nothing was sent.
            BlockingIOError, ConnectionError: from the socket.
            ReadFailed: the disk failed nevertheless.
        """
        assert self._file is not None, "read after release"
        assert start_bytes + length_bytes <= self.length_bytes, "read beyond the payload"
        offset = self._offset_bytes + start_bytes
        try:
            return self._file.send_cached(socket_fd, length_bytes, offset)
        # These errors are the socket's; all others are the disk's.
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
        """Releases the file; nothing can be read afterwards. May be called again."""
        file, self._file = self._file, None
        if file is not None:
            file.release()


@dataclass(slots=True)
class NeedleRead:
    """A needle that was read. The caller calls `release` in every case.

    `payload` is set instead of `needle.data` when the payload was left on disk. Its checksum was then not verified: see
    `check_payload`.
    """

    needle: Needle
    payload: PayloadSlice | None = None
    on_damage: Callable[[int, FormatError], None] | None = None
    """Called with the needle's id when the payload turns out to be damaged."""
    place: PayloadSlice | None = None
    """The place of a large payload that was read into `needle.data`. See `leave_on_disk`."""

    def fits(self, computed_crc: int) -> bool:
        """Whether `computed_crc`, the CRC-32C of the whole payload, is that of the stored payload."""
        return crc.matches(self.needle.checksum, computed_crc)

    def check_payload(self) -> int:
        """Reads a payload that was left on disk, compares its checksum, and returns the checksum in the current form.
        Afterwards the page cache usually holds the payload.

        Call it in a thread: it waits for the disk. Memory is that of one piece.

        Raises:
            ChecksumMismatch: the payload is damaged.
            Truncated: the file ends before the payload does.
            ReadFailed: the disk failed.
        """
        if self.payload is None:
            return self.needle.checksum
        piece = memoryview(bytearray(self.payload.piece_bytes))
        return self._read_checked(self.payload, lambda _start, length: piece[:length])

    def leave_on_disk(self) -> None:
        """Drops a large payload from memory that was read and verified, and leaves it on disk. For a caller that has
        examined the payload and is going to send it: a payload must not stay in memory while a slow client receives it.
        """
        if self.place is not None:
            self.payload, self.place = self.place, None
            self.needle.data = b""

    def load_payload(self, buffer: memoryview) -> None:
        """As `check_payload`, and puts the payload into `buffer`, which is as long."""
        assert self.payload is not None, "the payload is in memory already"
        assert len(buffer) == self.payload.length_bytes
        self._read_checked(self.payload, lambda start, length: buffer[start : start + length])

    def keep_payload(self, data: bytes) -> None:
        """Verifies `data`, which was read from the place of the payload, and makes it the needle's data.

        Raises:
            ChecksumMismatch: `data` is damaged.
            Truncated: `data` is too short.
        """
        if len(data) < self.needle.data_size:
            raise self._damaged(Truncated(f"needle {self.needle.needle_id:x}", self.needle.data_size, len(data)))
        computed = crc.crc32c(data)
        self.check_fits(computed)
        self.needle.data, self.needle.checksum = data, computed

    def _read_checked(self, payload: PayloadSlice, place_of: Callable[[int, int], memoryview]) -> int:
        """Reads the payload piece by piece into the buffers of `place_of(start, length)`. Returns its checksum."""
        computed, total, piece_bytes = 0, payload.length_bytes, payload.piece_bytes
        for start in range(0, total, piece_bytes):
            piece = place_of(start, min(piece_bytes, total - start))
            count = payload.read_into(start, piece)
            if count < len(piece):
                raise self._damaged(Truncated(f"needle {self.needle.needle_id:x}", total, start + count))
            computed = crc.crc32c_extend(computed, piece)
        self.check_fits(computed)
        return computed

    def check_fits(self, computed_crc: int) -> None:
        """Compares the checksum for a caller that has read the whole payload, whose CRC-32C is `computed_crc`.

        Raises:
            ChecksumMismatch: the payload is damaged; that was reported.
        """
        if not self.fits(computed_crc):
            raise self._damaged(ChecksumMismatch(self.needle.needle_id, self.needle.checksum, computed_crc))

    def _damaged(self, error: FormatError) -> FormatError:
        if self.on_damage is not None:
            self.on_damage(self.needle.needle_id, error)
        return error

    def holds(self, needle: Needle) -> bool:
        """Whether the read needle has the payload of `needle`, whose checksum is set. Raises ReadFailed."""
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
        for held in (self.payload, self.place):
            if held is not None:
                held.release()


@dataclass(slots=True)
class RecordReader:
    """Reads records of one open .dat file. `read_bytes` is a read method of `Files`; it decides whether a read may
    wait.
    """

    read_bytes: Callable[[int, int, int], bytes]
    dat: SharedFile
    version: int
    offset_width_bytes: int
    health: IoHealth
    is_tiered: bool = False

    def read(self, needle_id: int, location: NeedleValue, *, want_data: bool) -> NeedleRead:
        """The needle at `location`, whose size is not negative. Also for size 0 the record decides: its header must say
        0. (Upstream does not read it, and takes the needle for empty.)

        A large payload is left on disk; without `want_data` also that of a chunk manifest. A record that was read whole
        counts as a success of the disk, a part of one does not. The caller counts failures.

        Raises:
            FormatError: the record does not fit the index, or is corrupt.
            OSError: a read failed.
        """
        offset = location.offset * ALIGNMENT_BYTES
        try:
            return self._read_at(needle_id, location.size, offset, want_data=want_data)
        except SizeMismatch as mismatch:
            if self.offset_width_bytes != 4:
                raise
            # Old servers let 4-byte offsets wrap around.
            wrapped = offset + max_volume_size_bytes(4)
            try:
                return self._read_at(needle_id, location.size, wrapped, want_data=want_data)
            except (SizeMismatch, Truncated):
                # There is no record either, so the error is that of the first place.
                raise mismatch from None

    def _read_at(self, needle_id: int, size: int, offset: int, *, want_data: bool) -> NeedleRead:
        if size <= WHOLE_READ_LIMIT_BYTES:
            return NeedleRead(self._read_whole(needle_id, size, offset))
        needle, payload_offset = self._read_meta(needle_id, size, offset)
        if not (want_data and needle.is_chunk_manifest and needle.data_size <= MANIFEST_READ_LIMIT_BYTES):
            return NeedleRead(needle, self._slice(payload_offset, needle))
        needle = self._read_whole(needle_id, size, offset)
        return NeedleRead(needle, place=self._slice(payload_offset, needle))

    def _slice(self, payload_offset: int, needle: Needle) -> PayloadSlice:
        piece_bytes = _TIER_PIECE_BYTES if self.is_tiered else _CHECK_BYTES
        return PayloadSlice(self.dat, payload_offset, needle.data_size, self.health, piece_bytes=piece_bytes)

    def _read_whole(self, needle_id: int, size: int, offset: int) -> Needle:
        record = self.read_bytes(self.dat.fd, actual_size(size, self.version), offset)
        if self.health.errors_in_a_row:
            self.health.succeeded()
        self._check_header(record, needle_id, size)
        return parse_needle(record, self.version)

    def _check_header(self, record: bytes, needle_id: int, size: int) -> NeedleHeader:
        """Parses the header and compares its size. The id is not compared: as in upstream the index decides, because
        WriteNeedleBlob may enter a record under another id than it carries.
        """
        header = parse_needle_header(record)
        if header.size != size:
            raise SizeMismatch(needle_id, size, header.size)
        return header

    def _read_meta(self, needle_id: int, size: int, offset: int) -> tuple[Needle, int]:
        # Two short reads, before the payload and behind it: the payload stays on disk.
        head = self.read_bytes(self.dat.fd, NEEDLE_HEADER_BYTES + DATA_LENGTH_BYTES, offset)
        header = self._check_header(head, needle_id, size)
        if len(head) < NEEDLE_HEADER_BYTES + DATA_LENGTH_BYTES:
            raise Truncated(f"needle {needle_id:x}", actual_size(size, self.version), len(head))
        needle, start, meta_bytes = parse_record_head(header, head, self.version)
        if not 0 <= meta_bytes <= MAX_META_BYTES:
            why = f"invalid needle meta size {meta_bytes}: DataSize={needle.data_size}, size={size}, offset={offset}"
            raise Corrupt(f"needle {needle_id:x}", why)
        rest_bytes = meta_bytes + tail_size(self.version)
        rest = self.read_bytes(self.dat.fd, rest_bytes, offset + start + needle.data_size)
        parse_record_rest(needle, rest, meta_bytes, self.version)
        return needle, offset + start


def parse_record_head(header: NeedleHeader, head: bytes, version: int) -> tuple[Needle, int, int]:
    """The needle of a record whose header and payload length are in `head`, where its payload begins in the record, and
    the length of the metadata behind the payload: not in 0 to `MAX_META_BYTES` where the record is corrupt.
    """
    needle = Needle(needle_id=header.needle_id, cookie=header.cookie, size=header.size, data_size=header.size)
    if version == VERSION_1 or not header.size:
        return needle, NEEDLE_HEADER_BYTES, 0
    needle.data_size = int.from_bytes(head[NEEDLE_HEADER_BYTES:], "big")
    return needle, NEEDLE_HEADER_BYTES + DATA_LENGTH_BYTES, header.size - DATA_LENGTH_BYTES - needle.data_size


def parse_record_rest(needle: Needle, rest: bytes, meta_bytes: int, version: int) -> None:
    """Enters the metadata and the tail into the needle. They are the bytes behind the payload."""
    view = memoryview(rest)
    parse_needle_tail(needle, view[meta_bytes:], version)
    parse_needle_meta(needle, view[:meta_bytes])
