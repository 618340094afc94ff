"""The store as its callers use it: allocate, write, read, delete, reopen, mount, mark, report, events."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from support.descriptors import open_files
from support.stores import open_at, place

from native_handlers.format import crc
from native_handlers.format.errors import BadReplicaPlacement, BadTtl
from native_handlers.format.needle import Needle
from native_handlers.format.ttl import Ttl
from native_handlers.format.types import normal_disk_type
from native_handlers.storage.model import errors
from native_handlers.storage.store import Store, open_store
from native_handlers.storage.store_state import ServerState
from native_handlers.storage.volume.record_reader import MANIFEST_READ_LIMIT_BYTES


@pytest.fixture
def store(tmp_path, clock, opened):
    return opened(tmp_path / "d0", clock_ns=clock, ip="127.0.0.1", volumes=())


def reopened(store: Store, clock) -> Store:
    store.close()
    return open_store(store.config, clock_ns=clock)


def needle(needle_id=1, data=b"hello", cookie=0xC0FFEE, **changes) -> Needle:
    made = Needle(needle_id=needle_id, cookie=cookie, data=data, last_modified_s=1_700_000_000)
    made.has_last_modified = True
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def data_of(store, vid, needle_id, **how):
    read = store.get_volume(vid).read(needle_id, cookie=0xC0FFEE, **how)
    try:
        if read.payload is None:
            return bytes(read.needle.data)
        return read.payload.read(0, read.payload.length_bytes)
    finally:
        read.release()


class TestNeedles:
    def test_what_is_written_is_read_also_after_reopening(self, store, clock):
        store.allocate_volume(3, collection="pics")
        result = store.get_volume(3).write(needle(name=b"a.txt", flags=0x0A))
        assert (result.offset, result.size_bytes, result.is_unchanged) == (8, 5, False)
        self._check_first(store)
        again = reopened(store, clock)
        self._check_first(again)
        again.close()

    def _check_first(self, store):
        read = store.get_volume(3).read(1, cookie=0xC0FFEE)
        assert (read.needle.data, read.needle.name, read.needle.flags) == (b"hello", b"a.txt", 0x0A)
        assert read.needle.checksum == crc.crc32c(b"hello")
        read.release()

    def test_missing_deleted_and_wrong_cookie(self, store):
        store.allocate_volume(3)
        with pytest.raises(errors.NotFound, match=r"^not found$"):
            store.get_volume(3).read(1, cookie=None)
        store.get_volume(3).write(needle())
        with pytest.raises(errors.CookieMismatch) as caught:
            store.get_volume(3).read(1, cookie=7)
        assert (caught.value.expected, caught.value.got) == (0xC0FFEE, 7)
        assert store.get_volume(3).delete(1, 0xC0FFEE) == 15
        with pytest.raises(errors.Deleted, match=r"^already deleted$"):
            store.get_volume(3).read(1, cookie=None)
        assert data_of(store, 3, 1, read_deleted=True) == b"hello"
        assert store.get_volume(3).delete(1, 0xC0FFEE) == 0
        assert store.get_volume(3).delete(99, 0) == 0

    def test_a_deletion_survives_reopening_and_then_is_final(self, store, clock):
        store.allocate_volume(3)
        store.get_volume(3).write(needle())
        store.get_volume(3).delete(1, 0xC0FFEE)
        again = reopened(store, clock)
        with pytest.raises(errors.Deleted):
            again.get_volume(3).read(1, cookie=None)
        again.close()

    def test_no_volume(self, store):
        with pytest.raises(errors.VolumeNotFound, match=r"^volume 9 not found on 127\.0\.0\.1:8080$"):
            store.get_volume(9, store.on_this_server)
        with pytest.raises(errors.VolumeNotFound, match=r"^volume 9 not found$"):
            store.get_volume(9)

    def test_the_same_again_is_not_written(self, store):
        store.allocate_volume(3)
        store.get_volume(3).write(needle())
        size = store.find_volume(3).size_bytes
        assert store.get_volume(3).write(needle()).is_unchanged
        assert store.get_volume(3).write(needle(), fsync=True).is_unchanged
        assert store.find_volume(3).size_bytes == size
        assert not store.get_volume(3).write(needle(data=b"other")).is_unchanged
        assert data_of(store, 3, 1) == b"other"

    def test_the_same_again_is_written_where_the_volume_has_a_ttl(self, store):
        store.allocate_volume(3, ttl="1d")
        store.get_volume(3).write(needle())
        assert not store.get_volume(3).write(needle()).is_unchanged

    def test_the_same_again_when_large(self, store):
        store.allocate_volume(3)
        data = os.urandom(3 << 20)
        store.get_volume(3).write(needle(data=data))
        assert store.get_volume(3).write(needle(data=data)).is_unchanged
        assert not store.get_volume(3).write(needle(data=data[:-1] + bytes([data[-1] ^ 1]))).is_unchanged

    def test_another_cookie_may_not_overwrite(self, store):
        store.allocate_volume(3)
        store.get_volume(3).write(needle())
        with pytest.raises(errors.CookieMismatch, match=r"^mismatching cookie 7$"):
            store.get_volume(3).write(needle(cookie=7, data=b"x"))
        store.get_volume(3).delete(1, 0xC0FFEE)
        with pytest.raises(errors.CookieMismatch):
            store.get_volume(3).write(needle(cookie=7, data=b"x"))
        store.get_volume(3).write(needle(data=b"x"))
        assert data_of(store, 3, 1) == b"x"

    def test_cookie_0_takes_over_the_cookie_when_not_checked(self, store):
        store.allocate_volume(3)
        store.get_volume(3).write(needle())
        with pytest.raises(errors.CookieMismatch):
            store.get_volume(3).write(needle(cookie=0, data=b"x"))
        store.get_volume(3).write(needle(cookie=0, data=b"x"), check_cookie=False)
        assert data_of(store, 3, 1) == b"x"

    def test_an_empty_needle_is_live_and_answers_any_cookie(self, store, clock):
        store.allocate_volume(3)
        store.get_volume(3).write(needle(data=b""))
        assert data_of(store, 3, 1) == b""
        again = reopened(store, clock)
        again.get_volume(3).read(1, cookie=12345).release()
        assert again.volume_reports()[0].file_count == 1
        again.get_volume(3).delete(1, 0)
        with pytest.raises(errors.Deleted):
            again.get_volume(3).read(1, cookie=None, read_deleted=True)
        again.close()

    def test_large_payloads_stay_on_disk(self, store):
        store.allocate_volume(3)
        data = os.urandom((1 << 20) + 1)
        store.get_volume(3).write(needle(data=data, name=b"big", flags=0x0A))
        read = store.get_volume(3).read(1, cookie=0xC0FFEE)
        assert (read.needle.data, read.needle.name, read.needle.data_size) == (b"", b"big", len(data))
        payload = read.payload
        assert payload.read(0, payload.length_bytes) == data
        assert read.fits(crc.crc32c(data))
        assert read.fits(crc.crc32c(data))
        assert not read.fits(1)
        read.release()
        read.release()
        head_only = store.get_volume(3).read(1, cookie=0xC0FFEE, data=False)
        assert head_only.needle.data_size == len(data)
        assert head_only.check_payload() == crc.crc32c(data)
        head_only.release()

    @pytest.mark.parametrize(
        ("flag", "size"), [("is_compressed", (1 << 20) + 1), ("is_chunk_manifest", MANIFEST_READ_LIMIT_BYTES + 1)]
    )
    def test_what_is_compressed_or_too_long_a_manifest_stays_on_disk(self, store, flag, size):
        store.allocate_volume(3)
        data = os.urandom(size)
        store.get_volume(3).write(needle(data=data, **{flag: True}))
        read = store.get_volume(3).read(1, cookie=0xC0FFEE)
        assert (read.needle.data, read.needle.data_size) == (b"", size)
        assert read.payload.read(0, size) == data
        read.check_payload()
        read.release()

    def test_a_large_manifest_that_was_read_can_be_left_on_disk_again(self, store):
        store.allocate_volume(3)
        data = os.urandom((1 << 20) + 1)
        store.get_volume(3).write(needle(data=data, is_chunk_manifest=True))
        for size in (0, len(data)):
            read = store.get_volume(3).read(1, cookie=0xC0FFEE)
            assert (read.needle.data, read.payload) == (data, None)
            if size:
                read.leave_on_disk()
                assert (read.needle.data, read.payload.read(0, size)) == (b"", data)
                read.check_payload()
            read.release()
        store.get_volume(3).write(needle(data=b"small", is_chunk_manifest=True))
        read = store.get_volume(3).read(1, cookie=0xC0FFEE)
        read.leave_on_disk()
        assert (read.needle.data, read.payload) == (b"small", None)

    def test_large_manifests_are_read(self, store):
        store.allocate_volume(3)
        data = os.urandom((1 << 20) + 1)
        store.get_volume(3).write(needle(data=data, is_chunk_manifest=True))
        read = store.get_volume(3).read(1, cookie=0xC0FFEE)
        assert read.needle.data == data
        assert read.payload is None
        meta = store.get_volume(3).read(1, cookie=0xC0FFEE, data=False)
        assert meta.needle.data == b""
        assert meta.check_payload() == crc.crc32c(data) == read.check_payload()
        meta.release()

    def test_a_payload_stays_readable_after_the_volume_is_deleted(self, store):
        store.allocate_volume(3)
        data = os.urandom((1 << 20) + 1)
        store.get_volume(3).write(needle(data=data))
        read = store.get_volume(3).read(1, cookie=0xC0FFEE)
        store.delete_volume(3, only_empty=False)
        assert read.payload.read(0, read.payload.length_bytes) == data
        [path] = open_files(store.locations[0].path / "3.")
        assert path.endswith("3.dat (deleted)")
        read.release()
        assert open_files(store.locations[0].path / "3.") == []

    def test_append_times_grow_even_when_the_clock_stands_still_or_goes_back(self, store, clock):
        store.allocate_volume(3)
        times = []
        for needle_id in range(1, 4):
            made = needle(needle_id)
            store.get_volume(3).write(made)
            times.append(made.append_at_ns)
            clock.advance(-1)
        assert times == sorted(set(times))
        again = reopened(store, clock)
        made = needle(9)
        again.get_volume(3).write(made)
        assert made.append_at_ns == times[-1] + 1
        again.close()

    @pytest.mark.parametrize("version", [1, 2, 3])
    def test_every_version(self, store, clock, version):
        volume = store.allocate_volume(3, version=version)
        assert volume.version == version
        big = os.urandom((1 << 20) + 5)
        store.get_volume(3).write(needle(1))
        store.get_volume(3).write(needle(2, data=big))
        store.get_volume(3).delete(1, 0xC0FFEE)
        again = reopened(store, clock)
        assert data_of(again, 3, 2) == big
        with pytest.raises(errors.Deleted):
            again.get_volume(3).read(1, cookie=None)
        assert again.findings == []
        again.close()


class TestTtl:
    def test_a_needle_expires_by_its_append_time(self, store, clock):
        store.allocate_volume(3)
        store.get_volume(3).write(needle(1, ttl=Ttl(5, 1), has_ttl=True))
        clock.advance(299)
        assert data_of(store, 3, 1) == store.get_volume(3).try_read_cached(1, needle().cookie).data == b"hello"
        clock.advance(1)
        assert store.get_volume(3).try_read_cached(1, needle().cookie) is None
        with pytest.raises(errors.NotFound):
            store.get_volume(3).read(1, cookie=None)

    def test_without_a_modification_time_it_does_not(self, store, clock):
        store.allocate_volume(3)
        store.get_volume(3).write(needle(1, ttl=Ttl(5, 1), has_ttl=True, has_last_modified=False))
        clock.advance(3000)
        assert data_of(store, 3, 1) == b"hello"

    def test_the_volumes_ttl_is_given_to_needles_without_one(self, store):
        store.allocate_volume(3, ttl="1h")
        store.get_volume(3).write(needle(1))
        store.get_volume(3).write(needle(2, ttl=Ttl(5, 1), has_ttl=True))
        assert [str(store.get_volume(3).read(n, cookie=None).needle.ttl) for n in (1, 2)] == ["1h", "5m"]

    def test_an_expired_volume_is_hidden_then_removed(self, store, clock):
        store.allocate_volume(3, ttl="10m")
        store.allocate_volume(4)
        store.get_volume(3).write(needle())
        modified_s = clock.now_ns // 10**9
        assert modified_s
        store.find_volume(3).handle.opened.last_modified_s = modified_s
        clock.advance(11 * 60 + 1)
        assert [r.is_announced for r in store.volume_reports()] == [True, True]
        assert store.remove_expired_volumes() == []
        store.set_volume_size_limit(1 << 30)
        assert [r.is_announced for r in store.volume_reports()] == [False, True]
        assert store.remove_expired_volumes() == [3]
        assert [r.id for r in store.volume_reports()] == [4]


class TestVolumes:
    def test_allocation_goes_to_the_location_with_the_fewest_volumes(self, tmp_path, clock):
        store = open_at(place(tmp_path / "a", max_volumes=2), tmp_path / "b", clock_ns=clock)
        ids = [store.allocate_volume(vid).disk_id for vid in range(1, 6)]
        assert ids == [0, 1, 0, 1, 1]
        store.close()

    def test_allocation_goes_by_disk_type(self, tmp_path, clock):
        store = open_at(tmp_path / "a", place(tmp_path / "b", disk_type="ssd"), clock_ns=clock)
        assert store.allocate_volume(1, disk_type="SSD").disk_id == 1
        assert store.allocate_volume(2, disk_type="hdd").disk_id == 0
        with pytest.raises(errors.NoFreeSpace, match=r"^No more free space left$"):
            store.allocate_volume(3, disk_type="nvme")
        store.close()
        assert normal_disk_type("HDD") == ""

    def test_no_slot_left_and_unlimited(self, tmp_path, clock):
        store = open_at(place(tmp_path / "a", max_volumes=1), clock_ns=clock)
        store.allocate_volume(1)
        with pytest.raises(errors.NoFreeSpace):
            store.allocate_volume(2)
        store.close()
        store = open_at(place(tmp_path / "a", max_volumes=0), clock_ns=clock)
        store.allocate_volume(2)
        store.close()

    def test_bad_allocations(self, store):
        store.allocate_volume(1)
        with pytest.raises(errors.VolumeExists, match=r"^Volume Id 1 already exists!$"):
            store.allocate_volume(1)
        with pytest.raises(BadReplicaPlacement):
            store.allocate_volume(2, replication="999")
        with pytest.raises(BadTtl):
            store.allocate_volume(2, ttl="x1d")
        for version in (0, 4):
            with pytest.raises(errors.NewVersionUnsupported):
                store.allocate_volume(2, version=version)
        assert store.find_volume(2) is None

    def test_a_new_volume_is_preallocated_without_growing(self, store, tmp_path):
        store.allocate_volume(1, preallocate_bytes=1 << 20)
        stat = os.stat(tmp_path / "d0" / "1.dat")
        assert stat.st_size == 8
        assert stat.st_blocks * 512 >= 1 << 20

    def test_mount_and_unmount(self, store):
        store.allocate_volume(3)
        store.get_volume(3).write(needle())
        store.unmount_volume(3)
        store.unmount_volume(3)
        assert store.find_volume(3) is None
        store.mount_volume(3)
        assert data_of(store, 3, 1) == b"hello"
        store.mount_volume(3)
        with pytest.raises(errors.VolumeNotFound, match=r"^volume 4 not found on disk$"):
            store.mount_volume(4)

    def test_delete_volume(self, store, tmp_path):
        store.allocate_volume(3)
        store.allocate_volume(4)
        store.get_volume(3).write(needle())
        with pytest.raises(errors.VolumeNotEmpty, match=r"^DeleteVolume 3: volume not empty$"):
            store.delete_volume(3, only_empty=True)
        store.delete_volume(4, only_empty=True)
        store.delete_volume(3, only_empty=False)
        with pytest.raises(errors.VolumeNotFound, match=r"^delete volume 3 not found on disk$"):
            store.delete_volume(3, only_empty=False)
        left = {path.name for path in (tmp_path / "d0").iterdir()}
        assert left == {"vol_dir.uuid", ".weed-volume-py.lock", ".weed-volume-py.session"}

    def test_delete_collection(self, store):
        for vid, collection in ((1, "a"), (2, "b"), (3, "a"), (4, "")):
            store.allocate_volume(vid, collection=collection)
        store.delete_collection("a")
        assert [volume.id for volume in store.volumes()] == [2, 4]
        store.delete_collection("nosuch")
        store.delete_collection("")
        assert [volume.id for volume in store.volumes()] == [2]

    def test_a_held_volume_is_closed_after_unmounting(self, store):
        volume = store.allocate_volume(3)
        volume.write(needle())
        store.unmount_volume(3)
        with pytest.raises(errors.VolumeClosed, match=r"^volume 3 is closed$"):
            volume.write(needle(2))
        with pytest.raises(errors.VolumeClosed):
            volume.delete(1, 0)
        with pytest.raises(errors.NotFound):
            volume.read(1)
        assert volume.report() is None
        assert (volume.size_bytes, volume.index_size_bytes, volume.is_closed) == (0, 0, True)

    def test_two_copies_are_both_removed(self, tmp_path, clock):
        store = open_at(tmp_path / "a", tmp_path / "b", clock_ns=clock)
        store.allocate_volume(3)
        store.close()
        for name in ("3.dat", "3.idx", "3.vif"):
            (tmp_path / "b" / name).write_bytes((tmp_path / "a" / name).read_bytes())
        store = open_store(store.config, clock_ns=clock)
        events = []
        store.add_listener(events.append)
        assert [(volume.id, volume.disk_id) for volume in store.volumes()] == [(3, 0), (3, 1)]
        store.delete_volume(3, only_empty=True)
        assert events == [3, 3]
        store.close()

    def test_new_volumes_are_found_on_request(self, store, tmp_path, clock):
        store.allocate_volume(3)
        store.unmount_volume(3)
        events = []
        remove = store.add_listener(events.append)
        store.load_new_volumes()
        assert events == [3]
        store.load_new_volumes()
        remove()
        store.unmount_volume(3)
        assert len(events) == 1

    def test_nothing_changes_in_a_closed_store(self, store):
        store.close()
        store.close()
        with pytest.raises(errors.StoreClosed):
            store.allocate_volume(1)


class TestReadOnly:
    def test_marking(self, store):
        store.allocate_volume(3)
        store.get_volume(3).write(needle())
        events = []
        store.add_listener(events.append)
        store.mark_readonly(store.get_volume(3))
        with pytest.raises(errors.ReadOnly, match=r"^volume 3 is read only$"):
            store.get_volume(3).write(needle(2))
        with pytest.raises(errors.ReadOnly):
            store.get_volume(3).delete(1, 0)
        assert store.volume_reports()[0].read_only
        store.mark_readonly(store.get_volume(3), can_delete=True)
        with pytest.raises(errors.ReadOnly):
            store.get_volume(3).write(needle(2))
        assert store.get_volume(3).delete(1, 0xC0FFEE)
        store.mark_writable(store.get_volume(3))
        store.get_volume(3).write(needle(2))
        assert events == [3] * 3
        volume = store.get_volume(3)
        store.unmount_volume(3)
        for mark in (store.mark_readonly, store.mark_writable, store.commit_compaction):
            with pytest.raises(errors.VolumeNotFound, match=r"^volume 3 not found$"):
                mark(volume)
        store.mount_volume(3)
        store.mark_readonly(volume)
        assert store.get_volume(3).is_read_only

    @pytest.mark.parametrize(("persist", "can_delete"), [(True, False), (True, True), (False, False)])
    def test_it_outlives_the_process_only_if_asked(self, store, clock, persist, can_delete):
        store.allocate_volume(3)
        store.get_volume(3).write(needle())
        store.mark_readonly(store.get_volume(3), persist=persist, can_delete=can_delete)
        again = reopened(store, clock)
        reasons = again.find_volume(3).read_only_reasons
        assert (reasons.no_write_or_delete, reasons.no_write_can_delete) == (
            persist and not can_delete,
            persist and can_delete,
        )
        again.mark_writable(again.get_volume(3))
        again.get_volume(3).write(needle(2))
        last = reopened(again, clock)
        assert not last.find_volume(3).is_read_only
        assert data_of(last, 3, 2) == b"hello"
        last.close()

    def test_low_space_refuses_writes_and_allows_deletes(self, tmp_path, clock):
        store = open_at(tmp_path / "a", clock_ns=clock)
        store.allocate_volume(3)
        store.get_volume(3).write(needle())
        store.close()
        store = open_at(place(tmp_path / "a", min_free_bytes=1 << 62), clock_ns=clock)
        assert store.find_volume(3).read_only_reasons.disk_space_low
        with pytest.raises(errors.ReadOnly):
            store.get_volume(3).write(needle(2))
        assert store.get_volume(3).delete(1, 0xC0FFEE)
        with pytest.raises(errors.NoFreeSpace):
            store.allocate_volume(4)
        assert store.max_volume_counts() == {"": 1}
        store.close()


class TestReports:
    def test_numbers(self, store, clock):
        store.allocate_volume(3, collection="c", replication="001", ttl="1d")
        for needle_id in range(1, 4):
            store.get_volume(3).write(needle(needle_id))
        store.get_volume(3).write(needle(2, data=b"other"))
        store.get_volume(3).delete(3, 0xC0FFEE)
        report = store.volume_reports()[0]
        assert (report.id, report.collection, report.file_count, report.delete_count) == (3, "c", 4, 2)
        # 4 payload length + 5 payload + 1 flags + 5 modification time + 2 TTL
        assert (report.content_size_bytes, report.deleted_byte_count, report.max_needle_id) == (68, 34, 3)
        assert report.size_bytes == 8 + 4 * 48 + 32
        assert (str(report.replica_placement), str(report.ttl), report.version) == ("001", "1d", 3)
        assert (report.disk_type, report.disk_id, report.read_only, report.is_announced) == ("", 0, False, True)
        assert report.modified_at_s == clock.now_ns // 10**9
        again = reopened(store, clock)
        after = again.volume_reports()[0]
        for name in ("size_bytes", "content_size_bytes", "file_count", "delete_count", "deleted_byte_count"):
            assert getattr(after, name) == getattr(report, name), name
        again.close()

    def test_a_volume_without_its_file_is_not_announced(self, store, tmp_path, clock):
        store.allocate_volume(3)
        store.get_volume(3).write(needle())
        assert store.volume_reports()[0].is_announced
        (tmp_path / "d0" / "3.dat").unlink()
        assert store.volume_reports()[0].is_announced, "looked at less than 30 s ago"
        clock.advance(31)
        assert not store.volume_reports()[0].is_announced
        assert data_of(store, 3, 1) == b"hello"

    def test_disks(self, store, tmp_path):
        status = store.disk_statuses()[0]
        assert status.dir == str(tmp_path / "d0")
        assert status.all == status.used + status.free > 0
        assert abs(status.percent_free + status.percent_used - 100) < 1e-6
        assert store.max_volume_counts() == {"": 8}
        assert store.location_uuids() == [(tmp_path / "d0" / "vol_dir.uuid").read_text()]
        assert store.disk_tags() == [(0, "", (), 8)]

    def test_automatic_slots(self, tmp_path, clock):
        store = open_at(place(tmp_path / "a", max_volumes=0), clock_ns=clock)
        assert not store.adjust_max_volumes(), "no size limit yet"
        assert store.max_volume_counts() == {"": 0}
        free = store.disk_statuses()[0].free
        store.set_volume_size_limit(free // 4)
        assert store.adjust_max_volumes()
        assert store.max_volume_counts()[""] in (3, 4)
        store.set_volume_size_limit(free * 4)
        assert store.adjust_max_volumes()
        assert store.max_volume_counts() == {"": 1}, "a disk with free space has room for one"
        store.allocate_volume(1)
        store.set_volume_size_limit(1 << 40)
        store.set_preallocate(True)
        store.adjust_max_volumes()
        assert store.max_volume_counts()[""] == 1 + free // (1 << 40)
        store.close()


class TestState:
    def test_it_is_versioned_and_kept(self, store, tmp_path, clock):
        assert store.state == ServerState()
        assert store.set_state(None) == ServerState()
        assert store.set_state(ServerState(maintenance=True, version=0)) == ServerState(True, 1)
        with pytest.raises(errors.StateVersionMismatch, match=r"VolumeServerState \(got 1, want 0\)"):
            store.set_state(ServerState(False, 0))
        again = reopened(store, clock)
        assert again.state == ServerState(True, 1)
        again.close()
        (tmp_path / "d0" / "state.pb").write_bytes(b"\xff\xff")
        with pytest.raises(errors.BadState, match="failed to read store state"):
            open_store(store.config)

    def test_it_lies_in_the_first_index_directory(self, tmp_path, clock):
        store = open_at(place(tmp_path / "a", tmp_path / "i"), tmp_path / "b", clock_ns=clock)
        store.set_state(ServerState(True, 0))
        assert (tmp_path / "i" / "state.pb").exists()
        store.close()


_WRITER = """
import os, signal, sys
from pathlib import Path
from native_handlers.format.needle import Needle
from native_handlers.storage.directory.location import LocationConfig
from native_handlers.storage.store import StoreConfig, open_store
path = Path(sys.argv[1])
store = open_store(StoreConfig((LocationConfig(path, path, 8),)))
store.allocate_volume(3)
for needle_id in range(1, 101):
    store.get_volume(3).write(Needle(needle_id=needle_id, cookie=0xC0FFEE, data=b"x" * needle_id))
store.get_volume(3).delete(50, 0xC0FFEE)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    """Slow: starts a program and kills it."""
    done = subprocess.run([sys.executable, "-c", _WRITER, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    store = open_at(tmp_path)
    assert store.findings == []
    for needle_id in range(1, 101):
        if needle_id == 50:
            with pytest.raises(errors.Deleted):
                store.get_volume(3).read(needle_id, cookie=None)
        else:
            assert data_of(store, 3, needle_id) == b"x" * needle_id
    store.close()


def test_volumes_on_disk_are_those_with_data_open_or_not(tmp_path):
    store = open_at(tmp_path)
    for vid, collection in ((1, ""), (2, "pictures"), (3, "")):
        store.allocate_volume(vid, collection=collection)
    store.unmount_volume(2)
    (tmp_path / "4.idx").touch()  # of a volume whose data is gone
    assert store.volume_ids_on_disk() == [1, 2, 3]
    store.delete_volume(1, only_empty=True)
    assert store.volume_ids_on_disk() == [2, 3]
    store.close()
