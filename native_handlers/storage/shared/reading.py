"""A share of a process that only reads: it takes no lock, and can write neither the files nor what is shared.

So such a process may be stopped or killed at any moment, and no other process notices.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from native_handlers.storage.model.errors import VolumeClosed, WriteFailed
from native_handlers.storage.shared.share import VolumeShare, open_present
from native_handlers.storage.shared.state import SharedState, ShareLost
from native_handlers.storage.system.files import OS_FILES
from native_handlers.storage.volume.state import FilesSwapped, OpenRequest, VolumeState
from native_handlers.storage.volume.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.write_state import DiskContext, WriteState


class ReadingShare(VolumeShare):
    """The share of a process that only reads.

    Args:
        fd: a descriptor of the file in memory, open for reading. This object owns it.
    """

    reads_only = True

    def bind(self, write_state: WriteState, files_of_owner: Files | None = None) -> None:
        """Nothing: this process takes no writes, whatever the others do."""

    def join_work(
        self,
        opened: VolumeState,
        replace_opened: Callable[[VolumeState], None],
        reopen: Callable[[VolumeState], VolumeState],
    ) -> tuple[VolumeState | None, str | None]:
        """Brings `opened` up to date, without the lock between processes. As `VolumeShare.join_work` otherwise.

        Raises:
            WriteFailed: the files could not be opened or read; the next call tries again.
            FormatError: the files are no volume.
        """
        del reopen
        try:
            while True:
                try:
                    if self.state.read().files_generation != opened.files_generation:
                        opened = open_present(self, opened.paths)
                        replace_opened(opened)
                    self.follow(opened)
                except FilesSwapped:
                    if self.state.read().is_closed:
                        return None, None
                else:
                    return opened, None
        except VolumeClosed:
            return None, None
        except OSError as error:
            raise WriteFailed(opened.dat.path, 0, error) from error

    def finish(self, opened: VolumeState | None, *, is_sound: bool) -> None:
        """Nothing: there is no lock to release, and nothing to commit."""


def attach_for_reading(
    fd: int,
    disk: DiskContext,
    clock_ns: Callable[[], int],
    *,
    loop_thread: int | None = None,
    files: Files = OS_FILES,
) -> Volume:
    """Opens a volume that another process shares, for reading. Each read sees what was acknowledged before it began.

    The caller ends the use of the volume by `Volume.detach`. Writes are refused.

    Args:
        fd: a descriptor of the share, which need be open for reading only. It remains the caller's.
        loop_thread: the thread that must not wait for a disk; see `VolumeShare`.

    Raises:
        ShareLost: `fd` is no shared volume.
        VolumeClosed: the volume was closed.
        OSError, FormatError, ReadFailed: its files cannot be opened.
    """
    own = os.dup(fd)
    try:
        state, paths, width = SharedState.attach(own, reads_only=True)
        share = ReadingShare(files, own, state, width)
        opened = None
        while opened is None:
            opened = open_present(share, paths)
            try:
                share.follow(opened)
            except FilesSwapped:
                opened.release()
                opened = None
            except BaseException:
                opened.release()
                raise
    except BaseException:
        os.close(own)
        raise
    share.loop_thread = loop_thread
    return Volume(opened, disk, OpenRequest(files, opened.paths, share.width, now_s=0), clock_ns)


__all__ = ["ReadingShare", "ShareLost", "attach_for_reading"]
