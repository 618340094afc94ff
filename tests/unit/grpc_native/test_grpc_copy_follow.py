"""Writes to a volume during its VolumeCopy: they arrive after the copy is announced, in the source's order."""

from __future__ import annotations

import grpc
import pytest
from support.grpc_copy import COOKIE, SOURCE, Caller, PlayedSource, SourceFailed, contents, fill
from support.grpc_nodes import FakeMasters, make_node
from support.stores import open_at, place

from native_handlers.format.needle import Needle
from native_handlers.grpc import copy_follow, volume_copy
from native_handlers.grpc.context import RpcFailure
from native_handlers.grpc.fetched_memory import FetchedMemory
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.model.compaction import CompactionOptions
from native_handlers.storage.model.errors import Deleted, NotFound


def open_empty(path):
    return open_at(place(path, min_free_percent=0.0), offset_width_bytes=4)


@pytest.fixture
def source_store(tmp_path):
    store = open_empty(tmp_path / "source")
    yield store
    store.close()


@pytest.fixture
def target(tmp_path):
    store = open_empty(tmp_path / "target")
    yield store
    store.close()


@pytest.fixture
def source(tmp_path, source_store):
    return PlayedSource(make_node(tmp_path, source_store))


@pytest.fixture
def masters():
    return FakeMasters()


@pytest.fixture
def node(tmp_path, target, source, masters):
    return make_node(tmp_path, target, masters=masters, volume_servers=source)


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses that the code asked for; none is waited for."""
    made = []

    def pause(_self, seconds):
        made.append(seconds)

    monkeypatch.setattr("native_handlers.grpc.copy_client.CallEnd.pause", pause)
    return made


def copy(node, caller=None):
    request = pb.VolumeCopyRequest(volume_id=7, source_data_node=SOURCE)
    return list(volume_copy.volume_copy(node, (caller or Caller()).context, request))


def put(store, needle_id, data):
    store.get_volume(7).write(Needle(cookie=COOKIE, needle_id=needle_id, data=data))


def while_copied(source, write):
    """Calls `write` during the copy of the files."""

    def change(request, messages):
        if request.ext == ".idx":
            write()
        yield from messages

    source.change_stream = change


@pytest.mark.slow
def test_what_is_written_overwritten_and_deleted_meanwhile_comes_too(node, source, source_store, target):
    """Slow: the source is followed for a whole look, which takes 0.3 s."""
    data = fill(source_store)

    def write():
        put(source_store, 1000, b"new")
        put(source_store, 1, b"first")
        put(source_store, 1, b"second")
        source_store.get_volume(7).delete(2, COOKIE)
        put(source_store, 1001, b"soon gone")
        source_store.get_volume(7).delete(1001, COOKIE)

    while_copied(source, write)
    copy(node)
    del data[2]
    expected = data | {1: b"second", 1000: b"new"}
    assert contents(target, expected) == expected
    for needle_id in (2, 1001):
        with pytest.raises((NotFound, Deleted)):
            target.get_volume(7).read(needle_id, cookie=COOKIE)


def test_the_memory_of_later_writes_is_bounded(tmp_path, source, source_store, target, masters):
    fill(source_store)
    while_copied(source, lambda: put(source_store, 1000, b"x" * (1 << 20)))
    memory = FetchedMemory(1, wait_s=0)
    node = make_node(tmp_path, target, masters=masters, volume_servers=source, fetched_memory=memory)
    with memory.holding(1 << 20, lambda: None), pytest.raises(RpcFailure) as caught:
        copy(node)
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.slow
def test_the_answer_names_the_last_record_of_the_files(node, source, source_store):
    """A tool follows the source from this time on: by the source's clock, and not too late. Slow: the source is
    followed for a whole look, which takes 0.3 s.
    """
    fill(source_store)
    last_ns = source_store.find_volume(7).handle.opened.last_append_at_ns
    while_copied(source, lambda: put(source_store, 1000, b"new"))
    assert copy(node) == [pb.VolumeCopyResponse(last_append_at_ns=last_ns)]
    assert source.tails[0] == pb.VolumeTailSenderRequest(
        volume_id=7, since_ns=last_ns, idle_timeout_seconds=copy_follow.IDLE_ROUNDS
    )
    assert [tail.since_ns > last_ns for tail in source.tails[1:]] == [True]


@pytest.mark.slow
def test_nothing_is_fetched_before_the_master_names_this_server(node, source, source_store, target, masters, pauses):
    """Slow: the source is followed for a whole look, which takes 0.3 s."""
    data = fill(source_store)
    masters.learns_after = 3
    source.on_clock = lambda: (pauses.append("clock"), put(source_store, 1000, b"by one who did not know"))
    copy(node)
    assert masters.asked_holders == 4
    assert pauses == [0.01, 0.02, 0.04, copy_follow.LAST_WRITES_S, "clock"]
    assert contents(target, data) == data


def vacuum(store):
    list(store.get_volume(7).compaction.run(CompactionOptions()))
    store.commit_compaction(store.get_volume(7))


def test_a_source_that_was_compacted_meanwhile_fails_the_copy(node, source, source_store, target):
    """Its records are in the order of their ids then. The late one comes first and is not found by its time."""
    fill(source_store)

    def write_and_vacuum():
        put(source_store, 0, b"late")
        vacuum(source_store)

    source.on_clock = write_and_vacuum
    with pytest.raises(RpcFailure, match="lacks what was written to its source meanwhile: the source was compacted"):
        copy(node)
    assert 7 not in target.settling
    source.on_clock = lambda: None
    copy(node)
    assert contents(target, {0: b"late"}) == {0: b"late"}


def test_a_source_that_takes_no_writes_is_not_given_time(node, source, source_store, target, pauses):
    data = fill(source_store)
    source_store.mark_readonly(source_store.get_volume(7), persist=False)
    copy(node)
    assert pauses == []
    assert contents(target, data) == data


@pytest.mark.slow
def test_what_is_written_when_all_know_of_the_copy_ends_the_following(node, source, source_store, target):
    """A busy volume would otherwise be followed for ever. Slow: the source is followed for a whole look, which takes
    0.3 s.
    """
    fill(source_store)
    while_copied(source, lambda: put(source_store, 1000, b"late"))

    def go_on(messages):
        for number, message in enumerate(messages):
            yield message
            put(source_store, 2000 + number, b"and on")

    source.change_tail = go_on
    copy(node)
    assert contents(target, {1000: b"late"}) == {1000: b"late"}
    assert source.streams[-1].is_cancelled.is_set()


def test_a_look_that_is_too_short_for_a_record_is_followed_by_a_longer_one(
    node, source, source_store, target, monkeypatch
):
    fill(source_store)
    while_copied(source, lambda: put(source_store, 1000, b"late"))
    looks = []

    def slow(request, timeout=None):
        looks.append(timeout)
        if timeout < 4 * copy_follow.LOOK_S:
            raise SourceFailed(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        return tail(request, timeout=0.1)

    tail = source.VolumeTailSender
    source.VolumeTailSender = slow
    copy(node)
    assert [look / copy_follow.LOOK_S for look in looks] == [1, 2, 4, 4]
    assert contents(target, {1000: b"late"}) == {1000: b"late"}


def test_a_source_that_says_nothing_fails_the_copy_in_the_end(node, source, source_store, target):
    fill(source_store)
    looks = []

    def silent(_request, timeout=None):
        looks.append(timeout)
        raise SourceFailed(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    source.VolumeTailSender = silent
    with pytest.raises(RpcFailure, match="lacks what was written to its source meanwhile"):
        copy(node)
    assert copy_follow.LONGEST_LOOK_S < looks[-1] <= copy_follow.LONGEST_LOOK_S * 2


@pytest.mark.slow
def test_a_copy_settles_from_when_it_can_be_found_until_it_has_all(node, source, source_store, target):
    """Slow: the source is followed for a whole look, which takes 0.3 s."""
    fill(source_store)
    seen = []
    while_copied(source, lambda: (seen.append(7 in target.settling), put(source_store, 1000, b"late")))
    source.on_clock = lambda: seen.append((7 in target.settling, target.find_volume(7) is not None))
    target.add_listener(lambda _event: seen.append(7 in target.settling))
    copy(node)
    assert seen == [False, True, (True, True)]
    assert 7 not in target.settling


def test_a_copy_that_fails_does_not_settle_for_ever(node, source, source_store, target):
    fill(source_store)
    source.on_clock = unimplemented_clock
    with pytest.raises(RpcFailure, match="the source does not tell its time"):
        copy(node)
    assert 7 not in target.settling


def unimplemented_clock():
    raise SourceFailed(grpc.StatusCode.INTERNAL, "no clock")


def test_a_master_that_cannot_be_asked_does_not_fail_the_copy(node, source_store, target, masters):
    data = fill(source_store)
    masters.failure = RpcFailure("no leader")
    copy(node)
    assert contents(target, data) == data


def test_a_master_that_never_learns_does_not_fail_the_copy(node, source_store, target, masters, monkeypatch):
    data = fill(source_store)
    masters.learns_after = 10**9
    now = iter(range(1000))
    monkeypatch.setattr(copy_follow.time, "monotonic", lambda: next(now))
    copy(node)
    assert contents(target, data) == data


def unimplemented(*_, **_more):
    raise SourceFailed(grpc.StatusCode.UNIMPLEMENTED, "unknown method")


@pytest.mark.parametrize("name", ["VolumeStatus", "Ping", "VolumeTailSender"])
def test_a_source_that_lacks_a_method_is_copied_all_the_same(node, source, source_store, target, name):
    data = fill(source_store)
    setattr(source, name, unimplemented)
    copy(node)
    assert contents(target, data) == data


def test_a_source_that_dies_leaves_the_copy_and_fails_the_call(node, source, source_store, target):
    data = fill(source_store)

    def die(_messages):
        raise RpcFailure("connection reset", grpc.StatusCode.UNAVAILABLE)
        yield

    source.change_tail = die
    with pytest.raises(RpcFailure) as caught:
        copy(node)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.message.startswith(
        "volume 7 is copied and mounted, but lacks what was written to its source meanwhile: "
    )
    assert contents(target, data) == data
