"""Files of volumes as they are read for a copy elsewhere: whole, in order, in pieces.

Source: weed/server/volume_grpc_copy.go (CopyFile).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from native_handlers.format.volume_name import format_volume_name
from native_handlers.storage.files import SharedFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from native_handlers.storage.disk_location import DiskLocation
    from native_handlers.storage.files import Files
    from native_handlers.storage.volume_open import Opened

PIECE_BYTES = 2 << 20
"""What is read, sent and held in memory at a time."""


class OutgoingFile:
    """An open file; a context manager that lets go of it. Used by one thread.

    `revision` is the compaction revision of the volume whose file this is; None for a file of no mounted volume.
    """

    def __init__(self, files: Files, file: SharedFile, revision: int | None) -> None:
        """Takes over one hold on `file`. Raises OSError when its times cannot be had; the hold is then given back."""
        self._files, self._file = files, file
        self.path = file.path
        self.revision = revision
        try:
            self.modified_at_ns = files.facts_of(file.fd).modified_at_ns
        except BaseException:
            file.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """To be called once, here or by leaving the context."""
        self._file.release()

    def pieces(self, stop_bytes: int) -> Iterator[bytes]:
        """What the file holds before `stop_bytes`, or all of it if that is less, `PIECE_BYTES` at a time.

        Raises OSError.
        """
        position = 0
        while position < stop_bytes:
            piece = self._files.read(self._file.fd, min(PIECE_BYTES, stop_bytes - position), position)
            if not piece:
                return
            position += len(piece)
            yield piece


def open_volume_file(files: Files, opened: Opened, extension: str) -> OutgoingFile:
    """A file of the volume whose open files are `opened`.

    Raises:
        FileRetired: the volume has been closed or swapped since.
        OSError: the file cannot be opened; FileNotFoundError when there is none.
    """
    shared = {".dat": opened.dat, ".idx": opened.idx}.get(extension)
    if shared is not None:
        shared.retain()
    else:
        shared = SharedFile.open(files, opened.paths.file(extension), os.O_RDONLY)
    return OutgoingFile(files, shared, opened.super_block.compaction_revision)


def open_coded_file(
    files: Files, locations: Sequence[DiskLocation], collection: str, volume_id: int, extension: str
) -> OutgoingFile | None:
    """A file of an erasure-coded volume, wherever on this node it lies; None when there is none. Where several disks
    have one it is that of the last disk, its index directory before its data directory, as upstream has it.

    Raises:
        OSError: one is there and cannot be opened, or that cannot be told.
        DiskUnavailable: a disk is out of service, and the others have none.
    """
    name = format_volume_name(collection, volume_id) + extension
    for location in sorted(locations, key=lambda location: (location.is_unavailable, -location.disk_id)):
        location.check_in_service()
        for directory in dict.fromkeys((location.idx_path, location.path)):
            try:
                file = SharedFile.open(files, directory / name, os.O_RDONLY)
            except FileNotFoundError:
                continue
            return OutgoingFile(files, file, None)
    return None


def write_back(files: Files, path: Path) -> None:
    """Has most of a file written to disk while nobody waits, so that a sync under a lock has little left to do.

    It is that sync that counts: an error here is met by it too, for each descriptor is told of it once.
    """
    try:
        fd = files.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        with suppress(OSError):
            files.sync(fd)
    finally:
        files.close(fd)
