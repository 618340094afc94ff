"""Shares a volume with other processes, and opens a volume that another process shares. See docs/sharing.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.storage.shared.share import VolumeShare, open_present
from native_handlers.storage.shared.state import SharedState
from native_handlers.storage.system.files import OS_FILES
from native_handlers.storage.volume.state import FilesSwapped, OpenRequest, VolumeState
from native_handlers.storage.volume.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.paths import VolumePaths
    from native_handlers.storage.volume.write_state import DiskContext


def share_volume(volume: Volume, *, loop_thread: int | None = None) -> int:
    """A descriptor with which `attach_volume` opens the volume in another process for reading and writing.

    The descriptor belongs to the volume. Hand it over by inheritance, over a socket, or as a path in /proc. A second
    call gives the same descriptor. From the first call on each write takes a lock between processes.

    Args:
        loop_thread: the thread of this process that must not wait for a disk or other threads; see `VolumeShare`.

    Raises:
        VolumeClosed: the volume is closed.
        WriteFailed: there is no memory or no descriptor left; nothing changed.
    """

    def create(files: Files, paths: VolumePaths, offset_width_bytes: int) -> tuple[int, VolumeShare]:
        fd, share = create_share(files, paths, offset_width_bytes)
        share.loop_thread = loop_thread
        return fd, share

    return volume.share(create)


def attach_volume(fd: int, disk: DiskContext, clock_ns: Callable[[], int], files: Files = OS_FILES) -> Volume:
    """Opens a volume that another process shares, for reading and writing. `fd` remains the caller's.

    Only the process that opened the volume may reopen, mark and destroy it.

    Raises:
        ShareLost: `fd` is no shared volume.
        VolumeClosed: the volume was closed.
        OSError, FormatError: its files cannot be opened.
    """
    share, opened = attach_share(files, fd)
    return Volume(opened, disk, OpenRequest(files, opened.paths, share.width, now_s=0), clock_ns)


def create_share(files: Files, paths: VolumePaths, offset_width_bytes: int) -> tuple[int, VolumeShare]:
    """Returns a descriptor for other processes, and this process's `VolumeShare`. Raises OSError."""
    fd = files.memory_file(f"volume-{paths.name}")
    try:
        own = files.reopen(fd)
        try:
            state = SharedState.create(files, own, paths, offset_width_bytes)
        except BaseException:
            files.close(own)
            raise
    except BaseException:
        files.close(fd)
        raise
    return fd, VolumeShare(files, own, state, offset_width_bytes)


def attach_share(files: Files, fd: int, kind: type[VolumeShare] = VolumeShare) -> tuple[VolumeShare, VolumeState]:
    """Returns this process's share in the volume of `fd`, of a kind, and the volume's open files. `fd` remains the
    caller's.

    Raises:
        ShareLost: `fd` is no shared volume.
        VolumeClosed: the volume was closed.
        OSError, FormatError: its files cannot be opened.
    """
    own = files.reopen(fd)
    try:
        state, paths, width = SharedState.attach(own)
        share = kind(files, own, state, width)
        while True:
            opened = open_present(share, paths)
            try:
                share.follow(opened)
            except FilesSwapped:
                opened.release()
                continue
            except BaseException:
                opened.release()
                raise
            return share, opened
    except BaseException:
        files.close(own)
        raise
