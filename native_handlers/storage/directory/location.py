"""One data directory: its lock, its identity, its space, and its open volumes.

Source: weed/storage/disk_location.go.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.records import dataclass
from native_handlers.storage.directory.data_names import DataNames
from native_handlers.storage.directory.index_users import any_other, is_vacuumed, uses_index_dir
from native_handlers.storage.directory.scan import (
    arrived_records,
    check_directory,
    collections_of,
    count_coded,
    count_shards,
    has_any_shard,
    ids_with_data,
    list_names,
    unknown_place_text,
    volume_candidates,
)
from native_handlers.storage.directory.unfinished import sweep_unfinished
from native_handlers.storage.directory.unfinished_copy import act_on_note
from native_handlers.storage.directory.upkeep import DiskUpkeep
from native_handlers.storage.directory.vacuum_recovery import recover_compaction, recover_compactions
from native_handlers.storage.disk.directory_lock import lock_directory
from native_handlers.storage.disk.health import DiskHealth, ProbeConfig
from native_handlers.storage.disk.open_limit import OpenVolumes
from native_handlers.storage.disk.room import DiskRoom, reserve_places
from native_handlers.storage.disk.session_mark import written_back_after_s
from native_handlers.storage.disk.space import STATFS_TIMEOUT_S, DiskUsage, MinFree
from native_handlers.storage.model.errors import (
    DirectoryUnusable,
    DiskUnavailable,
    VolumeLoadFailed,
    WriteFailed,
)
from native_handlers.storage.model.file_kinds import DATA_SHARDS, EC_INDEX_DESCRIPTORS
from native_handlers.storage.model.report import Finding, FindingKind, Findings
from native_handlers.storage.system.bounded_call import BoundedCall
from native_handlers.storage.system.crew import Crew, blocks_read
from native_handlers.storage.volume.damage import DamageReports
from native_handlers.storage.volume.dat_head import is_stub_of_shards
from native_handlers.storage.volume.dat_presence import DatPresence
from native_handlers.storage.volume.info_file import has_shards, load_volume_info, may_name_object
from native_handlers.storage.volume.paths import VolumePaths
from native_handlers.storage.volume.soundness import fullest_first, not_opened
from native_handlers.storage.volume.state import NOTHING_SEEN, OpenRequest, SeenFiles
from native_handlers.storage.volume.volume import open_existing
from native_handlers.storage.volume.write_state import DiskNow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Iterable, Sequence
    from pathlib import Path

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.storage.model.report import DiskStatus, VolumeReport
    from native_handlers.storage.remote.tier_files import TieredFiles
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.handle import Destroyed
    from native_handlers.storage.volume.volume import Volume

MAX_SLOTS = (1 << 31) - 1
"""Upstream's counts of slots have 32 bits. A master may say a size limit of one byte."""
BESIDE_SHARDS = "its erasure coding shards lie beside it"
"""Why a start, or a search for new files, opens a volume read-only."""


@dataclass(frozen=True, slots=True)
class LocationConfig:
    """One -dir. `max_volumes` 0 means: as many as the space allows. `disk_type` is the wire form, "" for hdd."""

    path: Path
    idx_path: Path
    max_volumes: int
    disk_type: str = ""
    tags: tuple[str, ...] = ()
    min_free_percent: float | None = None
    min_free_bytes: int | None = None
    probe: ProbeConfig = field(default_factory=ProbeConfig)


class DiskLocation:
    """An open data directory. Looking volumes up takes no lock; the store serialises changes of their set."""

    def __init__(  # noqa: PLR0913, PLR0917  made by open_store alone
        self,
        config: LocationConfig,
        disk_id: int,
        holder: str,
        files: Files,
        clock_ns: Callable[[], int],
        lock_owner_pid: int | None = None,
        tiers: TieredFiles | None = None,
    ) -> None:
        """Locks the directory. Loads no volume. `lock_owner_pid`: see `lock_directory`.

        Raises:
            DirectoryLocked: another server has the directory.
            DirectoryUnusable: the directory, or the index directory, is missing or cannot be written.
        """
        self.config = config
        self.disk_id = disk_id
        self.max_volumes = config.max_volumes
        self.volumes: dict[int, Volume] = {}
        self.findings = Findings()
        self.damage = DamageReports(self.findings)
        self.arriving: set[int] = set()  # ids of volumes that are being copied here: their files are not to be touched
        self.replaced: set[int] = set()  # ids of closed volumes whose files another operation replaces, on any disk
        self.ec_shard_count = 0
        self.ec_descriptors = 0  # of open shards and their indexes; while volumes are loaded, of all that were found
        self.open_volumes = OpenVolumes()
        self.others: tuple[DiskLocation, ...] = ()  # of this server: all may have one index directory
        self.data_names = DataNames(files, config.path)
        self._files, self._clock_ns, self._tiers = files, clock_ns, tiers
        self._offset_width_bytes = 0
        self._written_back_after_s = written_back_after_s(files)
        self._is_all_synced = True
        for directory in dict.fromkeys((config.path, config.idx_path)):
            check_directory(files, directory)
        self.usage = DiskUsage(files, config.path, MinFree(config.min_free_percent, config.min_free_bytes))
        self.room = DiskRoom(files, reserve_places(files, config.path, config.idx_path), self.usage)
        try:
            self._lock = lock_directory(self.room.files, config.path, holder, owner_pid=lock_owner_pid)
        except OSError as error:
            raise DirectoryUnusable(config.path, str(error)) from error
        try:
            self._upkeep = DiskUpkeep(self.room, config.path, is_borrowed=self._lock.is_borrowed)
        except OSError as error:
            self._lock.release()
            raise DirectoryUnusable(config.path, str(error)) from error
        self.uuid = self._upkeep.uuid
        bounded = BoundedCall(f"looking at files in {config.path}", STATFS_TIMEOUT_S)
        self._presence = DatPresence(files, config.path, bounded, clock_ns)
        self.health = DiskHealth(files, config.path, self.usage, config.probe)
        self.health.look()
        self._upkeep.attend(self.health, self.volumes, self.findings)

    def join(self, locations: Sequence[DiskLocation], open_volumes: OpenVolumes) -> None:
        """Makes this directory one of those of a server, which have their limits in common."""
        self.open_volumes = open_volumes
        self.room.share_disks([one.room for one in locations])
        self.others = tuple(one for one in locations if one is not self)

    def attend_deletions(self, write_late: Callable[[], bool]) -> None:
        """Makes each look at the disk in service call `write_late`; see `DiskUpkeep.write_late_deletions`."""
        self._upkeep.write_late_deletions = write_late

    @property
    def tiers(self) -> TieredFiles | None:
        """The opener of volume data in remote tiers; None where such data cannot be served."""
        return self._tiers

    @property
    def path(self) -> Path:
        return self.config.path

    @property
    def idx_path(self) -> Path:
        return self.config.idx_path

    @property
    def disk_type(self) -> str:
        return self.config.disk_type

    @property
    def tags(self) -> tuple[str, ...]:
        return self.config.tags

    @property
    def damaged_count(self) -> int:
        """The number of volumes in which a read found damage."""
        found = (self.volumes.get(volume_id) for volume_id in self.damage.volume_ids)
        return sum(volume is not None and volume.is_damaged for volume in found)

    @property
    def is_space_low(self) -> bool:
        # As `DiskUpkeep.is_short`, in line because each write asks for it.
        return self.usage.is_low or self.room.is_short or self._upkeep.begin_at_s is not None

    @property
    def is_unavailable(self) -> bool:
        """Whether the disk is out of service. Its volumes are then not announced, and refuse reads and writes."""
        return bool(self.health.problem)

    def check_in_service(self) -> None:
        """Raises DiskUnavailable while the disk is out of service."""
        problem = self.health.problem
        if problem:
            raise DiskUnavailable(self.path, problem)

    def _look_for_files(self) -> None:
        """Checks now and then whether each .dat still exists; for reports. Takes half a second at most: see
        `DatPresence`.

        A disk that is out of service is not asked: its volumes are not announced anyway.
        """
        if not self.is_unavailable:
            self._presence.look(list(self.volumes.values()))

    @property
    def lost(self) -> Container[object]:
        """The volumes whose .dat did not exist at the last check."""
        return self._presence.missing

    def volume_reports(self, size_limit_bytes: int) -> list[VolumeReport]:
        """The facts of every open volume, in any order. A disk that hangs costs half a second."""
        self._look_for_files()
        if not self.is_unavailable:
            self._presence.follow(list(self.volumes.values()))
        return self.reports_of(list(self.volumes), size_limit_bytes)

    def reports_of(self, volume_ids: Iterable[int], size_limit_bytes: int) -> list[VolumeReport]:
        """The facts of those of the volumes that are open here. The disk is not asked."""
        now = DiskNow.of(self)
        volumes = (self.volumes.get(volume_id) for volume_id in volume_ids)
        reports = (volume.report(size_limit_bytes, now) for volume in volumes if volume is not None)
        return [report for report in reports if report is not None]

    @property
    def local_volume_count(self) -> int:
        """The number of volumes whose data is here: all open volumes."""
        return len(self.volumes)

    @property
    def ec_slots(self) -> int:
        """The volume slots that erasure coding shards take, rounded up."""
        return -(-self.ec_shard_count // DATA_SHARDS)

    @property
    def effective_max_volumes(self) -> int:
        """The number of slots for the master. A full disk has no more slots than it uses; a disk out of service has
        none.
        """
        if self.is_unavailable:
            return 0
        if self.is_space_low:
            return self.local_volume_count + self.ec_slots
        return max(self.max_volumes, 0)

    @property
    def has_free_slot(self) -> bool:
        """Whether a new volume may be put here. `max_volumes` 0 means that there is no limit yet.

        False also for a disk that did not answer the last call, even before it is taken out of service.
        """
        if self.is_space_low or self.is_unavailable or not self.usage.is_answering:
            return False
        return self.max_volumes == 0 or len(self.volumes) < self.max_volumes

    @property
    def available_bytes(self) -> int:
        """The free space above the reserve in bytes, measured now."""
        return self.status().available

    def status(self) -> DiskStatus:
        return self.usage.status(self.disk_type, self.health.problem)

    def adjust_max_volumes(self, size_limit_bytes: int, *, is_preallocating: bool) -> bool:
        """Computes the slots of a location that was configured with 0 slots from its free space. Returns whether the
        number changed.

        Free space that existing volumes will still grow into does not count, unless it is reserved already.
        """
        if self.config.max_volumes != 0 or not self.usage.is_answering:
            return False
        self.usage.ask()
        volumes = list(self.volumes.values())
        free = fitting_slots(self.usage.free_bytes, volumes, size_limit_bytes, is_preallocating=is_preallocating)
        slots = len(volumes) + self.ec_slots + free
        old, self.max_volumes = self.max_volumes, min(max(slots, 1), MAX_SLOTS)
        return self.max_volumes != old

    @property
    def lock_descriptor(self) -> int | None:
        """See `DirectoryLock.descriptor`."""
        return self._lock.descriptor

    @property
    def owns_directory(self) -> bool:
        """False for the child of a process that holds the lock. Only the owner removes unfinished files."""
        return not self._lock.is_borrowed

    # ---- loading

    def set_offset_width(self, offset_width_bytes: int) -> None:
        """Sets the width that all volumes must have, for a directory whose volumes are opened one by one."""
        self._offset_width_bytes = offset_width_bytes

    def load(self, offset_width_bytes: int) -> None:
        """Opens every volume in the directory that is not open yet, several at a time. An error does not stop the other
        volumes.

        A volume that cannot be opened leaves a finding and affects no other volume, not even another collection's of
        its id.

        Raises:
            OffsetWidthMismatch: a volume was written with another offset width.
            DiskUnavailable: the disk is out of service, cannot be read, or has a vacuum neither finished nor undone.
        """
        self.check_in_service()
        self._offset_width_bytes = offset_width_bytes
        busy = self.volumes.keys() | self.arriving | self.replaced
        names = list_names(self._files, self.path)
        recovered = recover_compactions(
            self._files, self.path, self.idx_path, busy, offset_width_bytes, names, self._is_other_vacuum
        )
        if recovered:
            names = list_names(self._files, self.path)
        self.ec_shard_count = count_shards(names)
        self.ec_descriptors = self.ec_shard_count + count_coded(names) * EC_INDEX_DESCRIPTORS
        known = self.volumes.keys() | self.arriving | self.replaced
        open_names = {volume.paths.name for volume in self.volumes.values()}
        found = volume_candidates(names, besides=open_names)
        missing = {vid: collections for vid, collections in found.items() if vid not in known}
        for vid, collections in missing.items():
            self._forget_findings(vid, collections)
        self.findings.add(recovered)
        present = self._present(names)
        Crew(sorted(missing.items()), lambda found: self._load_first(*found, present), self._waits).run()

    def _waits(self) -> int:
        """Grows when an opening waits for the disk, or asks a tier for the head of its volume."""
        return blocks_read() + (self._tiers.heads_asked if self._tiers is not None else 0)

    def names_of(self, volume_id: int) -> list[str]:
        """The names in the data directory that may be of the volume's files, and of some others. Raises as `load_one`.

        Only a listing finds them: no request that opens a volume names the collection, and volumes of several
        collections may have the same id.
        """
        ending = f"{volume_id}."
        return [name for name in self._names() if ending in name]

    def load_one(self, volume_id: int, names: list[str] | None = None) -> Volume | None:
        """Opens one volume. An open one is returned as it is. None when there is no volume, or none that opens.

        Shards beside the volume do not make it read-only, as they do at a start: a decoded volume is mounted before its
        shards are deleted. Source: weed/ec/ec_decode.go. One that is open beside shards is opened anew for that, unless
        another operation works with its files.

        Args:
            names: the result of `names_of`, if the caller has just called it.

        Raises DiskUnavailable: the disk is out of service and is not asked, so the answer is unknown.
        """
        volume = self.volumes.get(volume_id)
        if volume_id in self.arriving or volume_id in self.replaced:
            return volume
        state = volume.handle.opened if volume is not None else None
        is_beside_shards = state is not None and state.damage == BESIDE_SHARDS
        if volume is not None and is_beside_shards and volume.claim.reason is None:
            # A search for new files has opened a volume that was just decoded. The caller names it in order to write.
            self.unload(volume)
        elif volume is not None:
            return volume
        if names is None:
            names = self.names_of(volume_id)
        collections = collections_of(names, volume_id)
        self._forget_findings(volume_id, collections)
        return self._load_first(volume_id, collections, self._present(names), is_named=True)

    def _forget_findings(self, volume_id: int, collections: list[str]) -> None:
        if not self.findings:
            return
        for collection in collections:
            self.findings.forget(VolumePaths(self.path, self.idx_path, collection, volume_id).base)

    def locate(self, volume_id: int) -> VolumePaths | None:
        """The paths of a volume's files, found by name; None when there are none. Raises as `load_one`."""
        collections = collections_of(self._names(), volume_id)
        return VolumePaths(self.path, self.idx_path, collections[0], volume_id) if collections else None

    def volume_ids_on_disk(self) -> list[int]:
        """The ids of the volumes whose data is in the directory, open or not. Raises as `load_one`."""
        return [volume_id for volume_id in ids_with_data(self._names()) if volume_id not in self.arriving]

    def arrived_records(self) -> list[tuple[int, Path]]:
        """The ids of volumes of which a copy has arrived, each with the path of the record. Raises as `load_one`."""
        return [(volume_id, self.path / name) for volume_id, name in arrived_records(self._names())]

    def _names(self) -> list[str]:
        self.check_in_service()
        return list_names(self._files, self.path)

    def load_arrived(self, volume_id: int, collection: str) -> Volume | None:
        """Opens a volume that has been copied here; None when it cannot be served."""
        return self._load_first(volume_id, [collection], self._present(self._names()))

    def _present(self, names: list[str]) -> frozenset[str]:
        """The names in both directories. They are listed once: most volumes lack most files, and each check would be a
        call.
        """
        other = list_names(self._files, self.idx_path) if self.idx_path != self.path else []
        return frozenset((*names, *other))

    def _load_first(
        self, volume_id: int, collections: list[str], present: frozenset[str], *, is_named: bool = False
    ) -> Volume | None:
        """`is_named` says that the caller asked for this volume by its id."""
        candidates = [VolumePaths(self.path, self.idx_path, collection, volume_id) for collection in collections]
        for paths in fullest_first(self._files, candidates):
            try:
                volume = self._load_existing(paths, present, is_named=is_named)
            except (OSError, VolumeLoadFailed) as error:
                self.findings.add([Finding(FindingKind.NOT_LOADED, paths.base, str(error))])
                continue
            if volume is not None:
                self.volumes[volume_id] = volume
                self.findings.add(not_opened(self._files, paths, candidates))
                return volume
        return None

    def _load_existing(self, paths: VolumePaths, present: frozenset[str], *, is_named: bool) -> Volume | None:
        """The volume at `paths`. None for files that are no volume: files of erasure coding, strays."""
        name = paths.name
        if f"{name}.cpc" in present:
            # A start recovers all vacuums first, so this one is of a volume that was closed since.
            recovered = recover_compaction(self._files, paths, self._offset_width_bytes, self._is_other_vacuum)
            self.findings.add(recovered)
        dat = self._files.facts(paths.text(".dat"))
        shards_lie_here = f"{name}.ecx" in present
        if f"{name}.note" in present:
            is_shared = self._is_index_shared(paths, if_unknown=True)
            is_volume, finding = act_on_note(self._files, paths, self._offset_width_bytes, keep_index_dir=is_shared)
            self.findings.add([finding])
            if not is_volume:
                return None
        seen = SeenFiles(dat)
        if dat is None or dat.size_bytes <= SUPER_BLOCK_BYTES:
            seen = SeenFiles(dat, load_volume_info(self._files, paths.text(".vif")))
        if dat is None:
            if seen.info is None or shards_lie_here:
                return None
            if may_name_object(self._files, paths, seen.info):
                self.findings.add([Finding(FindingKind.NOT_LOADED, paths.base, unknown_place_text(seen.info))])
                return None
            if not seen.info.info.files:
                return None
            self._check_limit(paths)
            return self._open(paths, seen)
        if seen.info is not None and is_stub_of_shards(self._files, paths, seen.info.info):
            why = "it holds nothing, and its .vif says that it is erasure-coded"
            self.findings.add([Finding(FindingKind.NOT_LOADED, paths.base, why)])
            return None
        self._check_limit(paths)
        # An index of shards without any shard has no data, so it must not make a sound volume read-only.
        is_coded_too = shards_lie_here and not is_named and has_any_shard(name, present)
        forced = BESIDE_SHARDS if is_coded_too else None
        if forced is not None:
            self.findings.add([Finding(FindingKind.MADE_READ_ONLY, paths.base, forced)])
        return self._open(paths, seen, forced_reason=forced)

    def _check_limit(self, paths: VolumePaths) -> None:
        # Making the path takes longer than counting, and there are many volumes.
        if self.open_volumes.is_full:
            self.open_volumes.check(paths.base)

    def _open(
        self,
        paths: VolumePaths,
        seen: SeenFiles = NOTHING_SEEN,
        *,
        create: SuperBlock | None = None,
        preallocate_bytes: int = 0,
        forced_reason: str | None = None,
    ) -> Volume:
        request = OpenRequest(
            self._files,
            paths,
            self._offset_width_bytes,
            self._clock_ns() // 10**9,
            create=create,
            preallocate_bytes=preallocate_bytes,
            forced_reason=forced_reason,
            cut_since_s=self._upkeep.session.cut_since_s,
            unsynced_since_s=self._upkeep.session.unsynced_since_s,
            written_back_after_s=self._written_back_after_s,
            room=self.room,
            damage=self.damage,
            tiers=self._tiers,
        )
        findings: list[Finding] = []
        try:
            return open_existing(request, self, self._clock_ns, findings, seen)
        finally:
            self.findings.add(findings)

    def create(self, volume_id: int, collection: str, super_block: SuperBlock, preallocate_bytes: int) -> Volume:
        """Makes a new, empty volume. Where files of an earlier volume of the same name exist, they are opened instead.

        Raises:
            VolumeLoadFailed: the volume cannot be made.
        """
        paths = VolumePaths(self.path, self.idx_path, collection, volume_id)
        with self.data_names.adding(volume_id):
            volume = self._open(paths, create=super_block, preallocate_bytes=preallocate_bytes)
        self.volumes[volume_id] = volume
        return volume

    # ---- removing

    def unload(self, volume: Volume) -> None:
        """Closes a volume and removes it from the set. Raises WriteFailed when its last sync failed; the volume is
        removed from the set anyway.
        """
        self.volumes.pop(volume.id, None)
        try:
            volume.close()
        except WriteFailed:
            self._is_all_synced = False
            raise

    def destroy(
        self, volume: Volume, may_go: Callable[[], bool] | None = None, *, keep_remote: bool = False
    ) -> Destroyed | None:
        """Deletes a volume's files and forgets it; see `Volume.destroy`. Raises DiskUnavailable as well.

        `sync_names` puts on disk that they are gone.
        """

        def forget() -> None:
            self.volumes.pop(volume.id, None)
            self.findings.forget(volume.paths.base)

        self.check_in_service()
        return volume.destroy(
            keep_vif=has_shards(self._files, volume.paths),
            keep_index_dir=self._is_index_shared(volume.paths, if_unknown=False),
            may_go=may_go,
            forget=forget,
            keep_remote=keep_remote,
        )

    def _is_index_shared(self, paths: VolumePaths, *, if_unknown: bool) -> bool:
        """Whether a volume of that name on another disk has its .idx in the same directory. `if_unknown`: the answer
        where a disk is out of service, or fails.
        """
        return any_other(self._files, self.others, paths, uses_index_dir, if_unknown=if_unknown)

    def _is_other_vacuum(self, paths: VolumePaths) -> bool:
        """Whether files of a vacuum in the index directory may be those of another disk's volume of that name."""
        return any_other(self._files, self.others, paths, is_vacuumed, if_unknown=True)

    def sync_names(self) -> None:
        """Which files are there is on disk afterwards. Raises OSError."""
        for directory in dict.fromkeys((self.path, self.idx_path)):
            self._files.sync_directory(directory)

    def begin_session(self, *, has_loaded_all: bool = True) -> None:
        """Marks the session. Call it when all found volumes are loaded, before the first write; or with
        `has_loaded_all` false where they will be loaded one by one.

        Raises:
            DirectoryUnusable: the directory cannot be written to.
        """
        try:
            if self.owns_directory:
                for directory in dict.fromkeys((self.path, self.idx_path)):
                    sweep_unfinished(self._files, directory)
            self._upkeep.begin_session(self._clock_ns() // 10**9, has_examined_all=has_loaded_all)
        except OSError as error:
            raise DirectoryUnusable(self.path, str(error)) from error

    def keep_session_mark(self) -> None:
        """Keeps the session mark at the end: another process that wrote to the directory may have left it unsynced."""
        self._is_all_synced = False

    def release(self) -> None:
        """Unlocks the directory for other servers. The volumes must be closed."""
        self._upkeep.end(is_all_synced=self._is_all_synced)
        self._lock.release()


# ---- The number of further volumes for which a disk has room. Source: weed/storage/store.go:MaybeAdjustVolumeMax.


def fitting_slots(
    free_bytes: int, volumes: Collection[Volume], size_limit_bytes: int, *, is_preallocating: bool
) -> int:
    """The number of volumes of the size limit that fit the free space. Space that `volumes` will still grow into is not
    free, unless it is reserved already (`is_preallocating`).
    """
    if not is_preallocating:
        free_bytes -= sum(volume.room_left_bytes(size_limit_bytes) for volume in volumes)
    return max(free_bytes, 0) // size_limit_bytes
