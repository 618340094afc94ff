"""The disk of a shard whose sender names none: the ranks of the disks, one above the other."""

from __future__ import annotations

import pytest
from support.stores import open_at, place

from native_handlers.format.super_block import SuperBlock
from native_handlers.storage.directory.placement import choose_for_shard, place_for_shards
from native_handlers.storage.model.errors import DiskTooSmall, NoDiskForShard, NoSuchDisk

SSD, ROOMY, FULLER = range(3)


@pytest.fixture
def store(tmp_path):
    """An SSD, and two HDDs of which the second one has a volume."""
    places = [
        place(tmp_path / name, max_volumes=4, disk_type=disk_type, min_free_percent=0.0)
        for name, disk_type in (("ssd", "ssd"), ("roomy", ""), ("fuller", ""))
    ]
    store = open_at(*places)
    store.locations[FULLER].create(50, "", SuperBlock(version=3), 0)
    yield store
    store.close()


def chosen(store, mounted=()):
    found = choose_for_shard(store.ec.files, store.locations, "", 7, mounted)
    return None if found is None else found.disk_id


def put_index(store, disk_id):
    (store.locations[disk_id].path / "7.ecx").write_bytes(bytes(16))


def test_an_hdd_with_more_room_comes_before_another_and_before_an_ssd(store):
    assert chosen(store) == ROOMY


def test_a_disk_with_the_index_comes_before_an_hdd(store):
    put_index(store, SSD)
    assert chosen(store) == SSD
    put_index(store, FULLER)
    assert chosen(store) == SSD


@pytest.mark.parametrize("disk_id", [SSD, FULLER])
def test_a_disk_with_mounted_shards_comes_before_one_with_the_index(store, disk_id):
    put_index(store, ROOMY)
    assert chosen(store, [disk_id]) == disk_id


def test_a_disk_without_room_is_left_out_also_with_mounted_shards(store):
    location = store.locations[FULLER]
    for volume_id in range(51, 54):
        location.create(volume_id, "", SuperBlock(version=3), 0)
    assert chosen(store, [FULLER]) == ROOMY
    location = store.locations[ROOMY]
    location.health.problem = "why"
    assert chosen(store, [FULLER, ROOMY]) == SSD
    location.health.problem = ""


def placed(store, disk_id=0, needed_bytes=0):
    files, locations = store.ec.files, store.locations
    return place_for_shards(files, locations, "", 7, (), disk_id=disk_id, needed_bytes=needed_bytes).disk_id


def test_the_disk_that_is_named_comes_before_the_best_one(store):
    assert [placed(store, disk_id) for disk_id in (0, ROOMY, FULLER)] == [ROOMY, ROOMY, FULLER]


def test_a_number_that_no_disk_has_is_refused(store):
    with pytest.raises(NoSuchDisk, match="invalid disk_id 3: only have 3 disks"):
        placed(store, 3)


@pytest.mark.parametrize("disk_id", [0, ROOMY, FULLER])
def test_a_disk_that_is_too_small_is_named_in_the_refusal(store, disk_id):
    named = store.locations[disk_id or ROOMY].path
    with pytest.raises(DiskTooSmall, match=f"{named} has [0-9]+ bytes free above its reserve"):
        placed(store, disk_id, needed_bytes=1 << 60)


def test_without_any_disk_none_is_named(store):
    for location in store.locations:
        location.health.problem = "why"
    with pytest.raises(NoDiskForShard):
        placed(store)
    for location in store.locations:
        location.health.problem = ""
