"""Reads needles of an open volume: checks for deletion, expiry and cookie, and comparison with a needle to be written.

The caller holds the volume's files open. Source: weed/storage/volume_read.go, weed/storage/volume_write.go
(isFileUnchanged, doWriteRequest).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.format.cached_needle import try_parse_cached_needle
from native_handlers.format.errors import FormatError
from native_handlers.format.needle import Needle, actual_size, parse_needle_header
from native_handlers.format.types import ALIGNMENT_BYTES, NEEDLE_HEADER_BYTES, TOMBSTONE_SIZE
from native_handlers.records import dataclass
from native_handlers.storage.model.errors import (
    CookieMismatch,
    Deleted,
    ExistingNeedleUnreadable,
    NotFound,
    ReadFailed,
)
from native_handlers.storage.system.files import NotCached
from native_handlers.storage.volume.record_reader import NeedleRead, RecordReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.format.cached_needle import CachedNeedle
    from native_handlers.storage.index.sorted_segment import NeedleValue
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.damage import VolumeDamage
    from native_handlers.storage.volume.state import VolumeState
    from native_handlers.storage.volume.write_state import IoHealth

_PASSING_BYTES = 128 * 1024
"""A record up to this length is copied and checked on the event loop: some tens of microseconds."""


@dataclass(frozen=True, slots=True)
class VolumeReader:
    """Reads needles of one volume, and counts the successes and failures of the disk."""

    files: Files
    volume_id: int
    offset_width_bytes: int
    clock_ns: Callable[[], int]
    health: IoHealth
    damage: VolumeDamage

    def read(  # noqa: PLR0913  the arguments of Volume.read, and its open files
        self,
        state: VolumeState,
        needle_id: int,
        cookie: int | None,
        *,
        read_deleted: bool,
        data: bool,
        cached_only: bool,
    ) -> NeedleRead:
        """The needle. Arguments and errors are those of `Volume.read`."""
        location = state.index.get(needle_id)
        if location is None:
            raise NotFound(self.volume_id, needle_id)
        if location.size < 0:
            if not read_deleted or location.size == TOMBSTONE_SIZE:
                raise Deleted(self.volume_id, needle_id)
            location = location._replace(size=-location.size)
        read = self.read_record(state, needle_id, location, want_data=data, cached_only=cached_only)
        if not location.size:
            # As upstream, which does not read the record of an empty needle, any cookie finds it.
            return NeedleRead(Needle(needle_id=needle_id, cookie=cookie or 0))
        try:
            self._check(read.needle, cookie)
        except BaseException:
            read.release()
            raise
        return read

    def read_cookie(self, state: VolumeState, needle_id: int) -> int:
        """The cookie in the header of the record at the needle's place.

        Raises:
            NotFound, Deleted: the index has no such needle.
            Truncated: the file ends before the header does.
            ReadFailed: the disk failed.
        """
        location = state.index.get(needle_id)
        if location is None:
            raise NotFound(self.volume_id, needle_id)
        if location.size < 0:
            raise Deleted(self.volume_id, needle_id)
        offset = location.offset * ALIGNMENT_BYTES
        try:
            return parse_needle_header(self.files.read(state.dat.fd, NEEDLE_HEADER_BYTES, offset)).cookie
        except OSError as error:
            self.health.failed(error)
            raise ReadFailed(state.dat.path, offset, error) from error

    def try_read_cached(
        self, state: VolumeState, needle_id: int, cookie: int, place: Callable[[int], memoryview | None] | None
    ) -> CachedNeedle | None:
        """As `Volume.try_read_cached`."""
        location = state.index.get(needle_id)
        if location is None:
            return None
        offset, size = location
        if size <= 0:
            return None
        version = state.super_block.version
        record = self._read_cached_record(state, offset * ALIGNMENT_BYTES, actual_size(size, version), place)
        if record is None:
            return None
        needle = try_parse_cached_needle(record, size, version)
        if needle is None or needle.cookie != cookie:
            return None
        if needle.expires_at_ns and self.clock_ns() >= needle.expires_at_ns:
            return None
        if self.health.errors_in_a_row:
            self.health.succeeded()
        return needle

    def _read_cached_record(
        self,
        state: VolumeState,
        offset_bytes: int,
        length_bytes: int,
        place: Callable[[int], memoryview | None] | None,
    ) -> bytes | memoryview | None:
        try:
            if length_bytes <= _PASSING_BYTES:
                return self.files.read_cached(state.dat.fd, length_bytes, offset_bytes)
            buffer = None if place is None else place(length_bytes)
            if buffer is not None:
                self.files.read_cached_into(state.dat.fd, buffer, offset_bytes)
        except NotCached:
            return None
        return buffer

    def _read_in_passing(self, fd: int, length_bytes: int, offset_bytes: int) -> bytes:
        if length_bytes > _PASSING_BYTES:
            raise NotCached
        return self.files.read_cached(fd, length_bytes, offset_bytes)

    def read_record(
        self, state: VolumeState, needle_id: int, location: NeedleValue, *, want_data: bool, cached_only: bool = False
    ) -> NeedleRead:
        """The record at `location`. The caller releases the result.

        Raises:
            FormatError: the record is damaged; that was reported.
            ReadFailed: the disk failed.
        """
        read_bytes = self._read_in_passing if cached_only else self.files.read
        version = state.super_block.version
        reader = RecordReader(read_bytes, state.dat, version, self.offset_width_bytes, self.health, state.is_tiered)
        try:
            read = reader.read(needle_id, location, want_data=want_data)
        except FormatError as error:
            self.damage.found(needle_id, error)
            raise
        except OSError as error:
            self.health.failed(error)
            raise ReadFailed(state.dat.path, location.offset * ALIGNMENT_BYTES, error) from error
        read.on_damage = self.damage.found
        return read

    def _check(self, needle: Needle, cookie: int | None) -> None:
        if needle.ttl is not None and needle.has_ttl and needle.has_last_modified:
            expires_at_ns = needle.ttl.expires_at_ns(needle.append_at_ns)
            if expires_at_ns and self.clock_ns() >= expires_at_ns:
                raise NotFound(self.volume_id, needle.needle_id)
        if cookie is not None and needle.cookie != cookie:
            raise CookieMismatch(needle.cookie, cookie)

    def check_existing(
        self, state: VolumeState, needle: Needle, location: NeedleValue, *, check_cookie: bool, may_be_same: bool
    ) -> bool:
        """Compares `needle` with the one at `location`, which it is to replace. Returns True when both are the same.

        A needle without a cookie takes over the other's, unless `check_cookie`.

        Raises:
            CookieMismatch: the two have different cookies.
            ExistingNeedleUnreadable: the existing needle cannot be read.
        """
        offset = location.offset * ALIGNMENT_BYTES
        try:
            existing = parse_needle_header(self.files.read(state.dat.fd, NEEDLE_HEADER_BYTES, offset))
        except (OSError, FormatError) as error:
            raise ExistingNeedleUnreadable(self.volume_id, error) from error
        may_be_same = may_be_same and existing.cookie == needle.cookie and location.size > 0
        if may_be_same and self._is_same(state, needle, location):
            return True
        if not needle.cookie and not check_cookie:
            needle.cookie = existing.cookie
        if existing.cookie != needle.cookie:
            raise CookieMismatch(existing.cookie, needle.cookie)
        return False

    def _is_same(self, state: VolumeState, needle: Needle, location: NeedleValue) -> bool:
        """Whether the record at `location` has the payload of `needle`; False for an unreadable record."""
        try:
            read = self.read_record(state, needle.needle_id, location, want_data=True)
        except (ReadFailed, FormatError):
            return False
        try:
            return read.holds(needle)
        except ReadFailed:
            return False
        finally:
            read.release()
