"""Many erasure-coded volumes on a server: opening or closing one takes no more steps for the others."""

import tracemalloc
from contextlib import closing

import pytest
from support.stores import open_at

from native_handlers.storage.erasure_coding.ec_volume import EcVolume

IDS = range(1_000_001, 1_000_301)
"""No other test has these. The caches of names are the process's, and an id in a cached name is compared."""
ROW = bytes(16)


class Steps:
    """Counts comparisons of volume ids, and looks at the shards of a volume."""

    def __init__(self):
        self.count = 0

    def of(self, work):
        """The steps of `work`."""
        before = self.count
        work()
        return self.count - before


STEPS = Steps()


class CountedId(int):
    """A volume id whose comparisons are steps."""

    __hash__ = int.__hash__

    def __eq__(self, other):
        STEPS.count += 1
        return int(self) == int(other)

    def __ne__(self, other):
        STEPS.count += 1
        return int(self) != int(other)

    def __lt__(self, other):
        STEPS.count += 1
        return int(self) < int(other)


@pytest.fixture
def store(tmp_path):
    with closing(open_at(tmp_path)) as store:
        for number in IDS:
            for extension, content in ((".ec00", b"shard"), (".ec01", b"shard"), (".ecx", ROW)):
                (tmp_path / f"{number}{extension}").write_bytes(content)
        yield store


def open_one(store, volume_id, shard_id=0):
    store.ec.open_shard(store.locations[0], "", volume_id, shard_id)


@pytest.fixture
def looks(monkeypatch):
    """A look at the shards of a volume is a step."""

    def shards(volume):
        STEPS.count += 1
        return volume.__dict__["shards"]

    def set_shards(volume, new):
        volume.__dict__["shards"] = new

    monkeypatch.setattr(EcVolume, "shards", property(shards, set_shards), raising=False)


@pytest.mark.usefixtures("looks")
@pytest.mark.slow
def test_no_other_volume_is_looked_at(store):
    """Slow: hundreds of volumes, with each step counted."""
    ids = [CountedId(number) for number in IDS]
    opening = [STEPS.of(lambda one=one: open_one(store, one)) for one in ids]
    assert max(opening[1:]) == opening[1]
    assert store.locations[0].ec_shard_count == len(ids)
    closing_one = [STEPS.of(lambda one=one: store.ec.unmount(one, 0)) for one in ids[:100]]
    closing_all = [STEPS.of(lambda one=one: store.ec.unload(one)) for one in ids[100:]]
    assert max(closing_one) == closing_one[-1] < 10
    assert max(closing_all) == closing_all[-1] < 10
    assert store.locations[0].ec_shard_count == 0


@pytest.mark.slow
def test_no_table_of_all_volumes_is_copied(store):
    """Apart from the few times when it grows. Slow: hundreds of volumes, with each allocation traced."""
    peaks = []
    tracemalloc.start()
    try:
        for volume_id in IDS:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            open_one(store, volume_id)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert min(peaks[-20:]) < min(peaks[:20]) + 4096


@pytest.mark.slow
def test_counts_are_those_of_the_open_shards(store):
    """Slow: makes the files of hundreds of volumes."""
    one, two, three = IDS[:3]
    for volume_id in (one, two, three):
        open_one(store, volume_id)
        open_one(store, volume_id, 1)
        open_one(store, volume_id)
    assert store.locations[0].ec_shard_count == 6
    store.ec.unmount(one, 0)
    store.ec.unmount(one, 7)
    assert store.locations[0].ec_shard_count == 5
    store.ec.unload(two)
    store.ec.unload(two)
    assert store.locations[0].ec_shard_count == 3
    store.ec.unmount(one, 1)
    assert [volume.id for volume in store.ec.volumes()] == [three]
    store.ec.close()
    assert (store.locations[0].ec_shard_count, store.ec.volumes()) == (0, [])
