"""Shards of another server, over real connections: one kept channel, and one call for each range."""

from __future__ import annotations

import socket
from collections import Counter

import grpc
import pytest
from support.grpc_servers import VID, serving

from native_handlers.grpc.self_calls import SelfMark
from native_handlers.storage.erasure_coding.remote import (
    ServerSilent,
    ServerUnreachable,
    ShardRange,
    ShardUnreachable,
)
from supervisor.cluster.master_view import MasterView
from supervisor.gateway import grpc_ec_shards
from supervisor.gateway.grpc_ec_shards import ClusterShards
from supervisor.wire.server_address import ServerAddress

OWN = ServerAddress.parse("127.0.0.1:2.3")
COOKIE = 5
NEEDLES = {number: bytes((number,)) * 50_000 for number in range(1, 8)}


class Calls(grpc.UnaryStreamClientInterceptor):
    """Counts the calls of a channel by name."""

    def __init__(self):
        self.counts = Counter()

    def intercept_unary_stream(self, continuation, details, request):
        self.counts[details.method.rpartition("/")[2]] += 1
        return continuation(details, request)


class Dialled:
    """Dials, and keeps what was dialled."""

    def __init__(self):
        self.addresses, self.calls = [], Calls()

    def __call__(self, address):
        self.addresses.append(address)
        channel = grpc.insecure_channel(
            address.grpc, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        )
        return grpc.intercept_channel(channel, self.calls)


@pytest.fixture
def dialled():
    return Dialled()


@pytest.fixture
def holder(tmp_path):
    """Another server, with all shards."""
    with serving(tmp_path / "holder") as served:
        for number, data in NEEDLES.items():
            served.write(number, data, COOKIE)
        served.store.ec_work.generate(served.volume, "")
        for shard in range(14):
            served.store.ec.mount("", VID, shard)
        yield served


class NamedHolders(ClusterShards):
    """The master is not asked: it would name these holders."""

    def __init__(self, named, dial):
        super().__init__(MasterView([OWN]), dial, OWN, SelfMark())
        self.named = named

    def holders(self, _volume_id):
        return self.named


@pytest.fixture
def store(tmp_path, holder, dialled, opened):
    """This server, with the index and the last shard alone."""
    (tmp_path / "own").mkdir()
    for extension in (".ecx", ".vif", ".ec13"):
        (tmp_path / "own" / f"{VID}{extension}").write_bytes((holder.directory / f"{VID}{extension}").read_bytes())
    made = opened(tmp_path / "own", volumes=())
    remote = made.ec_reader.remote = NamedHolders({shard: [holder.address] for shard in range(13)}, dialled)
    yield made
    remote.close()


def check(store):
    for number, data in NEEDLES.items():
        assert bytes(store.ec_reader.read_needle(VID, number, COOKIE).data) == data


def test_reads_of_a_shard_elsewhere_are_one_call_each_over_one_channel(store, dialled, holder):
    check(store)
    check(store)
    assert dialled.calls.counts == {"VolumeEcShardRead": 2 * len(NEEDLES)}
    assert [address.grpc for address in dialled.addresses] == [ServerAddress.parse(holder.address).grpc]


def test_a_lost_shard_is_computed_from_one_call_for_each_other_shard(store, dialled, holder):
    del store.ec_reader.remote.named[0]
    assert bytes(store.ec_reader.read_needle(VID, 1, COOKIE).data) == NEEDLES[1]
    assert dialled.calls.counts == {"VolumeEcShardRead": 9}, "and one shard is here"
    assert len(dialled.addresses) == 1


@pytest.mark.slow
def test_a_holder_that_went_is_dialled_anew(store, dialled, holder):
    """Slow: waits for a server that is gone."""
    check(store)
    holder.gateway.drain(0)
    with pytest.raises(ShardUnreachable):
        check(store)
    before = len(dialled.addresses)
    with pytest.raises(ShardUnreachable):
        check(store)
    assert len(dialled.addresses) > before


def failure_of(store, address, shard_id=0):
    """The class of the error of a request for a shard."""
    wanted = ShardRange(VID, shard_id, 0, 10, 1, 0)
    with pytest.raises(ShardUnreachable) as raised:
        store.ec_reader.remote.begin_read(address, wanted).result()
    return raised.type


@pytest.mark.slow
def test_a_server_that_is_silent_is_told_from_one_that_answers_with_an_error(store, holder, monkeypatch):
    """Slow: waits for three limits of calls."""
    assert failure_of(store, holder.address, 31) is ShardUnreachable
    assert failure_of(store, "no address") is ServerUnreachable
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        monkeypatch.setattr(grpc_ec_shards, "CALL_LIMIT_S", 0.2)
        assert failure_of(store, f"127.0.0.1:1.{port}") is ServerSilent
        with pytest.raises(ServerSilent):
            store.ec_reader.remote.delete(f"127.0.0.1:1.{port}", VID, "", 1, 3)
        monkeypatch.setattr(grpc_ec_shards, "MASTER_LIMIT_S", 0.2)
        masters = ClusterShards(MasterView([ServerAddress.parse(f"127.0.0.1:1.{port}")]), Dialled(), OWN, SelfMark())
        with pytest.raises(ServerUnreachable):
            masters.holders(VID)
        masters.close()
    holder.gateway.drain(0)
    assert failure_of(store, holder.address) is ServerUnreachable
