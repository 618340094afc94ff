"""The erasure-coded volumes of a store: which shards are open on which disk.

Changes of the set are serialised; look-ups take no lock. Source: weed/storage/store_ec.go, disk_location_ec.go.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from native_handlers.format.types import normal_disk_type
from native_handlers.format.volume_name import format_volume_name
from native_handlers.records import dataclass
from native_handlers.storage.erasure_coding.deletions import Deletions, journals_of
from native_handlers.storage.erasure_coding.ec_volume import EcPlace, EcShard, EcVolume
from native_handlers.storage.erasure_coding.errors import EcMountFailed, EcRefused, EcShardNotHere
from native_handlers.storage.erasure_coding.names import encode_ts_of, load_info, shard_extension
from native_handlers.storage.model.errors import StorageError, StoreClosed
from native_handlers.storage.model.file_kinds import EC_INDEX_DESCRIPTORS, other_collection_text
from native_handlers.storage.model.report import FindingKind, ReadFindingKind
from native_handlers.storage.system.bounded_call import BoundedCall, CallTimedOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.system.files import Files

EcKey = tuple[str, int]
"""Collection and volume id."""
COUNT_LIMIT_S = 0.5
"""How long a report waits for a disk: as long as for the facts of volumes."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EcReport:
    """A heartbeat's facts of an erasure-coded volume on one disk."""

    id: int
    collection: str
    disk_id: int
    disk_type: str
    expire_at_s: int
    shard_sizes: tuple[tuple[int, int], ...]
    file_count: int
    delete_count: int
    encode_ts_ns: int
    created_at_s: int


class EcVolumeSet:
    """The open shards. Callers change the files of a volume only inside `exclusive(volume_id)`."""

    def __init__(self, files: Files, locations: Sequence[DiskLocation], offset_width_bytes: int) -> None:
        self.locations = tuple(locations)
        self._by_path = {one.path: one for one in self.locations}
        self.files, self.width = files, offset_width_bytes
        # Protects the fields below. No file is used inside: a disk that hangs would hold up all volumes.
        self._changing = threading.RLock()
        self._busy: dict[int, tuple[threading.RLock, int]] = {}
        """By volume id: the lock of `exclusive`, and the number of its holders and waiters."""
        self._unfinished: dict[int, Callable[[], None]] = {}
        """By volume id: what `exclusive` does first."""
        self._by_id: dict[int, tuple[EcVolume, ...]] = {}
        """In order of the disks. A look-up takes no lock; an iteration does."""
        self._has_files: list[set[EcKey]] = [set() for _ in self.locations]
        """By disk: the volumes that are known to have shards there, open or not."""
        self._shard_counts = [0] * len(self.locations)
        """The open shards of each disk."""
        self._listeners: tuple[Callable[[], None], ...] = ()
        self._is_closed = False
        self._descriptors = dict.fromkeys(range(len(self.locations)), 0)
        """By disk: the number of descriptors of open shards and of their indexes."""
        self._counting = {
            one.disk_id: BoundedCall(f"counting deletions in {one.path}", COUNT_LIMIT_S) for one in self.locations
        }
        for one in self.locations:
            one.attend_deletions(partial(self._write_late_deletions, one.disk_id))

    # ---- looking up

    def copies(self, volume_id: int) -> tuple[EcVolume, ...]:
        """The volume on each disk that has open shards of it, in the order of the disks."""
        return self._by_id.get(volume_id, ())

    def disks_of_deletions(self, volume_id: int) -> set[int]:
        """The ids of the disks on which a deletion of the volume is noted, and may have to wait. Those out of service
        too: an earlier deletion of the volume may wait for one of them, and a later one for the earlier one.
        """
        copies = self.copies(volume_id)
        indexes = (self._by_path.get(one.place.index_dir) for one in copies)
        return {one.place.disk_id for one in copies} | {one.disk_id for one in indexes if one is not None}

    def find(self, volume_id: int) -> EcVolume | None:
        """The volume on the first disk that has it. One whose shards and index are on disks in service is preferred,
        then the newest coding.
        """
        return max(self.copies(volume_id), key=self._preference, default=None)

    def _preference(self, volume: EcVolume) -> tuple[bool, int]:
        return self.is_readable(volume), volume.encode_ts_ns

    def is_in_service(self, volume: EcVolume) -> bool:
        """Whether the disk of the shards is in service."""
        return not self.locations[volume.place.disk_id].is_unavailable

    def check_in_service(self, volume: EcVolume) -> None:
        """Raises DiskUnavailable while the disk of the shards is out of service."""
        self.locations[volume.place.disk_id].check_in_service()

    def is_readable(self, volume: EcVolume) -> bool:
        """Whether the disk of the shards and that of the index are in service."""
        return self.is_in_service(volume) and self._is_directory_in_service(volume.place.index_dir)

    def check_readable(self, volume: EcVolume) -> None:
        """Raises DiskUnavailable while the disk of the shards or that of the index is out of service."""
        self.check_in_service(volume)
        location = self._by_path.get(volume.place.index_dir)
        if location is not None:
            location.check_in_service()

    def check_all_in_service(self) -> None:
        """Raises DiskUnavailable while any disk of the server is out of service: it may have a volume of any id."""
        for location in self.locations:
            location.check_in_service()

    def check_known_in_service(self, collection: str, volume_id: int) -> None:
        """Raises DiskUnavailable while a disk is out of service that is known to have shards of the volume, or the
        index of open ones: the disk was listed, or got files since. A disk that was out of service at the start, and
        not back since, is not known to have any.
        """
        in_use = self.disks_of_deletions(volume_id)
        for location in self.locations:
            if location.disk_id in in_use or (collection, volume_id) in self._has_files[location.disk_id]:
                location.check_in_service()

    def note_files(self, disk_id: int, collection: str, volume_id: int, *, are_there: bool = True) -> None:
        """Says that a disk has shards of a volume, or has none any more."""
        (self._has_files[disk_id].add if are_there else self._has_files[disk_id].discard)((collection, volume_id))

    def _is_directory_in_service(self, directory: Path) -> bool:
        """Whether that is not the directory of a disk out of service."""
        location = self._by_path.get(directory)
        return location is None or not location.is_unavailable

    def find_shard(self, volume_id: int, shard_id: int, encode_ts_ns: int = 0) -> tuple[EcVolume, EcShard] | None:
        """An open shard, and the volume on its disk: another disk's volume may have another encoding. Of several shards
        the choice is that of `find`; among equals a shard with content.

        Args:
            encode_ts_ns: only a shard of that encoding; 0 for any.
        """
        copies = (one for one in self.copies(volume_id) if encode_ts_ns in {0, one.encode_ts_ns})
        found = [(volume, shard) for volume in copies if (shard := volume.shards.get(shard_id))]
        return max(found, key=lambda one: (*self._preference(one[0]), one[1].size_bytes > 0), default=None)

    def delete(self, volume: EcVolume, needle_id: int) -> None:
        """Records a deletion, durably, for all open shards of the volume, also those of another coding. An absent or
        deleted needle is a success. The journal of a coding that cannot be read now gets the row when its disk is back.

        Raises:
            VolumeClosed, OSError: as `Deletions.record`, for each coding.
        """
        volume.delete(needle_id)
        others = (one for one in self.copies(volume.id) if one.collection == volume.collection)
        for other in others:
            if other.deletions is volume.deletions:
                continue
            if self.is_readable(other):
                other.delete(needle_id)
            else:
                # Whether that coding has the needle is in an index that cannot be read now.
                other.deletions.note([needle_id])

    def _write_late_deletions(self, disk_id: int) -> bool:
        """`Deletions.write_lacking` for each volume of a disk."""
        on_disk = {id(one.deletions): one.deletions for one in self.volumes() if one.place.disk_id == disk_id}
        failed = [one for one in on_disk.values() if not one.write_lacking(disk_id)]
        return not failed

    def volumes(self) -> list[EcVolume]:
        """Every volume, by id and disk."""
        with self._changing:
            found = list(self._by_id.items())
        return [volume for _, copies in sorted(found) for volume in copies]

    @property
    def damaged_count(self) -> int:
        """The number of volumes with open shards in which a read found damage."""
        found = (self.copies(one) for location in self.locations for one in location.damage.volume_ids)
        return len({one.id for copies in found for one in copies if one.damage.count})

    def reports(self) -> list[EcReport]:
        """The reports for heartbeats. Disks out of service are left out. A deletion counts on one disk of a server,
        and not where it is in the index too: upstream's shell adds the counts up.

        For that an index is read once where needles were deleted. A disk that hangs costs `COUNT_LIMIT_S`, and all
        deletions of its volumes count until the index was read.
        """
        counted: set[int] = set()
        reports = []
        for volume in self.volumes():
            if self.is_in_service(volume):
                is_first = id(volume.deletions) not in counted
                counted.add(id(volume.deletions))
                self._count_folded(volume)
                reports.append(_report(volume, volume.delete_count if is_first else 0))
        return reports

    def _count_folded(self, volume: EcVolume) -> None:
        if volume.is_to_be_counted:
            try:
                self._counting[volume.place.disk_id].run(volume.count_folded)
            except (CallTimedOut, OSError, StorageError) as error:
                _log.warning("ec volume %d: its deletions are counted later: %s", volume.id, error)

    def add_listener(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Registers `callback` for each change; the changing thread calls it. Returns a function that removes it."""
        with self._changing:
            self._listeners = (*self._listeners, callback)

        def remove() -> None:
            with self._changing:
                self._listeners = tuple(one for one in self._listeners if one is not callback)

        return remove

    @contextmanager
    def exclusive(self, volume_id: int) -> Iterator[None]:
        """Inside, no other thread changes the files of the volume, or which of them are open. Reads go on.

        Raises OSError, StorageError: what an earlier operation has left unfinished cannot be done; see `finish_first`.
        """
        with self._changing:
            lock, users = self._busy.get(volume_id, (threading.RLock(), 0))
            self._busy[volume_id] = lock, users + 1
        try:
            with lock:
                unfinished = self._unfinished.get(volume_id)
                if unfinished is not None:
                    unfinished()
                    del self._unfinished[volume_id]
                yield
        finally:
            with self._changing:
                _, users = self._busy.pop(volume_id)
                if users > 1:
                    self._busy[volume_id] = lock, users - 1

    def finish_first(self, volume_id: int, finish: Callable[[], None]) -> None:
        """Has the next `exclusive` of the volume call `finish` first, and the ones after it until one raises nothing.
        The caller is inside `exclusive`.
        """
        self._unfinished[volume_id] = finish

    @contextmanager
    def exclusive_at_once(self, volume_id: int) -> Iterator[bool]:
        """As `exclusive`, without waiting: False inside the block where another thread is at work on the volume, or
        something is to be done first.
        """
        with self._changing:
            is_free = volume_id not in self._busy and volume_id not in self._unfinished
            if is_free:
                # The lock is new, and no other thread has a reference to it. So taking it does not block.
                entered = ExitStack()
                entered.enter_context(self.exclusive(volume_id))
        if not is_free:
            yield False
            return
        with entered:
            yield True

    # ---- opening and closing

    def open_shard(
        self, location: DiskLocation, collection: str, volume_id: int, shard_id: int, index_dir: Path | None = None
    ) -> EcVolume:
        """Opens a shard whose file is on that disk. A shard that is open is opened anew.

        Args:
            index_dir: the directory of an index that is not on that disk.

        Raises:
            FileNotFoundError: there is no such shard, or no index.
            TooManyVolumes: the process has no descriptors for it.
            OSError, StorageError: the shard is there and cannot be opened.
        """
        with self.exclusive(volume_id):
            # A hanging disk holds up this volume alone.
            self._check_open()
            location.check_in_service()
            self.check_collection(collection, volume_id)
            index_dir = self._index_dir(location, collection, volume_id, index_dir)
            self.check_coding(location, index_dir, format_volume_name(collection, volume_id))
            place = EcPlace(
                location.path,
                index_dir,
                collection,
                volume_id,
                location.disk_id,
                location.disk_type,
                tuple(one.path for one in self.locations_in_service() if index_dir in {one.path, one.idx_path}),
            )
            with ExitStack() as on_failure:
                shard = EcShard(self.files, place, shard_id)
                on_failure.callback(shard.close)
                opened = next((one for one in self.copies(volume_id) if one.place.disk_id == location.disk_id), None)
                if opened is None or shard_id not in opened.shards:
                    location.open_volumes.check(place.base)
                volume = opened
                if volume is None:
                    volume = EcVolume(self.files, place, self.width, self._join_deletions, location.damage)
                    on_failure.callback(volume.close)
                with self._changing:
                    self._check_open()
                    replaced = volume.add_shard(shard)
                    if opened is None:
                        self._put(volume)
                        self.note_files(location.disk_id, collection, volume_id)
                        self._use(volume, EC_INDEX_DESCRIPTORS)
                    if replaced is None:
                        self._use(volume, 1)
                    self._count(volume, 1 if replaced is None else 0)
                on_failure.pop_all()
            location.findings.drop(place.base, FindingKind.SHARDS_NOT_OPENED)
            self._forget_damage(self.copies(volume_id))
            if replaced is not None:
                replaced.close()
        return volume

    def check_collection(self, collection: str, volume_id: int) -> None:
        """Raises EcRefused where shards of that id and another collection are open: their bytes would be mixed."""
        for one in self.copies(volume_id):
            if one.collection != collection:
                raise EcRefused(other_collection_text(volume_id, one.collection, collection))

    def _index_dir(self, location: DiskLocation, collection: str, volume_id: int, elsewhere: Path | None) -> Path:
        """A filled .ecx is preferred, and the one beside the shards to another: an empty one may be of a failed
        copy.
        """
        name = format_volume_name(collection, volume_id) + ".ecx"
        places = dict.fromkeys((location.path, elsewhere or location.idx_path))
        sizes = {}
        for directory in places:
            facts = self.files.facts(directory / name)
            if facts is not None and not facts.is_directory:
                sizes[directory] = facts.size_bytes
        if not sizes:
            where = " or ".join(str(directory / name) for directory in places)
            raise FileNotFoundError(2, f"cannot open ec volume index {where}: no such file")
        return next((directory for directory, size in sizes.items() if size), next(iter(sizes)))

    def check_coding(self, location: DiskLocation, index_dir: Path, name: str) -> None:
        """Raises EcMountFailed where an index on another disk is of another coding than the shards."""
        if index_dir in {location.path, location.idx_path}:
            return
        here, there = self.coding_on(location, name), self._coding_of_index(index_dir, name)
        if here and there and here != there:
            raise EcMountFailed(f"ec volume index {index_dir / name}.ecx belongs to a different encode run")

    def coding_on(self, location: DiskLocation, name: str) -> int:
        """The time of the coding in a disk's .vif; 0 without one. Raises OSError."""
        directories = (location.path, location.idx_path)
        return encode_ts_of(load_info(self.files, [directory / (name + ".vif") for directory in directories]))

    def _coding_of_index(self, index_dir: Path, name: str) -> int:
        users = (one for one in self.locations_in_service() if index_dir in {one.path, one.idx_path})
        return next((time for one in users if (time := self.coding_on(one, name))), 0)

    def _join_deletions(self, place: EcPlace, encode_ts_ns: int) -> Deletions:
        """Opens the journal of a place. The result is one object for all places that share a journal; else for those of
        one coding. Raises OSError.
        """
        path = place.index(".ecj")
        siblings = [one for one in self.copies(place.volume_id) if one.collection == place.collection]
        # A file has one writer, also where volumes of two codings share an index directory.
        same_journal = (one.deletions for one in siblings if path in one.deletions.paths)
        same_coding = (one.deletions for one in siblings if one.encode_ts_ns == encode_ts_ns)
        deletions = next(chain(same_journal, same_coding), None)
        if deletions is None:
            deletions = Deletions(place.volume_id, self._is_journal_in_service)
        known = {path, *deletions.paths}
        elsewhere = journals_of(self.files, self.locations_in_service(), place.name, encode_ts_ns, known)
        deletions.join(self.locations[place.disk_id].room.files, path, place.disk_id, elsewhere)
        return deletions

    def locations_in_service(self) -> list[DiskLocation]:
        """The disks in service now."""
        return [one for one in self.locations if not one.is_unavailable]

    def _is_journal_in_service(self, path: Path, disk_ids: Iterable[int]) -> bool:
        """Whether a journal that these disks use can be written to."""
        are_all_away = all(self.locations[one].is_unavailable for one in disk_ids)
        return not are_all_away and self._is_directory_in_service(path.parent)

    def mount(self, collection: str, volume_id: int, shard_id: int, source_disk_type: str = "") -> None:
        """Opens a shard from the first disk that has the shard and can open it; first those with the newest coding. An
        empty file is opened where no disk has another, as upstream.

        Args:
            source_disk_type: the disk type for heartbeats; "" for the type of the disk itself.

        Raises:
            EcShardNotHere: no disk has the shard.
            EcMountFailed: no disk has the index, or no disk that has both can open the shard.
        """
        name = f"MountEcShards {volume_id}.{shard_id}"
        failures = []
        with self.exclusive(volume_id):
            for location in self._newest_first(format_volume_name(collection, volume_id), shard_id):
                try:
                    volume = self._mount_at(location, collection, volume_id, shard_id)
                except FileNotFoundError:
                    continue
                except (OSError, StorageError) as error:
                    failures.append(f"{location.path}: {error}")
                    continue
                if source_disk_type:
                    volume.disk_type = normal_disk_type(source_disk_type)
                break
            else:
                if failures:
                    raise EcMountFailed(f"{name} load failures: {'; '.join(failures)}")
                if self.find_index_dir(collection, volume_id) is None:
                    raise EcMountFailed(f"{name}: no .ecx index found on any local disk")
                raise EcShardNotHere(f"{name} not found on disk")
        self.tell()

    def _newest_first(self, name: str, shard_id: int) -> list[DiskLocation]:
        def preference(location: DiskLocation) -> tuple[bool, int]:
            if location.is_unavailable:
                return False, 0
            try:
                facts = self.files.facts(location.path / (name + shard_extension(shard_id)))
                return facts is not None and not facts.size_bytes, -self.coding_on(location, name)
            except OSError:
                return False, 0

        return sorted(self.locations, key=preference)

    def _mount_at(self, location: DiskLocation, collection: str, volume_id: int, shard_id: int) -> EcVolume:
        index_dir = self.find_index_dir(collection, volume_id, location)
        elsewhere = None if index_dir in {location.path, location.idx_path} else index_dir
        return self.open_shard(location, collection, volume_id, shard_id, elsewhere)

    def find_index_dir(self, collection: str, volume_id: int, near: DiskLocation | None = None) -> Path | None:
        """The first directory of this server with a filled .ecx of the volume. Disks out of service are left out.

        Args:
            near: an index of the coding on this disk is preferred to that of another one.
        """
        name = format_volume_name(collection, volume_id)
        directories = [
            directory for one in self.locations_in_service() for directory in dict.fromkeys((one.idx_path, one.path))
        ]
        filled = [one for one in dict.fromkeys(directories) if self._is_filled(one / (name + ".ecx"))]
        if near is not None and len(filled) > 1 and not near.is_unavailable:
            coding = self.coding_on(near, name)
            filled.sort(key=lambda one: bool(coding) and self._coding_of_index(one, name) != coding)
        return filled[0] if filled else None

    def _is_filled(self, path: Path) -> bool:
        facts = self.files.facts(path)
        return facts is not None and facts.size_bytes > 0 and not facts.is_directory

    def unmount(self, volume_id: int, shard_id: int, encode_ts_ns: int = 0, *, collection: str | None = None) -> None:
        """Closes a shard on every disk. Without an open one the call succeeds.

        Args:
            encode_ts_ns: closes only shards that are known to be of an older encoding than this; 0 closes any.
            collection: closes only shards of that collection; None closes any.
        """
        with self.exclusive(volume_id):
            closed: list[EcVolume | EcShard] = []
            with self._changing:
                changed = self.copies(volume_id)
                for volume in changed:
                    if encode_ts_ns and not 0 < volume.encode_ts_ns < encode_ts_ns:
                        continue
                    if collection not in {None, volume.collection}:
                        continue
                    shard = volume.take_shard(shard_id)
                    if shard is not None:
                        closed.append(shard)
                        self._use(volume, -1)
                        self._count(volume, -1)
                        if not volume.shards:
                            closed.append(self._take(volume))
                            self._use(volume, -EC_INDEX_DESCRIPTORS)
            for one in closed:
                one.close()
            self._forget_damage((*changed, *self.copies(volume_id)))
        self.tell()

    def unload(self, volume_id: int, *, disk_id: int | None = None) -> None:
        """Closes all shards of a volume, on every disk or on one. Files stay."""
        with self.exclusive(volume_id):
            with self._changing:
                closed = [self._take(one) for one in self.copies(volume_id) if disk_id in {None, one.place.disk_id}]
                for volume in closed:
                    self._use(volume, -EC_INDEX_DESCRIPTORS - len(volume.shards))
            # Before the next opening, because a deletion that is under way ends first: a journal has one writer.
            for volume in closed:
                volume.close()
            self._forget_damage((*closed, *self.copies(volume_id)))
        self.tell()

    def close(self, *, only_in_service: bool = False) -> None:
        """Closes everything; no shard is opened any more.

        Args:
            only_in_service: leaves the volumes open of which a disk is out of service: closing them may hang. A second
                call closes them.
        """
        with self._changing:
            self._is_closed = True
            closed = [self._take(one) for one in self.volumes() if not (only_in_service and self._may_hang(one))]
        for volume in closed:
            volume.close()

    def _may_hang(self, volume: EcVolume) -> bool:
        """Whether a disk of the volume is out of service: a deletion may wait for it, and the closing for that."""
        return not all(map(self.is_readable, self.copies(volume.id)))

    def tell(self) -> None:
        """Calls the listeners."""
        for listener in self._listeners:
            listener()

    def _put(self, volume: EcVolume) -> None:
        copies = sorted((*self.copies(volume.id), volume), key=lambda one: one.place.disk_id)
        self._by_id[volume.id] = tuple(copies)

    def _take(self, volume: EcVolume) -> EcVolume:
        """Takes a volume out of the set. The caller closes the volume outside the lock."""
        left = tuple(one for one in self.copies(volume.id) if one is not volume)
        if left:
            self._by_id[volume.id] = left
        else:
            del self._by_id[volume.id]
        self._count(volume, -len(volume.shards))
        return volume

    def _forget_damage(self, volumes: Iterable[EcVolume]) -> None:
        """Call it when shards of the volume are open or closed by now: reads use other bytes."""
        for volume in volumes:
            if volume.damage.count:
                volume.damage.reset()
                findings = self.locations[volume.place.disk_id].findings
                findings.drop(volume.place.base, ReadFindingKind.SHARDS_DAMAGED)

    def _use(self, volume: EcVolume, change: int) -> None:
        """Counts descriptors that a volume takes, or gives back. The caller holds the lock."""
        disk_id = volume.place.disk_id
        self._descriptors[disk_id] += change
        self.locations[disk_id].ec_descriptors = self._descriptors[disk_id]

    def count_descriptors(self) -> None:
        """Gives each disk the number of the descriptors of open shards, in place of those of all that a search for
        volumes has found.
        """
        with self._changing:
            for location in self.locations:
                location.ec_descriptors = self._descriptors[location.disk_id]

    def _count(self, volume: EcVolume, more: int) -> None:
        """Changes the number of open shards on the disk of `volume`. No other volume is looked at."""
        self._shard_counts[volume.place.disk_id] += more
        for location in self.locations:
            location.ec_shard_count = self._shard_counts[location.disk_id]

    def _check_open(self) -> None:
        if self._is_closed:
            raise StoreClosed


def _report(volume: EcVolume, delete_count: int) -> EcReport:
    return EcReport(
        id=volume.id,
        collection=volume.collection,
        disk_id=volume.place.disk_id,
        disk_type=volume.disk_type,
        expire_at_s=volume.expire_at_s,
        shard_sizes=tuple((shard.id, shard.size_bytes) for shard in volume.shards.values()),
        file_count=volume.file_count,
        delete_count=delete_count,
        encode_ts_ns=volume.encode_ts_ns,
        created_at_s=volume.created_at_s,
    )
