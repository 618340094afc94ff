"""Compaction on a disk without room: what it takes from the reserve, and which room it asks for."""

from __future__ import annotations

import pytest
from test_storage_compaction import CONFIG, COOKIE, VID, compact, fill, temporary, write

from native_handlers.storage.model import errors
from native_handlers.storage.model.compaction import CompactionOptions


@pytest.fixture
def store(tmp_path, files, opened):
    store = opened(tmp_path, files=files, volumes=(), **CONFIG)
    fill(store)
    return store


def test_a_mark_on_a_full_disk_uses_the_reserve(store, tmp_path, monkeypatch):
    """An operation that frees most of the space must not fail for lack of space for one file name."""
    compact(store)
    given = []
    room = store.locations[0].room
    monkeypatch.setattr(room, "use", lambda operation: given.append(1) or operation())
    store.commit_compaction(store.get_volume(VID))
    assert given
    assert temporary(tmp_path) == []


def test_a_full_disk_takes_a_small_copy_from_its_reserve(store, files, monkeypatch):
    """A volume of garbage alone is how room is made."""
    used = []
    room = store.locations[0].room
    monkeypatch.setattr(room, "use", lambda operation: used.append(1) or operation())
    compact(store)
    assert not used
    files.free_bytes = 0
    compact(store)
    assert used


def test_nothing_is_reserved_where_there_is_room_for_the_copy_alone(store, files, monkeypatch, caplog):
    """The size of the reservation says nothing of the room that the copy needs."""
    used = []
    monkeypatch.setattr(store.locations[0].room, "use", lambda operation: used.append(1) or operation())
    files.free_bytes = 1 << 20
    options = CompactionOptions(preallocate_bytes=2 << 20)
    list(store.find_volume(VID).compaction.run(options))
    assert not used
    assert files.calls["allocate"] == 0
    assert "2097152 bytes are not reserved: 1048576 are free" in caplog.text
    store.commit_compaction(store.get_volume(VID))
    files.free_bytes = 2 << 20
    list(store.find_volume(VID).compaction.run(options))
    assert files.calls["allocate"] == 0, "the index needs room too"
    files.free_bytes = 3 << 20
    list(store.find_volume(VID).compaction.run(options))
    assert files.calls["allocate"] == 1
    files.free_bytes = 0
    list(store.find_volume(VID).compaction.run(options))
    assert used
    assert files.calls["allocate"] == 1


def test_a_reservation_makes_a_large_copy_no_larger(store, files):
    for number in range(20, 60):
        write(store, number, bytes(50_000))
    files.free_bytes = 4096
    with pytest.raises(errors.NoSpaceForCompaction, match=r"need 20\d{5} bytes"):
        list(store.find_volume(VID).compaction.run(CompactionOptions(preallocate_bytes=30 << 30)))


def test_large_records_are_copied_from_the_reserve_too(store, files, monkeypatch):
    write(store, 2, bytes(300_000))
    for number in range(4, 11, 2):
        store.get_volume(VID).delete(number, COOKIE)
    used = []
    monkeypatch.setattr(store.locations[0].room, "use", lambda operation: used.append(1) or operation())
    files.free_bytes = 0
    before = files.calls["copy"]
    compact(store)
    assert files.calls["copy"] > before
    assert len(used) > files.calls["copy"] - before


def test_a_full_disk_names_the_room_for_a_large_copy(store, files, tmp_path):
    for number in range(20, 60):
        write(store, number, bytes(50_000))
    files.free_bytes = 4096
    with pytest.raises(errors.NoSpaceForCompaction, match=r"need 20\d{5} bytes .* but only 4096 bytes available"):
        compact(store)
    assert temporary(tmp_path) == []
