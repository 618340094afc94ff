"""The files of an erasure-coded volume that another server gets: which disk they are of, and what was deleted."""

import errno
from contextlib import closing
from dataclasses import replace

import pytest
from support import stores
from support.files import PlannedFiles
from test_storage_ec_codings import sent
from test_storage_ec_disks import FIRST, SECOND, VID, close_shards, made_disks, readable, row

from native_handlers.format.idx import encode_entry, iter_entries
from native_handlers.format.types import TOMBSTONE_SIZE
from native_handlers.format.vif import encode_volume_info, parse_volume_info
from native_handlers.storage.erasure_coding.index_files import deleted_ids, with_deletions
from native_handlers.storage.volume.file_reader import PIECE_BYTES


@pytest.fixture
def disks(tmp_path):
    return made_disks(tmp_path, is_shared=False)


def sent_ids(store):
    """The ids in the .ecj that another server gets. Each is there once."""
    rows = sent(store, ".ecj")
    ids = [int.from_bytes(rows[at : at + 8], "big") for at in range(0, len(rows), 8)]
    assert len(ids) == len(set(ids))
    return set(ids)


def put_out(store, disk):
    store.locations[disk].health.problem = "why"


def put_back(store, disk):
    store.locations[disk].health.problem = ""


@pytest.mark.parametrize("away", [0, 1])
class TestDeletionsWhileADiskWasAway:
    @pytest.fixture
    def store(self, disks, away):
        """Needle 2 is deleted while one of the disks is out of service. That disk is back."""
        with closing(disks.open()) as store:
            store.ec_reader.delete_needle(VID, 1, 5)
            put_out(store, away)
            store.ec.delete(store.ec.find(VID), 2)
            put_back(store, away)
            yield store

    def test_are_sent_to_other_servers(self, disks, store, away):
        assert disks.journal(away).read_bytes() == row(1)
        assert sent_ids(store) == {1, 2}

    def test_are_sent_when_the_volume_is_closed(self, disks, store, away):
        """The disk was away when its shards were closed."""
        put_out(store, away)
        store.ec.unload(VID)
        put_back(store, away)
        assert disks.journal(away).read_bytes() == row(1)
        assert sent_ids(store) == {1, 2}

    def test_are_on_that_disk_after_the_next_look(self, disks, store, away):
        store.locations[1 - away].health.look()
        assert disks.journal(away).read_bytes() == row(1)
        store.locations[away].health.look()
        assert disks.journal(away).read_bytes() == row(1) + row(2)
        store.locations[away].health.look()
        assert disks.journal(away).read_bytes() == row(1) + row(2)

    def test_are_on_that_disk_when_its_shards_are_closed(self, disks, store, away):
        close_shards(store, (FIRST, SECOND)[away])
        assert disks.journal(away).read_bytes() == row(1) + row(2)


def test_a_disk_that_cannot_be_written_to_gets_them_at_a_later_look(disks):
    files = PlannedFiles(matches=lambda path: path == disks.journal(1))
    with closing(disks.open(files=files)) as store:
        put_out(store, 1)
        store.ec.delete(store.ec.find(VID), 2)
        put_back(store, 1)
        files.plan["write"] = 0, errno.EIO
        store.locations[1].health.look()
        assert store.locations[1].health.next_look_within_s() is not None
        assert readable(store) == {1, 3, 4, 5}
        files.plan.clear()
        store.locations[1].health.look()
        assert store.locations[1].health.next_look_within_s() is None
        assert disks.journal(1).read_bytes() == row(2)


def test_a_deletion_that_hangs_at_one_disk_keeps_no_look_at_another_waiting(disks):
    with closing(disks.open()) as store:
        put_out(store, 1)
        store.ec.delete(store.ec.find(VID), 2)
        put_back(store, 1)
        deletions = store.ec.find(VID).deletions
        with deletions.exclusive():
            store.locations[1].health.look()
            assert disks.journal(1).read_bytes() == b""
        store.locations[1].health.look()
        assert disks.journal(1).read_bytes() == row(2)


class TestJournals:
    def test_that_lack_nothing_are_sent_as_they_are(self, disks):
        disks.journal(1).write_bytes(row(3) * 3 + row(1))
        with closing(disks.open()) as store:
            assert sent(store, ".ecj") == row(3) * 3 + row(1)

    def test_of_closed_shards_are_sent_together(self, disks):
        with closing(disks.open()) as store:
            store.ec.unload(VID)
            disks.journal(0).write_bytes(row(3))
            disks.journal(1).write_bytes(row(4) + b"torn")
            assert sent_ids(store) == {3, 4}

    def test_that_cannot_be_read_are_not_left_out(self, disks):
        """The needles would be there again at the other server."""
        files = PlannedFiles(matches=lambda path: path == disks.journal(0))
        with closing(disks.open(files=files)) as store:
            store.ec.unload(VID)
            files.plan["open"] = 0, errno.EIO
            with pytest.raises(OSError, match="Input/output error"):
                sent(store, ".ecj")

    def test_of_another_coding_are_left_out(self, disks):
        """A needle that was deleted then may have been written again."""
        vif = disks.data[1] / "7.vif"
        info = parse_volume_info(vif.read_bytes())
        older = replace(info.ec_shard_config, encode_ts_ns=info.ec_shard_config.encode_ts_ns - 1)
        vif.write_text(encode_volume_info(replace(info, ec_shard_config=older)))
        disks.journal(1).write_bytes(row(3))
        with closing(disks.open()) as store:
            assert sent_ids(store) == set()
            store.ec.unload(VID)
            assert sent_ids(store) == set()
            store.ec.mount("", VID, 0)
            store.ec.delete(store.ec.find(VID), 4)
            put_out(store, 1)
            assert sent_ids(store) == {4}
            put_back(store, 1)


def fold(path, ids, width=4):
    """What Go's server does with a journal of these ids before a rebuilding. The journal goes."""
    path.write_bytes(with_deletions(path.read_bytes(), ids, width, path))
    path.with_suffix(".ecj").unlink(missing_ok=True)


class TestIndexes:
    """The index of one disk alone has some of the deletions."""

    @pytest.mark.parametrize("disk", [0, 1])
    @pytest.mark.parametrize("is_mounted", [True, False], ids=["mounted", "closed"])
    def test_are_sent_with_the_deletions_of_all(self, disks, disk, is_mounted):
        fold(disks.data[disk] / "7.ecx", [2, 4])
        fold(disks.data[1 - disk] / "7.ecx", [5])
        before = [(directory / "7.ecx").read_bytes() for directory in disks.data]
        with closing(disks.open()) as store:
            if not is_mounted:
                store.ec.unload(VID)
            content = sent(store, ".ecx")
        assert deleted_ids(content, 4) == [2, 4, 5]
        assert content == with_deletions(before[0], [2, 4, 5], 4, disks.data[0])
        assert [(directory / "7.ecx").read_bytes() for directory in disks.data] == before

    def test_that_lack_nothing_are_sent_as_they_are(self, disks):
        for directory in disks.data:
            fold(directory / "7.ecx", [3])
        with closing(disks.open()) as store:
            assert sent(store, ".ecx") == (disks.data[0] / "7.ecx").read_bytes()

    def test_that_cannot_be_read_are_not_left_out(self, disks):
        files = PlannedFiles(matches=lambda path: path == disks.data[0] / "7.ecx")
        with closing(disks.open(files=files)) as store:
            files.plan["open"] = 0, errno.EIO
            with pytest.raises(OSError, match="Input/output error"):
                sent(store, ".ecx")

    def test_of_another_coding_are_left_out(self, disks):
        vif = disks.data[0] / "7.vif"
        info = parse_volume_info(vif.read_bytes())
        older = replace(info.ec_shard_config, encode_ts_ns=info.ec_shard_config.encode_ts_ns - 1)
        vif.write_text(encode_volume_info(replace(info, ec_shard_config=older)))
        fold(disks.data[0] / "7.ecx", [3])
        with closing(disks.open()) as store:
            assert sent(store, ".ecx") == (disks.data[1] / "7.ecx").read_bytes()

    @pytest.mark.parametrize("width", [4, 5])
    @pytest.mark.slow
    def test_of_many_pieces_have_each_deletion(self, tmp_path, width):
        """Rows of 17 bytes lie across the ends of pieces and of what is scanned at once.
        Slow: indexes of tens of thousands of rows.
        """
        rows = b"".join(encode_entry(number, number, 100, width) for number in range(1, 2 * PIECE_BYTES // 16))
        gone = range(1, 2 * PIECE_BYTES // 16, 3)
        directories = tmp_path / "a", tmp_path / "b"
        for number, directory in enumerate(directories):
            directory.mkdir()
            (directory / "7.ecx").write_bytes(rows)
            (directory / f"7.ec0{number}").write_bytes(b"shard")
        fold(directories[0] / "7.ecx", gone, width)
        with closing(stores.open_at(*directories, offset_width_bytes=width)) as store:
            content = sent(store, ".ecx")
        assert len(content) == len(rows)
        found = {entry.needle_id: entry.size for entry in iter_entries(content, width)}
        assert found == {n: TOMBSTONE_SIZE if n in gone else 100 for n in found}
        assert len(found) == 2 * PIECE_BYTES // 16 - 1
