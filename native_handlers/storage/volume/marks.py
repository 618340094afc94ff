"""An operator's marks of one volume: it is read-only, or takes writes again.

A mark holds in memory, and with `persist` in the .vif too, where the next opening of the volume finds it. Files that
were found damaged, or that could not be opened for writing, are opened anew before the volume takes writes again.

Source: weed/storage/store.go (MarkVolumeReadonly, MarkVolumeWritable), weed/storage/volume.go (PersistReadOnly).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from native_handlers.storage.model.report import Finding
    from native_handlers.storage.volume.damage import VolumeDamage
    from native_handlers.storage.volume.handle import VolumeHandle
    from native_handlers.storage.volume.write_state import DiskContext, WriteState


class VolumeMarks:
    """The marks of one volume. Every method may be called from any thread."""

    def __init__(self, handle: VolumeHandle, disk: DiskContext, write_state: WriteState, damage: VolumeDamage) -> None:
        self._handle, self._disk = handle, disk
        self._write_state, self._damage = write_state, damage

    @property
    def is_on_disk(self) -> bool:
        """Whether the .vif says that the volume is read-only, so that the next opening knows."""
        return self._handle.info.read_only

    def mark_read_only(self, *, can_delete: bool, persist: bool) -> None:
        """Refuses writes from now on, and deletes too unless `can_delete`; with `persist` also after a restart.

        Raises:
            VolumeClosed: the volume is not open.
            WriteFailed: the .vif could not be written; the state is unchanged.
            DiskUnavailable: with `persist` only: the disk is out of service; the state is unchanged.
        """
        if persist:
            self._disk.check_in_service()
        with self._handle.begin_write():
            state = self._handle.get()
            if persist:
                self._handle.save_info(state, read_only=True, can_delete=can_delete)
            self._write_state.mark_read_only(can_delete=can_delete)

    def mark_writable(self) -> list[Finding]:
        """Takes writes again, and resets the count of I/O errors. Returns the findings of opening the files anew.

        As in upstream, an operator's decision overrides known damage.

        Raises:
            VolumeClosed: the volume is not open.
            VolumeLoadFailed: the files cannot be opened for writing; the volume is unchanged.
            WriteFailed: the .vif could not be written; the volume stays read-only.
            DiskUnavailable: the disk is out of service; nothing changed.
        """
        self._disk.check_in_service()
        findings: list[Finding] = []
        with self._handle.begin_write():
            state = self._handle.get()
            # Another process that shares the volume may have found the reason for the stop.
            is_stopped = state.share is not None and self._write_state.is_stopped
            if state.damage is not None or not state.is_writable or is_stopped:
                state = self._handle.reopen(state, findings)
            self._handle.save_info(state, read_only=False, can_delete=False)
            state.cleared_damage()
            self._write_state.mark_writable()
            self._damage.reset()
        return findings
