"""The files that a served data directory must have. They are written later where the disk was full at the start.

The files are the reserve, the session mark, without which no write is taken, and the identity. Repairs of volumes wait
here for room, too. So do deletions of erasure-coded volumes that came while the disk was out of service.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from native_handlers.storage.disk.directory_lock import load_directory_uuid, save_directory_uuid
from native_handlers.storage.disk.room import is_full
from native_handlers.storage.disk.session_mark import SessionMark
from native_handlers.storage.disk.space import STATFS_TIMEOUT_S
from native_handlers.storage.model.errors import StorageError
from native_handlers.storage.system.bounded_call import BoundedCall, CallTimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from native_handlers.storage.disk.health import DiskHealth
    from native_handlers.storage.disk.room import DiskRoom
    from native_handlers.storage.model.report import Findings
    from native_handlers.storage.volume.volume import Volume

_log = logging.getLogger(__name__)


class DiskUpkeep:
    """The marks of one directory, and its room."""

    def __init__(self, room: DiskRoom, directory: Path, *, is_borrowed: bool) -> None:
        """Raises OSError when a mark cannot be read, or when the identity cannot be written for another reason than
        room.
        """
        self._room = room
        self._directory = directory
        self._bounded = BoundedCall(f"keeping room in {directory}", STATFS_TIMEOUT_S)
        self.session = SessionMark(room.files, directory, is_borrowed=is_borrowed)
        self.uuid, self._has_uuid_file = load_directory_uuid(room.files, directory)
        self._has_ended = False
        self.begin_at_s: int | None = None
        """The start of a session that has no mark yet, in seconds since 1970; None once the session has its mark.
        Writes are refused until the mark is written."""
        self._has_examined_all = True
        self.write_late_deletions: Callable[[], bool] = lambda: True
        """Writes the deletions that journals of erasure-coded volumes lack; returns whether none lacks any more."""

    @property
    def is_short(self) -> bool:
        """Whether writes are refused: the reserve is not complete, or the session has no mark yet.

        Deletions are allowed. A power cut may leave one of them torn; the next start then finds damage, as a server
        without a session mark does.
        """
        return self._room.is_short or self.begin_at_s is not None

    def begin_session(self, now_s: int, *, has_examined_all: bool) -> None:
        """Marks the session, as `SessionMark.begin`. Where the disk is full, `keep` does it later.

        Raises OSError for other reasons.
        """
        try:
            self.session.begin(now_s, has_examined_all=has_examined_all)
        except OSError as error:
            if not is_full(error):
                raise
            self.begin_at_s, self._has_examined_all = now_s, has_examined_all
            _log.error("%s is full: its volumes are served, and refuse writes until there is room", self._directory)

    def attend(self, health: DiskHealth, volumes: Mapping[int, Volume], findings: Findings) -> None:
        """Makes each look at the disk call `keep`, until `end`."""

        def keep_in_time() -> bool:
            # The wait is bounded as for other calls: a look at the disk must end.
            try:
                return self._bounded.run(lambda: self._has_ended or self.keep(volumes, findings))
            except CallTimedOut:
                return True

        health.is_short, health.after_look = (lambda: self.is_short), keep_in_time

    def keep(self, volumes: Mapping[int, Volume], findings: Findings) -> bool:
        """Writes the missing files, as far as there is room. Returns whether none is missing any more. Waits for the
        disk.
        """
        is_whole = self._room.keep()
        # They may use the reserve.
        is_whole = self.write_late_deletions() and is_whole
        return self._write_marks() and is_whole and _repair_late(volumes, findings)

    def _write_marks(self) -> bool:
        try:
            if self.begin_at_s is not None:
                self.session.begin(self.begin_at_s, has_examined_all=self._has_examined_all)
                self.begin_at_s = None
                _log.warning("%s: there was room for the mark of the session; writes are taken", self._directory)
            if not self._has_uuid_file:
                save_directory_uuid(self._room.files, self._directory, self.uuid)
                self._has_uuid_file = True
        except OSError as error:
            if not is_full(error):
                _log.error("%s: %s", self._directory, error)
            return False
        return True

    def end(self, *, is_all_synced: bool) -> None:
        """Ends the upkeep after the last write. Removes the reserve, unless the next start needs it."""
        self._has_ended = True
        try:
            if is_all_synced:
                self.session.end()
            else:
                self.session.note_unsynced()
        except OSError as error:
            _log.warning("%s: %s; the next start will examine its volumes", self._directory, error)
        self._room.release()


def _repair_late(volumes: Mapping[int, Volume], findings: Findings) -> bool:
    """Repairs the volumes whose repair waited for room. Returns whether none waits any more."""
    waiting = [volume for volume in list(volumes.values()) if volume.awaits_room]
    for volume in waiting:
        try:
            findings.replace(volume.paths.base, volume.repair())
        except (StorageError, OSError) as error:
            _log.warning("volume %d still waits for its repair: %s", volume.id, error)
    return not any(volume.awaits_room for volume in waiting)
