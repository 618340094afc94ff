"""Kept channels: made once, made anew after a server was away, and never awaited by callers of other channels."""

import threading

import grpc
import pytest
from support.waiting import LIMIT_S

from supervisor.cluster.channels import ChannelCache
from supervisor.wire.server_address import ServerAddress

HERE, THERE = ServerAddress("127.0.0.1", 1, 2), ServerAddress("127.0.0.1", 3, 4)


class FakeChannel:
    def __init__(self):
        self.is_closed = False

    def close(self):
        self.is_closed = True


class Failure(grpc.RpcError):
    def __init__(self, code):
        self._code = code

    def code(self):
        return self._code


@pytest.fixture
def made():
    return []


@pytest.fixture
def cache(made):
    def dial(_address):
        made.append(FakeChannel())
        return made[-1]

    return ChannelCache(dial)


def test_one_is_made_for_each_address_and_kept(cache, made):
    assert cache.known(HERE) is None
    assert cache.to(HERE) is cache.to(HERE) is cache.known(HERE)
    assert cache.to(THERE) is not cache.to(HERE)
    assert len(made) == 2


def test_the_one_unused_longest_gives_way(cache, made):
    first = cache.to(HERE)
    for port in range(10, 17):
        cache.to(ServerAddress("127.0.0.1", port, port))
    assert cache.known(HERE) is first
    cache.to(THERE)
    assert made[1].is_closed
    assert not first.is_closed


def test_a_call_that_finds_nobody_has_the_next_one_make_it_anew(cache, made):
    with pytest.raises(Failure), cache.calling(HERE):
        raise Failure(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(Failure), cache.calling(HERE):
        raise Failure(grpc.StatusCode.UNKNOWN)
    with cache.calling(HERE) as channel:
        assert channel is made[1]
    assert len(made) == 2
    assert not made[0].is_closed, "others may be in the middle of a call on it"


def test_a_newer_one_is_not_forgotten_for_an_older_one(cache, made):
    cache.forget(HERE, cache.to(HERE))
    newer = cache.to(HERE)
    cache.forget(HERE, made[0])
    assert cache.known(HERE) is newer


def test_a_server_that_is_slow_to_answer_keeps_nobody_from_another():
    is_dialling, may_go_on = threading.Event(), threading.Event()

    def dial(address):
        if address == HERE:
            is_dialling.set()
            assert may_go_on.wait(LIMIT_S)
        return FakeChannel()

    cache = ChannelCache(dial)
    found = []
    slow = [threading.Thread(target=lambda: found.append(cache.to(HERE))) for _ in range(2)]
    for thread in slow:
        thread.start()
    assert is_dialling.wait(LIMIT_S)
    assert cache.known(HERE) is None
    assert cache.to(THERE)
    may_go_on.set()
    for thread in slow:
        thread.join(LIMIT_S)
    assert found[0] is found[1] is cache.known(HERE)


def test_closing_closes_all(cache, made):
    cache.to(HERE)
    cache.to(THERE)
    cache.close()
    assert all(channel.is_closed for channel in made)
    assert cache.known(HERE) is None
