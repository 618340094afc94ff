"""The files from which a volume's shards are made: a vacuum may be committed at any moment of the coding."""

import pytest
from support.stores import open_at

from native_handlers.format.crc import crc32c
from native_handlers.format.needle import Needle
from native_handlers.storage.erasure_coding import generate
from native_handlers.storage.erasure_coding.errors import EcRefused
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import VolumeClosed

VID = 7
GONE, LIVING = range(1, 5), range(5, 9)
STEPS = ["sorted_rows", "encode", "encode_checksums"]
"""The index is read, the data are read, the files of an earlier coding are about to be removed."""


def content(number):
    return bytes((number,)) * 50_000


@pytest.fixture
def store(disk):
    """A store with a read-only volume that has an uncommitted compacted copy."""
    store = open_at(disk)
    store.allocate_volume(VID)
    volume = store.get_volume(VID)
    for number in (*GONE, *LIVING):
        volume.write(Needle(needle_id=number, cookie=5, data=content(number), checksum=crc32c(content(number))))
    for number in GONE:
        volume.delete(number, 5)
    list(volume.compaction.run(CompactionOptions()))
    store.mark_readonly(store.get_volume(VID))
    yield store
    store.close()


def once_before(monkeypatch, step, act):
    """Calls `act` before the first call of a function of the coding."""
    original, is_due = getattr(generate, step), [True]

    def call(*args, **more):
        if is_due and is_due.pop():
            act()
        return original(*args, **more)

    monkeypatch.setattr(generate, step, call)


@pytest.mark.parametrize("step", STEPS)
def test_a_volume_that_is_compacted_meanwhile_is_not_coded(store, disk, monkeypatch, step):
    once_before(monkeypatch, step, lambda: store.commit_compaction(store.get_volume(VID)))
    with pytest.raises(EcRefused, match=r"^volume 7 was compacted while its shards were made; make them again$"):
        store.ec_work.generate(store.get_volume(VID), "")
    assert not [path.name for path in disk.iterdir() if ".ec" in path.name]

    store.ec_work.generate(store.get_volume(VID), "")
    for shard in range(14):
        store.ec.mount("", VID, shard)
    store.delete_volume(VID, only_empty=False)
    for number in LIVING:
        assert bytes(store.ec_reader.read_needle(VID, number, 5).data) == content(number)


def test_the_shards_of_an_earlier_coding_stay_when_the_volume_is_compacted_meanwhile(store, disk, monkeypatch):
    store.ec_work.generate(store.get_volume(VID), "")
    before = {path.name: path.read_bytes() for path in disk.iterdir() if ".ec" in path.name}
    once_before(monkeypatch, "encode", lambda: store.commit_compaction(store.get_volume(VID)))
    with pytest.raises(EcRefused, match="was compacted"):
        store.ec_work.generate(store.get_volume(VID), "")
    assert {path.name: path.read_bytes() for path in disk.iterdir() if ".ec" in path.name} == before


def test_a_volume_that_is_closed_meanwhile_is_not_coded(store, disk, monkeypatch):
    once_before(monkeypatch, "encode_checksums", lambda: store.unmount_volume(VID))
    with pytest.raises(VolumeClosed):
        store.ec_work.generate(store.get_volume(VID), "")
    assert not [path.name for path in disk.iterdir() if ".ec" in path.name]
