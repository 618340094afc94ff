"""The claim of one long operation on a volume whose files the operation copies, and then replaces or removes.

Such an operation holds no lock while it copies. So no other operation may replace the files meanwhile: a second one is
refused, and so is the commit of a compaction, which would leave the copy without a volume to fit.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from native_handlers.storage.model.errors import VolumeBusy

if TYPE_CHECKING:
    from native_handlers.storage.volume.handle import VolumeHandle
    from native_handlers.storage.volume.write_state import WriteState


class FilesClaim:
    """The claim on the files of one volume, in this process alone. Safe from any thread."""

    def __init__(self, volume_id: int, write_state: WriteState) -> None:
        self._volume_id, self._write_state = volume_id, write_state
        # Protects _reason.
        self._lock = threading.Lock()
        self._reason: str | None = None

    @property
    def reason(self) -> str | None:
        """The operation that has the claim, as the end of a sentence about the volume; None if no operation has it."""
        return self._reason

    def take(self, reason: str, *, holds_writes: bool) -> None:
        """Takes the claim. With `holds_writes` writes and deletes are refused until `give_up`, and marks are unchanged.

        Does not wait for a write or a commit that is under way: after the next time that the caller holds the volume's
        lock, there is none.

        Raises:
            VolumeBusy: another operation has the claim. Nothing was changed.
        """
        with self._lock:
            if self._reason is not None:
                raise VolumeBusy(self._volume_id, self._reason)
            self._reason = reason
            if holds_writes:
                self._write_state.hold(f"volume {self._volume_id} {reason}")

    def give_up(self) -> None:
        """Ends the claim, and takes writes again. Only the operation that took the claim calls this."""
        with self._lock:
            self._write_state.hold(None)
            self._reason = None


def check_named(handle: VolumeHandle) -> None:
    """Checks that the paths of .dat and .idx lead to the open files, for an operation that opens the files by path. The
    caller has the claim. Afterwards no write and no commit is under way that began before the claim.

    Raises:
        VolumeClosed: the volume is not open.
        VolumeBusy: a vacuum has put new files in place, and could not rename the files.
        OSError: the files cannot be looked at.
    """
    with handle.begin_write():
        state = handle.get()
        for file in () if state.is_tiered else (state.dat, state.idx):
            found = handle.files.facts(file.path)
            if found is None or found.identity != handle.files.facts_of(file.fd).identity:
                raise VolumeBusy(handle.paths.volume_id, f"has another file at {file.path} than the one that is open")
