"""A share of a process that appends to a volume which another process has opened, the owner.

Such a process only appends records and commits them. The owner does everything else: repairs after a death, merging
the index, and changes of volumes whose writes are held. This process changes nothing before it leaves a change to the
owner. It waits for the lock for `LOCK_S` at most, because the holder of the lock may hang.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

from native_handlers.storage.model.errors import LeftToOwner
from native_handlers.storage.shared.attach import attach_share
from native_handlers.storage.shared.share import VolumeShare, open_present
from native_handlers.storage.shared.state import HELD
from native_handlers.storage.system.files import OS_FILES
from native_handlers.storage.volume.state import OpenRequest
from native_handlers.storage.volume.volume import Volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.storage.shared.state import CommittedState
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.state import VolumeState
    from native_handlers.storage.volume.write_state import DiskContext

LOCK_S = 0.5
"""How long this process waits for the lock. Small writes hold the lock for a tenth of a millisecond, and syncs for some
milliseconds. Only the owner waits for longer work."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.00005, 0.002
"""The pauses between two tries. The first is about as long as a small write holds the lock."""


class WriterShare(VolumeShare):
    """The share of a process that appends."""

    def _lock_for(self, opened: VolumeState) -> CommittedState:
        """Raises LeftToOwner: the lock was not free in time."""
        until_s, pause_s = monotonic() + LOCK_S, FIRST_PAUSE_S
        while not self.files.try_lock(self.fd):
            if monotonic() > until_s:
                raise LeftToOwner(opened.paths.volume_id, f"its lock was not free for {LOCK_S:g} s")
            threading.Event().wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return self.state.read()

    def _join(
        self,
        state: CommittedState,
        opened: VolumeState,
        replace_opened: Callable[[VolumeState], None],
        reopen: Callable[[VolumeState], VolumeState],
    ) -> tuple[VolumeState | None, str | None]:
        """As that of `VolumeShare`, but repairs nothing. Raises LeftToOwner: the owner is to make the change."""
        del reopen
        if state.is_closed:
            return None, None
        if self.state.words[HELD] or self.was_left_busy:
            raise LeftToOwner(opened.paths.volume_id, "the owner must write first")
        if state.files_generation != opened.files_generation:
            opened = open_present(self, opened.paths, tries=1)
            replace_opened(opened)
        if self.is_behind(opened):
            self.follow(opened, may_wait=True)
        if not opened.is_writable or opened.index.is_delta_full:
            raise LeftToOwner(opened.paths.volume_id, "its files are not writable, or its index is to be merged")
        self.begin()
        return opened, None

    def _publish_if_full(self, opened: VolumeState) -> None:
        """Nothing: the owner merges the index, at its next write."""


def attach_for_writing(
    fd: int,
    disk: DiskContext,
    clock_ns: Callable[[], int],
    *,
    appended: Callable[[int], None] | None = None,
    files: Files = OS_FILES,
) -> Volume:
    """Opens a volume that another process shares, for appending. The caller ends the use by `Volume.detach`.

    The result is for changes. A read of it may wait for the disk: an event loop reads another one, see
    `attach_for_reading`.

    Args:
        fd: a descriptor of the share, open for reading and writing. It remains the caller's.
        appended: called with the bytes that were appended, with the volume's lock held.

    Raises:
        ShareLost: `fd` is no shared volume.
        VolumeClosed: the volume was closed.
        OSError, FormatError, ReadFailed: its files cannot be opened.
    """
    share, opened = attach_share(files, fd, WriterShare)
    request = OpenRequest(files, opened.paths, share.width, now_s=0, appended=appended)
    return Volume(opened, disk, request, clock_ns)
