"""Reads files of volumes for copies to other servers: whole, in order, in pieces.

Source: weed/server/volume_grpc_copy.go (CopyFile).
"""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from native_handlers.storage.system.files import SharedFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.state import VolumeState

PIECE_BYTES = 2 << 20
"""The greatest length of a piece, which is read, sent and held in memory."""
FIRST_PIECE_BYTES = 64 << 10
"""The length of the first piece. A caller who begins hundreds of streams and reads none of them gets no more of each
than a few small pieces; longer ones would cost half a gigabyte, and a second in which all others wait.
"""


def piece_lengths() -> Iterator[int]:
    """The lengths of the pieces of a stream, without an end: each twice the one before, up to `PIECE_BYTES`."""
    length = FIRST_PIECE_BYTES
    while length < PIECE_BYTES:
        yield length
        length *= 2
    yield from itertools.repeat(PIECE_BYTES)


class FileReader:
    """An open file as a context manager that releases the file. For one thread.

    `revision` is the compaction revision of the file's volume; None for a file of no mounted volume.
    """

    def __init__(self, files: Files, file: SharedFile, revision: int | None) -> None:
        """Takes over one hold on `file`. Raises OSError when its times cannot be read; the hold is then released."""
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
        """Releases the file. Call it once, or leave the context."""
        self._file.release()

    def pieces(self, stop_bytes: int) -> Iterator[bytes]:
        """Yields the file's bytes before `stop_bytes`, or up to its end if that comes first, in `piece_lengths`.

        Raises OSError.
        """
        position, lengths = 0, piece_lengths()
        while position < stop_bytes:
            piece = self._files.read(self._file.fd, min(next(lengths), stop_bytes - position), position)
            if not piece:
                return
            position += len(piece)
            yield piece


def open_volume_file(files: Files, state: VolumeState, extension: str) -> FileReader:
    """Opens a file of the volume whose open files are `state`.

    Raises:
        FileRetired: the volume was closed or swapped meanwhile.
        OSError: the file cannot be opened; FileNotFoundError when there is none.
    """
    shared = {".dat": state.dat, ".idx": state.idx}.get(extension)
    if shared is not None:
        shared.retain()
    else:
        shared = SharedFile.open(files, state.paths.file(extension), os.O_RDONLY)
    return FileReader(files, shared, state.super_block.compaction_revision)


def write_back(files: Files, path: Path) -> None:
    """Syncs most of a file while no lock is held, so that a later sync under a lock has little left to do.

    Ignores errors: the later sync counts, and it gets the error too, because the kernel reports each error once for
    each descriptor.
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
