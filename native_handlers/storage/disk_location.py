"""One data directory: its lock, its identity, its space, and the volumes in it.

Source: weed/storage/disk_location.go.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.storage.compact_recovery import recover_compactions
from native_handlers.storage.directory_id import load_directory_uuid
from native_handlers.storage.directory_lock import lock_directory
from native_handlers.storage.directory_scan import (
    check_directory,
    count_shards,
    ids_with_data,
    list_names,
    volume_candidates,
)
from native_handlers.storage.disk_probe import ProbeConfig
from native_handlers.storage.disk_space import STATFS_TIMEOUT_S, DiskGauge, MinFree
from native_handlers.storage.disk_watch import DiskWatch
from native_handlers.storage.errors import (
    DirectoryUnusable,
    DiskUnavailable,
    RemoteTierUnsupported,
    VolumeLoadFailed,
    WriteFailed,
)
from native_handlers.storage.findings import Findings
from native_handlers.storage.incoming import remove_unfinished_copy, sweep_unfinished
from native_handlers.storage.patience import Patience
from native_handlers.storage.report import Finding, FindingKind
from native_handlers.storage.session_mark import SessionMark
from native_handlers.storage.volume import open_existing
from native_handlers.storage.volume_info_file import is_coded, load_volume_info
from native_handlers.storage.volume_open import OpenRequest
from native_handlers.storage.volume_paths import VolumePaths

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.storage.files import FileFacts, Files
    from native_handlers.storage.report import DiskStatus
    from native_handlers.storage.volume import Volume

_log = logging.getLogger(__name__)
DATA_SHARDS = 10
"""Erasure coding shards that take the room of one volume."""


@dataclass(frozen=True, slots=True)
class LocationConfig:
    """One -dir. `max_volumes` 0 sizes itself. `disk_type` is the wire form, "" for hdd."""

    path: Path
    idx_path: Path
    max_volumes: int
    disk_type: str = ""
    tags: tuple[str, ...] = ()
    min_free_percent: float | None = None
    min_free_bytes: int | None = None
    probe: ProbeConfig = field(default_factory=ProbeConfig)


class DiskLocation:
    """An open data directory. Volumes are looked up without a lock; the store serialises what changes their set."""

    def __init__(  # noqa: PLR0913, PLR0917  made by open_store alone
        self,
        config: LocationConfig,
        disk_id: int,
        holder: str,
        files: Files,
        clock_ns: Callable[[], int],
        lock_owner_pid: int | None = None,
    ) -> None:
        """Locks the directory. No volume is loaded yet. `lock_owner_pid`: see `lock_directory`.

        Raises:
            DirectoryLocked: another server has it.
            DirectoryUnusable: it, or the index directory, is missing or cannot be written.
        """
        self.config = config
        self.disk_id = disk_id
        self.max_volumes = config.max_volumes
        self.volumes: dict[int, Volume] = {}
        self.findings = Findings()
        self.arriving: set[int] = set()
        """Ids of volumes that are being copied here: their files are not to be touched."""
        self.ec_shard_count = 0
        self._files, self._clock_ns = files, clock_ns
        self._offset_width_bytes = 0
        self._is_all_synced = True
        for directory in dict.fromkeys((config.path, config.idx_path)):
            check_directory(files, directory)
        try:
            self._lock = lock_directory(files, config.path, holder, owner_pid=lock_owner_pid)
        except OSError as error:
            raise DirectoryUnusable(config.path, str(error)) from error
        try:
            self._session = SessionMark(files, config.path, is_borrowed=self._lock.is_borrowed)
            self.uuid = load_directory_uuid(files, config.path)
        except OSError as error:
            self._lock.release()
            raise DirectoryUnusable(config.path, str(error)) from error
        min_free = MinFree(config.min_free_percent, config.min_free_bytes)
        self._gauge = DiskGauge(files, config.path, min_free)
        self._patience = Patience(f"looking at files in {config.path}", STATFS_TIMEOUT_S)
        self.watch = DiskWatch(files, config.path, self._gauge, config.probe)
        self.watch.look()

    # ---- facts

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
    def is_space_low(self) -> bool:
        return self._gauge.is_low

    @property
    def is_unavailable(self) -> bool:
        """Whether the disk is out of service: its volumes are not announced, and refuse reads and writes."""
        return bool(self.watch.problem)

    def check_in_service(self) -> None:
        """Raises DiskUnavailable while the disk is out of service."""
        problem = self.watch.problem
        if problem:
            raise DiskUnavailable(self.path, problem)

    def facts_in_time(self, path: Path) -> FileFacts | None:
        """`Files.facts` with a time limit, for reports, which a hung disk must not hang.

        Raises:
            NoAnswer: the disk did not answer in time, or still owes the answer to an earlier question.
        """
        return self._patience.ask(lambda: self._files.facts(path))

    @property
    def local_volume_count(self) -> int:
        """Volumes whose data is here, not in remote storage."""
        return sum(not volume.has_remote_file for volume in list(self.volumes.values()))

    @property
    def ec_slots(self) -> int:
        """Volume slots that erasure coding shards take, rounded up."""
        return -(-self.ec_shard_count // DATA_SHARDS)

    @property
    def effective_max_volumes(self) -> int:
        """What the master is told: a full disk has no more slots than it uses, one out of service has none."""
        if self.is_unavailable:
            return 0
        if self.is_space_low:
            return self.local_volume_count + self.ec_slots
        return max(self.max_volumes, 0)

    @property
    def has_free_slot(self) -> bool:
        """Whether a new volume may be put here. 0 slots mean that there is no limit yet.

        Not on a disk that did not answer when it was last asked, also before it is taken out of service.
        """
        if self.is_space_low or self.is_unavailable or not self._gauge.is_answering:
            return False
        return self.max_volumes == 0 or len(self.volumes) < self.max_volumes

    @property
    def available_bytes(self) -> int:
        """Free space above the reserve, asked for now."""
        return self.status().available

    def status(self) -> DiskStatus:
        return self._gauge.status(self.disk_type, self.watch.problem)

    def adjust_max_volumes(self, size_limit_bytes: int, *, is_preallocating: bool) -> bool:
        """Sizes a location configured with 0 slots by its free space; returns whether the number changed.

        Free space that existing volumes will still grow into is not counted, unless it is reserved already.
        """
        if self.config.max_volumes != 0 or not self._gauge.is_answering:
            return False
        unclaimed = self.status().free
        volumes = list(self.volumes.values())
        if not is_preallocating:
            growing = [volume for volume in volumes if not volume.is_read_only]
            unclaimed -= sum(max(size_limit_bytes - v.size_bytes - v.index_size_bytes, 0) for v in growing)
        slots = len(volumes) + self.ec_slots + max(unclaimed, 0) // size_limit_bytes
        old, self.max_volumes = self.max_volumes, max(slots, 1)
        return self.max_volumes != old

    @property
    def lock_descriptor(self) -> int | None:
        """See `DirectoryLock.descriptor`."""
        return self._lock.descriptor

    # ---- loading

    def set_offset_width(self, offset_width_bytes: int) -> None:
        """For a directory whose volumes are opened one by one: the width that all of them must have."""
        self._offset_width_bytes = offset_width_bytes

    def load(self, offset_width_bytes: int, executor: Executor) -> None:
        """Opens every volume in the directory that is not open yet; where it raises, `executor` still opens the rest.

        A volume that cannot be opened leaves a finding and hinders no other, another collection's of its id included.

        Raises:
            OffsetWidthMismatch: a volume was written with another offset width.
            DiskUnavailable: it is out of service, cannot be read, or has a vacuum neither finished nor undone.
        """
        self.check_in_service()
        self._offset_width_bytes = offset_width_bytes
        recovered = recover_compactions(self._files, self.path, self.idx_path, set(self.volumes))
        names = list_names(self._files, self.path)
        self.ec_shard_count = count_shards(names)
        known = self.volumes.keys() | self.arriving
        missing = {vid: found for vid, found in volume_candidates(names).items() if vid not in known}
        for vid, collections in missing.items():
            self._forget_findings(vid, collections)
        self.findings.add(recovered)
        jobs = [executor.submit(self._load_first, vid, collections) for vid, collections in sorted(missing.items())]
        for job in jobs:
            job.result()

    def load_one(self, volume_id: int) -> Volume | None:
        """Opens one volume; one that is open already is returned. None when there is none, or none that opens.
        Raises DiskUnavailable where that cannot be found out: a disk that is out of service is not asked.
        """
        volume = self.volumes.get(volume_id)
        if volume is not None:
            return volume
        if volume_id in self.arriving:
            return None
        collections = volume_candidates(self._names()).get(volume_id, [])
        self._forget_findings(volume_id, collections)
        return self._load_first(volume_id, collections)

    def _forget_findings(self, volume_id: int, collections: list[str]) -> None:
        for collection in collections:
            self.findings.forget(VolumePaths(self.path, self.idx_path, collection, volume_id).base)

    def locate(self, volume_id: int) -> VolumePaths | None:
        """Where a volume's files are, by their names; None when there are none. Raises as `load_one`."""
        collections = volume_candidates(self._names()).get(volume_id)
        return VolumePaths(self.path, self.idx_path, collections[0], volume_id) if collections else None

    def volume_ids_on_disk(self) -> list[int]:
        """The volumes whose data is in the directory, open or not. Raises as `load_one`."""
        return [volume_id for volume_id in ids_with_data(self._names()) if volume_id not in self.arriving]

    def _names(self) -> list[str]:
        self.check_in_service()
        return list_names(self._files, self.path)

    def load_arrived(self, volume_id: int, collection: str) -> Volume | None:
        """Opens a volume that has been copied here; None when it cannot be served."""
        return self._load_first(volume_id, [collection])

    def _load_first(self, volume_id: int, collections: list[str]) -> Volume | None:
        for collection in collections:
            paths = VolumePaths(self.path, self.idx_path, collection, volume_id)
            try:
                volume = self._load_existing(paths)
            except (OSError, VolumeLoadFailed) as error:
                self.findings.add([Finding(FindingKind.NOT_LOADED, paths.base, str(error))])
                continue
            if volume is not None:
                self.volumes[volume_id] = volume
                return volume
        return None

    def _load_existing(self, paths: VolumePaths) -> Volume | None:
        """The volume at `paths`, or None for what is not a volume of ours: erasure coding sidecars, strays."""
        dat = self._files.facts(paths.file(".dat"))
        has_shards = self._exists(paths.sidecars(".ecx"))
        if self._files.facts(paths.file(".note")) is not None:
            remove_unfinished_copy(self._files, paths, keep_vif=has_shards)
            self.findings.add([Finding(FindingKind.COPY_REMOVED, paths.base, "its .note was still there")])
            return None
        if dat is None:
            info = load_volume_info(self._files, paths.file(".vif")).info
            if info.files and not has_shards:
                storage = info.files[0]
                raise RemoteTierUnsupported(paths.base, storage.backend_name, storage.key)
            return None
        if dat.size_bytes <= SUPER_BLOCK_BYTES and is_coded(self._files, paths):
            return None
        forced = "its erasure coding shards lie beside it" if has_shards else None
        return self._open(paths, forced_reason=forced)

    def _open(
        self,
        paths: VolumePaths,
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
            cut_since_s=self._session.cut_since_s,
        )
        findings: list[Finding] = []
        try:
            return open_existing(request, self, self._clock_ns, findings)
        finally:
            self.findings.add(findings)

    def create(self, volume_id: int, collection: str, super_block: SuperBlock, preallocate_bytes: int) -> Volume:
        """A new, empty volume; files that an earlier volume of the same name left are opened instead.

        Raises:
            VolumeLoadFailed: it cannot be made.
        """
        paths = VolumePaths(self.path, self.idx_path, collection, volume_id)
        volume = self._open(paths, create=super_block, preallocate_bytes=preallocate_bytes)
        self.volumes[volume_id] = volume
        return volume

    def _exists(self, paths: list[Path]) -> bool:
        return any(self._files.facts(path) is not None for path in paths)

    # ---- removing

    def unload(self, volume: Volume) -> None:
        """Closes a volume and forgets it. Raises WriteFailed when its last sync failed; it is forgotten anyway."""
        self.volumes.pop(volume.id, None)
        try:
            volume.close()
        except WriteFailed:
            self._is_all_synced = False
            raise

    def destroy(self, volume: Volume, may_go: Callable[[], bool] | None = None) -> bool:
        """Deletes a volume's files and forgets it; see `Volume.destroy`. Raises DiskUnavailable as well."""

        def forget() -> None:
            self.volumes.pop(volume.id, None)
            self.findings.forget(volume.paths.base)

        self.check_in_service()
        keep_vif = self._exists(volume.paths.sidecars(".ecx"))
        return volume.destroy(keep_vif=keep_vif, may_go=may_go, forget=forget)

    def begin_session(self, *, has_loaded_all: bool = True) -> None:
        """To be called when the volumes found are loaded, and before anything is written to them; or where they will be
        loaded one by one (not `has_loaded_all`).

        Raises:
            DirectoryUnusable: the directory cannot be written to.
        """
        try:
            for directory in dict.fromkeys((self.path, self.idx_path)):
                sweep_unfinished(self._files, directory)
            self._session.begin(self._clock_ns() // 10**9, has_examined_all=has_loaded_all)
        except OSError as error:
            raise DirectoryUnusable(self.path, str(error)) from error

    def keep_session_mark(self) -> None:
        """Another process that wrote to the directory may have left it unsynced."""
        self._is_all_synced = False

    def release(self) -> None:
        """Frees the directory for others. The volumes must be closed."""
        try:
            if self._is_all_synced:
                self._session.end()
            else:
                self._session.note_unsynced()
        except OSError as error:
            _log.warning("%s: %s; the next start will examine its volumes", self.path, error)
        self._lock.release()
