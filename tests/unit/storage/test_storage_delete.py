"""Deleting volumes while others write to them: what was acknowledged is not deleted as empty, nor as expired."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from contextlib import closing

import pytest

from native_handlers.format.needle import Needle
from native_handlers.storage import errors
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.files import OsFiles
from native_handlers.storage.report import VolumeEventKind
from native_handlers.storage.store import StoreConfig, open_store
from native_handlers.storage.volume import attach_volume

COOKIE = 0xC0FFEE
VID = 7


class Files(OsFiles):
    """Calls `before` at the last look at the disk before a volume's lock is taken to delete it: for its .ecx."""

    def __init__(self):
        self.before = None
        self.failing = ""

    def facts(self, path):
        if path.suffix == ".ecx":
            if self.failing == "facts":
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            before, self.before = self.before, None
            if before is not None:
                before(path)
        return super().facts(path)

    def unlink(self, path):
        if self.failing == path.suffix:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        super().unlink(path)


@pytest.fixture
def files():
    return Files()


@pytest.fixture
def now_ns():
    return [time.time_ns()]


@pytest.fixture
def open_it(tmp_path, files, now_ns):
    """Opens a store over directories a and b."""
    locations = []
    for name in ("a", "b"):
        path = tmp_path / name
        path.mkdir()
        locations.append(LocationConfig(path, path, 8))
    return lambda: open_store(StoreConfig(tuple(locations)), files=files, clock_ns=lambda: now_ns[0])


@pytest.fixture
def store(open_it):
    with closing(open_it()) as opened:
        yield opened


@pytest.fixture
def twins(open_it, tmp_path):
    """A store with an empty copy of the volume on each disk."""
    with closing(open_it()) as first:
        first.allocate_volume(VID)
        assert list(first.locations[0].volumes) == [VID]
    for path in (tmp_path / "a").glob(f"{VID}.*"):
        shutil.copy(path, tmp_path / "b")
    with closing(open_it()) as opened:
        assert [volume.disk_id for volume in opened.volumes()] == [0, 1]
        yield opened


def events_of(store) -> list:
    events = []
    store.add_listener(lambda event: events.append((event.kind, event.disk_id)))
    return events


def needle(needle_id=1, data=b"acknowledged"):
    return Needle(needle_id=needle_id, cookie=COOKIE, data=data)


def read(store, needle_id=1):
    return bytes(store.read_needle(VID, needle_id, cookie=COOKIE).needle.data)


class TestOnlyEmpty:
    @pytest.mark.parametrize("fsync", [False, True])
    def test_a_write_between_the_look_and_the_lock_is_kept(self, store, files, fsync):
        store.allocate_volume(VID)
        volume, events = store.find_volume(VID), events_of(store)
        files.before = lambda _path: store.write_needle(VID, needle(), fsync=fsync)
        with pytest.raises(errors.VolumeNotEmpty, match=r"^DeleteVolume 7: volume not empty$"):
            store.delete_volume(VID, only_empty=True)
        assert store.find_volume(VID) is volume
        assert (read(store), events) == (b"acknowledged", [])
        store.write_needle(VID, needle(2))
        store.unmount_volume(VID)
        store.mount_volume(VID)
        assert (read(store), read(store, 2)) == (b"acknowledged", b"acknowledged")

    def test_a_write_of_another_process_is_kept(self, store, files):
        home = store.locations[0]
        fd = store.allocate_volume(VID).share()
        other = attach_volume(fd, home, time.time_ns, OsFiles())
        files.before = lambda _path: other.write(needle())
        with pytest.raises(errors.VolumeNotEmpty):
            store.delete_volume(VID, only_empty=True)
        assert read(store) == b"acknowledged"
        assert not other.is_closed
        other.write(needle(2))
        other.close()
        store.delete_volume(VID, only_empty=False)

    def test_a_deletion_counts_as_content(self, store, files):
        store.allocate_volume(VID)
        store.write_needle(VID, needle())
        store.delete_needle(VID, 1, COOKIE)
        with pytest.raises(errors.VolumeNotEmpty):
            store.delete_volume(VID, only_empty=True)

    def test_a_closed_volume_is_not_taken_for_empty(self, store):
        volume = store.allocate_volume(VID)
        volume.close()
        with pytest.raises(errors.VolumeClosed):
            volume.is_empty  # noqa: B018
        with pytest.raises(errors.VolumeClosed):
            store.delete_volume(VID, only_empty=True)
        assert store.locations[0].volume_ids_on_disk() == [VID]

    def test_one_that_is_closed_meanwhile_is_kept(self, store, files):
        volume = store.allocate_volume(VID)
        files.before = lambda _path: volume.close()
        with pytest.raises(errors.DeleteFailed, match="volume 7 is closed"):
            store.delete_volume(VID, only_empty=True)
        assert store.locations[0].volume_ids_on_disk() == [VID]

    @pytest.mark.parametrize("full", [0, 1])
    def test_of_several_copies_one_that_is_not_empty_keeps_all(self, twins, full):
        twins.locations[full].volumes[VID].write(needle())
        events = events_of(twins)
        with pytest.raises(errors.VolumeNotEmpty):
            twins.delete_volume(VID, only_empty=True)
        assert [volume.disk_id for volume in twins.volumes()] == [0, 1]
        assert events == []

    def test_the_first_copy_written_to_meanwhile_keeps_all(self, twins, files):
        events = events_of(twins)
        files.before = lambda _path: twins.write_needle(VID, needle())
        with pytest.raises(errors.VolumeNotEmpty):
            twins.delete_volume(VID, only_empty=True)
        assert [volume.disk_id for volume in twins.volumes()] == [0, 1]
        assert (read(twins), events) == (b"acknowledged", [])

    def test_a_later_copy_written_to_meanwhile_is_kept_and_the_first_is_announced_as_gone(self, twins, files):
        events = events_of(twins)

        def write_to_the_second(_path):
            files.before = lambda _path: twins.write_needle(VID, needle())

        files.before = write_to_the_second
        with pytest.raises(errors.VolumeNotEmpty):
            twins.delete_volume(VID, only_empty=True)
        assert [volume.disk_id for volume in twins.volumes()] == [1]
        assert (read(twins), events) == (b"acknowledged", [(VolumeEventKind.REMOVED, 0)])

    def test_nothing_that_was_acknowledged_is_lost_to_deletions_at_once(self, store):
        """Writers race with a deletion, again and again: either every write is there, or none was acknowledged."""
        for _ in range(100):
            volume = store.allocate_volume(VID)
            acknowledged, start = [], threading.Barrier(3)

            def write(needle_id, volume=volume, acknowledged=acknowledged, start=start):
                start.wait()
                try:
                    volume.write(needle(needle_id))
                except errors.VolumeClosed:
                    return
                acknowledged.append(needle_id)

            threads = [threading.Thread(target=write, args=(needle_id,)) for needle_id in (1, 2)]
            for thread in threads:
                thread.start()
            start.wait()
            try:
                store.delete_volume(VID, only_empty=True)
            except errors.VolumeNotEmpty:
                is_deleted = False
            else:
                is_deleted = True
            for thread in threads:
                thread.join()
            if is_deleted:
                assert acknowledged == []
            else:
                assert sorted(acknowledged) == [1, 2]
                assert read(store, 1) == read(store, 2) == b"acknowledged"
                store.delete_volume(VID, only_empty=False)


class TestExpired:
    def test_a_write_between_the_look_and_the_lock_is_kept(self, store, files, now_ns):
        store.set_volume_size_limit(1 << 30)
        store.allocate_volume(VID, ttl="1m")
        store.write_needle(VID, needle())
        now_ns[0] += 3600 * 10**9

        def write(_path):
            late = needle(2)
            late.last_modified_s, late.has_last_modified = now_ns[0] // 10**9, True
            store.write_needle(VID, late)

        files.before = write
        assert store.remove_expired_volumes() == []
        assert read(store, 2) == b"acknowledged"
        now_ns[0] += 3600 * 10**9
        assert store.remove_expired_volumes() == [VID]


@pytest.mark.damage("an .idx without its .dat stays")
class TestFailures:
    def test_one_that_cannot_be_looked_at_stays_and_is_not_announced_as_gone(self, store, files):
        store.allocate_volume(VID)
        store.write_needle(VID, needle())
        events = events_of(store)
        files.failing = "facts"
        with pytest.raises(errors.DeleteFailed, match="Input/output error"):
            store.delete_volume(VID, only_empty=False)
        files.failing = ""
        assert (read(store), events) == (b"acknowledged", [])

    def test_one_whose_files_cannot_be_removed_is_gone_from_the_set(self, store, files):
        store.allocate_volume(VID)
        events = events_of(store)
        files.failing = ".dat"
        with pytest.raises(errors.DeleteFailed, match="Input/output error"):
            store.delete_volume(VID, only_empty=True)
        assert store.find_volume(VID) is None
        assert events == [(VolumeEventKind.REMOVED, 0)]
