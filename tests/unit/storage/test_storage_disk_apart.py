"""Changes of the set of volumes continue on healthy disks while another disk fails or hangs."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from contextlib import closing

import pytest
from support.clocks import Clock
from support.disks import played_disks
from support.stores import open_at
from support.waiting import LIMIT_S
from test_storage_disks import COOKIE, ONCE, look_at_all, read, wait_until_well, write

from native_handlers.format.needle import Needle
from native_handlers.storage.directory.location import LocationConfig
from native_handlers.storage.model import errors

files = pytest.fixture(played_disks)


@pytest.fixture
def clock():
    return Clock(time.time())


@pytest.fixture
def locations(tmp_path):
    made = []
    for name, disk_type in (("a", ""), ("b", "ssd")):
        path = tmp_path / name
        path.mkdir()
        made.append(LocationConfig(path, path, 8, disk_type=disk_type, probe=ONCE))
    return tuple(made)


@pytest.fixture
def store(locations, files, clock, opened):
    """Volume 1 on the first disk, 2 and 3 on the second, each with a needle. Volume 3 is not mounted."""
    for location in locations:
        files.add(location.path)
    store = opened(*locations, files=files, clock_ns=clock, volumes=(1,))
    store.set_volume_size_limit(1 << 30)
    for vid in (2, 3):
        store.allocate_volume(vid, disk_type="ssd")
    for vid in (1, 2, 3):
        write(store, vid, b"before")
    store.unmount_volume(3)
    yield store
    files.let_all_go_on()
    look_at_all(store)


@pytest.fixture
def first(store, files):
    """The first disk."""
    return files.add(store.locations[0].path)


@pytest.fixture
def break_first(store, first, how):
    def break_it():
        if how == "hangs":
            first.hang()
        else:
            first.error = errno.EIO
        if how != "fails unnoticed":
            look_at_all(store)
            assert store.locations[0].is_unavailable

    return break_it


every_way = pytest.mark.parametrize("how", ["fails", "fails unnoticed", "hangs"])


@every_way
class TestOthersGoOn:
    def test_mounting(self, store, break_first):
        break_first()
        store.mount_volume(3)
        assert read(store, 3) == b"before"

    def test_mounting_what_may_be_on_it(self, store, first, break_first, how):
        store.unmount_volume(1)
        break_first()
        why = "cannot be looked at: Input/output error" if how == "fails unnoticed" else "is out of service"
        with pytest.raises(errors.VolumeNotSeen, match=f"^volume 1 is on no disk that .*; disk .*/a {why}"):
            store.mount_volume(1)
        assert store.find_volume(1) is None

    def test_mounting_what_is_open_on_it_announces_it_again(self, store, first, break_first):
        events = []
        store.add_listener(events.append)
        break_first()
        store.mount_volume(1)
        assert events == [1]

    def test_configuring(self, store, break_first):
        break_first()
        store.configure_volume(2, "001")
        assert str(store.find_volume(2).replica_placement) == "001"
        assert read(store, 2) == b"before"

    def test_configuring_what_is_on_it_closes_nothing(self, store, first, break_first):
        volume = store.find_volume(1)
        break_first()
        with pytest.raises(
            errors.ConfigureFailed, match=r"disk .*/a (is out of service|cannot be looked at)"
        ) as failed:
            store.configure_volume(1, "001")
        assert (failed.value.step, failed.value.restore_failure) == ("", None)
        assert store.find_volume(1) is volume
        first.go_on()
        first.error = None
        wait_until_well(store)
        assert read(store, 1) == b"before"
        write(store, 1, b"after", needle_id=2)

    def test_finding_new_volumes(self, store, break_first, caplog):
        events = []
        store.add_listener(events.append)
        break_first()
        store.load_new_volumes()
        assert events == [3]
        assert read(store, 3) == b"before"
        assert "new volumes were not looked for" in caplog.text
        assert str(store.locations[0].path) in caplog.text

    def test_listing_volumes(self, store, break_first, caplog):
        break_first()
        assert store.volume_ids_on_disk() == [2, 3]
        assert "volumes were not looked for: disk" in caplog.text

    def test_deleting_and_allocating(self, store, break_first):
        break_first()
        store.delete_volume(2, only_empty=False)
        store.allocate_volume(4, disk_type="ssd")
        assert sorted(store.locations[1].volumes) == [4]


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_on_a_disk_that_is_out_of_service_nothing_is_deleted(store, break_first):
    volume, events = store.find_volume(1), []
    store.add_listener(events.append)
    break_first()
    for delete in (lambda: store.delete_volume(1, only_empty=False), lambda: store.delete_collection("")):
        with pytest.raises(errors.DeleteFailed, match=r"disk .*/a is out of service"):
            delete()
    assert store.volumes() == [volume]
    assert events == [2], "the collection's other volume is gone"


@pytest.mark.parametrize("how", ["fails", "hangs"])
@pytest.mark.parametrize("is_begun", [False, True])
def test_what_is_on_a_disk_that_is_out_of_service_is_replaced_by_no_copy(store, break_first, is_begun):
    """Closing the old volume might hang, and with it every change of the set of volumes."""
    volume = store.find_volume(1)
    arriving = store.begin_copy(1, "", "ssd", 0) if is_begun else None
    if arriving is not None:
        for extension in (".dat", ".idx", ".vif"):
            with arriving.receive(extension) as file:
                file.write(store.find_volume(2).paths.file(extension).read_bytes())
                file.commit()
    break_first()
    with pytest.raises(errors.DiskUnavailable, match=r"disk .*/a is out of service"):
        store.mount_copy(arriving) if arriving is not None else store.begin_copy(1, "", "ssd", 0)
    if arriving is not None:
        store.abandon_copy(arriving)
    assert store.find_volume(1) is volume
    assert not store.locations[1].arriving
    assert not any("arriv" in path.name for path in store.locations[1].path.iterdir())


def test_a_disk_that_is_known_to_hang_is_not_asked(store, first):
    first.hang()
    look_at_all(store)
    calls = first.calls
    store.mount_volume(3)
    store.load_new_volumes()
    store.volume_ids_on_disk()
    store.configure_volume(2, "001")
    assert first.calls == calls


class TestExpiredVolumes:
    @pytest.fixture
    def hung_mount(self, store, first):
        """A mount that waits for the first disk, before the disk is known to hang."""
        first.hang()
        outcome = []

        def mount():
            try:
                store.mount_volume(9)
            except errors.VolumeNotFound as error:
                outcome.append(error)

        thread = threading.Thread(target=mount)
        thread.start()
        assert first.has_caller.wait(LIMIT_S)
        yield thread
        first.go_on()
        thread.join(LIMIT_S)
        assert len(outcome) == 1

    def test_looking_for_them_waits_for_no_mount(self, store, hung_mount):
        assert store.remove_expired_volumes() == []
        assert hung_mount.is_alive()

    def test_they_are_left_for_later_while_somebody_changes_the_set(self, store, first, clock, request):
        store.allocate_volume(5, ttl="1m", disk_type="ssd")
        write(store, 5, b"short-lived")
        clock.advance(3600)
        mount = request.getfixturevalue("hung_mount")
        assert store.remove_expired_volumes() == []
        assert mount.is_alive()
        first.go_on()
        mount.join(LIMIT_S)
        assert store.remove_expired_volumes() == [5]

    def test_a_closed_store_has_none(self, locations, files, clock):
        store = open_at(*locations, files=files, clock_ns=clock)
        store.close()
        assert store.remove_expired_volumes() == []


class TestNewVolumes:
    def test_one_that_is_of_another_width_hinders_no_other(self, store, locations, tmp_path, caplog):
        source = tmp_path / "wide"
        source.mkdir()
        with closing(open_at(source, offset_width_bytes=5)) as wide:
            wide.allocate_volume(10)
        with closing(open_at(source, offset_width_bytes=5)) as wide:
            assert [volume.id for volume in wide.volumes()] == [10]
        for path in source.glob("10.*"):
            shutil.copy(path, locations[1].path)
        events = []
        store.add_listener(events.append)
        store.load_new_volumes()
        assert events == [3]
        assert "10.vif says its index has 5-byte offsets" in caplog.text
        for path in locations[1].path.glob("10.*"):
            path.unlink()

    def test_a_vacuum_that_cannot_be_finished_hinders_no_other_disk(self, store, locations, files, caplog, monkeypatch):
        (locations[0].path / "8.cpd").touch()
        (locations[0].path / "8.cpc").touch()
        real = files.rename

        def rename(source, target):
            if source.suffix == ".cpd":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(source, target)

        monkeypatch.setattr(files, "rename", rename)
        store.load_new_volumes()
        assert read(store, 3) == b"before"
        assert "/a cannot be looked at: Input/output error" in caplog.text
        for path in locations[0].path.glob("8.*"):
            path.unlink()


class TestAtTheStart:
    def test_a_disk_that_cannot_be_listed_refuses_it_and_leaves_nothing_locked(self, locations, files, monkeypatch):
        def fail(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

        with monkeypatch.context() as patch:
            patch.setattr(files, "list_directory", fail)
            with pytest.raises(errors.DiskUnreadable, match=r"^disk .*/a cannot be looked at: Input/output error$"):
                open_at(*locations, offset_width_bytes=4, files=files)
        open_at(*locations, files=files).close()


def test_closing_a_file_may_fail_too(store, files, monkeypatch):
    """A network file system may report a delayed failure when a file is closed."""

    def fail(fd):
        os.close(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(files, "close", fail)
        with pytest.raises(errors.DeleteFailed, match=r"^UnmountVolume 2 failed on some disks: .*Input/output error"):
            store.unmount_volume(2)
    assert store.find_volume(2) is None
    store.mount_volume(2)
    store.get_volume(2).write(Needle(needle_id=2, cookie=COOKIE, data=b"x"))
