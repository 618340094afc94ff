"""One data directory: its lock, its identity, its space, and the volumes in it.

Source: weed/storage/disk_location.go.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from native_handlers.format.errors import BadVolumeName
from native_handlers.format.super_block import SUPER_BLOCK_BYTES
from native_handlers.format.volume_name import parse_volume_name
from native_handlers.storage.compact_recovery import recover_compactions
from native_handlers.storage.directory_id import load_directory_uuid
from native_handlers.storage.directory_lock import lock_directory
from native_handlers.storage.disk_space import DiskGauge, MinFree
from native_handlers.storage.errors import DirectoryUnusable, RemoteTierUnsupported, VolumeLoadFailed, WriteFailed
from native_handlers.storage.incoming import sweep_unfinished
from native_handlers.storage.report import Finding, FindingKind
from native_handlers.storage.session_mark import SessionMark
from native_handlers.storage.volume import open_existing
from native_handlers.storage.volume_info_file import load_volume_info
from native_handlers.storage.volume_open import OpenRequest
from native_handlers.storage.volume_paths import VolumePaths

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.storage.files import Files
    from native_handlers.storage.report import DiskStatus
    from native_handlers.storage.volume import Volume

_log = logging.getLogger(__name__)
_SHARD_FILE = re.compile(r"\.ec[0-9]{2}$", re.ASCII)
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
        self.arriving: set[int] = set()
        """Ids of volumes that are being copied here: their files are not to be touched."""
        self.findings: list[Finding] = []
        self.ec_shard_count = 0
        self._files, self._clock_ns = files, clock_ns
        self._offset_width_bytes = 0
        self._is_all_synced = True
        # Protects findings, which loading threads add to.
        self._findings_lock = threading.Lock()
        for directory in dict.fromkeys((config.path, config.idx_path)):
            _check_directory(files, directory)
        try:
            self._lock = lock_directory(files, config.path, holder, owner_pid=lock_owner_pid)
        except OSError as error:
            raise DirectoryUnusable(config.path, str(error)) from error
        try:
            self._session = SessionMark(files, config.path)
            self.uuid = load_directory_uuid(files, config.path)
        except OSError as error:
            self._lock.release()
            raise DirectoryUnusable(config.path, str(error)) from error
        min_free = MinFree(config.min_free_percent, config.min_free_bytes)
        self._gauge = DiskGauge(files, config.path, min_free, clock_ns)

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
        return self._gauge.is_unavailable

    @property
    def available_bytes(self) -> int:
        """Free space above the reserve."""
        return self._gauge.available_bytes

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
        """What the master is told: a full disk has no more slots than it uses."""
        if self.is_space_low:
            return self.local_volume_count + self.ec_slots
        return max(self.max_volumes, 0)

    @property
    def has_free_slot(self) -> bool:
        """Whether a new volume may be put here. 0 slots mean that there is no limit yet."""
        if self.is_space_low or self.is_unavailable:
            return False
        return self.max_volumes == 0 or len(self.volumes) < self.max_volumes

    def status(self) -> DiskStatus:
        return self._gauge.status(self.disk_type)

    def adjust_max_volumes(self, size_limit_bytes: int, *, is_preallocating: bool) -> bool:
        """Sizes a location configured with 0 slots by its free space; returns whether the number changed.

        Free space that existing volumes will still grow into is not counted, unless it is reserved already.
        """
        if self.config.max_volumes != 0:
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

    def load(self, offset_width_bytes: int, executor: Executor) -> list[Volume]:
        """Opens every volume in the directory that is not open yet, and returns those.

        A volume that cannot be opened leaves a finding and does not hinder others, nor another collection's volume
        of the same id.

        Raises:
            OffsetWidthMismatch: a volume was written with another offset width.
            OSError: the directory cannot be read.
        """
        self._offset_width_bytes = offset_width_bytes
        for finding in recover_compactions(self._files, self.path, self.idx_path, set(self.volumes)):
            self._find(finding)
        names = self._files.list_directory(self.path)
        self.ec_shard_count = sum(_SHARD_FILE.search(name) is not None for name in names)
        known = self.volumes.keys() | self.arriving
        missing = {vid: found for vid, found in _candidates(names).items() if vid not in known}
        jobs = [executor.submit(self._load_first, vid, collections) for vid, collections in sorted(missing.items())]
        loaded = [job.result() for job in jobs]
        return [volume for volume in loaded if volume is not None]

    def load_one(self, volume_id: int) -> Volume | None:
        """Opens one volume; one that is open already is returned. None when there is none, or none that opens."""
        volume = self.volumes.get(volume_id)
        if volume is not None:
            return volume
        if volume_id in self.arriving:
            return None
        collections = _candidates(self._files.list_directory(self.path)).get(volume_id)
        return self._load_first(volume_id, collections) if collections else None

    def load_arrived(self, volume_id: int, collection: str) -> Volume | None:
        """Opens a volume that has been copied here; None when it cannot be served."""
        return self._load_first(volume_id, [collection])

    def _load_first(self, volume_id: int, collections: list[str]) -> Volume | None:
        for collection in collections:
            paths = VolumePaths(self.path, self.idx_path, collection, volume_id)
            try:
                volume = self._load_existing(paths)
            except (OSError, VolumeLoadFailed) as error:
                self._find(Finding(FindingKind.NOT_LOADED, self.path / paths.name, str(error)))
                continue
            if volume is not None:
                self.volumes[volume_id] = volume
                return volume
        return None

    def _load_existing(self, paths: VolumePaths) -> Volume | None:
        """The volume at `paths`, or None for what is not a volume of ours: erasure coding sidecars, strays."""
        dat = self._files.facts(paths.file(".dat"))
        is_coded = self._exists(paths.sidecars(".ecx"))
        if self._files.facts(paths.file(".note")) is not None:
            self._remove_unfinished_copy(paths, keep_vif=is_coded)
            return None
        if dat is None:
            info = load_volume_info(self._files, paths.file(".vif")).info
            if info.files and not is_coded:
                storage = info.files[0]
                raise RemoteTierUnsupported(self.path / paths.name, storage.backend_name, storage.key)
            return None
        if dat.size_bytes <= SUPER_BLOCK_BYTES and self._is_coded_elsewhere(paths):
            return None
        forced = "its erasure coding shards lie beside it" if is_coded else None
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
            for finding in findings:
                self._find(finding)

    def create(self, volume_id: int, collection: str, super_block: SuperBlock, preallocate_bytes: int) -> Volume:
        """A new, empty volume; files that an earlier volume of the same name left are opened instead.

        Raises:
            VolumeLoadFailed: it cannot be made.
        """
        paths = VolumePaths(self.path, self.idx_path, collection, volume_id)
        volume = self._open(paths, create=super_block, preallocate_bytes=preallocate_bytes)
        self.volumes[volume_id] = volume
        return volume

    def _remove_unfinished_copy(self, paths: VolumePaths, *, keep_vif: bool) -> None:
        """A .note marks a volume that was being copied here: what there is of it is no volume."""
        for path in paths.owned(keep_vif=keep_vif):
            if not path.name.endswith(".note"):
                self._files.unlink(path)
        # The marker goes last: a crash on the way leaves it to be found again.
        for path in paths.sidecars(".note"):
            self._files.unlink(path)
        self._find(Finding(FindingKind.COPY_REMOVED, self.path / paths.name, "its .note was still there"))

    def _is_coded_elsewhere(self, paths: VolumePaths) -> bool:
        return any(
            load_volume_info(self._files, path).info.ec_shard_config is not None for path in paths.sidecars(".vif")
        )

    def _exists(self, paths: list[Path]) -> bool:
        return any(self._files.facts(path) is not None for path in paths)

    def _find(self, finding: Finding) -> None:
        _log.warning("%s", finding)
        with self._findings_lock:
            self.findings.append(finding)

    # ---- removing

    def unload(self, volume: Volume) -> None:
        """Closes a volume and forgets it. Raises WriteFailed when its last sync failed; it is forgotten anyway."""
        self.volumes.pop(volume.id, None)
        try:
            volume.close()
        except WriteFailed:
            self._is_all_synced = False
            raise

    def destroy(self, volume: Volume) -> None:
        """Deletes a volume's files and forgets it. Raises OSError when some could not be removed."""
        keep_vif = self._exists(volume.paths.sidecars(".ecx"))
        self.volumes.pop(volume.id, None)
        volume.destroy(keep_vif=keep_vif)

    def begin_session(self) -> None:
        """To be called when the volumes found are loaded, and before anything is written to them.

        Raises:
            DirectoryUnusable: the directory cannot be written to.
        """
        try:
            for directory in dict.fromkeys((self.path, self.idx_path)):
                sweep_unfinished(self._files, directory)
            self._session.begin(self._clock_ns() // 10**9)
        except OSError as error:
            raise DirectoryUnusable(self.path, str(error)) from error

    def release(self) -> None:
        """Frees the directory for others. The volumes must be closed."""
        try:
            if self._is_all_synced:
                self._session.end()
        except OSError as error:
            _log.warning("%s: %s; the next start will examine its volumes", self.path, error)
        self._lock.release()


def _check_directory(files: Files, directory: Path) -> None:
    try:
        facts = files.facts(directory)
    except OSError as error:
        raise DirectoryUnusable(directory, str(error)) from error
    if facts is None:
        raise DirectoryUnusable(directory, "it does not exist; create it first")
    if not facts.is_directory:
        raise DirectoryUnusable(directory, "it is not a directory")
    if not facts.is_writable_by_owner:
        raise DirectoryUnusable(directory, "its owner may not write to it")


def _candidates(names: list[str]) -> dict[int, list[str]]:
    """Volume ids that file names speak of, with their collections. A volume shows by its .idx or .vif, an unfinished
    copy by its .note: its .dat is there first, and must not stay for ever.
    """
    found: dict[int, list[str]] = {}
    for name in sorted({name.rpartition(".")[0] for name in names if name.endswith((".idx", ".vif", ".note"))}):
        try:
            collection, volume_id = parse_volume_name(name)
        except BadVolumeName:
            continue
        found.setdefault(volume_id, []).append(collection)
    return found
