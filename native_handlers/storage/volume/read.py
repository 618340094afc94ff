"""What reading a needle of an open volume means: deleted, expired, of another cookie, the same as one to be written.

The volume's files are held open by whoever calls. Source: weed/storage/volume_read.go,
weed/storage/volume_write.go (isFileUnchanged, doWriteRequest).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.format.errors import FormatError
from native_handlers.format.needle import Needle, actual_size, parse_needle_header
from native_handlers.format.plain_needle import parse_plain_needle
from native_handlers.format.types import NEEDLE_HEADER_BYTES, TOMBSTONE_SIZE, to_bytes_offset
from native_handlers.storage.errors import CookieMismatch, Deleted, ExistingNeedleUnreadable, NotFound, ReadFailed
from native_handlers.storage.files import NotCached
from native_handlers.storage.needle_read import NeedleRead, RecordReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.format.plain_needle import PlainNeedle
    from native_handlers.storage.files import Files
    from native_handlers.storage.index_base import Location
    from native_handlers.storage.io_health import IoHealth
    from native_handlers.storage.volume_open import Opened

_PASSING_BYTES = 128 * 1024
"""What is copied and checked in passing: some tens of microseconds."""


@dataclass(frozen=True, slots=True)
class VolumeReader:
    """Reads needles of one volume, and counts what the disk does."""

    files: Files
    volume_id: int
    offset_width_bytes: int
    clock_ns: Callable[[], int]
    health: IoHealth

    def read(  # noqa: PLR0913  the arguments of Volume.read, and its open files
        self,
        opened: Opened,
        needle_id: int,
        cookie: int | None,
        *,
        read_deleted: bool,
        data: bool,
        cached_only: bool,
    ) -> NeedleRead:
        """The needle; arguments and errors are those of `Volume.read`."""
        location = opened.index.get(needle_id)
        if location is None:
            raise NotFound(self.volume_id, needle_id)
        if location.size < 0:
            if not read_deleted or location.size == TOMBSTONE_SIZE:
                raise Deleted(self.volume_id, needle_id)
            location = location._replace(size=-location.size)
        if not location.size:
            return NeedleRead(Needle(needle_id=needle_id, cookie=cookie or 0))
        read = self.read_record(opened, needle_id, location, want_data=data, cached_only=cached_only)
        try:
            self._check(read.needle, cookie)
        except BaseException:
            read.release()
            raise
        return read

    def read_plain(
        self, opened: Opened, needle_id: int, cookie: int, place: Callable[[int], memoryview | None] | None
    ) -> PlainNeedle | None:
        """The needle, if it is plain and in memory; arguments and errors are those of `Volume.read_plain`."""
        location = opened.index.get(needle_id)
        if location is None:
            return None
        offset, size = location
        if size <= 0:
            return None
        version = opened.super_block.version
        record = self._read_plain_record(opened, to_bytes_offset(offset), actual_size(size, version), place)
        if record is None:
            return None
        needle = parse_plain_needle(record, size, version)
        if needle is None or needle.cookie != cookie:
            return None
        if needle.expires_at_ns and self.clock_ns() >= needle.expires_at_ns:
            return None
        self.health.succeeded()
        return needle

    def _read_plain_record(
        self, opened: Opened, offset_bytes: int, length_bytes: int, place: Callable[[int], memoryview | None] | None
    ) -> bytes | memoryview | None:
        try:
            if length_bytes <= _PASSING_BYTES:
                return self.files.read_cached(opened.dat.fd, length_bytes, offset_bytes)
            buffer = None if place is None else place(length_bytes)
            if buffer is not None:
                self.files.read_cached_into(opened.dat.fd, buffer, offset_bytes)
        except NotCached:
            return None
        return buffer

    def _read_in_passing(self, fd: int, length_bytes: int, offset_bytes: int) -> bytes:
        if length_bytes > _PASSING_BYTES:
            raise NotCached
        return self.files.read_cached(fd, length_bytes, offset_bytes)

    def read_record(
        self, opened: Opened, needle_id: int, location: Location, *, want_data: bool, cached_only: bool = False
    ) -> NeedleRead:
        """The record at `location`, to be released by the caller. Raises FormatError or ReadFailed."""
        read_bytes = self._read_in_passing if cached_only else self.files.read
        version = opened.super_block.version
        reader = RecordReader(read_bytes, opened.dat, version, self.offset_width_bytes, self.health)
        try:
            return reader.read(needle_id, location, want_data=want_data)
        except OSError as error:
            self.health.failed(error)
            raise ReadFailed(opened.dat.path, to_bytes_offset(location.offset), error) from error

    def _check(self, needle: Needle, cookie: int | None) -> None:
        if needle.has_ttl and needle.ttl is not None and needle.has_last_modified:
            expires_at_ns = needle.ttl.expires_at_ns(needle.append_at_ns)
            if expires_at_ns and self.clock_ns() >= expires_at_ns:
                raise NotFound(self.volume_id, needle.needle_id)
        if cookie is not None and needle.cookie != cookie:
            raise CookieMismatch(needle.cookie, cookie)

    def settle_cookie(
        self, opened: Opened, needle: Needle, location: Location, *, check_cookie: bool, may_be_same: bool
    ) -> bool:
        """Compares with the needle at `location`, which `needle` is to replace; True when that is the same already.

        A needle without a cookie takes over the other's, unless `check_cookie`.

        Raises:
            CookieMismatch: the two have different cookies.
            ExistingNeedleUnreadable: that could not be found out.
        """
        offset = to_bytes_offset(location.offset)
        try:
            existing = parse_needle_header(self.files.read(opened.dat.fd, NEEDLE_HEADER_BYTES, offset))
        except (OSError, FormatError) as error:
            raise ExistingNeedleUnreadable(self.volume_id, error) from error
        may_be_same = may_be_same and existing.cookie == needle.cookie and location.size > 0
        if may_be_same and self._is_same(opened, needle, location):
            return True
        if not needle.cookie and not check_cookie:
            needle.cookie = existing.cookie
        if existing.cookie != needle.cookie:
            raise CookieMismatch(existing.cookie, needle.cookie)
        return False

    def _is_same(self, opened: Opened, needle: Needle, location: Location) -> bool:
        """Whether the record at `location` has the payload of `needle`. An unreadable one has not."""
        try:
            read = self.read_record(opened, needle.needle_id, location, want_data=True)
        except (ReadFailed, FormatError):
            return False
        try:
            return read.holds(needle)
        except ReadFailed:
            return False
        finally:
            read.release()
