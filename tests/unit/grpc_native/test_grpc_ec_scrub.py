"""ScrubEcVolume: what is read at which pace, the end with the client, and how much is listed."""

from __future__ import annotations

import dataclasses
import os
from contextlib import contextmanager

import grpc
import pytest
from support.coded_volumes import FakeRemote, open_coded_volume
from support.grpc_nodes import make_context, make_node

from native_handlers.format.idx import encode_entry
from native_handlers.format.needle import Needle
from native_handlers.grpc import ec_scrub
from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.volume import scrub as volume_scrub

VID = 7
MIB = 1 << 20
INDEX, LOCAL, FULL, CHECKSUM = pb.INDEX, pb.LOCAL, pb.FULL, pb.CHECKSUM
RECORD_BYTES = 300_040
NEEDLES = [Needle(needle_id=number, cookie=5, data=bytes((number,)) * 300_000) for number in range(1, 6)]


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "coded"


@pytest.fixture
def store(directory):
    made = open_coded_volume(directory, VID, *NEEDLES)
    yield made
    made.close()


@pytest.fixture
def node(tmp_path, store):
    return make_node(tmp_path, store)


def run(node, mode, context=None, **fields):
    return ec_scrub.scrub_ec_volume(node, context or make_context(), pb.ScrubEcVolumeRequest(mode=mode, **fields))


class RecordedThrottler:
    """Stands for `WriteThrottler`, and records what passes. Calls `at` when so many calls have been made."""

    def __init__(self):
        self.at, self.number = None, 0
        self.bytes_per_s, self.counts = None, []

    def __call__(self, bytes_per_s, pause):
        assert callable(pause)
        self.bytes_per_s = bytes_per_s
        return self

    def passed(self, count_bytes):
        self.counts.append(count_bytes)
        if len(self.counts) == self.number:
            self.at()


@pytest.fixture
def throttler(monkeypatch):
    made = RecordedThrottler()
    monkeypatch.setattr(ec_scrub, "WriteThrottler", made)
    return made


@pytest.mark.parametrize(
    ("mode", "read_bytes"),
    [(INDEX, 80), (LOCAL, 80 + 5 * RECORD_BYTES), (FULL, 80 + 5 * RECORD_BYTES), (CHECKSUM, 14 * MIB)],
)
def test_all_that_is_read_counts_for_the_pace(node, throttler, mode, read_bytes):
    slow = dataclasses.replace(node, facts=dataclasses.replace(node.facts, maintenance_bytes_per_s=77))
    answer = run(slow, mode)
    assert not answer.details
    assert (answer.total_volumes, answer.total_files) == (1, 0 if mode == CHECKSUM else 5)
    assert throttler.bytes_per_s == 77
    assert sum(throttler.counts) == pytest.approx(read_bytes, abs=5 * 8)
    assert max(throttler.counts) <= MIB


@pytest.mark.slow
def test_a_long_index_counts_piece_by_piece(node, directory, throttler):
    """Slow: codes a volume with a long index."""
    with (directory / f"{VID}.ecx").open("ab") as index:
        for number in range(10, 200_000):
            index.write(encode_entry(number, 0, -1, 4))
    run(node, INDEX)
    assert sum(throttler.counts) == os.path.getsize(directory / f"{VID}.ecx")
    assert max(throttler.counts) <= MIB


@pytest.mark.parametrize("mode", [pb.UNKNOWN, 99, -1])
def test_an_unknown_mode_is_no_bug(tmp_path, opened, mode):
    """As upstream: without volumes there is nothing to refuse."""
    node = make_node(tmp_path, opened(tmp_path / "empty", volumes=()))
    assert run(node, mode) == pb.ScrubEcVolumeResponse()
    assert not node.counts.snapshot().scrub_last_time_seconds


@pytest.mark.parametrize("mode", [pb.UNKNOWN, 99, -1])
def test_an_unknown_mode_is_refused_where_there_is_a_volume(node, mode):
    with pytest.raises(RpcFailure, match=f"unsupported EC volume scrub mode {mode}"):
        run(node, mode)


def test_a_volume_that_is_named_many_times_is_scrubbed_once(node, throttler):
    answer = run(node, INDEX, volume_ids=[VID] * 1000)
    assert (answer.total_volumes, sum(throttler.counts)) == (1, 80)


@pytest.mark.parametrize("mode", [INDEX, LOCAL, FULL, CHECKSUM])
def test_a_client_that_has_gone_ends_it(node, mode):
    context = make_context()
    context.add_callback = lambda callback: callback() or True
    with pytest.raises(RpcFailure) as raised:
        run(node, mode, context)
    assert raised.value.code is grpc.StatusCode.CANCELLED


@pytest.mark.parametrize(("mode", "lost"), [(LOCAL, ()), (FULL, ()), (FULL, (0, 1))])
def test_a_client_that_goes_meanwhile_ends_it(node, store, throttler, mode, lost):
    for shard in lost:
        store.ec.unmount(VID, shard)
    context = make_context()

    def goes_at_the_second_piece(callback):
        throttler.at, throttler.number = callback, 2
        return True

    context.add_callback = goes_at_the_second_piece
    with pytest.raises(RpcFailure) as raised:
        run(node, mode, context)
    assert raised.value.code is grpc.StatusCode.CANCELLED
    assert len(throttler.counts) == 2


@pytest.mark.damage("the index lies")
def test_rows_that_overlap_are_named_as_upstream_names_them(node, directory):
    with (directory / f"{VID}.ecx").open("r+b") as index:
        index.seek(16)
        index.write(encode_entry(2, 2, 105, 4))
        index.seek(0, 2)
        index.write(b"torn")
    answer = run(node, INDEX)
    assert list(answer.details) == [
        f"needle 2 (#2) at [16-151] overlaps needle 1 at [8-{8 + RECORD_BYTES - 1}]",
        "expected an index file of size 80, got 84",
    ]
    assert answer.total_files == 5


@pytest.mark.damage("the index lies")
def test_of_very_many_problems_a_thousand_are_listed(node, directory):
    with (directory / f"{VID}.ecx").open("wb") as index:
        for number in range(1, 50_001):
            index.write(encode_entry(number, 1, 30, 4))
    answer = run(node, INDEX)
    assert len(answer.details) == volume_scrub.MAX_PROBLEMS + 1 == 1001
    assert answer.details[0] == "needle 2 (#2) at [8-71] overlaps needle 1 at [8-71]"
    assert answer.details[-1] == "and more than 1000 problems; the rest is not listed"
    assert answer.total_files == 50_000


def test_lost_shards_are_named_beyond_the_last_problem_that_is_listed(node, store, monkeypatch):
    monkeypatch.setattr(volume_scrub, "MAX_PROBLEMS", 3)
    for shard in (0, 1):
        store.ec.unmount(VID, shard)
    answer = run(node, FULL)
    assert list(answer.details) == [
        "failed to read EC shard 0 for needle 1 on volume 7 (interval 1/1)",
        f"EC volume 7, needle 1 on shards [0]: expected {RECORD_BYTES} bytes, got 0",
        "failed to read EC shard 0 for needle 2 on volume 7 (interval 1/1)",
        "and more than 3 problems; the rest is not listed",
    ]
    assert [info.shard_id for info in answer.broken_shard_infos] == [0, 1]
    assert list(answer.broken_volume_ids) == [VID]


def test_of_damaged_needles_no_more_are_listed_either(node, directory, monkeypatch):
    monkeypatch.setattr(volume_scrub, "MAX_PROBLEMS", 2)
    with (directory / f"{VID}.ec00").open("r+b") as shard:
        for number in range(3):
            shard.seek(8 + number * RECORD_BYTES + 1000)
            shard.write(b"XXXX")
    for mode, name in ((LOCAL, "needle 1 on volume 7, shards [0]: "), (FULL, "EC volume 7, needle 1 on shards [0]: ")):
        details = run(node, mode).details
        assert len(details) == 3
        assert details[0].startswith(name)
        assert details[-1] == "and more than 2 problems; the rest is not listed"


@pytest.mark.parametrize("lost", [[0], [1]])
def test_a_needle_that_another_server_has_deleted_is_no_damage(node, store, directory, lost):
    """Needle 4 lies in shards 0 and 1. A deletion is noted at one server alone."""
    content = {shard: (directory / f"{VID}.ec{shard:02d}").read_bytes() for shard in lost}
    for shard in lost:
        store.ec.unmount(VID, shard)
    remote = store.ec_reader.remote = FakeRemote({"a": content})
    remote.deleted["a"] = {4}
    answer = run(node, FULL)
    assert not answer.details
    assert not answer.broken_shard_infos
    assert not answer.broken_volume_ids
    assert answer.total_files == 5
    answer = run(node, FULL, force_deleted_needles_check=True)
    assert list(answer.details) == [
        "EC volume 7, needle 4 on shards [0 1]: size mismatch: index 300005, record 0",
    ]
    assert not answer.broken_shard_infos


@pytest.fixture
def elsewhere(store, directory):
    """Another server, which gets shards of this one."""
    remote = store.ec_reader.remote = FakeRemote({"a": {}})

    def move(*shards):
        for shard in shards:
            store.ec.unmount(VID, shard)
            remote.shards["a"][shard] = (directory / f"{VID}.ec{shard:02d}").read_bytes()

    remote.move = move
    return remote


def check_sound(answer):
    assert not answer.details
    assert not answer.broken_shard_infos


def test_a_shard_that_is_closed_while_its_checksums_are_checked_is_not_broken(node, store, throttler):
    throttler.at, throttler.number = (lambda: [store.ec.unmount(VID, shard) for shard in (12, 13)]), 3
    check_sound(run(node, CHECKSUM))
    assert len(throttler.counts) == 12


@pytest.mark.damage("a shard lies")
def test_a_shard_that_is_mounted_anew_while_its_checksums_are_checked_is_checked(node, store, directory, throttler):
    with (directory / f"{VID}.ec13").open("r+b") as shard:
        shard.write(b"XXXX")
    throttler.at, throttler.number = (lambda: store.ec.mount("", VID, 13)), 3
    answer = run(node, CHECKSUM)
    assert list(answer.details) == ["ec volume 7 shard 13: checksum mismatch at block 0 (offset 0)"]


def test_a_shard_that_is_closed_during_a_local_scrub_is_not_broken(node, store, monkeypatch):
    find = store.ec.find_shard

    def find_and_close(volume_id, shard_id, encode_ts_ns):
        found = find(volume_id, shard_id, encode_ts_ns)
        store.ec.unmount(volume_id, shard_id)
        return found

    monkeypatch.setattr(store.ec, "find_shard", find_and_close)
    answer = run(node, LOCAL)
    check_sound(answer)
    assert answer.total_files == 5


def test_a_shard_that_moves_during_a_full_scrub_is_not_broken(node, elsewhere, throttler):
    """Needles 1 to 3 lie in shard 0, needle 4 in 0 and 1, needle 5 in 1. The first look-up does not know the move."""
    elsewhere.move(0)
    throttler.at, throttler.number = (lambda: elsewhere.move(1)), 4
    check_sound(run(node, FULL))
    assert elsewhere.asked == 2
    assert elsewhere.read == [0, 0, 0, 0, 1, 1]


def test_for_a_lost_shard_a_full_scrub_asks_the_master_once_more(node, store, elsewhere):
    """And not for each needle."""
    elsewhere.move(0)
    store.ec.unmount(VID, 1)
    answer = run(node, FULL)
    assert [info.shard_id for info in answer.broken_shard_infos] == [1]
    assert len(answer.details) == 2 * 2
    assert elsewhere.asked == 2


def test_each_volume_is_taken_until_it_is_verified(node, throttler):
    """Another engine may have a volume before and afterwards. One that is in neither is left out."""
    context, taken = make_context(), []

    @contextmanager
    def taking(volume_id, *, changes=False):
        assert not changes
        before = len(throttler.counts)
        yield
        taken.append((volume_id, len(throttler.counts) > before))

    context.taking, context.volume_ids = taking, [VID, 99]
    assert run(node, LOCAL, context).total_volumes == 1
    assert taken == [(VID, True), (99, False)]
    with pytest.raises(RpcFailure, match="EC volume id 99 not found"):
        run(node, LOCAL, context, volume_ids=[99])
