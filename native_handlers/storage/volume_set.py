"""Changes the set of volumes of a store, one change at a time, and announces each change after the lock is released.

Source: weed/storage/store.go.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from native_handlers.format.types import normal_disk_type
from native_handlers.storage.configure import configure_volume
from native_handlers.storage.directory.placement import choose_for_copy, choose_for_new
from native_handlers.storage.directory.same_id import text_of
from native_handlers.storage.locations import (
    arrived_records,
    copies_of,
    copies_where,
    destroy,
    finish_arrivals,
    load_all,
    mount,
    unload,
)
from native_handlers.storage.model.errors import (
    CompactionRunning,
    ConfigureFailed,
    CopyIncomplete,
    DeleteFailed,
    DiskUnavailable,
    DiskUnreadable,
    StorageError,
    StoreClosed,
    VolumeArriving,
    VolumeBusy,
    VolumeExists,
    VolumeNotEmpty,
    VolumeNotFound,
)
from native_handlers.storage.model.file_kinds import ARRIVED
from native_handlers.storage.transfer.volume_copy import ArrivingVolume
from native_handlers.storage.volume.paths import VolumePaths
from native_handlers.storage.volume_ids import VolumeIds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from native_handlers.format.super_block import SuperBlock
    from native_handlers.format.vif import RemoteFile
    from native_handlers.storage.directory.location import DiskLocation
    from native_handlers.storage.directory.same_id import FoundFile
    from native_handlers.storage.erasure_coding.ec_volume import EcVolume
    from native_handlers.storage.model.report import Finding, ReadOnlyReasons
    from native_handlers.storage.system.files import Files
    from native_handlers.storage.volume.volume import Volume

_log = logging.getLogger(__name__)


class Listeners:
    """The callbacks for changes; safe from any thread. A callback gets the volume's id; the report has the facts."""

    def __init__(self) -> None:
        self._listeners: tuple[Callable[[int], None], ...] = ()
        # Serialises changes of _listeners.
        self._lock = threading.Lock()

    def add(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Registers `callback`. Returns a function that removes it."""
        with self._lock:
            self._listeners = (*self._listeners, callback)

        def remove() -> None:
            with self._lock:
                self._listeners = tuple(listener for listener in self._listeners if listener is not callback)

        return remove

    def emit(self, volume_ids: Iterable[int]) -> None:
        """Calls every listener with each id, in this thread. The caller holds no lock."""
        for volume_id in volume_ids:
            for listener in self._listeners:
                listener(volume_id)


class VolumeSet:
    """The methods implement those of `Store`, which describe them. They raise StoreClosed after `close`."""

    def __init__(
        self,
        locations: tuple[DiskLocation, ...],
        offset_width_bytes: int,
        files: Files,
        listeners: Listeners,
        shards_of: Callable[[int], Sequence[EcVolume]],
    ) -> None:
        self._locations = locations
        self._width = offset_width_bytes
        self._files = files
        self._listeners = listeners
        # Held by every method that adds or removes volumes.
        self._changing = AdminLock()
        self.ids = VolumeIds(files, locations, shards_of, self._changing)
        self._replaced: dict[int, str] = {}
        """By volume id: the operation of `replacing`, as the end of a sentence."""

    def close(self) -> bool:
        """Waits for a change under way and allows no more. Returns whether the set was open."""
        return self._changing.close()

    # ---- coming

    def allocate(self, vid: int, collection: str, block: SuperBlock, preallocate_bytes: int, disk_type: str) -> Volume:
        """See `Store.allocate_volume`."""
        with self._changing:
            if copies_of(self._locations, vid) or self._is_arriving(vid) or vid in self._replaced:
                raise VolumeExists(vid)
            if self.ids.is_coming(vid):
                raise VolumeArriving(vid)
            # A disk that fails keeps no volume from the others.
            found = self.ids.find(collection, vid, skips_failing=True)
            if self.ids.has_shards_open(vid):
                raise VolumeExists(vid, text_of(found))
            location = self._location_for_new(vid, normal_disk_type(disk_type), found)
            check_room_for_new(location, collection, vid)
            volume = location.create(vid, collection, block, preallocate_bytes)
        _log.info("volume %d (collection %r) added in %s", vid, collection, location.path)
        self._listeners.emit([volume.id])
        return volume

    def _location_for_new(self, vid: int, disk_type: str, found: Sequence[FoundFile]) -> DiskLocation:
        """The disk for a new volume. `found` are the files of one of the same name that is not open: a .dat is opened
        on its disk, because a second one on another disk would hide the first at the next start, or be hidden.

        Raises NoFreeSpace, and VolumeExists for files with which the new volume cannot begin.
        """
        location = choose_for_new(self._locations, disk_type)
        if not found:
            return location
        holder = found[0].location
        has_others = any(not one.is_dat or one.location is not holder for one in found)
        if has_others or holder.disk_type != disk_type or not holder.has_free_slot:
            raise VolumeExists(vid, text_of(found))
        return holder

    def mount(self, vid: int) -> None:
        """See `Store.mount_volume`."""
        with self._changing:
            self._check_not_replaced(vid)
            is_closed = not copies_of(self._locations, vid) and not self._is_arriving(vid)
            names = self._names_of(vid) if is_closed else {}
            arrived = []
            if any(name.endswith(ARRIVED) for found in names.values() for name in found):
                # The arrived volume may replace one on another disk, so no listing is valid any longer.
                arrived, names = self._finish_arrivals(vid), {}
                _check_none_arrived(vid, arrived_records(self._locations).get(vid, ()))
            mounted = mount(self._locations, vid, names)
            for location, found in arrived:
                location.findings.add(found)
        self._listeners.emit([mounted])

    def load_new(self) -> None:
        """See `Store.load_new_volumes`."""
        with self._changing, self._without_arrived():
            added, failures = load_all(self._locations, self._width)
        for failure in failures:
            _log.error("new volumes were not looked for, or not all were opened: %s", failure)
        self._listeners.emit([volume.id for volume in added])

    def configure(self, vid: int, replication: str) -> None:
        """See `Store.configure_volume`. `replication` is a valid placement."""
        changed: list[int] = []
        try:
            with self._changing:
                if self._is_arriving(vid):
                    raise ConfigureFailed("", str(VolumeArriving(vid)))
                if vid in self._replaced:
                    raise ConfigureFailed("", str(VolumeBusy(vid, self._replaced[vid])))
                configure_volume(self._locations, self._files, vid, replication, changed)
        finally:
            self._listeners.emit(changed)

    # ---- going

    def unmount(self, vid: int) -> None:
        """See `Store.unmount_volume`."""
        with self._changing:
            self._check_not_replaced(vid)
            changed, failures = unload(copies_of(self._locations, vid))
        self._listeners.emit(changed)
        if failures:
            raise DeleteFailed(f"UnmountVolume {vid}", failures)

    def delete(self, vid: int, *, only_empty: bool, keep_remote: bool) -> None:
        """See `Store.delete_volume`."""
        with self._changing:
            self._check_not_replaced(vid)
            copies = copies_of(self._locations, vid)
            if not copies:
                raise VolumeNotFound(vid, " on disk", prefix="delete volume")
            if any(volume.compaction.is_running for _, volume in copies):
                raise CompactionRunning(vid)
            if only_empty and not all(_is_empty(volume) for _, volume in copies):
                raise VolumeNotEmpty(vid)
            removal = destroy(copies, _is_empty if only_empty else None, keep_remote=keep_remote)
        self._listeners.emit(removal.changed)
        self._delete_objects(removal.objects)
        if not removal.is_complete:
            raise VolumeNotEmpty(vid)
        if removal.failures:
            raise DeleteFailed(f"DeleteVolume {vid}", removal.failures)

    def delete_collection(self, name: str) -> None:
        """See `Store.delete_collection`."""
        with self._changing:
            removal = destroy(copies_where(self._locations, lambda volume: volume.collection == name))
        self._listeners.emit(removal.changed)
        self._delete_objects(removal.objects)
        if removal.failures:
            raise DeleteFailed(f"DeleteCollection {name}", removal.failures)

    def remove_expired(self, size_limit_bytes: int) -> list[int]:
        """See `Store.remove_expired_volumes`."""

        def is_due(volume: Volume) -> bool:
            return volume.is_in_service and volume.is_expired(size_limit_bytes) and volume.is_expired_long_enough

        # A heartbeat waits for this method, so the method must not wait for a change that waits for a disk.
        if not copies_where(self._locations, is_due):
            return []
        with self._changing.if_free() as is_held:
            if not is_held:
                return []
            removal = destroy(copies_where(self._locations, is_due), is_due)
        for failure in removal.failures:
            _log.warning("deleting an expired volume: %s", failure)
        self._listeners.emit(removal.changed)
        if removal.objects:
            self._delete_objects_soon(removal.objects)
        return removal.changed

    def _delete_objects_soon(self, objects: Sequence[RemoteFile]) -> None:
        """As `_delete_objects`, in a thread: a heartbeat waits for no tier."""
        for file in objects:
            # The process may end before the thread does.
            _log.info("the object %s of an expired volume is deleted from %s next", file.key, file.backend_name)
        delete = partial(self._delete_objects, objects)
        try:
            threading.Thread(target=delete, name="tier-delete", daemon=True).start()
        except RuntimeError as error:
            _log.warning("the objects of expired volumes stay: %s", error)

    def _delete_objects(self, objects: Sequence[RemoteFile]) -> None:
        """Deletes what volumes that are gone had in tiers. The caller holds no lock: a tier may take long to answer."""
        tiers = self._locations[0].tiers
        if objects and tiers is not None:
            tiers.delete_objects(objects)

    # ---- replaced by other operations

    @contextmanager
    def replacing(self, vid: int, doing: str, *, closes: bool) -> Iterator[bool]:
        """Inside, no volume of that id is open, and none is opened, made or copied here: the caller replaces its files.
        Yields whether one was open. A volume that was open is opened again at the end, also when the caller fails.

        Args:
            doing: the operation, as the end of a sentence about the volume.
            closes: False refuses where a volume is open.

        Raises:
            VolumeArriving, VolumeBusy, DiskUnavailable: another operation replaces the files, or the disk of the volume
                is out of service. Nothing was changed.
            VolumeExists: a volume is open, and `closes` is false. Nothing was changed.
            DeleteFailed: an open copy could not be synced. It is opened again.
            As `Store.mount_volume`: a volume that was open cannot be opened again.
        """
        with self._changing:
            if self._is_arriving(vid):
                raise VolumeArriving(vid)
            self._check_not_replaced(vid)
            copies = copies_of(self._locations, vid)
            if copies and not closes:
                raise VolumeExists(vid)
            self._check_in_service(vid)
            self._replaced[vid] = doing
            for location in self._locations:
                location.replaced.add(vid)
            marks = {volume.disk_id: volume.read_only_reasons for _, volume in copies}
            closed, failures = unload(copies)
        self._listeners.emit(closed)
        try:
            if failures:
                raise DeleteFailed(f"UnmountVolume {vid}", failures)
            yield bool(copies)
        except BaseException:
            try:
                self._end_replacing(vid, copies, marks)
            except StorageError as failure:
                _log.error("volume %d was closed, and cannot be opened again: %s", vid, failure)
            raise
        self._end_replacing(vid, copies, {})

    def _end_replacing(
        self, vid: int, closed: Sequence[tuple[DiskLocation, Volume]], marks: Mapping[int, ReadOnlyReasons]
    ) -> None:
        """Opens the volumes that `replacing` has closed. Raises as `Store.mount_volume`; others are opened.

        Args:
            marks: by disk, why a volume took no writes. The volume that is opened takes none either.
        """
        opened: list[int] = []
        failures: list[StorageError] = []
        try:
            with self._changing:
                self._give_up(vid)
                for location, _ in closed:
                    try:
                        volume = location.load_one(vid)
                        if volume is None:
                            failures.append(VolumeNotFound(vid, " on disk"))
                            continue
                        opened.append(vid)
                        reasons = marks.get(volume.disk_id)
                        if reasons is not None and (reasons.no_write_or_delete or reasons.no_write_can_delete):
                            volume.marks.mark_read_only(can_delete=not reasons.no_write_or_delete, persist=False)
                    except StorageError as failure:
                        failures.append(failure)
        finally:
            # Where the store is closed, the lock refuses.
            self._give_up(vid)
            self._listeners.emit(opened)
        if failures:
            raise failures[0]

    def _give_up(self, vid: int) -> None:
        self._replaced.pop(vid, None)
        for location in self._locations:
            location.replaced.discard(vid)

    def _check_not_replaced(self, vid: int) -> None:
        if vid in self._replaced:
            raise VolumeBusy(vid, self._replaced[vid])

    # ---- copies

    def begin_copy(self, vid: int, collection: str, disk_type: str, needed_bytes: int) -> ArrivingVolume:
        """See `Store.begin_copy`."""
        with self._changing:
            if self._is_arriving(vid):
                raise VolumeArriving(vid)
            self._check_not_replaced(vid)
            self._check_in_service(vid)
            found = self.ids.find(collection, vid)
            if self.ids.is_coming(vid):
                raise VolumeArriving(vid)
            _check_none_arrived(vid, (one.path for one in found))
            if not copies_of(self._locations, vid):  # else it takes the place of one that is open
                check_room_for_new(self._locations[0], collection, vid)
            location = choose_for_copy(self._locations, normal_disk_type(disk_type), vid, needed_bytes)
            claimed = [volume for _, volume in copies_of(self._locations, vid)]
            _claim_all(claimed, "is being copied here anew")
            location.arriving.add(vid)
        self._listeners.emit([volume.id for volume in claimed])
        paths = VolumePaths(location.path, location.idx_path, collection, vid)
        return ArrivingVolume(self._files, paths, location, self._width, claimed)

    def mount_copy(self, arriving: ArrivingVolume) -> None:
        """See `Store.mount_copy`."""
        vid, location = arriving.paths.volume_id, arriving.location
        damage, has_data = arriving.examine()
        changed: list[int] = []
        try:
            with self._changing:
                if self.ids.is_coming(vid):
                    raise VolumeArriving(vid)
                self._check_in_service(vid)
                old = copies_of(self._locations, vid)
                if any(volume not in arriving.claimed for _, volume in old):
                    raise CopyIncomplete(f"volume {vid} was mounted here while it was copied, and takes writes since")
                if damage is not None and old:
                    raise CopyIncomplete(f"the copy is damaged, and does not replace the volume that is here: {damage}")
                if not has_data:
                    # Its source may be deleted next, and would leave no way to the data.
                    raise CopyIncomplete(f"the data of volume {vid} cannot be read from here: {damage}")
                found = self.ids.find(arriving.paths.collection, vid)
                _check_none_arrived(vid, (one.path for one in found))
                # A copy that is not open goes too: on an earlier disk it would hide the new one at the next start.
                present = [*(volume.paths for _, volume in old), *(one.volume for one in found if not one.is_shard)]
                arriving.decide(dict.fromkeys(one for one in present if one.base != arriving.paths.base))
                closed, failures = unload(old)
                changed += closed
                for failure in failures:
                    _log.warning("volume %d, which a copy replaces: %s", vid, failure)
                arriving.finish_arrival()
                self.ids.forget_listings()
                volume = location.load_arrived(vid, arriving.paths.collection)
                if volume is None:
                    raise VolumeNotFound(vid, " on disk")
                location.arriving.discard(vid)
                changed.append(volume.id)
        finally:
            self._listeners.emit(changed)

    def abandon_copy(self, arriving: ArrivingVolume) -> None:
        """See `Store.abandon_copy`. Takes no lock, unlike the other methods, because it must work when the store is
        closed.
        """
        vid = arriving.paths.volume_id
        arriving.remove()
        claimed, arriving.claimed = arriving.claimed, []
        for volume in claimed:
            volume.claim.give_up()
        arriving.location.arriving.discard(vid)
        self._listeners.emit([volume.id for volume in claimed])

    def _names_of(self, vid: int) -> dict[DiskLocation, list[str]]:
        """By disk, without those that cannot be looked at: they are asked again when the volume is opened."""
        found = {}
        for location in self._locations:
            if location.is_unavailable:
                continue
            try:
                found[location] = location.names_of(vid)
            except DiskUnavailable as failure:
                _log.warning("volume %d is looked for elsewhere: %s", vid, failure)
        return found

    def _finish_arrivals(self, vid: int) -> list[tuple[DiskLocation, list[Finding]]]:
        """Checks one disk after the other: an unreadable disk does not stop the others."""
        found = []
        for location in self._locations:
            try:
                found += finish_arrivals(self._files, self._locations, vid, searched=[location])
            except DiskUnreadable as failure:
                _log.warning("volume %d is looked for elsewhere: %s", vid, failure)
        return found

    @contextmanager
    def _without_arrived(self) -> Iterator[None]:
        """Puts copies in place that have arrived, of volumes that are not open. Inside, those whose files could not all
        be put in place are not opened: the copy that they replace may be on another disk.
        """
        ids = arrived_records(self._locations).keys() - self._replaced.keys()
        closed = {vid for vid in ids if not copies_of(self._locations, vid) and not self._is_arriving(vid)}
        for vid in sorted(closed):
            for location, findings in self._finish_arrivals(vid):
                location.findings.add(findings)
        left = closed & arrived_records(self._locations).keys() if closed else set()
        for location in self._locations:
            location.replaced |= left
        try:
            yield
        finally:
            for location in self._locations:
                location.replaced -= left

    def _check_in_service(self, vid: int) -> None:
        """Raises DiskUnavailable for a volume whose disk is out of service: closing it might hang."""
        for _, volume in copies_of(self._locations, vid):
            volume.check_in_service()

    def _is_arriving(self, vid: int) -> bool:
        return any(vid in location.arriving for location in self._locations)


def _check_none_arrived(vid: int, paths: Iterable[Path]) -> None:
    """Raises VolumeBusy where one of the files is the record of a copy that has arrived, and lacks its names. That one
    counts, and would remove any other one.
    """
    for path in paths:
        if path.suffix == ARRIVED:
            raise VolumeBusy(vid, f"has arrived here already, see {path}; mount it first")


def check_room_for_new(location: DiskLocation, collection: str, vid: int) -> None:
    """Raises TooManyVolumes where the process has no descriptors for a new volume; no file was made."""
    base = VolumePaths(location.path, location.idx_path, collection, vid).base
    location.open_volumes.check(base, is_new=True)


def _claim_all(volumes: Sequence[Volume], reason: str) -> None:
    """Takes the claim on the files of all volumes, and makes them refuse writes. Raises VolumeBusy: none is claimed."""
    for number, volume in enumerate(volumes):
        try:
            volume.claim.take(reason, holds_writes=True)
        except VolumeBusy:
            for taken in volumes[:number]:
                taken.claim.give_up()
            raise


def _is_empty(volume: Volume) -> bool:
    return volume.is_empty


# ---- Serialises changes of the set of volumes of a store, until the store is closed.


class AdminLock:
    """``with lock:`` holds it; raises StoreClosed when the store is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._is_closed:
            self._lock.release()
            raise StoreClosed

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @contextmanager
    def if_free(self) -> Iterator[bool]:
        """Holds the lock if it is free, and yields whether it does: for periodic callers. Raises StoreClosed as
        well.
        """
        if not self._lock.acquire(blocking=False):
            yield False
            return
        try:
            if self._is_closed:
                raise StoreClosed
            yield True
        finally:
            self._lock.release()

    def close(self) -> bool:
        """Waits for the holder and lets no later caller in. Returns whether it was open."""
        with self._lock:
            was_open, self._is_closed = not self._is_closed, True
            return was_open
