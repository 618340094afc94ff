"""The files that a decoding makes: the live records alone, so that nothing deleted can come back."""

import itertools
import random
from functools import partial

import numpy as np
import pytest
from support.files import PlannedFiles, broken
from support.made_once import put_files
from support.stores import open_at

from native_handlers.format.crc import crc32c
from native_handlers.format.idx import encode_entry, iter_entries
from native_handlers.format.needle import Needle, actual_size, parse_needle
from native_handlers.format.super_block import SuperBlock, parse_super_block
from native_handlers.format.types import TOMBSTONE_SIZE, to_bytes_offset
from native_handlers.storage.erasure_coding import decode, decode_volume, encode, layout, replaceable
from native_handlers.storage.erasure_coding.errors import EcRefused
from native_handlers.storage.erasure_coding.live_records import live_records
from native_handlers.storage.model.errors import Deleted, NotFound
from native_handlers.storage.system.files import OS_FILES
from native_handlers.storage.volume.record_facts import record_lengths
from native_handlers.storage.volume.scan import DatScan, ScanEnd

VID = 7
COOKIE = 5
ALL = range(1, 8)


def needle(number, byte=None, size=3000):
    data = bytes((byte or number,)) * size
    return Needle(needle_id=number, cookie=COOKIE, data=data, checksum=crc32c(data))


def readable(store):
    """The first byte of each needle, and no entry for one that is not there."""
    found = {}
    for number in ALL:
        try:
            with_data = store.get_volume(VID).read(number, cookie=COOKIE)
        except (NotFound, Deleted):
            continue
        found[number] = bytes(with_data.needle.data)[0]
        with_data.release()
    return found


def records(path):
    """Id and size of each record of a .dat, in order; every byte belongs to one."""
    fd = OS_FILES.open(path, 0)
    try:
        block = parse_super_block(path.read_bytes())
        scan = DatScan(OS_FILES, fd, block.version, block.size_bytes, path.stat().st_size)
        found = [(record.header.needle_id, record.header.size) for record in scan]
        assert scan.result is ScanEnd.COMPLETE
        return found
    finally:
        OS_FILES.close(fd)


def ids(path):
    return [needle_id for needle_id, _ in records(path)]


def remove_shards(store, disk):
    for shard in range(14):
        store.ec.unmount(VID, shard)
    store.ec_work.delete_shards("", VID, range(14))
    assert not list(disk.glob("7.ec*"))


def coded(disk, version=3, width=4):
    """Needles 1 to 7, of which 4 was overwritten, and 2 and 6 were deleted before the coding: 6 as the last change."""
    put_files(disk, ("two deleted", version, width), partial(make_coded, version=version, width=width))
    return open_at(disk, offset_width_bytes=width)


def make_coded(disk, *, version, width):
    store = open_at(disk, offset_width_bytes=width)
    store.allocate_volume(VID, version=version)
    for number in ALL:
        store.get_volume(VID).write(needle(number, byte=99 if number == 4 else None))
        if number == 3:
            store.get_volume(VID).delete(2, COOKIE)
    store.get_volume(VID).write(needle(4))
    store.get_volume(VID).write(needle(7, byte=77))
    store.get_volume(VID).delete(6, COOKIE)
    store.ec_work.generate(store.find_volume(VID), "")
    store.delete_volume(VID, only_empty=False)
    store.close()


LIVE = {1: 1, 3: 3, 4: 4, 5: 5, 7: 77}


@pytest.fixture
def meanwhile(monkeypatch):
    """Deletes needles of a store in its shards when the .dat of a decoding has been written."""
    write_dat, doomed = decode_volume.write_dat, []

    def write(*arguments):
        write_dat(*arguments)
        for store, number in doomed:
            store.ec.delete(store.ec.find(VID), number)

    monkeypatch.setattr(decode_volume, "write_dat", write)
    return doomed


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("width", [4, 5])
@pytest.mark.parametrize("is_folded", [False, True])
@pytest.mark.slow
def test_what_is_deleted_stays_deleted_without_the_idx(disk, meanwhile, version, width, is_folded):
    """Deleted before the coding, in the shards, or while the .dat is written.
    Slow: codes and decodes a volume, and opens the store three times.
    """
    store = coded(disk, version, width)
    store.ec_reader.delete_needle(VID, 3, COOKIE)
    if is_folded:
        store.ec_work.rebuild_missing("", VID, ignores_checksums=False)
    meanwhile.append((store, 5))
    store.ec_work.decode("", VID, was_open=False)
    store.mount_volume(VID)
    left = {number: byte for number, byte in LIVE.items() if number not in {3, 5}}
    assert readable(store) == left
    remove_shards(store, disk)
    store.close()
    for _ in range(2):
        (disk / "7.idx").unlink()
        store = open_at(disk, offset_width_bytes=width)
        assert readable(store) == left
        assert not store.get_volume(VID).is_read_only
        store.close()


@pytest.mark.slow
def test_the_dat_has_the_live_records_in_their_order(disk):
    """Slow: codes and decodes a volume."""
    store = coded(disk)
    store.ec_reader.delete_needle(VID, 3, COOKIE)
    store.ec_work.decode("", VID, was_open=False)
    assert ids(disk / "7.dat") == [1, 5, 4, 7]
    dat = (disk / "7.dat").read_bytes()
    assert parse_super_block(dat) == SuperBlock(compaction_revision=1)
    rows = list(iter_entries((disk / "7.idx").read_bytes(), 4))
    assert [row.needle_id for row in rows] == [1, 5, 4, 7]
    for row in rows:
        stored = parse_needle(dat[to_bytes_offset(row.offset) :], 3)
        assert (stored.needle_id, stored.data[:1]) == (row.needle_id, bytes((LIVE[row.needle_id],)))
    store.mount_volume(VID)
    report = store.find_volume(VID).report()
    assert (report.file_count, report.delete_count, report.deleted_byte_count) == (4, 0, 0)
    assert store.findings == []
    store.close()


def test_a_volume_without_garbage_is_decoded_as_it_was(disk):
    store = open_at(disk)
    store.allocate_volume(VID)
    for number in (3, 1, 2):
        store.get_volume(VID).write(needle(number))
    store.get_volume(VID).sync()
    dat, idx = (disk / "7.dat").read_bytes(), (disk / "7.idx").read_bytes()
    store.ec_work.generate(store.find_volume(VID), "")
    for shard in range(14):
        store.ec.mount("", VID, shard)
    store.delete_volume(VID, only_empty=False)
    store.ec_work.decode("", VID, was_open=False)
    assert ((disk / "7.dat").read_bytes(), (disk / "7.idx").read_bytes()) == (dat, idx)
    store.close()


def test_a_deletion_of_the_meantime_is_a_record_at_the_end(disk, meanwhile):
    store = coded(disk)
    meanwhile += [(store, 5), (store, 1)]
    store.ec_work.decode("", VID, was_open=False)
    assert records(disk / "7.dat")[-2:] == [(1, 0), (5, 0)]
    dat = (disk / "7.dat").read_bytes()
    times = []
    for row in iter_entries((disk / "7.idx").read_bytes(), 4):
        stored = parse_needle(dat[to_bytes_offset(row.offset) :], 3)
        assert (stored.needle_id, stored.cookie) == (row.needle_id, COOKIE)
        times.append(stored.append_at_ns)
    assert times == sorted(set(times))
    store.close()


def test_checksums_that_cannot_be_removed_make_no_failure(disk, caplog):
    """The volume is there."""
    coded(disk).close()
    files = PlannedFiles(matches=lambda path: path.suffix == ".ecsum")
    store = open_at(disk, files=files)
    files.plan["unlink"] = broken()
    store.ec_work.decode("", VID, was_open=False)
    files.plan.clear()
    assert "the checksums of" in caplog.text
    store.mount_volume(VID)
    assert readable(store) == LIVE
    store.close()


class TestAnEarlierResult:
    """It is replaced by the next decoding as long as the shards hold all that is in it."""

    @pytest.fixture
    def store(self, disk, meanwhile):
        """The files of a decoding during which needle 5 was deleted."""
        made = coded(disk)
        meanwhile.append((made, 5))
        made.ec_work.decode("", VID, was_open=False)
        meanwhile.clear()
        assert ids(disk / "7.dat") == [1, 3, 5, 4, 7, 5]
        yield made
        made.close()

    def decode(self, store):
        store.ec_work.decode("", VID, was_open=False)

    def test_as_it_was_left(self, store, disk):
        self.decode(store)
        assert ids(disk / "7.dat") == [1, 3, 4, 7]

    def test_that_was_open_meanwhile(self, store, disk):
        store.mount_volume(VID)
        store.unmount_volume(VID)
        self.decode(store)
        assert ids(disk / "7.dat") == [1, 3, 4, 7]

    def test_after_more_deletions(self, store, disk):
        store.ec.delete(store.ec.find(VID), 3)
        self.decode(store)
        assert ids(disk / "7.dat") == [1, 4, 7]

    def test_after_a_deletion_in_both(self, store, disk):
        store.mount_volume(VID)
        store.get_volume(VID).delete(3, COOKIE)
        store.unmount_volume(VID)
        store.ec.delete(store.ec.find(VID), 3)
        self.decode(store)
        assert ids(disk / "7.dat") == [1, 4, 7]

    def refused(self, store, disk):
        before = (disk / "7.dat").read_bytes()
        with pytest.raises(EcRefused, match="has what the shards of volume 7 do not hold"):
            self.decode(store)
        assert (disk / "7.dat").read_bytes() == before

    def test_with_a_deletion_that_the_shards_lack(self, store, disk):
        store.mount_volume(VID)
        store.get_volume(VID).delete(3, COOKIE)
        store.unmount_volume(VID)
        self.refused(store, disk)

    @pytest.mark.parametrize("number", [3, 5, 9], ids=["live", "deleted", "unknown"])
    def test_with_a_newer_needle(self, store, disk, number):
        store.mount_volume(VID)
        store.get_volume(VID).write(Needle(needle_id=number, cookie=COOKIE, data=b"newer"))
        store.unmount_volume(VID)
        self.refused(store, disk)

    @pytest.mark.damage("other bytes, or bytes that are no record")
    @pytest.mark.parametrize("at", [1, 40, 4000, -4])
    def test_with_other_bytes(self, store, disk, at):
        dat = bytearray((disk / "7.dat").read_bytes())
        dat[at] ^= 1
        if at == -4:
            dat += b"more"
        (disk / "7.dat").write_bytes(dat)
        self.refused(store, disk)


@pytest.mark.slow
def test_records_across_blocks_and_rows_move(disk, monkeypatch):
    """The runs between deleted needles begin and end anywhere in blocks of 1024 and of 64 bytes.
    Slow: codes and decodes a volume of many small blocks.
    """
    for method in (layout.Layout.of_dat, layout.Layout.of_shard):
        monkeypatch.setattr(method.__func__, "__defaults__", (1024, 64))
    for module, name, length in (
        (encode, "PIECE_BYTES", 16),
        (encode, "BLOCK_BYTES", 64),
        (decode, "PIECE_BYTES", 100),
        (replaceable, "PIECE_BYTES", 100),
    ):
        monkeypatch.setattr(module, name, length)
    contents = {number: random.Random(number).randbytes(300 + number) for number in range(1, 101)}
    store = open_at(disk)
    store.allocate_volume(VID)
    for number, content in contents.items():
        store.get_volume(VID).write(Needle(needle_id=number, cookie=COOKIE, data=content, checksum=crc32c(content)))
    for number in range(5, 101, 7):
        store.get_volume(VID).delete(number, COOKIE)
    store.ec_work.generate(store.find_volume(VID), "")
    for shard in range(14):
        store.ec.mount("", VID, shard)
    store.delete_volume(VID, only_empty=False)
    for number in (6, 7, 50):
        store.ec_reader.delete_needle(VID, number, COOKIE)
    for _ in range(2):
        store.ec_work.decode("", VID, was_open=False)
    store.mount_volume(VID)
    gone = {*range(5, 101, 7), 6, 7, 50}
    for number, content in contents.items():
        if number in gone:
            with pytest.raises(NotFound):
                store.get_volume(VID).read(number, cookie=COOKIE)
        else:
            assert store.get_volume(VID).read(number, cookie=COOKIE).needle.data == content
    assert ids(disk / "7.dat") == [number for number in contents if number not in gone]
    store.close()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_lengths_of_records(version):
    sizes = [*range(64), 2**31 - 1]
    assert record_lengths(np.array(sizes, np.int64), version).tolist() == [actual_size(size, version) for size in sizes]


def test_rows_that_lead_nowhere_are_left_out():
    """Those of damage: a row of a live needle has an offset."""
    rows = [encode_entry(1, 0, 10, 4), encode_entry(2, 1, 10, 4), encode_entry(3, 9, TOMBSTONE_SIZE, 4)]
    live = live_records(b"".join(rows), 4, SuperBlock())
    assert list(live.idx()) == [rows[1]]
    assert list(live.runs()) == [(0, 0, 8 + actual_size(10, 3))]
    assert live_records(rows[0] + rows[2], 4, SuperBlock()) is None


@pytest.mark.slow
@pytest.mark.parametrize("width", [4, 5])
def test_many_records(width):
    """In an order that is not that of the ids; every third is deleted, and every tenth is followed by a gap. Slow:
    40,000 records.
    """
    dice, end, places = random.Random(width), 8, {}
    for needle_id in dice.sample(range(1, 40_001), 40_000):
        places[needle_id] = end, dice.randrange(100)
        end += actual_size(places[needle_id][1], 3) + 8 * (needle_id % 10 == 0)
    rows, expected, moved = [], {}, 8
    for needle_id in sorted(places):
        place, size = places[needle_id]
        rows.append(encode_entry(needle_id, place // 8, TOMBSTONE_SIZE if needle_id % 3 == 0 else size, width))
    for needle_id, (place, size) in places.items():
        if needle_id % 3:
            expected[needle_id] = place, moved, size
            moved += actual_size(size, 3)
    live = live_records(b"".join(rows), width, SuperBlock())
    assert b"".join(live.idx()) == b"".join(
        encode_entry(needle_id, target // 8, size, width) for needle_id, (_, target, size) in expected.items()
    )
    runs = list(live.runs())
    assert all(one.followed_by(other) is None for one, other in itertools.pairwise(runs))
    targets = {
        run.target_bytes + done: run.start_bytes + done for run in runs for done in range(0, run.length_bytes, 8)
    }
    assert len(targets) * 8 == live.dat_bytes == moved
    for place, target, size in expected.values():
        assert all(targets[target + done] == place + done for done in range(0, actual_size(size, 3), 8))
    wanted = dice.sample(sorted(expected), 50)
    assert dict(live.find(np.array([*wanted, 3], np.uint64))) == {one: expected[one][1] for one in wanted}
