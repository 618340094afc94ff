"""The leader says which volumes moved, and the cached locations of those are dropped at once."""

from __future__ import annotations

import queue

import pytest
from support.fake_master import ROW, know, look_ups
from support.waiting import until, wait_until

from native_handlers.http.context import Location
from native_handlers.pb import master_pb2
from supervisor.cluster import location_feed
from supervisor.cluster.dial import dial_insecure
from supervisor.cluster.location_cache import CACHE_SIZE, TOLD_S, UNTOLD_S, LocationCache
from supervisor.cluster.master_client import MasterClient
from supervisor.cluster.master_view import MasterView

HERE = Location("10.0.0.7:8080", "pub:80", 18080)


class Teller:
    """The KeepConnected streams of a fake master."""

    def __init__(self, master):
        self.master = master
        self.outboxes = []
        self.clients = []
        master.answers["KeepConnected"] = self._serve

    def _serve(self, requests, context):
        outbox = queue.Queue()
        context.add_callback(lambda: outbox.put(None))
        self.clients.append(master_pb2.KeepConnectedRequest.FromString(next(requests)))
        self.outboxes.append(outbox)
        while (message := outbox.get()) is not None:
            yield message.SerializeToString()

    def tell(self, **fields):
        location = master_pb2.VolumeLocation(**fields)
        self.outboxes[-1].put(master_pb2.KeepConnectedResponse(volume_location=location))

    def end(self):
        self.outboxes[-1].put(None)


@pytest.fixture
def teller(fake_master):
    return Teller(fake_master)


@pytest.fixture
def client(fake_master, monkeypatch):
    monkeypatch.setattr(location_feed, "PAUSE_S", 0.01)
    client = MasterClient(MasterView([fake_master.address]), dial_insecure)
    yield client
    client.close()


async def listening(client, teller, count=1):
    """Waits until the master tells `client` of changes, on its `count`th stream."""
    client.listen()
    await until(lambda: len(teller.outboxes) == count)
    teller.tell(leader=str(teller.master.address))
    await until(lambda: client.is_told)


async def test_what_the_leader_names_is_looked_up_anew(fake_master, client, teller):
    know(fake_master, v3=[ROW], v4=[ROW])
    await listening(client, teller)
    for volume_id in (3, 4, 3, 4):
        assert await client.locations(volume_id) == [HERE]
    assert look_ups(fake_master) == 2
    for number, change in enumerate(("new_vids", "deleted_vids", "new_ec_vids", "deleted_ec_vids"), 1):
        teller.tell(url="10.0.0.8:8080", **{change: [3]})
        await until(lambda: client.remembered(3) is None)
        assert await client.locations(3) == [HERE]
        assert await client.locations(4) == [HERE]
        assert look_ups(fake_master) == 2 + number


async def test_volume_servers_that_the_leader_names_are_told_of(client, teller):
    servers = []
    client.listen(servers.append)
    await listening(client, teller)
    teller.tell(url="10.0.0.8:8080", new_vids=[3])
    teller.tell(url="10.0.0.9:8080", deleted_vids=[3])
    teller.tell(url="10.0.0.7:8080", new_ec_vids=[4])
    await until(lambda: len(servers) == 2)
    assert servers == ["10.0.0.8:8080", "10.0.0.7:8080"]


async def test_an_answer_that_is_older_than_a_change_is_not_kept(fake_master, client, teller):
    await listening(client, teller)
    know(fake_master, v3=[ROW], v99=[ROW])
    await client.locations(99)
    answer = fake_master.answers["LookupVolume"]

    def moved_meanwhile(requests, context):
        yield from answer(requests, context)
        teller.tell(url="10.0.0.8:8080", new_vids=[3], deleted_vids=[99])
        wait_until(lambda: client.remembered(99) is None)

    fake_master.answers["LookupVolume"] = moved_meanwhile
    await client.locations(3)
    assert client.remembered(99) is None
    assert client.remembered(3) is None


async def test_the_end_of_the_stream_ends_what_was_believed(fake_master, client, teller):
    know(fake_master, v3=[ROW])
    await listening(client, teller)
    await client.locations(3)
    teller.end()
    await until(lambda: not client.is_told)
    assert client.remembered(3) is None
    await listening(client, teller, count=2)


@pytest.fixture
def two(fake_master, second_master, monkeypatch):
    """A client that knows the first of two masters, and its feed."""
    monkeypatch.setattr(location_feed, "PAUSE_S", 0.01)
    tellers = Teller(fake_master), Teller(second_master)
    client = MasterClient(MasterView([fake_master.address]), dial_insecure)
    client.listen()
    yield client, *tellers
    client.close()


async def test_a_follower_names_the_leader(two):
    client, follower, leader = two
    await until(lambda: follower.outboxes)
    follower.tell(leader=str(leader.master.address))
    follower.end()
    await until(lambda: leader.outboxes)
    assert not client.is_told
    leader.tell(leader=str(leader.master.address))
    await until(lambda: client.is_told)
    assert leader.clients[0].client_type == location_feed.CLIENT_TYPE


async def test_a_leader_under_another_name_is_listened_to(two):
    client, leader, nobody = two
    await until(lambda: leader.outboxes)
    leader.tell(leader=str(nobody.master.address))
    leader.tell(url="10.0.0.8:8080", new_vids=[3])
    await until(lambda: client.is_told)
    assert not nobody.outboxes


async def test_a_named_leader_that_cannot_be_had_is_left(two):
    client, follower, _ = two
    await until(lambda: follower.outboxes)
    follower.tell(leader="127.0.0.1:1.1")
    follower.end()
    await until(lambda: len(follower.outboxes) == 2)
    assert client.leader == follower.master.address


async def test_closing_ends_the_stream_and_its_threads(fake_master, client, teller):
    await listening(client, teller)
    client.close()
    await until(lambda: not client.is_listening)


def test_without_such_a_stream_an_answer_is_good_for_a_moment():
    now = [0.0]
    cache = LocationCache(lambda: now[0])
    cache.end(cache.begin(3), [HERE])
    assert cache.get(3) == [HERE]
    now[0] = UNTOLD_S
    assert cache.get(3) is None


def test_what_was_learnt_before_the_leader_tells_is_not_believed_for_long():
    now = [0.0]
    cache = LocationCache(lambda: now[0])
    before = cache.begin(3)
    cache.set_told(is_told=True)
    cache.end(before, [HERE])
    assert cache.get(3) is None
    cache.end(cache.begin(3), [HERE])
    now[0] = TOLD_S - 1
    assert cache.get(3) == [HERE]
    now[0] = TOLD_S
    assert cache.get(3) is None


def test_a_server_that_joins_with_many_volumes_is_told_of_in_one_go():
    cache = LocationCache(lambda: 0.0)
    cache.set_told(is_told=True)
    for volume_id in range(10):
        cache.end(cache.begin(volume_id), [HERE])
    asking = cache.begin(5)
    cache.forget(range(5, 20_000))
    cache.end(asking, [HERE])
    assert [volume_id for volume_id in range(10) if cache.get(volume_id)] == [0, 1, 2, 3, 4]


def test_a_failed_look_up_leaves_nothing():
    cache = LocationCache(lambda: 0.0)
    cache.end(cache.begin(3), None)
    assert cache.get(3) is None
    assert not cache.question_count


@pytest.mark.slow
def test_the_volume_unused_longest_goes_when_there_are_too_many():
    """Slow: a hundred thousand volumes."""
    cache = LocationCache(lambda: 0.0)
    for volume_id in range(CACHE_SIZE + 1):
        cache.end(cache.begin(volume_id), [HERE])
    assert cache.get(0) is None
    assert cache.get(1) == [HERE]
