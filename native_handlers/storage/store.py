"""All volumes of one server: several disk locations, looked up by volume id. `volume_set` adds and removes them.

Synchronous and safe from any thread. Needle operations take no lock of the store; what changes the set of volumes is
serialised. Events are delivered outside all locks. Source: weed/storage/store.go.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.format.replica_placement import ReplicaPlacement
from native_handlers.format.super_block import SuperBlock
from native_handlers.format.ttl import parse_ttl
from native_handlers.format.types import CURRENT_VERSION
from native_handlers.format.volume_name import format_volume_name
from native_handlers.storage.disk_location import DiskLocation, LocationConfig
from native_handlers.storage.errors import (
    StorageError,
    VolumeNotFound,
)
from native_handlers.storage.files import OS_FILES
from native_handlers.storage.locations import (
    copies_of,
    count_slots,
    ids_on_disk,
    load_all,
    release,
)
from native_handlers.storage.offset_width import find_offset_width
from native_handlers.storage.outgoing import open_coded_file
from native_handlers.storage.received_files import receive_file
from native_handlers.storage.report import VolumeEventKind
from native_handlers.storage.store_events import Listeners, describe_event
from native_handlers.storage.store_state import ServerState, StateFile
from native_handlers.storage.volume_set import VolumeSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.format.needle import Needle
    from native_handlers.format.plain_needle import PlainNeedle
    from native_handlers.storage.files import Files
    from native_handlers.storage.group_commit import WriteResult
    from native_handlers.storage.incoming import IncomingFile
    from native_handlers.storage.incoming_volume import IncomingVolume
    from native_handlers.storage.needle_read import NeedleRead
    from native_handlers.storage.outgoing import OutgoingFile
    from native_handlers.storage.report import DiskStatus, Finding, VolumeEvent, VolumeReport
    from native_handlers.storage.volume import Volume
    from native_handlers.storage.wanted_file import WantedFile

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """What a store is made from. `offset_width_bytes` None: as the volumes found say, else 4.

    Args:
        opens_volumes: False for a store that divides the directories with another engine, which has all the volumes at
            first; volumes are then opened by `Store.mount_volume` alone.
        lock_owner_pid: see `lock_directory`.
    """

    locations: tuple[LocationConfig, ...]
    offset_width_bytes: int | None = None
    opens_volumes: bool = True
    lock_owner_pid: int | None = None
    file_size_limit_bytes: int = 256 << 20
    ip: str = "localhost"
    port: int = 8080
    grpc_port: int = 18080
    public_url: str = ""
    id: str = ""
    data_center: str = ""
    rack: str = ""


def open_store(config: StoreConfig, *, clock_ns: Callable[[], int] = time.time_ns, files: Files = OS_FILES) -> Store:
    """Locks the directories and opens every volume in them, several at a time.

    Volumes that cannot be opened are left alone and named in `Store.findings`.

    Raises:
        DirectoryLocked, DirectoryUnusable: a directory cannot be served.
        OffsetWidthMismatch: a volume was written with another offset width than the store is to run with.
        BadState: state.pb is unreadable.
        DiskUnreadable, OSError: a directory cannot be listed.
        In every case nothing stays open or locked.
    """
    holder = f"pid {os.getpid()}, {config.ip}:{config.port}"
    locations: list[DiskLocation] = []
    try:
        for disk_id, wanted in enumerate(config.locations):
            locations.append(  # noqa: PERF401  released below
                DiskLocation(wanted, disk_id, holder, files, clock_ns, config.lock_owner_pid)
            )
        width = config.offset_width_bytes or find_offset_width(files, [location.path for location in locations])
        state = StateFile(files, config.locations[0].idx_path)
        if config.opens_volumes:
            _, failures = load_all(locations, width)
            if failures:
                raise failures[0]
        else:
            for location in locations:
                location.set_offset_width(width)
        for location in locations:
            location.begin_session(has_loaded_all=config.opens_volumes)
    except BaseException:
        for location in locations:
            release(location)
        raise
    return Store(config, tuple(locations), width, state, files)


class Store:
    """An open store; make it with `open_store`."""

    def __init__(
        self,
        config: StoreConfig,
        locations: tuple[DiskLocation, ...],
        offset_width_bytes: int,
        state: StateFile,
        files: Files,
    ) -> None:
        self.config = config
        self.locations = locations
        self.offset_width_bytes = offset_width_bytes
        self.volume_size_limit_bytes = 0
        """What the master says a volume should not outgrow; 0 until it does."""
        self.is_preallocating = False
        self.is_stopping = False
        self._files = files
        self._state = state
        self._listeners = Listeners()
        self._set = VolumeSet(locations, offset_width_bytes, files, self._listeners)

    # ---- facts

    @property
    def findings(self) -> list[Finding]:
        """What was out of the ordinary about volumes opened so far, or not opened."""
        return [finding for location in self.locations for finding in location.findings.all()]

    def find_volume(self, vid: int) -> Volume | None:
        for location in self.locations:
            volume = location.volumes.get(vid)
            if volume is not None:
                return volume
        return None

    def volumes(self) -> list[Volume]:
        """Every mounted volume, by id."""
        found = [volume for location in self.locations for volume in list(location.volumes.values())]
        return sorted(found, key=lambda volume: volume.id)

    def volume_reports(self) -> list[VolumeReport]:
        """The facts of every mounted volume, by id; heartbeats leave out those that are not announced."""
        reports = [volume.report(self.volume_size_limit_bytes) for volume in self.volumes()]
        return [report for report in reports if report is not None]

    def disk_statuses(self) -> list[DiskStatus]:
        """The space of every location, asked for now."""
        return [location.status() for location in self.locations]

    def max_volume_counts(self) -> dict[str, int]:
        """Volume slots for each disk type. A full disk counts what it uses, an unavailable one nothing."""
        return count_slots(self.locations)

    def volume_ids_on_disk(self) -> list[int]:
        """Every volume whose data is in one of the directories, open or not; see `locations.ids_on_disk`."""
        return ids_on_disk(self.locations)

    def keep_session_marks(self) -> None:
        """The engine with which this store divides the directories has not ended in good order: what it wrote may not
        be on disk, and the next start is to know if the machine goes down before it is.
        """
        for location in self.locations:
            location.keep_session_mark()

    def lock_descriptors(self) -> list[int]:
        """What a child process is to inherit, so that the directories are locked while either process lives."""
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
        """Sizes the locations that size themselves; returns whether any number changed. Waits for a size limit."""
        limit = self.volume_size_limit_bytes
        if not limit:
            return False
        changed = [
            location.adjust_max_volumes(limit, is_preallocating=self.is_preallocating) for location in self.locations
        ]
        return any(changed)

    # ---- needles

    def write_needle(self, vid: int, needle: Needle, *, check_cookie: bool = True, fsync: bool = False) -> WriteResult:
        """Stores `needle`; see `Volume.write`.

        Raises:
            VolumeNotFound: no such volume here. Other errors are those of `Volume.write`.
        """
        return self._get_volume(vid, self._on_this_server).write(needle, check_cookie=check_cookie, fsync=fsync)

    def read_needle(
        self,
        vid: int,
        needle_id: int,
        *,
        cookie: int | None,
        read_deleted: bool = False,
        data: bool = True,
        cached_only: bool = False,
    ) -> NeedleRead:
        """The needle, to be released by the caller; see `Volume.read`.

        Raises:
            VolumeNotFound: no such volume here. Other errors are those of `Volume.read`.
        """
        volume = self._get_volume(vid)
        return volume.read(needle_id, cookie=cookie, read_deleted=read_deleted, data=data, cached_only=cached_only)

    def read_plain(
        self, vid: int, needle_id: int, cookie: int, place: Callable[[int], memoryview | None] | None = None
    ) -> PlainNeedle | None:
        """See `Volume.read_plain`; None where the volume is not here, too."""
        volume = self.find_volume(vid)
        return None if volume is None else volume.read_plain(needle_id, cookie, place)

    def delete_needle(self, vid: int, needle_id: int, cookie: int, *, checksum: int = 0) -> int:
        """Deletes a needle and returns its size; see `Volume.delete`.

        Raises:
            VolumeNotFound: no such volume here. Other errors are those of `Volume.delete`.
        """
        return self._get_volume(vid, self._on_this_server).delete(needle_id, cookie, checksum=checksum)

    @property
    def _on_this_server(self) -> str:
        return f" on {self.config.ip}:{self.config.port}"

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
        """Makes a volume where the fewest are, among the locations of its disk type that have room.

        Args:
            disk_id: unused, as upstream: the location is chosen here.

        Raises:
            FormatError: bad replication, TTL or collection.
            VolumeExists: there is one of that id.
            NoFreeSpace: no location has room.
            NewVersionUnsupported: there is no such version.
            VolumeLoadFailed: its files cannot be made.
            Of several it is the one that stands first, as upstream has it.
        """
        del disk_id
        placement, volume_ttl = ReplicaPlacement.parse(replication), parse_ttl(ttl)
        block = SuperBlock(version, placement, volume_ttl)
        format_volume_name(collection, vid)
        return self._set.allocate(vid, collection, block, preallocate_bytes, disk_type)

    def mount_volume(self, vid: int) -> None:
        """Opens a volume whose files are here; one that is open is announced again.

        Raises:
            VolumeNotFound: no location has it, or none whose files can be served (see `findings`).
            VolumeNotSeen: no location has it, and not all could be looked at.
            OffsetWidthMismatch: it was written with another offset width.
        """
        self._set.mount(vid)

    def unmount_volume(self, vid: int) -> None:
        """Closes every copy of a volume; none here is a success.

        Raises:
            DeleteFailed: a copy could not be synced. All are closed.
        """
        self._set.unmount(vid)

    def configure_volume(self, vid: int, replication: str) -> None:
        """Changes a volume's replica placement; see `configure.configure_volume`.

        Raises:
            BadReplicaPlacement: nothing was done.
            ConfigureFailed: see there.
        """
        ReplicaPlacement.parse(replication)
        self._set.configure(vid, replication)

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

    def delete_volume(self, vid: int, *, only_empty: bool, keep_remote_data: bool = False) -> None:
        """Deletes every copy of a volume here.

        Args:
            keep_remote_data: unused until volumes in remote storage can be served.

        Raises:
            VolumeNotEmpty: `only_empty`, and a copy is not. Nothing was deleted; where it was written to meanwhile, it
                and the copies after it are kept.
            VolumeNotFound: there is none.
            VolumeClosed: `only_empty`, and a copy is closed. Nothing was deleted.
            DeleteFailed: a copy could not be removed whole.
        """
        del keep_remote_data
        self._set.delete(vid, only_empty=only_empty)

    def delete_collection(self, name: str) -> None:
        """Deletes every volume of a collection; "" is the default collection, and none is a success.

        Raises:
            DeleteFailed: some could not be removed whole; the others are gone.
        """
        self._set.delete_collection(name)

    def remove_expired_volumes(self) -> list[int]:
        """Deletes volumes whose TTL has passed long enough ago; a heartbeat does it first. Returns their ids.

        Waits for no change of the set of volumes: while one is under way, nothing is deleted.
        """
        return self._set.remove_expired(self.volume_size_limit_bytes)

    def mark_readonly(self, vid: int, *, can_delete: bool = False, persist: bool = False) -> None:
        """Makes a volume refuse writes; see `Volume.mark_read_only`.

        Raises:
            VolumeNotFound, VolumeClosed, WriteFailed: nothing changed.
        """
        volume = self._get_volume(vid)
        volume.mark_read_only(can_delete=can_delete, persist=persist)
        self._listeners.emit([describe_event(VolumeEventKind.CHANGED, volume)])

    def mark_writable(self, vid: int) -> None:
        """Makes a volume take writes; see `Volume.mark_writable`.

        Raises:
            VolumeNotFound, VolumeClosed, VolumeLoadFailed, WriteFailed: it takes none.
        """
        volume = self._get_volume(vid)
        findings = self.locations[volume.disk_id].findings
        findings.replace(volume.paths.base, volume.mark_writable())
        self._listeners.emit([describe_event(VolumeEventKind.CHANGED, volume)])

    def _get_volume(self, vid: int, where: str = "") -> Volume:
        volume = self.find_volume(vid)
        if volume is None:
            raise VolumeNotFound(vid, where)
        return volume

    def load_new_volumes(self) -> None:
        """Opens volumes whose files have appeared since. What hinders that is logged; other disks are loaded."""
        self._set.load_new()

    # ---- copies

    def begin_copy(self, vid: int, collection: str, disk_type: str, needed_bytes: int) -> IncomingVolume:
        """The place of a volume that is to be copied here. A copy of it that is mounted here is deleted first, but for
        what it has in remote storage. End it with `mount_copy` or `abandon_copy`.

        Raises:
            VolumeArriving: it is being copied here already; nothing was deleted.
            DeleteFailed: the copy that was here could not be removed whole.
            NoSpaceForCopy: no disk of the type has a free slot and more than `needed_bytes`.
        """
        return self._set.begin_copy(vid, collection, disk_type, needed_bytes)

    def mount_copy(self, incoming: IncomingVolume) -> None:
        """Opens a volume whose files are all here and on disk.

        Raises:
            VolumeNotFound, OffsetWidthMismatch: they cannot be served (see `findings`).
            OSError: its note could not be removed.
            In every case it is to be abandoned.
        """
        self._set.mount_copy(incoming)

    def abandon_copy(self, incoming: IncomingVolume) -> None:
        """Removes what there is of a volume that was not mounted. May be called when the store is closed."""
        self._set.abandon_copy(incoming)

    def receive_file(self, wanted: WantedFile) -> IncomingFile:
        """A file that is sent here, to be written and committed; see the function of that name in `received_files`."""
        return receive_file(self._files, self.locations, self.find_volume(wanted.volume_id), wanted)

    def open_coded_file(self, collection: str, vid: int, extension: str) -> OutgoingFile | None:
        """A file of an erasure-coded volume; see the function of that name in `outgoing`."""
        return open_coded_file(self._files, self.locations, collection, vid, extension)

    # ---- state, events, life

    @property
    def state(self) -> ServerState:
        return self._state.current

    def set_state(self, new: ServerState | None) -> ServerState:
        """Changes the persistent state and returns what it then is; see `StateFile.change` for the errors."""
        return self._state.change(new)

    def add_listener(self, callback: Callable[[VolumeEvent], None]) -> Callable[[], None]:
        """Has `callback` called with each event, by the thread that caused it, outside all locks, in no lock's order.

        Returns what removes it again. A callback must not raise.
        """
        return self._listeners.add(callback)

    def set_stopping(self) -> None:
        """The server is about to stop: puts everything on disk. Reads and writes go on."""
        self.is_stopping = True
        self.sync()

    def sync(self) -> None:
        """Puts every volume on disk. A volume that fails is logged: the others matter too.

        Disks out of service come last, for they may hang.
        """
        for volume in sorted(self.volumes(), key=lambda volume: not volume.is_in_service):
            try:
                volume.sync()
            except StorageError as error:
                _log.error("volume %d: %s", volume.id, error)

    def close(self) -> None:
        """Closes every volume and frees the directories, those of disks out of service last. May be called again."""
        if self._set.close():
            for location in sorted(self.locations, key=lambda location: location.is_unavailable):
                release(location)
