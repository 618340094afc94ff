"""A volume that is being copied here. Until it is whole a `.note` lies beside its files: whatever happens, the next
start finds the note and removes them.

Order: the note is on disk before anything else is made; every file is on disk before the note goes; the note goes
last, here and in every clean-up. Source: weed/server/volume_grpc_copy.go (VolumeCopy, checkCopyFiles,
findLastAppendAtNsFromCopiedFiles). Upstream puts nothing on disk, and checks the sizes when the note is gone.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from native_handlers.format.idx import parse_entry, row_bytes
from native_handlers.format.needle import parse_needle_header
from native_handlers.format.types import (
    CHECKSUM_BYTES,
    NEEDLE_HEADER_BYTES,
    TIMESTAMP_BYTES,
    VERSION_3,
    to_bytes_offset,
)
from native_handlers.storage.errors import CopyIncomplete
from native_handlers.storage.incoming import IncomingFile

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.storage.disk_location import DiskLocation
    from native_handlers.storage.files import Files
    from native_handlers.storage.volume_paths import VolumePaths

_log = logging.getLogger(__name__)
NOTE = ".note"


class IncomingVolume:
    """Made by `Store.begin_copy`, ended by `Store.mount_copy` or `Store.abandon_copy`. Used by one thread."""

    def __init__(self, files: Files, paths: VolumePaths, location: DiskLocation, width: int) -> None:
        """Nothing is done yet."""
        self.paths, self.location = paths, location
        self._files, self._width = files, width

    def begin(self, note: str) -> None:
        """Leaves `note`, and removes what lies there of an earlier volume of the name that nobody has open.

        Raises OSError.
        """
        path = self.paths.file(NOTE)
        fd = self._files.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            self._files.write(fd, [note.encode()], 0)
            self._files.sync(fd)
        finally:
            self._files.close(fd)
        self._files.sync_directory(path.parent)
        self._remove_files()

    def receive(self, extension: str) -> IncomingFile:
        """A file of the volume, to be written and committed. Raises OSError."""
        return IncomingFile(self._files, self.paths.file(extension), in_place=True)

    def check_sizes(self, dat_bytes: int, idx_bytes: int) -> None:
        """Compares what is there with what the source said before it began.

        Raises:
            CopyIncomplete: it is not the same; upstream's text.
            OSError: it cannot be told.
        """
        idx, dat = self.paths.file(".idx"), self.paths.file(".dat")
        found = self._files.facts(idx)
        if found is None and idx_bytes:
            raise CopyIncomplete(f"stat idx file {idx} failed: stat {idx}: no such file or directory")
        if found is not None and found.size_bytes != idx_bytes:
            raise CopyIncomplete(
                f"idx file {idx} size [{found.size_bytes}] is not same as origin file size [{idx_bytes}]"
            )
        found = self._files.facts(dat)
        if found is None:
            raise CopyIncomplete(f"get dat file info failed, stat {dat}: no such file or directory")
        if found.size_bytes != dat_bytes:
            raise CopyIncomplete(
                f"the dat file size [{found.size_bytes}] is not same as origin file size [{dat_bytes}]"
            )

    def finish(self) -> None:
        """The files are committed: they become a volume. Raises OSError; it may or may not be one then."""
        for path in self.paths.sidecars(NOTE):
            self._files.unlink(path)
        self._files.sync_directory(self.paths.data_dir)

    def remove(self) -> None:
        """Removes whatever there is of it. What cannot be is logged, and left to the note and the next start."""
        try:
            self._remove_files()
            self.finish()
        except OSError as error:
            _log.error("what is there of %s is no volume and could not be removed: %s", self.paths.name, error)

    def _remove_files(self) -> None:
        is_coded = any(self._files.facts(path) is not None for path in self.paths.sidecars(".ecx"))
        for path in self.paths.owned(keep_vif=is_coded):
            if path.suffix != NOTE:
                self._files.unlink(path)

    def last_append_at_ns(self, version: int) -> int:
        """When the record was written that the last index row names; a deletion counts. 0 where that is not recorded.

        Raises:
            OSError, FormatError: the files do not say.
        """
        row = self._last_bytes(self.paths.file(".idx"), row_bytes(self._width))
        if version < VERSION_3 or not row:
            return 0
        entry = parse_entry(row, self._width)
        if not entry.offset:
            return 0
        fd = self._files.open(self.paths.file(".dat"), os.O_RDONLY)
        try:
            at = to_bytes_offset(entry.offset)
            header = parse_needle_header(self._files.read(fd, NEEDLE_HEADER_BYTES, at))
            tail_at = at + NEEDLE_HEADER_BYTES + max(header.size, 0) + CHECKSUM_BYTES
            return int.from_bytes(self._files.read(fd, TIMESTAMP_BYTES, tail_at), "big")
        finally:
            self._files.close(fd)

    def _last_bytes(self, path: Path, length: int) -> bytes:
        """The last `length` bytes of a file; none of an empty one."""
        fd = self._files.open(path, os.O_RDONLY)
        try:
            size = self._files.facts_of(fd).size_bytes
            return self._files.read(fd, length, size - length) if size >= length else b""
        finally:
            self._files.close(fd)
