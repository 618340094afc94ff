"""Reads of erasure-coded volumes: what they ask for, how much of it at once, and every loss that they bear."""

import itertools
import random
import tracemalloc

import pytest
from support.coded_volumes import FakeRemote, open_coded_volume
from support.files import PlannedFiles

from native_handlers.format.needle import Needle
from native_handlers.storage.erasure_coding import encode, reader
from native_handlers.storage.erasure_coding.layout import Layout
from native_handlers.storage.erasure_coding.remote import ShardUnreachable

VID = 7
COOKIE = 5
DATA = random.Random(9).randbytes(3_000_001)
RECEIVED, RECOVERED = 100_000, 30_000


def needle(number, data=DATA):
    return Needle(needle_id=number, cookie=COOKIE, data=data)


@pytest.fixture
def short_pieces(monkeypatch):
    monkeypatch.setattr(reader, "RECEIVED_BYTES", RECEIVED)
    monkeypatch.setattr(reader, "RECOVERED_BYTES", RECOVERED)


@pytest.fixture
def files():
    return PlannedFiles()


@pytest.fixture
def store(tmp_path, files, short_pieces):
    """One needle, in shards 0 to 2 and beyond."""
    made = open_coded_volume(tmp_path, VID, needle(1), files=files)
    yield made
    made.close()


def elsewhere(store, directory, *addresses, shards=range(14)):
    """Has other servers hold `shards`, and this one none of them."""
    content = {shard: (directory / f"{VID}.ec{shard:02d}").read_bytes() for shard in shards}
    for shard in shards:
        store.ec.unmount(VID, shard)
    remote = store.ec_reader.remote = FakeRemote({address: dict(content) for address in addresses})
    return remote


def read(store, number=1):
    return bytes(store.ec_reader.read_needle(VID, number, COOKIE).data)


def test_the_pieces_are_a_few_mebibytes():
    """A read that computes holds ten pieces of other shards beside the needle, however long the blocks are."""
    assert 10 * reader.RECOVERED_BYTES <= 10 << 20
    assert reader.RECEIVED_BYTES <= 4 << 20


@pytest.mark.slow
def test_a_large_needle_is_not_read_into_memory_that_is_zeroed_at_once(store):
    """Slow: codes a volume."""
    tracemalloc.start()
    try:
        assert read(store) == DATA
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The data of the needle; its record is memory of the system's, which is not traced.
    assert peak_bytes < 1.5 * len(DATA)


@pytest.mark.slow
def test_a_lost_shard_is_computed_in_pieces(store):
    """Slow: codes a volume."""
    store.ec.unmount(VID, 1)
    used, here = [], store.ec_reader.read_here

    def read_here(volume, shard_id, offset, view, **how):
        used.append(len(view))
        return here(volume, shard_id, offset, view, **how)

    store.ec_reader.read_here = read_here
    assert read(store) == DATA
    computed = [length for length in used if length <= RECOVERED]
    assert len(computed) > 10 * (1 << 20) // RECOVERED
    assert len(used) - len(computed) == 3, "the ranges themselves"
    assert sum(computed) <= 10 * (1 << 20) + 14 * RECOVERED


def test_lost_shards_are_computed_from_pieces_of_shards_elsewhere(store, tmp_path):
    remote = elsewhere(store, tmp_path, "a", shards=range(2, 14))
    store.ec.unmount(VID, 0)
    assert read(store) == DATA
    assert max(wanted.length_bytes for _, wanted in remote.requests) <= RECEIVED
    of_lost = [wanted for _, wanted in remote.requests if wanted.shard_id not in {2, 3}]
    assert max(wanted.length_bytes for wanted in of_lost) <= RECOVERED
    assert remote.most_pending_bytes <= 10 * RECOVERED
    assert remote.pending_bytes == 0


def test_a_shard_elsewhere_is_received_in_pieces(store, tmp_path):
    remote = elsewhere(store, tmp_path, "a", shards=range(13))
    assert read(store) == DATA
    assert remote.most_pending_bytes <= RECEIVED
    assert sum(wanted.length_bytes for _, wanted in remote.requests) <= len(DATA) + 100
    assert len(remote.requests) <= len(DATA) // RECEIVED + 4
    assert remote.asked == 1


def test_what_a_holder_gave_before_it_failed_is_kept(store, tmp_path):
    remote = elsewhere(store, tmp_path, "a", "b", shards=range(13))
    begin, left = remote.begin_read, [3]

    def begins(address, wanted):
        if address == "a":
            left[0] -= 1
            if left[0] < 0:
                raise ShardUnreachable("the server went")
        return begin(address, wanted)

    remote.begin_read = begins
    assert read(store) == DATA
    assert sum(wanted.length_bytes for _, wanted in remote.requests) <= len(DATA) + 100
    assert -left[0] <= 4, "it was asked once more for each range"


def test_a_holder_that_failed_at_one_piece_is_not_asked_for_the_next(store, tmp_path):
    remote = elsewhere(store, tmp_path, "bad", "good", shards=range(2, 14))
    store.ec.unmount(VID, 0)
    remote.shards["bad"] = {}
    holders = {shard: ["bad", "good"] for shard in range(2, 14)}
    remote.holders = lambda _volume_id: holders
    assert read(store) == DATA
    asked = [wanted.shard_id for address, wanted in remote.requests if address == "bad"]
    pieces = sum(address == "good" for address, _ in remote.requests)
    assert pieces > 300
    assert len(asked) <= 2 * 12 + 4


def test_a_small_read_of_bytes_in_memory_asks_nobody(tmp_path):
    files = PlannedFiles()
    store = open_coded_volume(tmp_path, VID, needle(1, b"small"), files=files)
    remote = store.ec_reader.remote = FakeRemote({})
    read(store)
    found = []
    calls = files.since(lambda: found.append(store.ec_reader.read_needle(VID, 1, COOKIE, cached_only=True)))
    assert bytes(found[0].data) == b"small"
    assert (remote.asked, remote.requests) == (0, [])
    assert set(calls) <= {"read_cached", "read_cached_into"}, "a read that may wait for the disk"
    store.close()


# ---- every loss


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 1024 and of 64 bytes, so that a short needle lies in all shards, in blocks of both kinds."""
    for method in (Layout.of_dat, Layout.of_shard):
        monkeypatch.setattr(method.__func__, "__defaults__", (1024, 64))
    for name in ("PIECE_BYTES", "BLOCK_BYTES"):
        monkeypatch.setattr(encode, name, 16 if name == "PIECE_BYTES" else 64)


LOSSES = [lost for count in range(1, 5) for lost in itertools.combinations(range(14), count)]


def check_losses(tmp_path, losses):
    needles = [needle(number, random.Random(number).randbytes(900)) for number in range(1, 14)]
    store = open_coded_volume(tmp_path, VID, *needles, files=PlannedFiles())
    here = store.ec_reader.read_here
    for lost in losses:

        def read_here(volume, shard_id, *args, lost=lost, **how):
            return shard_id not in lost and here(volume, shard_id, *args, **how)

        store.ec_reader.read_here = read_here
        for one in (needles[5], needles[-1]):
            assert read(store, one.needle_id) == one.data, lost
    store.close()


@pytest.mark.slow
def test_reads_bear_the_loss_of_up_to_four_shards(tmp_path, small_blocks):
    """Slow: reads through many losses."""
    check_losses(tmp_path, LOSSES[::61])


@pytest.mark.slow
def test_reads_bear_every_loss_of_up_to_four_shards(tmp_path, small_blocks):
    """Slow: there are some 1500 of them."""
    check_losses(tmp_path, LOSSES)


def test_reads_do_not_bear_the_loss_of_five_shards(tmp_path, small_blocks):
    with pytest.raises(ShardUnreachable, match="only 9 shards available"):
        check_losses(tmp_path, [(0, 3, 5, 9, 13)])


def test_a_scrub_asks_anew_who_holds_shards_that_are_not_here(store, tmp_path):
    """A balancing has moved the shards since the last answer of the master, which a read would still believe."""
    remote = elsewhere(store, tmp_path, "a", shards=range(2, 14))
    assert read(store) == DATA
    remote.shards["b"] = remote.shards.pop("a")
    asked = remote.asked
    scrubber = store.ec_work.scrubber(store.ec_reader, store.ec.find(VID), lambda _count: None)
    found = scrubber.full(checks_deleted=False)
    assert not found.errors
    assert not found.broken_shards
    assert remote.asked == asked + 1
