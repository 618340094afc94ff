"""A copy from another server that counts already, and whose files could not all get their names."""

import errno
from contextlib import closing

import pytest
from support.files import PlannedFiles
from support.stores import open_at, place

from native_handlers.format.needle import Needle
from native_handlers.storage.model.errors import VolumeBusy

COOKIE = 5
EXTENSIONS = (".dat", ".idx", ".vif")

pytestmark = pytest.mark.damage("a copy whose files lack their names is what the tests are about")


def write(store, data, count=3):
    for needle_id in range(1, count + 1):
        store.get_volume(7).write(Needle(needle_id=needle_id, cookie=COOKIE, data=data))


def read(store, needle_id):
    return store.get_volume(7).read(needle_id, cookie=COOKIE).needle.data


@pytest.fixture
def source(tmp_path):
    """A directory with the volume that is copied."""
    with closing(open_at(tmp_path / "source")) as store:
        store.allocate_volume(7)
        write(store, b"new")
    return tmp_path / "source"


@pytest.fixture
def files():
    """The .idx of the copy gets no name until the plan is cleared."""
    return PlannedFiles(matches=lambda path: path.name == "7.idx.arriving")


@pytest.fixture
def store(disk, other_disk, files):
    """An old volume is on the first disk. The copy comes to the second one, which has more room."""
    places = place(disk, max_volumes=3), place(other_disk, max_volumes=50)
    with closing(open_at(places[0])) as store:
        store.allocate_volume(7)
        write(store, b"old")
    with closing(open_at(*places, files=files)) as store:
        yield store


def begin(store, source):
    incoming = store.begin_copy(7, "", "", 1000)
    incoming.begin()
    for extension in EXTENSIONS:
        file = incoming.receive(extension)
        file.write((source / f"7{extension}").read_bytes())
        file.commit(1)
    return incoming


@pytest.fixture
def unfinished(store, source, files, other_disk):
    """The copy that counts and lacks the name of its .idx."""
    incoming = begin(store, source)
    files.plan["rename"] = 0, errno.EIO
    with pytest.raises(OSError, match=r"Input/output error"):
        store.mount_copy(incoming)
    store.abandon_copy(incoming)
    assert {"7.arrived", "7.dat", "7.idx.arriving"} <= {path.name for path in other_disk.iterdir()}


@pytest.mark.usefixtures("unfinished")
class TestUnfinished:
    def test_a_second_copy_leaves_its_files(self, store, files, other_disk):
        with pytest.raises(VolumeBusy, match="has arrived here already"):
            store.begin_copy(7, "", "", 1000)
        assert (other_disk / "7.idx.arriving").exists()
        files.plan.clear()
        store.mount_volume(7)
        assert read(store, 3) == b"new"

    def test_the_volume_that_it_replaces_is_not_mounted(self, store, files, disk):
        with pytest.raises(VolumeBusy, match="has arrived here already"):
            store.mount_volume(7)
        assert (disk / "7.dat").exists()
        files.plan.clear()

    def test_a_search_for_new_volumes_does_not_open_that_one(self, store, files, disk):
        store.load_new_volumes()
        assert store.find_volume(7) is None
        files.plan.clear()
        store.load_new_volumes()
        assert read(store, 3) == b"new"
        assert not (disk / "7.dat").exists()
