"""Volume servers that accept a connection and a request and then send nothing: no caller waits for ever.

The tests use real sockets and the node's own client. The clock begins to jump when a server has the request, so that
the clock never outruns the threads of the store.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import trio
from support.http_native import SETTINGS, FakeLookup, fetch, make_context, manifest_of

from native_handlers.http.context import Location
from native_handlers.http.replicate import ANSWER_TIMEOUT_S, read_answer
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.read_mode import ReadMode
from native_handlers.http_model.volume_servers import VolumeServerFailed, VolumeServerFailureKind
from native_handlers.runtime.server_counts import ServerCounts
from supervisor.assembly.http_context import make_volume_server_client

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
    """Each pause alone is within the limit; all of them together are longer than the limit."""
    for piece in (HEAD, b"wo", b"rl", b"d!"):
        await trio.sleep(TIMEOUT_S * 0.9)
        await stream.send_all(piece)


async def answer(stream):
    await stream.send_all(HEAD + b"world!")


class VolumeServers:
    """Opens servers that read one request head, start the jumping clock, and then follow their script."""

    def __init__(self, nursery, clock):
        self._nursery = nursery
        self._clock = clock
        self.asked = []

    async def open(self, script):
        """The address of a server with `script`."""
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
async def volume_servers(nursery, mock_clock):
    return VolumeServers(nursery, mock_clock)


@pytest.fixture
async def client():
    security = SimpleNamespace(https_client=SimpleNamespace(enabled=False))
    config = SimpleNamespace(security=security, bind_ip="")
    node = SimpleNamespace(config=config, descriptors=SimpleNamespace(links=64))
    made = make_volume_server_client(node)
    yield made
    await made.drop_idle()


class ReplicationKinds(ServerCounts):
    def __init__(self):
        super().__init__()
        self.seen = []

    def observe_replication(self, operation, _replicas, _duration_s, failure):
        self.seen.append((operation, failure))


@pytest.mark.parametrize("script", [say_nothing, drip_a_head, stop_in_the_body])
async def test_a_write_fails_when_a_replica_says_nothing(store, volume_servers, client, script, mock_clock):
    metrics = ReplicationKinds()
    lookup = FakeLookup({4: [SELF, await volume_servers.open(script)]})
    context = make_context(store=store, lookup=lookup, volume_servers=client, metrics=metrics)
    with trio.fail_after(3 * TIMEOUT_S):
        got = await fetch("http.write", context, method="PUT", target="/4,0212345678", body=b"hello")
    assert got.status == 500
    assert json.loads(got.body)["error"].startswith("failed to write to replicas for volume 4: [127.0.0.1:")
    assert metrics.seen == [("write", VolumeServerFailureKind.TIMEOUT)]
    counts = metrics.snapshot()
    assert counts.upload_error_total == {"0": 1}
    assert counts.in_flight_requests == {"writeToLocalDisk": 0, "writeToReplicas": 0}


@pytest.mark.parametrize("script", [say_nothing, drip_a_head, stop_in_the_body])
@pytest.mark.parametrize("size", [900_000, 20_000_000])
async def test_a_large_write_fails_when_a_replica_takes_nothing(volume_servers, client, size, script, mock_clock):
    """All of the smaller content fits the kernel's buffers. Without a store, because the clock would outrun its
    thread.
    """
    metrics = ReplicationKinds()
    settings = replace(SETTINGS, file_size_limit_bytes=1 << 25)
    lookup = FakeLookup({9: [await volume_servers.open(script)]})
    context = make_context(settings=settings, lookup=lookup, volume_servers=client, metrics=metrics)
    headers = {"Content-Type": "a/b"}
    with trio.fail_after(3 * TIMEOUT_S):
        got = await fetch(
            "http.write", context, method="PUT", target="/9,0212345678", headers=headers, body=bytes(size)
        )
    assert got.status == 500
    assert metrics.seen == [("write", VolumeServerFailureKind.TIMEOUT)]


@pytest.mark.parametrize("script", [say_nothing, drip_a_head, stop_in_the_body])
async def test_a_delete_fails_when_a_replica_says_nothing(store, volume_servers, client, script, mock_clock):
    metrics = ReplicationKinds()
    lookup = FakeLookup({4: [SELF, await volume_servers.open(script)]})
    context = make_context(store=store, lookup=lookup, volume_servers=client, metrics=metrics)
    replica = "/4,0212345678?type=replicate"
    assert (await fetch("http.write", context, method="PUT", target=replica, body=b"hello")).status == 201
    with trio.fail_after(3 * TIMEOUT_S):
        got = await fetch("http.delete", context, method="DELETE", target="/4,0212345678")
    assert got.status == 500
    assert json.loads(got.body)["error"].startswith("Deletion Failed: [127.0.0.1:")
    assert metrics.seen[-1] == ("delete", VolumeServerFailureKind.TIMEOUT)


def proxying(client, *holders):
    return make_context(
        settings=replace(SETTINGS, read_mode=ReadMode.PROXY),
        lookup=FakeLookup({9: list(holders)}),
        volume_servers=client,
    )


async def test_a_proxied_read_fails_when_no_holder_says_anything(volume_servers, client, mock_clock):
    context = proxying(client, await volume_servers.open(say_nothing), await volume_servers.open(drip_a_head))
    with trio.fail_after(3 * TIMEOUT_S):
        got = await fetch("http.read", context, target="/9,0212345678")
    assert (got.status, got.body) == (500, b"")
    assert len(volume_servers.asked) == 2


async def test_a_proxied_read_is_answered_by_the_next_holder(volume_servers, client, mock_clock):
    silent = [await volume_servers.open(say_nothing) for _ in range(3)]
    context = proxying(client, *silent, await volume_servers.open(answer))
    with trio.fail_after(5 * TIMEOUT_S):
        got = await fetch("http.read", context, target="/9,0212345678")
    assert (got.status, got.body) == (200, b"world!")


async def test_a_proxied_read_breaks_off_when_the_holder_stops(volume_servers, client, mock_clock):
    with trio.fail_after(3 * TIMEOUT_S):
        got = await fetch(
            "http.read", proxying(client, await volume_servers.open(stop_in_the_body)), target="/9,0212345678"
        )
    assert (got.body, got.breaks_off) == (b"wo", True)


async def test_a_holder_that_is_slow_but_moves_is_waited_for(volume_servers, client, mock_clock):
    got = await fetch("http.read", proxying(client, await volume_servers.open(answer_slowly)), target="/9,0212345678")
    assert (got.body, got.breaks_off) == (b"world!", False)


async def put_manifest(context):
    body = manifest_of(("9,0a12345678", 0, 6), size=6)
    assert (await fetch("http.write", context, method="PUT", target="/3,0112345678?cm=true", body=body)).status == 201


async def read_through_a_manifest(store, volume_servers, client, *scripts):
    """The bytes that arrive of a file with one chunk. The chunk's holders behave as `scripts`, in their order."""
    holders = [await volume_servers.open(script) for script in scripts]
    context = make_context(store=store, lookup=FakeLookup({9: holders, 3: [SELF]}), volume_servers=client)
    await put_manifest(context)
    with trio.fail_after(3 * TIMEOUT_S):
        return await fetch("http.read", context, target="/3,0112345678")


@pytest.mark.parametrize("script", [say_nothing, drip_a_head, stop_before_the_body])
async def test_a_chunk_is_read_from_the_next_holder(store, volume_servers, client, script, mock_clock):
    got = await read_through_a_manifest(store, volume_servers, client, script, answer)
    assert (got.status, got.body, got.breaks_off) == (200, b"world!", False)
    assert volume_servers.asked == ["/9,0a12345678"] * 2


async def test_a_chunk_that_no_holder_gives_is_500(store, volume_servers, client, mock_clock):
    got = await read_through_a_manifest(store, volume_servers, client, say_nothing, stop_before_the_body)
    assert got.status == 500


async def test_a_chunk_breaks_off_when_its_holder_stops(store, volume_servers, client, mock_clock):
    got = await read_through_a_manifest(store, volume_servers, client, stop_in_the_body, answer)
    assert (got.body, got.breaks_off) == (b"wo", True)


async def test_a_silent_server_is_asked_once_though_its_connection_was_a_kept_one(volume_servers, client, mock_clock):
    async def answer_once(stream):
        await answer(stream)
        await stream.receive_some()
        volume_servers.asked.append("again")
        await trio.sleep_forever()

    where = (await volume_servers.open(answer_once)).url
    async for _ in (await client.request("GET", where, "/1", Headers(), b"")).chunks:
        pass
    with trio.fail_after(1.5 * TIMEOUT_S):
        with pytest.raises(VolumeServerFailed) as caught:
            await client.request("GET", where, "/2", Headers(), b"")
    assert caught.value.kind is VolumeServerFailureKind.TIMEOUT
    assert volume_servers.asked == ["/1", "again"]


async def test_an_answer_to_a_write_that_drips_is_not_waited_for(autojump_clock):
    async def drip():
        while True:
            await trio.sleep(1)
            yield b" "

    with trio.fail_after(2 * ANSWER_TIMEOUT_S):
        with pytest.raises(VolumeServerFailed) as caught:
            await read_answer("127.0.0.1:1", SimpleNamespace(chunks=drip()))
    assert caught.value.kind is VolumeServerFailureKind.TIMEOUT
