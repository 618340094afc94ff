"""A deletion while the disk of another coding of the volume is out of service: that coding hides the needle later."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
from support.coded_volumes import code_volume
from support.files import PlannedFiles
from support.stores import open_at
from support.waiting import LIMIT_S

from native_handlers.format.needle import Needle
from native_handlers.storage.model.errors import Deleted

VID = 7
ROW = (2).to_bytes(8, "big")


@pytest.fixture
def disks(tmp_path):
    """The first disk has all shards of the older coding, the second one those of the newer one."""
    for name in ("older", "newer"):
        needles = [Needle(needle_id=number, cookie=5, data=name.encode() * 100) for number in range(1, 5)]
        code_volume(tmp_path / name, VID, *needles).close()
    return [tmp_path / "older", tmp_path / "newer"]


def is_deleted(store, number):
    try:
        store.ec_reader.read_needle(VID, number, 5)
    except Deleted:
        return True
    return False


@pytest.mark.slow
def test_is_noted_in_the_journal_when_its_disk_is_back(disks):
    """Slow: codes a volume."""
    with closing(open_at(*disks)) as store:
        older = store.locations[0]
        older.health.problem = "why"
        store.ec_reader.delete_needle(VID, 2, 5)
        assert (disks[0] / "7.ecj").read_bytes() == b""
        assert (disks[1] / "7.ecj").read_bytes() == ROW
        older.health.problem = ""
        store.ec.unload(VID, disk_id=1)
        assert is_deleted(store, 2)
        store.ec_reader.delete_needle(VID, 3, 5)
        assert (disks[0] / "7.ecj").read_bytes() == ROW + (3).to_bytes(8, "big")
    with closing(open_at(disks[0])) as store:
        assert [number for number in range(1, 5) if is_deleted(store, number)] == [2, 3]


def test_is_noted_in_the_journal_at_the_next_look_at_its_disk(disks):
    with closing(open_at(*disks)) as store:
        (older,) = [one for one in store.ec.copies(VID) if one.place.disk_id == 0]
        store.locations[0].health.problem = "why"
        store.ec_reader.delete_needle(VID, 2, 5)
        store.locations[0].health.problem = ""
        assert older.deletions.write_lacking(0)
        assert (disks[0] / "7.ecj").read_bytes() == ROW


def test_is_noted_in_the_journal_when_the_shards_are_closed(disks):
    with closing(open_at(*disks)) as store:
        store.locations[0].health.problem = "why"
        store.ec_reader.delete_needle(VID, 2, 5)
        store.locations[0].health.problem = ""
        store.ec.unload(VID)
    assert (disks[0] / "7.ecj").read_bytes() == ROW


def test_does_not_wait_for_a_deletion_that_hangs_there(disks):
    goes_on, hangs = threading.Event(), threading.Event()

    def hang(name, _target):
        if name == "sync" and threading.current_thread().name == "hangs":
            hangs.set()
            assert goes_on.wait(LIMIT_S)

    with closing(open_at(*disks, files=PlannedFiles(before=hang))) as store:
        (older,) = [one for one in store.ec.copies(VID) if one.place.disk_id == 0]
        thread = threading.Thread(target=older.delete, args=(1,), name="hangs")
        thread.start()
        assert hangs.wait(LIMIT_S)
        store.locations[0].health.problem = "why"
        store.ec_reader.delete_needle(VID, 2, 5)
        goes_on.set()
        thread.join(LIMIT_S)
        store.locations[0].health.problem = ""
        assert older.deletions.write_lacking(0)
        assert (disks[0] / "7.ecj").read_bytes() == (1).to_bytes(8, "big") + ROW
