"""Data directories with one index directory: the files of a name there are of one volume, and another data directory's
volume of the name may go, or not be finished.
"""

from contextlib import closing

import pytest
from support.stores import open_at, place

from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle
from native_handlers.format.types import TOMBSTONE_SIZE
from native_handlers.storage.check import check_directory
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import Deleted
from native_handlers.storage.model.report import FindingKind

COOKIE = 5
EXTENSIONS = (".dat", ".idx", ".vif")

pytestmark = pytest.mark.damage("crashes, and copies that are left over, are what the tests are about")


@pytest.fixture
def index(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def both(disk, other_disk, index):
    """Opens a store on the two disks. A new volume comes to the second one, which has more room for it."""
    return lambda: closing(open_at(place(disk, index, max_volumes=3), place(other_disk, index, max_volumes=50)))


def fill(store, count):
    for needle_id in range(1, count + 1):
        store.get_volume(7).write(Needle(needle_id=needle_id, cookie=COOKIE, data=b"data%4d" % needle_id))


@pytest.fixture
def sent(tmp_path):
    """By extension, the files of a volume that another server sends. No record says that its second needle is
    deleted.
    """
    with closing(open_at(tmp_path / "sent")) as store:
        store.allocate_volume(7)
        fill(store, 5)
    with (tmp_path / "sent/7.idx").open("ab") as file:
        file.write(encode_entry(2, 0, TOMBSTONE_SIZE, 4))
    return {extension: (tmp_path / f"sent/7{extension}").read_bytes() for extension in EXTENSIONS}


@pytest.fixture
def good(disk, index):
    """A volume on the first disk, of which a row has no record. Returns its index."""
    with closing(open_at(place(disk, index))) as store:
        store.allocate_volume(7)
        fill(store, 3)
    with (index / "7.idx").open("ab") as file:
        file.write(encode_entry(2, 0, TOMBSTONE_SIZE, 4))
    return (index / "7.idx").read_bytes()


def receive(store, sent, other_disk):
    """The copy, as it has arrived on the second disk."""
    incoming = store.begin_copy(7, "", "", len(sent[".dat"]))
    incoming.begin()
    assert incoming.paths.data_dir == other_disk
    for extension, content in sent.items():
        file = incoming.receive(extension)
        file.write(content)
        file.commit(1)
    return incoming


def is_deleted(store, needle_id):
    try:
        store.get_volume(7).read(needle_id, cookie=COOKIE)
    except Deleted:
        return True
    return False


class TestACopyFromAnotherServer:
    """It replaces the volume on the first disk. Both have their index under one path."""

    def check(self, store, sent, disk, index):
        assert not list(disk.glob("7.*"))
        assert (index / "7.idx").read_bytes() == sent[".idx"]
        assert [needle_id for needle_id in range(1, 6) if is_deleted(store, needle_id)] == [2]

    def test_it_keeps_its_index(self, both, good, sent, disk, other_disk, index):
        with both() as store:
            store.mount_copy(receive(store, sent, other_disk))
            self.check(store, sent, disk, index)
        with both() as store:
            self.check(store, sent, disk, index)

    def test_a_start_that_finishes_it_does_so_too(self, both, good, sent, disk, other_disk, index):
        with both() as store:
            incoming = receive(store, sent, other_disk)
            old = store.get_volume(7).paths
            incoming.decide([old])
        with both() as store:
            assert [finding.kind for finding in store.findings] == [FindingKind.ARRIVAL_FINISHED]
            self.check(store, sent, disk, index)


class TestAnUnfinishedCopy:
    """A .note beside a part of a .dat on the second disk; the index is that of the volume on the first one."""

    @pytest.mark.parametrize(
        ("length", "kind"), [(4, FindingKind.COPY_REMOVED), (100, FindingKind.COPY_ASIDE)], ids=["begun", "more of it"]
    )
    def test_a_start_leaves_the_index(self, both, good, sent, other_disk, index, length, kind):
        (other_disk / "7.dat").write_bytes(sent[".dat"][:length])
        (other_disk / "7.note").write_text("copying")
        with both() as store:
            assert [finding.kind for finding in store.findings] == [kind]
            assert (index / "7.idx").read_bytes() == good
            assert [needle_id for needle_id in range(1, 4) if is_deleted(store, needle_id)] == [2]
        assert not (other_disk / "7.dat").exists()
        assert not (other_disk / "7.note").exists()

    def test_the_only_copy_goes_with_its_index(self, both, sent, other_disk, index):
        other_disk.joinpath("7.dat").write_bytes(sent[".dat"][:4])
        other_disk.joinpath("7.note").write_text("copying")
        index.mkdir()
        (index / "7.idx").write_bytes(sent[".idx"])
        with both() as store:
            assert store.find_volume(7) is None
        assert not (index / "7.idx").exists()


class TestDeletion:
    def test_the_index_of_a_volume_that_is_not_open_stays(self, both, good, sent, other_disk, index):
        with both() as store:
            (other_disk / "7.dat").write_bytes(sent[".dat"])
            store.delete_volume(7, only_empty=False)
        assert (index / "7.idx").read_bytes() == good

    def test_the_last_volume_takes_it_along(self, both, good, sent, disk, other_disk, index):
        (other_disk / "7.dat").write_bytes(sent[".dat"])
        (other_disk / "7.vif").write_bytes(sent[".vif"])
        with both() as store:
            store.delete_volume(7, only_empty=False)
        assert [path for directory in (disk, other_disk, index) for path in directory.glob("7.*")] == []

    def test_an_index_beside_the_data_is_another_one(self, both, good, sent, other_disk, index):
        with both() as store:
            for extension in (".dat", ".idx"):
                (other_disk / f"7{extension}").write_bytes(sent[extension])
            store.delete_volume(7, only_empty=False)
        assert not (index / "7.idx").exists()


def test_a_search_for_new_volumes_leaves_the_vacuum_of_another_disk(both, sent, disk, other_disk, index):
    with closing(open_at(place(disk, index))) as store:
        store.allocate_volume(7)
        fill(store, 3)
    with both() as store:
        volume = store.get_volume(7)
        volume.delete(2, COOKIE)
        list(volume.compaction.run(CompactionOptions()))
        (other_disk / "7.dat").write_bytes(sent[".dat"])
        store.load_new_volumes()
        (other_disk / "7.dat").unlink()
        store.commit_compaction(volume)
        assert [needle_id for needle_id in (1, 3) if is_deleted(store, needle_id)] == []
        assert volume.compaction_revision == 1
    assert check_directory(disk, index_path=index).is_healthy
