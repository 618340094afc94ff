"""Peers that take a connection and a request and then say nothing: nobody may wait for them for ever.

On real sockets, with the client that a node makes for itself. The clock begins to jump only when a peer has the
request, so that it never outruns the threads of the store.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import trio
from http_native_kit import SETTINGS, fetch, make_context
from test_http_native_peers import FakeLookup, manifest_of

from native_handlers.http.context import Location, NoMetrics, PeerFailed, PeerFailureKind, ReadMode
from native_handlers.http.headers import Headers
from native_handlers.http.peers import ANSWER_TIMEOUT_S, read_answer
from supervisor.assembly.http_context import make_peer_client

SELF = Location(SETTINGS.self_url, SETTINGS.self_url)
TIMEOUT_S = 30
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"


async def say_nothing(_stream):
    await trio.sleep_forever()


async def drip_a_head(stream):
    for byte in HEAD:
        await trio.sleep(TIMEOUT_S / 2)
        await stream.send_all(bytes([byte]))


async def stop_before_the_body(stream):
    await stream.send_all(HEAD)
    await trio.sleep_forever()


async def stop_in_the_body(stream):
    await stream.send_all(HEAD + b"wo")
    await trio.sleep_forever()


async def answer_slowly(stream):
    """Every pause is bearable, all of them together take longer than one may."""
    for piece in (HEAD, b"wo", b"rl", b"d!"):
        await trio.sleep(TIMEOUT_S * 0.9)
        await stream.send_all(piece)


async def answer(stream):
    await stream.send_all(HEAD + b"world!")


class Peers:
    """Opens servers that read one request head, start the jumping clock, and go on as their script says."""

    def __init__(self, nursery, clock):
        self._nursery = nursery
        self._clock = clock
        self.asked = []

    async def open(self, script):
        """Where a server with `script` is."""
        (listener,) = await self._nursery.start(
            partial(trio.serve_tcp, partial(self._serve, script), 0, host="127.0.0.1")
        )
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        return Location(address, address)

    async def _serve(self, script, stream):
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        self.asked.append(head.split(b" ", 2)[1].decode())
        self._clock.autojump_threshold = 0
        try:
            await script(stream)
            await stream.receive_some()
        except trio.BrokenResourceError:
            pass  # our side had enough of it


@pytest.fixture
async def peers(nursery, mock_clock):
    return Peers(nursery, mock_clock)


@pytest.fixture
async def client():
    security = SimpleNamespace(https_client=SimpleNamespace(enabled=False))
    made = make_peer_client(SimpleNamespace(config=SimpleNamespace(security=security, bind_ip="")))
    yield made
    await made._pool.drop_idle()


class ReplicationKinds(NoMetrics):
    def __init__(self):
        self.seen = []

    def observe_replication(self, operation, _replicas, _duration_s, failure):
        self.seen.append((operation, failure))


@pytest.mark.parametrize("script", [say_nothing, drip_a_head, stop_in_the_body])
async def test_a_write_fails_when_a_replica_says_nothing(store, peers, client, script, mock_clock):
    metrics = ReplicationKinds()
    lookup = FakeLookup({4: [SELF, await peers.open(script)]})
    context = make_context(store=store, lookup=lookup, peers=client, metrics=metrics)
    with trio.fail_after(3 * TIMEOUT_S):
        got = await fetch("http.write", context, method="PUT", target="/4,0212345678", body=b"hello")
    assert got.status == 500
    assert json.loads(got.body)["error"].startswith("failed to write to replicas for volume 4: [127.0.0.1:")
    assert metrics.seen == [("write", PeerFailureKind.TIMEOUT)]


@pytest.mark.parametrize("script", [say_nothing, drip_a_head, stop_in_the_body])
@pytest.mark.parametrize("size", [900_000, 20_000_000])
async def test_a_large_write_fails_when_a_replica_takes_nothing(peers, client, size, script, mock_clock):
    """Of the smaller one all ends up in the kernel's buffers. Without a store, for its thread would be outrun."""
    metrics = ReplicationKinds()
    settings = replace(SETTINGS, file_size_limit_bytes=1 << 25)
    lookup = FakeLookup({9: [await peers.open(script)]})
    context = make_context(settings=settings, lookup=lookup, peers=client, metrics=metrics)
    headers = {"Content-Type": "a/b"}
    with trio.fail_after(3 * TIMEOUT_S):
        got = await fetch(
            "http.write", context, method="PUT", target="/9,0212345678", headers=headers, body=bytes(size)
        )
    assert got.status == 500
    assert metrics.seen == [("write", PeerFailureKind.TIMEOUT)]


@pytest.mark.parametrize("script", [say_nothing, drip_a_head, stop_in_the_body])
async def test_a_delete_fails_when_a_replica_says_nothing(store, peers, client, script, mock_clock):
    metrics = ReplicationKinds()
    lookup = FakeLookup({4: [SELF, await peers.open(script)]})
    context = make_context(store=store, lookup=lookup, peers=client, metrics=metrics)
    replica = "/4,0212345678?type=replicate"
    assert (await fetch("http.write", context, method="PUT", target=replica, body=b"hello")).status == 201
    with trio.fail_after(3 * TIMEOUT_S):
        got = await fetch("http.delete", context, method="DELETE", target="/4,0212345678")
    assert got.status == 500
    assert json.loads(got.body)["error"].startswith("Deletion Failed: [127.0.0.1:")
    assert metrics.seen[-1] == ("delete", PeerFailureKind.TIMEOUT)


def proxying(client, *holders):
    return make_context(
        settings=replace(SETTINGS, read_mode=ReadMode.PROXY), lookup=FakeLookup({9: list(holders)}), peers=client
    )


async def test_a_proxied_read_fails_when_no_holder_says_anything(peers, client, mock_clock):
    context = proxying(client, await peers.open(say_nothing), await peers.open(drip_a_head))
    with trio.fail_after(3 * TIMEOUT_S):
        got = await fetch("http.read", context, target="/9,0212345678")
    assert (got.status, got.body) == (500, b"")
    assert len(peers.asked) == 2


async def test_a_proxied_read_is_answered_by_the_next_holder(peers, client, mock_clock):
    silent = [await peers.open(say_nothing) for _ in range(3)]
    context = proxying(client, *silent, await peers.open(answer))
    with trio.fail_after(5 * TIMEOUT_S):
        got = await fetch("http.read", context, target="/9,0212345678")
    assert (got.status, got.body) == (200, b"world!")


async def test_a_proxied_read_breaks_off_when_the_holder_stops(peers, client, mock_clock):
    with trio.fail_after(3 * TIMEOUT_S):
        got = await fetch("http.read", proxying(client, await peers.open(stop_in_the_body)), target="/9,0212345678")
    assert (got.body, got.breaks_off) == (b"wo", True)


async def test_a_holder_that_is_slow_but_moves_is_waited_for(peers, client, mock_clock):
    got = await fetch("http.read", proxying(client, await peers.open(answer_slowly)), target="/9,0212345678")
    assert (got.body, got.breaks_off) == (b"world!", False)


async def put_manifest(context):
    body = manifest_of(("9,0a12345678", 0, 6), size=6)
    assert (await fetch("http.write", context, method="PUT", target="/3,0112345678?cm=true", body=body)).status == 201


async def read_through_a_manifest(store, peers, client, *scripts):
    """What is had of a file whose one chunk has holders that behave as `scripts`, in their order."""
    holders = [await peers.open(script) for script in scripts]
    context = make_context(store=store, lookup=FakeLookup({9: holders, 3: [SELF]}), peers=client)
    await put_manifest(context)
    with trio.fail_after(3 * TIMEOUT_S):
        return await fetch("http.read", context, target="/3,0112345678")


@pytest.mark.parametrize("script", [say_nothing, drip_a_head, stop_before_the_body])
async def test_a_chunk_is_read_from_the_next_holder(store, peers, client, script, mock_clock):
    got = await read_through_a_manifest(store, peers, client, script, answer)
    assert (got.status, got.body, got.breaks_off) == (200, b"world!", False)
    assert peers.asked == ["/9,0a12345678"] * 2


async def test_a_chunk_that_no_holder_gives_is_500(store, peers, client, mock_clock):
    got = await read_through_a_manifest(store, peers, client, say_nothing, stop_before_the_body)
    assert got.status == 500


async def test_a_chunk_breaks_off_when_its_holder_stops(store, peers, client, mock_clock):
    got = await read_through_a_manifest(store, peers, client, stop_in_the_body, answer)
    assert (got.body, got.breaks_off) == (b"wo", True)


async def test_a_silent_peer_is_asked_once_though_its_connection_was_a_kept_one(peers, client, mock_clock):
    async def answer_once(stream):
        await answer(stream)
        await stream.receive_some()
        peers.asked.append("again")
        await trio.sleep_forever()

    where = (await peers.open(answer_once)).url
    async for _ in (await client.request("GET", where, "/1", Headers(), b"")).chunks:
        pass
    with trio.fail_after(1.5 * TIMEOUT_S):
        with pytest.raises(PeerFailed) as caught:
            await client.request("GET", where, "/2", Headers(), b"")
    assert caught.value.kind is PeerFailureKind.TIMEOUT
    assert peers.asked == ["/1", "again"]


async def test_an_answer_to_a_write_that_drips_is_not_waited_for(autojump_clock):
    async def drip():
        while True:
            await trio.sleep(1)
            yield b" "

    with trio.fail_after(2 * ANSWER_TIMEOUT_S):
        with pytest.raises(PeerFailed) as caught:
            await read_answer("127.0.0.1:1", SimpleNamespace(chunks=drip()))
    assert caught.value.kind is PeerFailureKind.TIMEOUT
