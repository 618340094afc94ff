"""Which callers count as members of the cluster, and by which evidence."""

from __future__ import annotations

import socket
import threading

import pytest
import trio
from support.waiting import LIMIT_S

from native_handlers.grpc.context import RpcFailure
from supervisor.cluster.master_view import MasterView
from supervisor.gateway import grpc_cluster
from supervisor.gateway.grpc_cluster import MAX_NOTED, RESOLVE_S, ClusterHosts
from supervisor.net.grpc_clients import GrpcClient
from supervisor.wire.server_address import ServerAddress

NAMES = {"master": "10.0.0.1", "filer": "10.0.0.3"}


@pytest.fixture(autouse=True)
def resolver(monkeypatch):
    def resolve(name, _port, **_more):
        if name not in NAMES and not name[:1].isdigit():
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (NAMES.get(name, name), 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def hosts(*, seeds=("master:9333",), filers=list, is_listed=lambda _host: False):
    return ClusterHosts(MasterView([ServerAddress.parse(seed) for seed in seeds]), filers, is_listed)


def test_a_certificate_or_the_white_list_is_enough():
    known = hosts(is_listed=lambda host: host == "192.0.2.1")
    assert known.includes(GrpcClient("192.0.2.1", 1))
    assert not known.includes(GrpcClient("192.0.2.2", 1))
    assert known.includes(GrpcClient("192.0.2.2", 1, "filer01"))


def test_masters_and_filers_by_their_addresses():
    known = hosts(seeds=("master:9333", "10.0.0.2:9333"), filers=lambda: ["filer:8888", "10.0.0.4:8888.18888", "?"])
    assert not known.includes(GrpcClient("10.0.0.1", 1))
    known.refresh()
    for host in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"):
        assert known.includes(GrpcClient(host, 1))
    assert not known.includes(GrpcClient("10.0.0.5", 1))


def test_a_new_leader_counts():
    view = MasterView([ServerAddress.parse("master:9333")])
    known = ClusterHosts(view, list, lambda _host: False)
    view.set_connected(ServerAddress.parse("10.0.0.9:9333"))
    known.refresh()
    assert known.includes(GrpcClient("10.0.0.9", 1))


def test_a_master_without_an_answer_and_a_name_without_an_address_leave_the_rest():
    def fail():
        raise RpcFailure("no")

    known = hosts(seeds=("gone:9333", "master:9333"), filers=fail)
    known.refresh()
    assert known.includes(GrpcClient("10.0.0.1", 1))


def test_servers_that_the_leader_names_the_latest_ones():
    known = hosts()
    for number in range(MAX_NOTED + 1):
        known.note(f"10.1.{number // 256}.{number % 256}:8080")
    known.note("no address")
    known.note("10.1.0.1:8080")
    known.refresh()
    assert not known.includes(GrpcClient("10.1.0.0", 1))
    assert known.includes(GrpcClient("10.1.0.1", 1))
    assert known.includes(GrpcClient("10.1.1.0", 1))


def test_names_that_nobody_resolves_keep_a_refresh_short_and_lose_no_other_host(monkeypatch, clock):
    resolve, asked = socket.getaddrinfo, []

    def resolve_slowly(name, *rest, **more):
        asked.append(name)
        if name.startswith("gone"):
            clock.advance(5)
        return resolve(name, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_slowly)
    known = ClusterHosts(
        MasterView([ServerAddress.parse("master:9333")]),
        lambda: ["filer:8888"],
        lambda _host: False,
        clock_s=clock.seconds,
    )
    gone = [f"gone{number}" for number in range(20)]
    for name in ("10.0.0.7", *gone, "10.0.0.8"):
        known.note(f"{name}:8080")
    for _ in range(20 // 2 + 1):
        asked.clear()
        began_s = clock.seconds()
        known.refresh()
        assert clock.seconds() - began_s <= RESOLVE_S
        assert all(known.includes(GrpcClient(f"10.0.0.{last}", 1)) for last in (1, 3, 7, 8))
        assert {"10.0.0.7", "10.0.0.8"} < {*asked}
        gone = [name for name in gone if name not in asked]
    assert not gone  # each had its turn
    monkeypatch.setitem(NAMES, "late", "10.0.0.9")
    known.note("late:8080")
    known.refresh()
    assert known.includes(GrpcClient("10.0.0.9", 1))  # a new name comes before those that were asked for


async def test_it_is_learnt_at_once_and_again(monkeypatch):
    monkeypatch.setattr(grpc_cluster, "REFRESH_S", 0.01)
    asked = threading.Semaphore(0)

    def filers():
        asked.release()
        return ["filer:8888"]

    known = hosts(filers=filers)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(known.keep_fresh)
            for _ in range(2):
                await trio.to_thread.run_sync(asked.acquire)
            nursery.cancel_scope.cancel()
    assert known.includes(GrpcClient("10.0.0.3", 1))


async def test_a_question_that_hangs_holds_up_nothing():
    go_on = threading.Event()
    begun = threading.Event()

    def filers():
        begun.set()
        go_on.wait(LIMIT_S)
        return []

    known = hosts(filers=filers)
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(known.keep_fresh)
            await trio.to_thread.run_sync(begun.wait)
            nursery.cancel_scope.cancel()
    go_on.set()
