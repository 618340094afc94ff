"""Describes an open volume for heartbeats and /status, and tells whether a volume with a TTL has expired.

Source: weed/storage/store.go:CollectHeartbeat, weed/storage/volume.go (ToVolumeInformationMessage).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.storage.model.report import VolumeReport

if TYPE_CHECKING:
    from native_handlers.format.ttl import Ttl
    from native_handlers.storage.volume.state import VolumeState
    from native_handlers.storage.volume.write_state import DiskContext


class VolumeDescriber:
    """Describes one volume. Returns the same object while nothing about the volume changes.

    A server with many volumes needs the reports of all of them every few seconds, and few change in between. A caller
    that makes something of a report can keep it with the report, and sees by identity whether it is still valid.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        # Replaced as a whole: another thread may describe the same volume.
        self._last: tuple[tuple[object, ...], VolumeReport] | None = None

    def describe(
        self, state: VolumeState, disk: DiskContext, flags: tuple[bool, bool, bool], *, is_announced: bool
    ) -> VolumeReport:
        """The report of the volume in `disk` whose open files are `state`.

        Safe from any thread. `flags`: see `WriteState`.
        """
        counters = state.index.counters
        # All parts of a report that can change while a volume is open.
        facts = (
            state.dat_end_bytes,
            state.idx_end_bytes,
            counters.content_bytes,
            counters.file_count,
            counters.deleted_count,
            counters.deleted_bytes,
            counters.max_needle_id,
            state.modified_at_s,
            flags,
            is_announced,
            state.super_block,
            state.info,
        )
        last = self._last
        if last is not None and facts == last[0]:
            return last[1]
        report = _describe(state, disk, flags, is_announced=is_announced)
        self._last = (facts, report)
        return report


def _describe(
    state: VolumeState, disk: DiskContext, flags: tuple[bool, bool, bool], *, is_announced: bool
) -> VolumeReport:
    paths, block, counters = state.paths, state.super_block, state.index.counters
    storage = state.info.files[0] if state.info.files else None
    return VolumeReport(
        id=paths.volume_id,
        size_bytes=state.dat_end_bytes,
        content_size_bytes=counters.content_bytes,
        collection=paths.collection,
        file_count=counters.file_count,
        delete_count=counters.deleted_count,
        deleted_byte_count=counters.deleted_bytes,
        read_only=any(flags),
        replica_placement=block.replica_placement,
        version=block.version,
        ttl=block.ttl,
        compact_revision=block.compaction_revision,
        modified_at_s=state.modified_at_s,
        disk_type=disk.disk_type,
        disk_id=disk.disk_id,
        remote_storage_name=storage.backend_name if storage else "",
        remote_storage_key=storage.key if storage else "",
        max_needle_id=counters.max_needle_id,
        is_announced=is_announced,
        index_size_bytes=state.idx_end_bytes,
        no_write_or_delete=flags[0],
        no_write_can_delete=flags[1],
        disk_space_low=flags[2],
    )


# ---- When a volume with a TTL is left out of reports, and when it is deleted.
#
# Source: weed/storage/volume.go (expired, expiredLongEnough).

MAX_REMOVAL_DELAY_MINUTES = 10


def is_expired(ttl: Ttl, last_modified_s: int, now_s: int) -> bool:
    """Whether more whole minutes than the TTL have passed since the last modification."""
    return bool(ttl) and (now_s - last_modified_s) // 60 > ttl.minutes


def is_expired_long_enough(ttl: Ttl, last_modified_s: int, now_s: int) -> bool:
    """Whether the volume expired so long ago that it is to be deleted: a tenth of the TTL, at most 10 minutes."""
    delay_minutes = min(ttl.minutes // 10, MAX_REMOVAL_DELAY_MINUTES)
    return bool(ttl) and (ttl.minutes + delay_minutes) * 60 + last_modified_s < now_s
