"""All volumes of one server: several disk locations, looked up by volume id. `volume_set` adds and removes volumes.

Synchronous and safe from any thread. Needle operations take no lock of the store; changes of the set of volumes are
serialised. Events are delivered outside all locks. Source: weed/storage/store.go.
"""

from __future__ import annotations

import logging
import os
import time
from operator import attrgetter, is_
from typing import TYPE_CHECKING

from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.format.super_block import SuperBlock
from native_handlers.format.ttl import parse_ttl
from native_handlers.format.types import CURRENT_VERSION
from native_handlers.format.volume_name import format_volume_name
from native_handlers.records import dataclass
from native_handlers.storage.directory.location import DiskLocation, LocationConfig
from native_handlers.storage.directory.scan import find_offset_width
from native_handlers.storage.disk.open_limit import OpenVolumes
from native_handlers.storage.erasure_coding.ec_set import EcVolumeSet
from native_handlers.storage.erasure_coding.generate import sync_shards
from native_handlers.storage.erasure_coding.loading import judge_again, load_shards, remove_left_overs
from native_handlers.storage.erasure_coding.reader import EcReader
from native_handlers.storage.erasure_coding.sent_files import open_coded_file
from native_handlers.storage.erasure_coding.work import EcWork
from native_handlers.storage.locations import (
    copies_of,
    count_slots,
    count_taken,
    finish_arrivals,
    ids_on_disk,
    load_all,
    release,
)
from native_handlers.storage.model.errors import (
    DeleteFailed,
    StorageError,
    VolumeNotFound,
)
from native_handlers.storage.settling import Settling
from native_handlers.storage.store_state import ServerState, StateFile
from native_handlers.storage.system.files import OS_FILES
from native_handlers.storage.transfer.received_files import receive_file
from native_handlers.storage.volume.info_file import has_shards
from native_handlers.storage.volume_set import Listeners, VolumeSet
from native_handlers.storage.volume_totals import totals_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from contextlib import AbstractContextManager

    from native_handlers.storage.disk.open_limit import OpenLimit
    from native_handlers.storage.model.report import DiskStatus, Finding, VolumeReport
    from native_handlers.storage.remote.tier_files import TieredFiles
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.transfer.receive import StagedFile
    from native_handlers.storage.transfer.received_files import ReceiveRequest
    from native_handlers.storage.transfer.volume_copy import ArrivingVolume
    from native_handlers.storage.volume.damage import Damage
    from native_handlers.storage.volume.file_reader import FileReader
    from native_handlers.storage.volume.volume import Volume
    from native_handlers.storage.volume_totals import CollectionTotals

_log = logging.getLogger(__name__)
TOTALS_AGE_S = 5.0
"""The age of a heartbeat: upstream's sums are those of the last one."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """The configuration of a store. `offset_width_bytes` None means: the width of the found volumes, else 4.

    Args:
        opens_volumes: False for a store that shares the directories with another engine, which has all the volumes at
            first. Volumes are then opened only by `Store.mount_volume`.
        lock_owner_pid: see `lock_directory`.
        open_limit: how many volumes may be open at once; None for no bound of ours.
    """

    locations: tuple[LocationConfig, ...]
    offset_width_bytes: int | None = None
    opens_volumes: bool = True
    lock_owner_pid: int | None = None
    open_limit: OpenLimit | None = None
    file_size_limit_bytes: int = 256 << 20
    ip: str = "localhost"
    port: int = 8080
    grpc_port: int = 18080
    public_url: str = ""
    id: str = ""
    data_center: str = ""
    rack: str = ""


def open_store(
    config: StoreConfig,
    *,
    clock_ns: Callable[[], int] = time.time_ns,
    files: Files = OS_FILES,
    tiers: TieredFiles | None = None,
) -> Store:
    """Locks the directories and opens every volume in them, several at a time.

    `tiers` opens the data in remote tiers, through `files`; without it such volumes are not served. Volumes that cannot
    be opened are left unchanged and are in `Store.findings`.

    Raises:
        DirectoryLocked, DirectoryUnusable: a directory cannot be served.
        OffsetWidthMismatch: a volume was written with another offset width than the store is to use.
        BadState: state.pb is unreadable.
        DiskUnreadable, OSError: a directory cannot be listed.
        In every case nothing stays open or locked.
    """
    holder = f"pid {os.getpid()}, {config.ip}:{config.port}"
    locations: list[DiskLocation] = []
    try:
        for disk_id, wanted in enumerate(config.locations):
            locations.append(  # noqa: PERF401  released below
                DiskLocation(wanted, disk_id, holder, files, clock_ns, config.lock_owner_pid, tiers)
            )
        findings = finish_arrivals(files, locations)
        width = config.offset_width_bytes or find_offset_width(files, [location.path for location in locations])
        open_volumes = OpenVolumes(config.open_limit, lambda: count_taken(locations))
        for location in locations:
            location.join(locations, open_volumes)
        state = StateFile(locations[0].room.files, config.locations[0].idx_path)
        if config.opens_volumes:
            kept = remove_left_overs(files, locations, width)
            _, failures = load_all(locations, width)
            if failures:
                raise failures[0]
            findings += judge_again(files, kept, width)
        else:
            for location in locations:
                location.set_offset_width(width)
        for location, found in findings:
            location.findings.add(found)
        for location in locations:
            location.begin_session(has_loaded_all=config.opens_volumes)
    except BaseException:
        for location in locations:
            release(location)
        raise
    store = Store(config, tuple(locations), width, state, files, tiers)
    if config.opens_volumes:
        load_shards(store.ec, is_start=True)
    return store


@dataclass(frozen=True, slots=True)
class _Totals:
    """Sums by collection, the reports from which they were made, and the time of making on the monotonic clock."""

    by_collection: Mapping[str, CollectionTotals]
    reports: list[VolumeReport]
    made_at_s: float


class Store:
    """An open store; `open_store` makes it."""

    def __init__(
        self,
        config: StoreConfig,
        locations: tuple[DiskLocation, ...],
        offset_width_bytes: int,
        state: StateFile,
        files: Files,
        tiers: TieredFiles | None = None,
    ) -> None:
        self.config = config
        self.locations = locations
        self.offset_width_bytes = offset_width_bytes
        self.volume_size_limit_bytes = 0
        """The size that a volume should not exceed, as the master says; 0 before that."""
        self.is_preallocating = False
        self.settling = Settling()
        """The volumes that were copied here and lack the writes of the meantime at their source; clients wait for
        them."""
        self.tiers = tiers
        """Opens the data of volumes in remote tiers; None where such volumes cannot be served."""
        self._files = files
        self._state = state
        self._listeners = Listeners()
        self._totals: _Totals | None = None
        self._listeners.add(self._forget_totals)
        self.ec = EcVolumeSet(files, locations, offset_width_bytes)
        """The erasure-coded volumes."""
        self.ec_reader = EcReader(self.ec)
        self.ec_work = EcWork(self.ec)
        self._set = VolumeSet(locations, offset_width_bytes, files, self._listeners, self.ec.copies)
        self.ids = self._set.ids

    # ---- facts

    @property
    def findings(self) -> list[Finding]:
        """The irregularities of the volumes opened so far, or not opened."""
        return [finding for location in self.locations for finding in location.findings.all()]

    @property
    def has_findings(self) -> bool:
        """Whether there are `findings`."""
        return any(location.findings for location in self.locations)

    def add_damage_listener(self, callback: Callable[[Damage], None]) -> None:
        """Registers `callback` for each read of a damaged record. The reading thread calls it. It must not raise."""
        for location in self.locations:
            location.damage.add_listener(callback)

    def find_volume(self, vid: int) -> Volume | None:
        for location in self.locations:
            volume = location.volumes.get(vid)
            if volume is not None:
                return volume
        return None

    def get_volume(self, vid: int, where: str = "") -> Volume:
        """The volume `vid`, through which its needles are read and written.

        Args:
            where: the end of the error's message, as upstream's operations have it; see `on_this_server`.

        Raises:
            VolumeNotFound: there is no such volume here.
        """
        volume = self.find_volume(vid)
        if volume is None:
            raise VolumeNotFound(vid, where)
        return volume

    @property
    def on_this_server(self) -> str:
        """The end of the error message of an operation that changes a volume."""
        return f" on {self.config.ip}:{self.config.port}"

    @property
    def open_count(self) -> int:
        """The number of volumes whose descriptors are in use; see `count_taken`."""
        return count_taken(self.locations)

    @property
    def damaged_count(self) -> int:
        """The number of mounted volumes, erasure-coded ones too, in which a read found damage."""
        return sum(location.damaged_count for location in self.locations) + self.ec.damaged_count

    def volumes(self) -> list[Volume]:
        """Every mounted volume, by id."""
        found = [volume for location in self.locations for volume in list(location.volumes.values())]
        return sorted(found, key=attrgetter("id"))

    def volume_reports(self) -> list[VolumeReport]:
        """The facts of every mounted volume, by id; heartbeats leave out those that are not announced."""
        limit_bytes = self.volume_size_limit_bytes
        reports = [report for location in self.locations for report in location.volume_reports(limit_bytes)]
        reports.sort(key=attrgetter("id"))
        last = self._totals
        is_same = last is not None and len(last.reports) == len(reports) and all(map(is_, last.reports, reports))
        by_collection = last.by_collection if last is not None and is_same else totals_of(reports)
        self._totals = _Totals(by_collection, reports, time.monotonic())
        return list(reports)

    def reports_of(self, volume_ids: Collection[int]) -> list[VolumeReport]:
        """As `volume_reports` for the copies of some volumes, with the known state of their disks."""
        limit_bytes = self.volume_size_limit_bytes
        return [report for location in self.locations for report in location.reports_of(volume_ids, limit_bytes)]

    def totals(self) -> Mapping[str, CollectionTotals]:
        """Sums by collection, no older than the last change of the set of volumes, and than five seconds."""
        last = self._totals
        if last is None or time.monotonic() - last.made_at_s > TOTALS_AGE_S:
            return totals_of(self.volume_reports())
        return last.by_collection

    def _forget_totals(self, _volume_id: int) -> None:
        self._totals = None

    def disk_statuses(self) -> list[DiskStatus]:
        """The space of every location, measured now."""
        return [location.status() for location in self.locations]

    def max_volume_counts(self) -> dict[str, int]:
        """Volume slots for each disk type. A full disk counts the slots in use, an unavailable one none."""
        return count_slots(self.locations)

    def volume_ids_on_disk(self) -> list[int]:
        """Every volume whose data is in one of the directories, open or not; see `locations.ids_on_disk`."""
        return ids_on_disk(self.locations)

    def keep_session_marks(self) -> None:
        """Keeps the session marks when this process ends, so that a start after a crash of the machine finds them. Call
        it when the other engine that shares the directories has not ended properly: its writes may not be on disk.
        """
        for location in self.locations:
            location.keep_session_mark()

    def lock_descriptors(self) -> list[int]:
        """The descriptors for a child process to inherit: the directories are locked while either process lives."""
        descriptors = [location.lock_descriptor for location in self.locations]
        return [descriptor for descriptor in descriptors if descriptor is not None]

    def location_uuids(self) -> list[str]:
        return [location.uuid for location in self.locations]

    def disk_tags(self) -> list[tuple[int, str, tuple[str, ...], int]]:
        """For each location its disk id, disk type, tags and volume slots."""
        return [
            (location.disk_id, location.disk_type, location.tags, location.effective_max_volumes)
            for location in self.locations
        ]

    def set_volume_size_limit(self, size_bytes: int) -> None:
        self.volume_size_limit_bytes = size_bytes

    def set_preallocate(self, is_preallocating: bool) -> None:  # noqa: FBT001  a setter
        self.is_preallocating = is_preallocating

    def adjust_max_volumes(self) -> bool:
        """Sizes the locations without a configured number of slots, once the size limit is known. Returns whether any
        number changed.
        """
        limit = self.volume_size_limit_bytes
        if not limit:
            return False
        changed = [
            location.adjust_max_volumes(limit, is_preallocating=self.is_preallocating) for location in self.locations
        ]
        return any(changed)

    # ---- volumes

    def allocate_volume(  # noqa: PLR0913  the fields of the RPC
        self,
        vid: int,
        *,
        collection: str = "",
        replication: str = "",
        ttl: str = "",
        preallocate_bytes: int = 0,
        disk_type: str = "",
        version: int = CURRENT_VERSION,
        disk_id: int = 0,
    ) -> Volume:
        """Makes a volume on the location with the fewest volumes, among those of its disk type that have room. A .dat
        of that name which is not open is opened, on its disk.

        Args:
            disk_id: unused, as upstream: the location is chosen here.

        Raises:
            FormatError: bad replication, TTL or collection.
            VolumeExists: there is a volume of that id, or shards of one, or a .dat where no new volume could be made.
            VolumeArriving: files of the volume are sent here.
            IdTaken: there are files of that id in another collection; see `VolumeIds`.
            NoFreeSpace: no location has room.
            NewVersionUnsupported: there is no such version.
            TooManyVolumes: the process has no descriptors for it. No file was made.
            VolumeLoadFailed: its files cannot be made.
            Where several apply it is the first in this list, as in upstream.
        """
        del disk_id
        placement, volume_ttl = ReplicaPlacement.parse(replication), parse_ttl(ttl)
        block = SuperBlock(version, placement, volume_ttl)
        format_volume_name(collection, vid)
        return self._set.allocate(vid, collection, block, preallocate_bytes, disk_type)

    def mount_volume(self, vid: int) -> None:
        """Opens a volume whose files are here; a volume that is open is announced again.

        Raises:
            VolumeNotFound: no location has the volume, or none whose files can be served (see `findings`).
            VolumeNotSeen: no location has the volume, and not all could be read.
            VolumeBusy: its files are being replaced.
            OffsetWidthMismatch: the volume was written with another offset width.
            TooManyVolumes: the process has no descriptors for it.
        """
        self._set.mount(vid)

    def unmount_volume(self, vid: int) -> None:
        """Closes every copy of a volume, after `sync_shards`. Without a copy here the call succeeds.

        Raises:
            DeleteFailed: a copy could not be synced. All are closed.
            OSError: shards could not be synced. All copies are closed.
        """
        try:
            self.sync_shards(vid)
        finally:
            self._set.unmount(vid)

    def sync_shards(self, vid: int) -> None:
        """Puts the shards on disk that lie beside an open volume, or beside open shards. Coding does not: until the
        .dat goes, the shards can be made anew. So it must not go, nor another program get it, before this call.

        A disk out of service is left out.

        Raises:
            OSError: shards may not be on disk.
        """
        volumes = [volume for _, volume in copies_of(self.locations, vid) if volume.is_in_service]
        bases = [volume.paths.base for volume in volumes if has_shards(self._files, volume.paths)]
        coded = [one for one in self.ec.copies(vid) if not self.locations[one.place.disk_id].is_unavailable]
        for base in dict.fromkeys([*bases, *(one.place.base for one in coded)]):
            sync_shards(self.ec, base)

    def configure_volume(self, vid: int, replication: str) -> None:
        """Changes a volume's replica placement; see `configure.configure_volume`.

        Raises ConfigureFailed, see there, and BadReplicaPlacement: nothing was done.
        """
        ReplicaPlacement.parse(replication)
        self._set.configure(vid, replication)

    def replacing_volume(self, vid: int, doing: str, *, closes: bool) -> AbstractContextManager[bool]:
        """See `VolumeSet.replacing`."""
        return self._set.replacing(vid, doing, closes=closes)

    def consolidate_index(self, vid: int) -> None:
        """Moves a volume's .idx from beside its data to the index directory, where there is one.

        Raises:
            VolumeNotFound: no such volume is open here.
            VolumeClosed, IndexMoveFailed: nothing was moved.
        """
        copies = copies_of(self.locations, vid)
        if not copies:
            raise VolumeNotFound(vid, " on disk")
        location, volume = copies[0]
        volume.move_index(location.idx_path)
        self.note_moved(vid)

    def delete_volume(self, vid: int, *, only_empty: bool, keep_remote_data: bool = False) -> None:
        """Deletes every copy of a volume here.

        Args:
            keep_remote_data: keeps the object of a tiered volume.

        Raises:
            CompactionRunning: the volume is being compacted. Nothing was deleted.
            VolumeNotEmpty: `only_empty`, and a copy is not empty. Nothing was deleted; where it was written to
                meanwhile, that copy and the copies after it are kept.
            VolumeNotFound: there is no such volume.
            VolumeClosed: `only_empty`, and a copy is closed. Nothing was deleted.
            DeleteFailed: a copy could not be removed completely.
        """
        self.ec_work.sync_before_delete(self.find_volume(vid))
        self._set.delete(vid, only_empty=only_empty, keep_remote=keep_remote_data)

    def delete_collection(self, name: str) -> None:
        """Deletes every volume of a collection; "" is the default collection. Without a volume the call succeeds.

        Raises:
            DeleteFailed: some volumes could not be removed completely.
        """
        failures = self.ec_work.destroy([volume for volume in self.ec.volumes() if volume.collection == name])
        self._set.delete_collection(name)
        if failures:
            raise DeleteFailed(f"DeleteCollection {name}", failures)

    def remove_expired_volumes(self) -> list[int]:
        """Deletes volumes whose TTL has passed long enough ago; each heartbeat does this first. Returns their ids.

        Does not wait for work on a volume, nor for a change of the set of volumes: those stay until a later call.
        """
        for failure in self.ec_work.destroy_expired():
            _log.warning("deleting an expired erasure-coded volume: %s", failure)
        return self._set.remove_expired(self.volume_size_limit_bytes)

    def mark_readonly(self, volume: Volume, *, can_delete: bool = False, persist: bool = False) -> None:
        """Makes a volume refuse writes; see `VolumeMarks.mark_read_only`.

        Raises VolumeNotFound, VolumeClosed, WriteFailed: nothing changed.
        """
        volume = self._present(volume)
        volume.marks.mark_read_only(can_delete=can_delete, persist=persist)
        self._listeners.emit([volume.id])

    def mark_writable(self, volume: Volume) -> None:
        """Makes a volume take writes; see `VolumeMarks.mark_writable`.

        Raises VolumeNotFound, VolumeClosed, VolumeLoadFailed, WriteFailed: the volume takes no writes.
        """
        volume = self._present(volume)
        findings = self.locations[volume.disk_id].findings
        findings.replace(volume.paths.base, volume.marks.mark_writable())
        self._listeners.emit([volume.id])

    def note_moved(self, vid: int) -> None:
        """Announces that the data or the index of a volume is elsewhere now."""
        self._listeners.emit([vid])

    def commit_compaction(self, volume: Volume) -> tuple[bool, int]:
        """Puts the compacted copy of a volume in its place. Returns whether the volume was read-only before, and the
        length of its new .dat in bytes. Raises as `Compaction.commit`; VolumeNotFound: the volume is no longer here.
        """
        volume = self._present(volume)
        was_read_only = volume.is_read_only
        volume.compaction.commit()
        self._listeners.emit([volume.id])
        return was_read_only, volume.size_bytes

    def _present(self, volume: Volume) -> Volume:
        """`volume`, or the volume of its id that is open by now where `volume` was closed. Raises VolumeNotFound."""
        return self.get_volume(volume.id) if volume.is_closed else volume

    def load_new_volumes(self) -> None:
        """Opens volumes whose files have appeared since the start. Failures are logged; other disks are loaded."""
        self._set.load_new()
        load_shards(self.ec)

    # ---- copies

    def begin_copy(self, vid: int, collection: str, disk_type: str, needed_bytes: int) -> ArrivingVolume:
        """Reserves the place of a volume that is to be copied here. A copy that is mounted here can be read, and takes
        no writes, until `mount_copy` or `abandon_copy`.

        Wilful difference: upstream deletes the copy that is here first, and so needs no room for both.

        Raises:
            VolumeArriving: the volume, or files of it, are being copied here already; nothing changed.
            VolumeBusy: one that has arrived lacks its names, or one is moved to a tier or to disk; nothing changed.
            IdTaken: there are files of that id in another collection; nothing changed.
            TooManyVolumes: the process has no descriptors for it; nothing changed.
            DiskUnavailable: a copy here is on a disk that is out of service; nothing changed.
            NoSpaceForCopy: no disk of the type has a free slot and more than `needed_bytes`; nothing changed.
        """
        return self._set.begin_copy(vid, collection, disk_type, needed_bytes)

    def mount_copy(self, arriving: ArrivingVolume) -> None:
        """Opens a volume whose files are all here and on disk, in place of its other copies here, open or not.

        Raises:
            VolumeLoadFailed, OffsetWidthMismatch: the volume cannot be served; other copies stay.
            CopyIncomplete: the volume is damaged, and there is another copy here, which stays; or another copy was
                mounted here since `begin_copy`, may have taken writes, and stays.
            IdTaken, VolumeArriving: files of that id are here by now in another collection, or come; all copies stay.
            DiskUnavailable: another copy is on a disk that is out of service by now; it stays.
            OSError: the decision could not be put on disk, and other copies stay; or files could not be renamed, and
                the next mount or start renames them.
            VolumeNotFound: the volume is in its place, and could not be opened (see `findings`).
            In every case the caller calls `abandon_copy`.
        """
        self._set.mount_copy(arriving)

    def abandon_copy(self, arriving: ArrivingVolume) -> None:
        """Removes the files of a copy that was not mounted; a mounted one takes writes again. For closed stores too."""
        self._set.abandon_copy(arriving)

    def receive_file(self, wanted: ReceiveRequest) -> StagedFile:
        """Makes a file that another server sends; the caller writes it, and commits it inside `VolumeIds.naming`.

        Raises IdTaken as `allocate_volume`, and as `received_files.receive_file`.
        """
        volume = self.find_volume(wanted.volume_id)
        if wanted.is_coded or (volume is None and wanted.disk_type):
            self.ids.check(wanted.collection, wanted.volume_id)
        return receive_file(self._files, self.locations, volume, wanted, self.offset_width_bytes)

    def open_coded_file(self, collection: str, vid: int, extension: str) -> FileReader | None:
        """Opens a file of an erasure-coded volume; see `sent_files.open_coded_file`."""
        return open_coded_file(self.ec, collection, vid, extension)

    # ---- state, changes, life

    @property
    def state(self) -> ServerState:
        return self._state.current

    def set_state(self, new: ServerState | None) -> ServerState:
        """Changes the persistent state and returns the new one; see `StateFile.change` for the errors."""
        return self._state.change(new)

    def add_listener(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Registers `callback`, which gets the id of each volume that is added, removed or changed. The thread that
        changed the volume calls it, outside all locks; it must not raise. Returns a function that removes it.
        """
        return self._listeners.add(callback)

    def sync(self) -> None:
        """Puts every volume on disk. Disks out of service come last, because they may hang. A failure is logged."""
        for volume in sorted(self.volumes(), key=lambda volume: not volume.is_in_service):
            try:
                volume.sync()
            except StorageError as error:
                _log.error("volume %d: %s", volume.id, error)

    def close(self) -> None:
        """Closes every volume and unlocks the directories, those of disks out of service last. May be called again."""
        self.ec.close(only_in_service=True)
        if self._set.close():
            for location in sorted(self.locations, key=lambda location: location.is_unavailable):
                if location.is_unavailable:
                    self.ec.close()
                release(location)
        self.ec.close()
