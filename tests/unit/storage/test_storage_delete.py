"""Volumes are deleted while other threads write: a volume with an acknowledged write is never deleted as empty or
expired.
"""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import closing

import pytest
from support.clocks import Clock
from support.files import PlannedFiles, broken, once_before

from native_handlers.format.needle import Needle
from native_handlers.storage.model import errors
from native_handlers.storage.shared.attach import attach_volume, share_volume

COOKIE = 0xC0FFEE
VID = 7


def at_last_look(act):
    """Calls `act` once, at the last access to the disk before a deletion takes the volume's lock: the query of its
    .ecx.
    """
    return once_before("facts", lambda path: path.suffix == ".ecx", act)


@pytest.fixture
def clock():
    return Clock(time.time())


@pytest.fixture
def open_it(tmp_path, files, clock, opened):
    """Opens a store over directories a and b."""
    return lambda: opened(tmp_path / "a", tmp_path / "b", files=files, clock_ns=clock, volumes=())


@pytest.fixture
def store(open_it):
    return open_it()


@pytest.fixture
def twins(open_it, tmp_path):
    """A store with an empty copy of the volume on each disk."""
    with closing(open_it()) as first:
        first.allocate_volume(VID)
        assert list(first.locations[0].volumes) == [VID]
    for path in (tmp_path / "a").glob(f"{VID}.*"):
        shutil.copy(path, tmp_path / "b")
    store = open_it()
    assert [volume.disk_id for volume in store.volumes()] == [0, 1]
    return store


def events_of(store) -> list:
    events = []
    store.add_listener(events.append)
    return events


def needle(needle_id=1, data=b"acknowledged"):
    return Needle(needle_id=needle_id, cookie=COOKIE, data=data)


def read(store, needle_id=1):
    return bytes(store.get_volume(VID).read(needle_id, cookie=COOKIE).needle.data)


class TestOnlyEmpty:
    @pytest.mark.parametrize("fsync", [False, True])
    def test_a_write_between_the_look_and_the_lock_is_kept(self, store, files, fsync):
        store.allocate_volume(VID)
        volume, events = store.find_volume(VID), events_of(store)
        files.before = at_last_look(lambda _path: store.get_volume(VID).write(needle(), fsync=fsync))
        with pytest.raises(errors.VolumeNotEmpty, match=r"^DeleteVolume 7: volume not empty$"):
            store.delete_volume(VID, only_empty=True)
        assert store.find_volume(VID) is volume
        assert (read(store), events) == (b"acknowledged", [])
        store.get_volume(VID).write(needle(2))
        store.unmount_volume(VID)
        store.mount_volume(VID)
        assert (read(store), read(store, 2)) == (b"acknowledged", b"acknowledged")

    def test_a_write_of_another_process_is_kept(self, store, files):
        home = store.locations[0]
        fd = share_volume(store.allocate_volume(VID))
        other = attach_volume(fd, home, time.time_ns, PlannedFiles())
        files.before = at_last_look(lambda _path: other.write(needle()))
        with pytest.raises(errors.VolumeNotEmpty):
            store.delete_volume(VID, only_empty=True)
        assert read(store) == b"acknowledged"
        assert not other.is_closed
        other.write(needle(2))
        other.close()
        store.delete_volume(VID, only_empty=False)

    def test_a_deletion_counts_as_content(self, store, files):
        store.allocate_volume(VID)
        store.get_volume(VID).write(needle())
        store.get_volume(VID).delete(1, COOKIE)
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
        files.before = at_last_look(lambda _path: volume.close())
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
        files.before = at_last_look(lambda _path: twins.get_volume(VID).write(needle()))
        with pytest.raises(errors.VolumeNotEmpty):
            twins.delete_volume(VID, only_empty=True)
        assert [volume.disk_id for volume in twins.volumes()] == [0, 1]
        assert (read(twins), events) == (b"acknowledged", [])

    def test_a_later_copy_written_to_meanwhile_is_kept_and_the_first_is_announced_as_gone(self, twins, files):
        events = events_of(twins)

        def write_to_the_second(_path):
            files.before = at_last_look(lambda _path: twins.get_volume(VID).write(needle()))

        files.before = at_last_look(write_to_the_second)
        with pytest.raises(errors.VolumeNotEmpty):
            twins.delete_volume(VID, only_empty=True)
        assert [volume.disk_id for volume in twins.volumes()] == [1]
        assert (read(twins), events) == (b"acknowledged", [VID])

    @pytest.mark.slow
    def test_nothing_that_was_acknowledged_is_lost_to_deletions_at_once(self, store):
        """Writers race with a deletion many times: either every write is there, or none was acknowledged. Slow: threads
        race many times.
        """
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
    def test_a_write_between_the_look_and_the_lock_is_kept(self, store, files, clock):
        store.set_volume_size_limit(1 << 30)
        store.allocate_volume(VID, ttl="1m")
        store.get_volume(VID).write(needle())
        clock.advance(3600)

        def write(_path):
            late = needle(2)
            late.last_modified_s, late.has_last_modified = clock.now_ns // 10**9, True
            store.get_volume(VID).write(late)

        files.before = at_last_look(write)
        assert store.remove_expired_volumes() == []
        assert read(store, 2) == b"acknowledged"
        clock.advance(3600)
        assert store.remove_expired_volumes() == [VID]


@pytest.mark.damage("an .idx without its .dat stays")
class TestFailures:
    def test_one_that_cannot_be_looked_at_stays_and_is_not_announced_as_gone(self, store, files):
        store.allocate_volume(VID)
        store.get_volume(VID).write(needle())
        events = events_of(store)
        files.matches = lambda path: path.suffix == ".ecx"
        files.plan["facts"] = broken()
        with pytest.raises(errors.DeleteFailed, match="Input/output error"):
            store.delete_volume(VID, only_empty=False)
        files.plan.clear()
        assert (read(store), events) == (b"acknowledged", [])

    def test_one_whose_files_cannot_be_removed_is_gone_from_the_set(self, store, files):
        store.allocate_volume(VID)
        events = events_of(store)
        files.matches = lambda path: path.suffix == ".dat"
        files.plan["unlink"] = broken()
        with pytest.raises(errors.DeleteFailed, match="Input/output error"):
            store.delete_volume(VID, only_empty=True)
        assert store.find_volume(VID) is None
        assert events == [VID]
