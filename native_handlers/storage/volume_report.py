"""Describes an open volume for heartbeats and /status, and tells whether the master is to hear of it.

Source: weed/storage/store.go:CollectHeartbeat, weed/storage/volume.go (ToVolumeInformationMessage).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.storage.patience import NoAnswer
from native_handlers.storage.report import VolumeReport

if TYPE_CHECKING:
    from native_handlers.storage.volume import Volume
    from native_handlers.storage.volume_open import Opened
    from native_handlers.storage.write_gate import VolumeHome

_PHANTOM_CHECK_NS = 30 * 10**9


class PhantomCheck:
    """Notices that .dat was unlinked while open: it still serves, and is lost with the next restart."""

    __slots__ = ("_home", "_is_phantom", "_present_at_ns")

    def __init__(self, home: VolumeHome) -> None:
        self._home = home
        self._is_phantom = False
        self._present_at_ns = -_PHANTOM_CHECK_NS

    def is_phantom(self, opened: Opened, now_ns: int) -> bool:
        """Whether .dat is gone. The disk is asked now and then, and not for a volume without files.

        Only a definite "no such file" counts as gone; where there is no answer, what was known stands.
        """
        if not opened.index.counters.file_count or now_ns - self._present_at_ns <= _PHANTOM_CHECK_NS:
            return False
        try:
            self._is_phantom = self._home.facts_in_time(opened.dat.path) is None
        except OSError:
            return False
        except NoAnswer:
            return self._is_phantom
        if not self._is_phantom:
            self._present_at_ns = now_ns
        return self._is_phantom


def describe_volume(volume: Volume, opened: Opened, *, is_announced: bool) -> VolumeReport:
    """The facts of `volume`, whose open files are `opened`."""
    counters = opened.index.counters
    storage = opened.info.files[0] if opened.info.files else None
    return VolumeReport(
        id=volume.id,
        size_bytes=opened.dat_end_bytes,
        content_size_bytes=counters.content_bytes,
        collection=volume.collection,
        file_count=counters.file_count,
        delete_count=counters.deleted_count,
        deleted_byte_count=counters.deleted_bytes,
        read_only=volume.is_read_only,
        replica_placement=volume.replica_placement,
        version=volume.version,
        ttl=volume.ttl,
        compact_revision=volume.compaction_revision,
        modified_at_s=opened.modified_at_s,
        disk_type=volume.disk_type,
        disk_id=volume.disk_id,
        remote_storage_name=storage.backend_name if storage else "",
        remote_storage_key=storage.key if storage else "",
        max_needle_id=counters.max_needle_id,
        is_announced=is_announced,
        index_size_bytes=opened.idx_end_bytes,
    )
