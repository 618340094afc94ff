"""Copies that are to replace a volume, and what must not happen to the volume's files meanwhile."""

from __future__ import annotations

import pytest
from support.stores import open_at, place

from native_handlers.format.needle import Needle
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import CompactionRefused, CopyIncomplete, ReadOnly

VID = 7
COOKIE = 0xC0FFEE


def write(store, number, data):
    store.get_volume(VID).write(Needle(needle_id=number, cookie=COOKIE, data=data))


def read(store, number):
    found = store.get_volume(VID).read(number, cookie=COOKIE)
    try:
        return bytes(found.needle.data)
    finally:
        found.release()


@pytest.fixture
def store(tmp_path):
    made = open_at(tmp_path / "a", place(tmp_path / "b", disk_type="ssd"))
    made.allocate_volume(VID)
    write(made, 1, b"old")
    yield made
    made.close()


def arrive(store):
    """Copies the volume that is here to the other disk, as if it came from another server."""
    source = store.get_volume(VID).paths
    arriving = store.begin_copy(VID, "", "ssd", 0)
    arriving.begin()
    for extension in (".dat", ".idx", ".vif"):
        with arriving.receive(extension) as file:
            file.write(source.file(extension).read_bytes())
            file.commit()
    return arriving


def test_a_volume_mounted_anew_during_a_copy_is_not_replaced(store):
    """It takes writes since, and the copy lacks them."""
    arriving = arrive(store)
    with pytest.raises(ReadOnly):
        write(store, 2, b"new")
    store.unmount_volume(VID)
    store.mount_volume(VID)
    write(store, 2, b"new")
    with pytest.raises(CopyIncomplete, match="was mounted here while it was copied"):
        store.mount_copy(arriving)
    store.abandon_copy(arriving)
    assert read(store, 2) == b"new"


def test_no_vacuum_commits_while_a_copy_arrives(store):
    volume = store.get_volume(VID)
    list(volume.compaction.run(CompactionOptions()))
    arriving = arrive(store)
    with pytest.raises(CompactionRefused, match="is being copied here anew"):
        store.commit_compaction(store.get_volume(VID))
    store.abandon_copy(arriving)
    list(volume.compaction.run(CompactionOptions()))
    store.commit_compaction(store.get_volume(VID))
    assert read(store, 1) == b"old"


def test_a_copy_that_ends_gives_up_its_claim_alone(store):
    """A second end of it must not end the claim of another operation."""
    arriving = store.begin_copy(VID, "", "", 0)
    store.abandon_copy(arriving)
    claim = store.get_volume(VID).claim
    claim.take("is being tested", holds_writes=True)
    store.abandon_copy(arriving)
    with pytest.raises(ReadOnly):
        write(store, 2, b"new")
    assert store.get_volume(VID).report().read_only, "the master gives no more file ids of the volume"
    claim.give_up()
    assert not store.get_volume(VID).report().read_only
    write(store, 2, b"new")
