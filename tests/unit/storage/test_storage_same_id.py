"""A server has one volume of an id: of two, the next start would serve one, and the needles of the other were lost."""

from __future__ import annotations

import os
import threading
from contextlib import closing

import pytest
from support.disks import Disks
from support.files import PlannedFiles, UnsyncedFiles
from support.stores import open_at, place
from support.waiting import LIMIT_S

from native_handlers.format.needle import Needle
from native_handlers.format.vif import RemoteFile, VolumeInfo, encode_volume_info
from native_handlers.storage.directory import data_names
from native_handlers.storage.directory.data_names import DataNames
from native_handlers.storage.model.errors import DiskUnavailable, IdTaken, VolumeArriving, VolumeBusy, VolumeExists

VID = 7
COOKIE = 0xC0FFEE


@pytest.fixture
def disks(tmp_path):
    return place(tmp_path / "a"), place(tmp_path / "b"), place(tmp_path / "ssd", disk_type="ssd")


@pytest.fixture
def store(disks):
    with closing(open_at(*disks)) as store:
        yield store


def fill(store, collection="", volume_id=VID, count=20):
    store.allocate_volume(volume_id, collection=collection)
    data = {needle_id: bytes([needle_id]) * 500 for needle_id in range(1, count + 1)}
    for needle_id, payload in data.items():
        store.get_volume(volume_id).write(Needle(needle_id=needle_id, cookie=COOKIE, data=payload))
    return data


def contents(store, data):
    return {key: store.get_volume(VID).read(key, cookie=COOKIE).needle.data for key in data}


def code(store, collection="", *, is_open=True):
    """Makes shards of the volume, and deletes the volume."""
    store.ec_work.generate(store.find_volume(VID), collection)
    for shard in range(14) if is_open else ():
        store.ec.mount(collection, VID, shard)
    store.delete_volume(VID, only_empty=False)


def files_of(tmp_path):
    return sorted(path.name for path in tmp_path.rglob("*") if path.is_file() and f"{VID}." in path.name)


class TestAllocation:
    @pytest.mark.parametrize(("present", "wanted"), [("", "c"), ("c", ""), ("c", "d")])
    def test_beside_a_volume_that_is_not_open(self, store, disks, tmp_path, present, wanted):
        data = fill(store, present)
        store.unmount_volume(VID)
        path = next(tmp_path.rglob("*.dat"))
        with pytest.raises(IdTaken) as refused:
            store.allocate_volume(VID, collection=wanted)
        assert str(refused.value) == f"{path} is here; there cannot be a volume 7 of collection {wanted!r} too"
        store.close()
        with closing(open_at(*disks)) as reopened:
            assert contents(reopened, data) == data
            assert not reopened.findings

    @pytest.mark.parametrize("wanted", ["", "d"])
    @pytest.mark.parametrize("is_open", [True, False])
    def test_beside_shards(self, store, tmp_path, wanted, is_open):
        data = fill(store)
        code(store, is_open=is_open)
        before = files_of(tmp_path)
        with pytest.raises((IdTaken, VolumeExists)) as refused:
            store.allocate_volume(VID, collection=wanted)
        assert ("7.ec00" in str(refused.value)) or is_open
        assert files_of(tmp_path) == before
        for shard in range(14):
            store.ec.mount("", VID, shard)
        assert {key: bytes(store.ec_reader.read_needle(VID, key, COOKIE).data) for key in data} == data

    def test_names_the_first_files_and_counts_the_others(self, store):
        fill(store)
        code(store, is_open=False)
        with pytest.raises(IdTaken, match=r"7\.ec00, /.*/7\.ec01, /.*/7\.ec02 and 11 more are here; there cannot be"):
            store.allocate_volume(VID, collection="c")

    def test_a_volume_in_a_tier_that_is_not_open(self, store, tmp_path):
        info = VolumeInfo(version=3, files=(RemoteFile("s3", "cold", "key", 0, 100, 0, ".dat"),))
        (tmp_path / "ssd" / "c_7.vif").write_text(encode_volume_info(info))
        for collection, refusal in (("", IdTaken), ("c", VolumeExists)):
            with pytest.raises(refusal, match=r"c_7\.vif is here"):
                store.allocate_volume(VID, collection=collection)
        (tmp_path / "ssd" / "c_7.vif").unlink()

    def test_a_vif_alone_is_no_volume(self, store, tmp_path):
        (tmp_path / "a" / "c_7.vif").write_text(encode_volume_info(VolumeInfo(version=3)))
        (tmp_path / "a" / "c_7.idx").touch()
        (tmp_path / "a" / "c_17.dat").touch()
        (tmp_path / "a" / "c_007.dat").touch()
        assert store.allocate_volume(VID).collection == ""
        for path in (tmp_path / "a").glob("c_*"):
            path.unlink()

    def test_opens_the_files_of_that_name_where_they_are(self, store, disks, tmp_path):
        """A second volume of the name on another disk would hide the first at the next start, or be hidden."""
        fill(store, volume_id=1)
        data = fill(store)
        store.unmount_volume(VID)
        (holder,) = {path.parent for path in tmp_path.rglob("7.dat")}
        for volume_id in (21, 22, 23):
            store.allocate_volume(volume_id)
        emptiest = min(store.locations[:2], key=lambda one: one.local_volume_count)
        assert emptiest.path != holder or store.unmount_volume(21) is None
        store.allocate_volume(VID)
        assert contents(store, data) == data
        assert [path.parent for path in tmp_path.rglob("7.dat")] == [holder]

    def test_not_where_the_files_of_that_name_cannot_be_opened(self, store, tmp_path):
        fill(store)
        store.unmount_volume(VID)
        with pytest.raises(VolumeExists, match=r"^Volume Id 7 already exists! /.*/7\.dat is here$"):
            store.allocate_volume(VID, disk_type="ssd")

    def test_while_files_of_the_id_come(self, store):
        with store.ids.naming("c", VID), pytest.raises(VolumeArriving):
            store.allocate_volume(VID)
        store.allocate_volume(VID)

    def test_waits_for_no_disk_that_hangs(self, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(data_names, "LISTING_LIMIT_S", 0.1)
        files = Disks()
        hanging = files.add(tmp_path / "b")
        with closing(open_at(tmp_path / "a", tmp_path / "b", files=files)) as store:
            store.allocate_volume(1)
            hanging.hang()
            with pytest.raises(DiskUnavailable, match="does not answer"):
                store.begin_copy(VID, "", "", 0)
            # The next volume is for the other disk, and that has a free slot while it is not known to hang.
            monkeypatch.setattr(store.locations[1].usage, "is_low", True)
            store.allocate_volume(VID)
            assert "whether volume 7 is there is not known" in caplog.text
            hanging.go_on()


class TestCopy:
    def test_while_files_of_another_collection_come(self, store):
        with store.ids.naming("c", VID):
            with pytest.raises(IdTaken, match="files of volume 7 of collection 'c' come here just now"):
                store.begin_copy(VID, "", "", 0)
            with pytest.raises(VolumeArriving):
                store.begin_copy(VID, "c", "", 0)

    def test_files_do_not_come_while_a_volume_is_copied_here(self, store):
        arriving = store.begin_copy(VID, "", "", 0)
        with pytest.raises(VolumeArriving), store.ids.naming("c", VID):
            pass
        store.abandon_copy(arriving)
        with store.ids.naming("c", VID):
            pass

    def test_beside_shards_of_the_volume_itself(self, store):
        fill(store)
        code(store)
        store.abandon_copy(store.begin_copy(VID, "", "", 0))

    def test_beside_a_copy_that_has_arrived_on_another_disk(self, store, tmp_path):
        (tmp_path / "ssd" / "7.arrived").write_bytes(b"record")
        with pytest.raises(VolumeBusy, match=r"volume 7 has arrived here already, see /.*/ssd/7.arrived; mount it"):
            store.begin_copy(VID, "", "", 0)
        (tmp_path / "ssd" / "7.arrived").unlink()


class TestComing:
    def test_files_of_two_collections(self, store):
        with store.ids.naming("c", VID), store.ids.naming("c", VID):
            with pytest.raises(IdTaken), store.ids.naming("d", VID):
                pass
            with store.ids.naming("d", VID + 1):
                pass
        with store.ids.naming("d", VID):
            pass

    def test_a_copy_of_the_volume_begins_before_or_after(self, store):
        with store.ids.naming("", VID):
            with pytest.raises(VolumeArriving):
                store.begin_copy(VID, "", "", 0)
            store.begin_copy(VID + 1, "", "", 0)
        incoming = store.begin_copy(VID, "", "", 0)
        with pytest.raises(VolumeArriving), store.ids.naming("", VID):
            pass
        store.abandon_copy(incoming)

    def test_a_copy_does_not_take_the_place_of_files_that_come(self, store, tmp_path):
        with closing(open_at(tmp_path / "source")) as source:
            fill(source)
        incoming = store.begin_copy(VID, "", "", 0)
        incoming.begin()
        for extension in (".dat", ".idx", ".vif"):
            file = incoming.receive(extension)
            file.write((tmp_path / f"source/{VID}{extension}").read_bytes())
            file.commit(1)
        incoming.location.arriving.discard(VID)
        with store.ids.naming("", VID), pytest.raises(VolumeArriving):
            store.mount_copy(incoming)
        store.abandon_copy(incoming)

    def test_ends_for_a_store_that_was_closed(self, disks):
        store = open_at(*disks)
        with store.ids.naming("c", VID):
            store.close()
        assert not store.ids.is_coming(VID)


class TestTheKeptListing:
    @pytest.mark.slow
    def test_many_allocations_need_one_listing_of_each_disk(self, tmp_path):
        """Slow: makes a hundred volumes."""
        files = PlannedFiles()
        locations = [place(tmp_path / name, max_volumes=200) for name in "ab"]
        with closing(open_at(*locations, files=files)) as store:
            files.calls.clear()
            for volume_id in range(1, 101):
                store.allocate_volume(volume_id)
            # The first allocation on a disk may follow a change of the start.
            assert files.calls["list_directory"] <= 4
            store.unmount_volume(50)
            with pytest.raises(IdTaken):
                store.allocate_volume(50, collection="c")

    def test_what_others_put_there_is_seen(self, store, tmp_path):
        store.allocate_volume(1)
        (tmp_path / "b" / "c_7.dat").write_bytes(b"by hand")
        later = (tmp_path / "b").stat().st_mtime_ns + 10**9
        os.utime(tmp_path / "b", ns=(later, later))
        with pytest.raises(IdTaken):
            store.allocate_volume(VID)
        (tmp_path / "b" / "c_7.dat").unlink()
        store.allocate_volume(VID)

    def test_forgets(self, tmp_path):
        names = DataNames(UnsyncedFiles(), tmp_path)
        assert names.of(VID) == []
        time_ns = tmp_path.stat().st_mtime_ns
        (tmp_path / "c_7.dat").touch()
        os.utime(tmp_path, ns=(time_ns, time_ns))
        assert names.of(VID) == [], "the directory has its time"
        names.forget()
        assert names.of(VID) == ["c_7.dat"]

    def test_a_listing_that_was_forgotten_meanwhile_is_not_kept(self, tmp_path):
        class Slow(UnsyncedFiles):
            def __init__(self) -> None:
                super().__init__()
                self.is_listing, self.may_go_on = threading.Event(), threading.Event()

            def list_directory(self, path):
                found = super().list_directory(path)
                self.is_listing.set()
                assert self.may_go_on.wait(LIMIT_S)
                return found

        files = Slow()
        names = DataNames(files, tmp_path)
        asking = threading.Thread(target=names.of, args=(VID,))
        asking.start()
        assert files.is_listing.wait(LIMIT_S)
        time_ns = tmp_path.stat().st_mtime_ns
        (tmp_path / "c_7.dat").touch()
        os.utime(tmp_path, ns=(time_ns, time_ns))
        names.forget()
        files.may_go_on.set()
        asking.join(LIMIT_S)
        assert names.of(VID) == ["c_7.dat"]

    def test_what_is_added_is_found(self, tmp_path):
        names = DataNames(UnsyncedFiles(), tmp_path)
        names.of(VID)
        with names.adding(VID):
            (tmp_path / "7.dat").touch()
        assert names.of(VID) == ["7.dat"]
        assert names.of(VID + 10) == []
