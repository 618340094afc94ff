"""Sizes at their limits: wrapped offsets, full volumes, large records with false sizes, stopping."""

from __future__ import annotations

import os
import time
from contextlib import closing, suppress
from dataclasses import replace

import pytest
from support.coded_volumes import put_coded_volume
from support.descriptors import open_files
from support.grpc_nodes import make_context, make_node
from support.stores import open_at, place

from native_handlers.format.crc import crc32c
from native_handlers.format.errors import Corrupt, SizeMismatch, Truncated
from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle, encode_needle, parse_needle_header
from native_handlers.grpc.incremental_copy import volume_incremental_copy
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage import check
from native_handlers.storage.disk.open_limit import VOLUME_DESCRIPTORS, OpenLimit
from native_handlers.storage.disk.session_mark import SESSION_FILE_NAME
from native_handlers.storage.erasure_coding.errors import EcMountFailed
from native_handlers.storage.model import errors
from native_handlers.storage.model.report import FindingKind
from native_handlers.storage.volume import append, record_reader, recovery, row_place
from native_handlers.storage.volume.append_log import append_time_ns, walk_records
from native_handlers.storage.volume.scrub import scrub_data, scrub_index

COOKIE = 0xC0FFEE
WRAP = 32 << 30


@pytest.fixture
def store(tmp_path, opened):
    return opened(tmp_path)


def write(store, needle_id, data, **how):
    return store.get_volume(7).write(Needle(needle_id=needle_id, cookie=COOKIE, data=data), **how)


@pytest.mark.parametrize("data", [b"wrapped", b"w" * (1 << 21)], ids=["small", "large"])
@pytest.mark.damage("nothing but a gap of 32 GiB in front, which would take minutes to examine")
def test_a_record_beyond_what_4_byte_offsets_reach_is_found_32_gib_further_on(tmp_path, data):
    store = open_at(tmp_path)
    store.allocate_volume(7)
    write(store, 1, b"at the same place, of another size")
    store.close()
    record = encode_needle(Needle(needle_id=2, cookie=COOKIE, data=data, checksum=crc32c(data), append_at_ns=5), 3)
    size = int.from_bytes(record[12:16], "big")
    with (tmp_path / "7.dat").open("r+b") as dat:
        dat.seek(WRAP + 8)
        dat.write(record)
    with (tmp_path / "7.idx").open("wb") as idx:
        idx.write(encode_entry(2, 1, size, 4))
    store = open_at(tmp_path)
    assert store.findings == []
    read = store.get_volume(7).read(2, cookie=COOKIE)
    if read.payload is None:
        assert read.needle.data == data
    else:
        assert read.payload.read(0, 100) == data[:100]
    read.release()
    with pytest.raises(errors.AppendOffsetExceeded, match=rf"^Volume Size \d+ Exceeded {WRAP}$"):
        write(store, 3, b"x")
    store.close()


def test_content_beyond_the_limit_is_refused(store, monkeypatch):
    monkeypatch.setattr(append, "max_volume_size_bytes", lambda _: 400)
    write(store, 1, b"x" * 300)
    with pytest.raises(errors.SizeLimitExceeded, match=r"^volume size limit 400 exceeded! current size is 305$"):
        write(store, 2, b"x" * 60)
    assert store.get_volume(7).delete(1, COOKIE) == 305


def test_a_payload_beyond_the_size_field_is_refused(store, monkeypatch):
    monkeypatch.setattr("native_handlers.storage.volume.write.MAX_DATA_BYTES", 100)
    with pytest.raises(errors.NeedleTooLarge):
        write(store, 1, b"x" * 101)
    write(store, 1, b"x" * 100)


@pytest.mark.damage("records that lie")
class TestRecordsThatLie:
    @pytest.fixture(params=[100, 2 << 20], ids=["small", "large"])
    def place(self, request, store, tmp_path):
        """Returns a function that overwrites bytes within the record of needle 1."""
        offset = write(store, 1, b"x" * request.param).offset

        def overwrite(at: int, data: bytes) -> None:
            with (tmp_path / "7.dat").open("r+b") as dat:
                dat.seek(offset + at)
                dat.write(data)

        return overwrite

    def test_another_size(self, store, place):
        place(12, b"\0\0\0\7")
        with pytest.raises((SizeMismatch, Truncated)):
            store.get_volume(7).read(1, cookie=None)

    def test_another_needle_is_read_all_the_same(self, store, place):
        """As in upstream: the index decides which record belongs to an id, because WriteNeedleBlob may enter any
        record.
        """
        place(4, b"\1")
        read = store.get_volume(7).read(1, cookie=COOKIE)
        assert read.needle.needle_id == 1 << 56 | 1
        read.release()

    @pytest.mark.parametrize("length", [b"\x7f\xff\xff\xff", b"\0\0\0\0"])
    def test_another_payload_length(self, store, place, length):
        place(16, length)
        with pytest.raises(Corrupt):
            store.get_volume(7).read(1, cookie=None)

    def test_a_file_that_ends_early(self, store, place, tmp_path):
        os.truncate(tmp_path / "7.dat", 40)
        with pytest.raises(Truncated):
            store.get_volume(7).read(1, cookie=None)
        os.truncate(tmp_path / "7.dat", 26)
        with pytest.raises(Truncated):
            store.get_volume(7).read(1, cookie=None)

    def test_it_is_replaced_by_the_same_payload(self, store, place):
        place(30, b"?")
        size = 100 if store.find_volume(7).size_bytes < 1000 else 2 << 20
        assert store.get_volume(7).write(Needle(needle_id=1, cookie=COOKIE, data=b"x" * size)).is_unchanged is False


def test_it_goes_on_after_a_sync(store):
    store.sync()
    write(store, 1, b"x")
    store.sync()
    assert store.get_volume(7).read(1, cookie=COOKIE).needle.data == b"x"


# ---- descriptors


def bounded(path, *, most_new=3, most_found=5):
    limit = OpenLimit(descriptors=1024, most_new=most_new, most_found=most_found)
    return open_at(place(path, max_volumes=100), open_limit=limit)


def test_an_open_volume_takes_as_many_descriptors_as_are_counted(tmp_path):
    with closing(open_at(tmp_path)) as store:
        before = len(open_files(tmp_path))
        for volume_id in range(1, 6):
            store.allocate_volume(volume_id)
        assert len(open_files(tmp_path)) == before + 5 * VOLUME_DESCRIPTORS


def test_a_volume_that_there_are_no_descriptors_for_is_not_made_and_the_refusal_names_the_limit(tmp_path):
    with closing(bounded(tmp_path)) as store:
        for volume_id in (1, 2, 3):
            store.allocate_volume(volume_id)
        before = sorted(os.listdir(tmp_path))
        with pytest.raises(errors.TooManyVolumes, match=r"3 volumes are open.*may open 1024 files.*ulimit -Hn"):
            store.allocate_volume(4)
        with pytest.raises(errors.TooManyVolumes):
            store.begin_copy(4, "", "", 0)
        assert sorted(os.listdir(tmp_path)) == before
        store.delete_volume(1, only_empty=False)
        store.allocate_volume(4)
        assert store.open_count == 3


def test_a_copy_may_take_the_place_of_the_volume_that_is_here(tmp_path):
    with closing(bounded(tmp_path, most_new=1)) as store:
        store.allocate_volume(1)
        store.abandon_copy(store.begin_copy(1, "", "", 0))


def test_volumes_that_are_there_already_are_opened_beyond_what_new_ones_may_take(tmp_path):
    with closing(open_at(tmp_path)) as store:
        for volume_id in range(1, 8):
            store.allocate_volume(volume_id)
    with closing(bounded(tmp_path)) as store:
        # Several volumes are opened at the same moment, and those are not counted.
        assert 5 <= store.open_count <= 7
        left = sorted(set(range(1, 8)) - {volume.id for volume in store.volumes()})
        assert len(store.findings) == len(left)
        for finding in store.findings:
            assert finding.kind is FindingKind.NOT_LOADED
            assert "raise the hard limit of open files" in finding.detail


def test_a_volume_is_not_mounted_beyond_the_limit_and_is_afterwards(tmp_path):
    with closing(bounded(tmp_path, most_new=9, most_found=2)) as store:
        for volume_id in (1, 2, 3):
            store.allocate_volume(volume_id)
        store.unmount_volume(1)
        with pytest.raises(errors.TooManyVolumes, match="2 volumes are open"):
            store.mount_volume(1)
        with pytest.raises(errors.VolumeNotFound):
            store.mount_volume(77)
        store.mount_volume(2)
        store.unmount_volume(2)
        store.mount_volume(1)
        assert store.findings == []


class TestDescriptorsOfShards:
    """A coded volume of 14 shards counts as eight volumes."""

    @pytest.fixture
    def coded(self, tmp_path):
        """A directory with the shards of volumes 1 to 4."""
        for volume_id in range(1, 5):
            put_coded_volume(tmp_path, volume_id, Needle(needle_id=1, cookie=COOKIE, data=b"x"))
        return tmp_path

    @pytest.mark.slow
    def test_are_those_that_are_counted(self, coded):
        """Slow: codes several volumes."""
        with closing(open_at(place(coded, max_volumes=100))) as store:
            before = len(open_files(coded))
            assert store.open_count == 4 * 8
            store.ec.mount("", 1, 3)
            assert store.open_count == 4 * 8, "it was open"
            store.ec.unmount(1, 3)
            store.ec.unmount(2, 3)
            assert store.open_count == 4 * 8 - 1
            store.ec.unload(1)
            store.ec_work.delete_shards("", 3, range(14))
            for shard in range(14):
                store.ec.unmount(2, shard)
            assert store.open_count == 8
            assert len(open_files(coded)) == before - 3 * 16
            store.load_new_volumes()
            assert store.open_count == 3 * 8

    @pytest.mark.slow
    def test_leave_no_room_for_new_volumes(self, coded):
        """Slow: codes several volumes."""
        with (
            closing(bounded(coded, most_new=32, most_found=100)) as store,
            pytest.raises(errors.TooManyVolumes, match="32 volumes are open"),
        ):
            store.allocate_volume(9)

    @pytest.mark.slow
    def test_those_beyond_the_limit_stay_closed_until_there_is_room(self, coded):
        """Slow: codes several volumes."""
        with closing(bounded(coded, most_found=20)) as store:
            assert store.open_count == 20
            assert len(open_files(coded)) <= 20 * VOLUME_DESCRIPTORS + 3
            left = [finding.base.name for finding in store.findings]
            assert left == ["3", "4"]
            for finding in store.findings:
                assert finding.kind is FindingKind.SHARDS_NOT_OPENED
                assert "raise the hard limit of open files" in finding.detail
            with pytest.raises(EcMountFailed, match="20 volumes are open, and there is room for no more"):
                store.ec.mount("", 4, 0)
            store.ec.mount("", 1, 0)
            store.ec_work.delete_shards("", 1, range(14))
            store.ec_work.delete_shards("", 4, range(14))
            store.load_new_volumes()
            assert store.findings == []
            assert [len(one.shards) for one in store.ec.volumes()] == [14, 14]

    def test_volumes_leave_room_for_the_shards_that_were_found(self, coded):
        with closing(open_at(place(coded, max_volumes=100))) as store:
            for volume_id in range(11, 21):
                store.allocate_volume(volume_id)
        with closing(bounded(coded, most_found=36)) as store:
            # Several volumes are opened at the same moment, and those are not counted.
            assert 4 <= len(store.volumes()) <= 6
            assert store.open_count <= 37


class TestDeletionsBeyondTheLimit:
    """A volume as long as offsets of 4 bytes reach. The result must not depend on the record's place."""

    LIMIT = 4096

    @pytest.fixture(params=[1, 2, 3])
    def full(self, request, tmp_path, monkeypatch):
        """A directory with a full volume. The limit is small, so that the test can examine the bytes before it."""
        for module in (append, check, recovery, record_reader, row_place):
            monkeypatch.setattr(module, "max_volume_size_bytes", lambda _width: self.LIMIT)
        with closing(open_at(tmp_path)) as store:
            store.allocate_volume(7, version=request.param)
            with suppress(errors.AppendOffsetExceeded, errors.SizeLimitExceeded):
                for needle_id in range(1, 1000):
                    write(store, needle_id, b"x" * 60)
            needle_id = 0
            while store.find_volume(7).size_bytes < self.LIMIT:
                needle_id += 1
                store.get_volume(7).delete(needle_id, COOKIE)
            self.first_id = needle_id + 1
        return tmp_path

    def state(self, store):
        found = {}
        for needle_id in range(1, 50):
            try:
                found[needle_id] = bytes(store.get_volume(7).read(needle_id, cookie=COOKIE).needle.data)
            except (errors.Deleted, errors.NotFound) as error:
                found[needle_id] = type(error)
        return found

    def delete_some(self, path, count=5):
        with closing(open_at(path)) as store:
            before = store.find_volume(7).size_bytes
            for needle_id in range(self.first_id, self.first_id + count):
                assert store.get_volume(7).delete(needle_id, COOKIE) > 0
            assert store.find_volume(7).size_bytes > max(before, self.LIMIT)
            with pytest.raises((errors.AppendOffsetExceeded, errors.SizeLimitExceeded)):
                write(store, 2000, b"more")
            return self.state(store)

    @pytest.mark.parametrize("ending", ["stop", "power cut"])
    def test_they_stay_deleted(self, full, ending):
        state = self.delete_some(full)
        if ending == "power cut":
            (full / SESSION_FILE_NAME).write_text("another 0\n")
        for _ in range(2):
            with closing(open_at(full)) as store:
                assert store.findings == []
                assert not store.find_volume(7).is_read_only
                assert self.state(store) == state
                store.get_volume(7).delete(self.first_id + 10, COOKIE)
                state = self.state(store)
                self.first_id += 1

    def test_rows_that_idx_lacks_are_entered(self, full):
        state = self.delete_some(full)
        rows = (full / "7.idx").read_bytes()
        (full / "7.idx").write_bytes(rows[:-32])
        with closing(open_at(full)) as store:
            assert [finding.kind for finding in store.findings] == [FindingKind.IDX_BEHIND]
            assert self.state(store) == state
        assert (full / "7.idx").read_bytes() == rows

    def test_a_scrub_finds_all_sound(self, full):
        self.delete_some(full)
        with closing(open_at(full)) as store, store.find_volume(7).open_log() as log:
            assert scrub_index(log, lambda _count: None).problems == []
            assert scrub_data(log, 7, lambda _count: None).problems == []

    def test_the_search_for_the_records_is_paced_and_ends_with_its_client(self, full):
        """What is read counts. The headers of many rows come with one read."""
        self.delete_some(full, 20)

        class Gone(Exception):
            pass

        passed = []

        def go_after(count):
            def work(count_bytes):
                passed.append(count_bytes)
                if len(passed) == count:
                    raise Gone

            return work

        with closing(open_at(full)) as store, store.find_volume(7).open_log() as log:
            scrub_index(log, passed.append)
            rows_bytes, *read_bytes = passed
            assert rows_bytes == log.row_count * 16
            assert sum(read_bytes) >= 200
            assert len(read_bytes) <= 2
            passed.clear()
            with pytest.raises(Gone):
                scrub_index(log, go_after(2))

    def test_a_needle_that_an_old_server_wrote_there(self, full):
        """Each way to read a volume finds the needle, and none an older record at its row's offset."""
        state = self.delete_some(full)
        version = (full / "7.dat").read_bytes()[0]
        needle = Needle(needle_id=3000, cookie=COOKIE, data=b"old server", checksum=crc32c(b"old server"))
        record = encode_needle(replace(needle, append_at_ns=time.time_ns()), version)
        row = encode_entry(3000, (full / "7.dat").stat().st_size % self.LIMIT // 8, int.from_bytes(record[12:16]), 4)
        for name, added in (("7.dat", record), ("7.idx", row)):
            with (full / name).open("ab") as file:
                file.write(added)
        with closing(open_at(full)) as store:
            volume = store.find_volume(7)
            assert volume.read(3000, cookie=COOKIE).needle.data == b"old server"
            found = {needle.needle_id: bytes(needle.data) for needle in volume.live_needles(lambda: True)}
            assert found.pop(3000) == b"old server"
            assert found == {key: data for key, data in state.items() if isinstance(data, bytes)}
            with volume.open_log() as log:
                assert scrub_data(log, 7, lambda _count: None).problems == []

    def test_a_backup_gets_the_records_behind_the_last_one_that_it_has(self, full, tmp_path):
        self.delete_some(full)
        with closing(open_at(full)) as store:
            if store.find_volume(7).version < 3:
                pytest.skip("records have no append time")
            with store.find_volume(7).open_log() as log:
                since_ns = append_time_ns(log, list(log.rows(0))[-3])
                wanted = log.read_dat(2 * 32, log.dat_end_bytes - 2 * 32)
            request = pb.VolumeIncrementalCopyRequest(volume_id=7, since_ns=since_ns)
            pieces = volume_incremental_copy(make_node(tmp_path, store), make_context(), request)
            assert b"".join(piece.file_content for piece in pieces) == wanted

    def test_followers_are_told(self, full):
        self.delete_some(full)
        with closing(open_at(full)) as store, store.find_volume(7).open_log() as log:
            deleted = [parse_needle_header(piece.header).needle_id for piece in walk_records(log, 0)][-4:]
            assert deleted == list(range(self.first_id + 1, self.first_id + 5))
            if log.version == 3:
                times = [append_time_ns(log, entry) for entry in log.rows(0) if entry.offset]
                assert times == sorted(set(times))


@pytest.mark.damage("nothing but a gap of 32 GiB in front, which would take minutes to examine")
def test_a_deletion_beyond_32_gib(tmp_path):
    """With the real limit, and a file with a hole."""
    with closing(open_at(tmp_path)) as store:
        store.allocate_volume(7)
        for needle_id in range(1, 4):
            write(store, needle_id, b"data")
    record = encode_needle(Needle(needle_id=9, cookie=COOKIE, data=b"x", checksum=crc32c(b"x"), append_at_ns=5), 3)
    with (tmp_path / "7.dat").open("r+b") as dat:
        dat.seek(WRAP - len(record))
        dat.write(record)
    with (tmp_path / "7.idx").open("ab") as idx:
        idx.write(encode_entry(9, (WRAP - len(record)) // 8, int.from_bytes(record[12:16], "big"), 4))
    with closing(open_at(tmp_path)) as store:
        for needle_id in (1, 9, 2):
            assert store.get_volume(7).delete(needle_id, COOKIE) > 0
        with pytest.raises(errors.AppendOffsetExceeded):
            write(store, 10, b"x")
    rows = (tmp_path / "7.idx").read_bytes()[-48:]
    # As upstream writes such rows: the offset begins again at 0.
    assert rows == b"".join(encode_entry(key, at, -1, 4) for key, at in ((1, 0), (9, 4), (2, 8)))
    with closing(open_at(tmp_path)) as store:
        assert store.findings == []
        assert store.get_volume(7).read(3, cookie=COOKIE).needle.data == b"data"
        for needle_id in (1, 9, 2):
            with pytest.raises(errors.Deleted):
                store.get_volume(7).read(needle_id, cookie=COOKIE)
        assert store.get_volume(7).delete(3, COOKIE) > 0
