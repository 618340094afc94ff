"""Requests that involve other servers: replicas, and volumes of other servers."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace

import pytest
import trio
from support.http_native import (
    REQUEST_ID,
    SETTINGS,
    FakeLookup,
    FakeNode,
    FakeVolumeServers,
    always,
    fetch,
    make_context,
    put,
)
from support.waiting import LIMIT_S

from native_handlers.format.crc import crc32c, crc32c_extend
from native_handlers.http import upload
from native_handlers.http.context import Location, LookupFailed
from native_handlers.http.finish import CANCEL_GRACE_S, run_to_end
from native_handlers.http.holders import HOLDER_HEADER, REQUIRED
from native_handlers.http.node_view import NodeState, StoreNodeView
from native_handlers.http.replicate import MAX_ANSWER_BYTES
from native_handlers.http_model.read_mode import ReadMode
from native_handlers.http_model.volume_servers import VolumeServerFailed, VolumeServerFailureKind
from native_handlers.runtime import content_threads
from native_handlers.storage.model.report import Finding, FindingKind

FID = "/4,0212345678"
HELLO = b"hello world, hello world"
SELF = Location(SETTINGS.self_url, SETTINGS.self_url)
REPLICA = Location("127.0.0.1:8081", "example:8081")
OTHER = Location("127.0.0.1:8082", "example:8082")


def serving(context, route_of):
    """Another native server, called through its handlers."""

    async def answer(method, _url, target, headers, body):
        answer = await fetch(route_of[method], context, method=method, target=target, headers=headers, body=body)
        return answer.status, answer.headers, answer.body

    return answer


@pytest.fixture
def lookup():
    return FakeLookup({4: [SELF, REPLICA], 3: [SELF]})


# ---- replicated writes


async def test_a_write_reaches_the_replica_as_it_was_stored(store, lookup):
    volume_servers = FakeVolumeServers(always(201, b'{"size":1}'))
    context = make_context(store=store, lookup=lookup, volume_servers=volume_servers)
    headers = {
        "Content-Type": "text/plain",
        "Content-Disposition": 'name="a b.txt"',
        "Seaweed-Foo": "bar",
        "Authorization": "Bearer token",
    }
    data = b"words " * 500
    answer = await put(context, FID + "?ts=1700000000&ttl=5d&fsync=true&pretty=1", data, headers)
    assert answer.status == 201
    [(method, url, target, sent, body)] = volume_servers.requests
    assert (method, url) == ("POST", REPLICA.url)
    assert target == FID + "?fsync=true&ts=1700000000&ttl=5d&type=replicate"
    assert sent.get("Seaweed-Foo") == "bar"
    assert sent.get("Authorization") == "Bearer token"
    assert sent.get("X-Amz-Request-Id") == REQUEST_ID
    needle = store.get_volume(4).read(2, cookie=0x12345678).needle
    head, _, rest = body.partition(b"\r\n\r\n")
    assert b'form-data; filename="a b.txt"; name=file' in head
    assert b"Content-Encoding: gzip" in head
    assert b"Content-Type: text/plain" in head
    assert rest.startswith(bytes(needle.data) + b"\r\n--")
    assert volume_servers.closed == 1


async def test_a_large_write_is_sent_in_pieces_of_a_known_length(store):
    """A copy of the whole content would be made on the event loop."""
    got = {}

    async def answer(_method, url, _target, headers, body):
        got[url] = (headers, [piece async for piece in body])
        return 201, (), b"{}"

    data = bytes(range(256)) * 2048
    lookup = FakeLookup({4: [SELF, REPLICA, OTHER]})
    context = make_context(store=store, lookup=lookup, volume_servers=FakeVolumeServers(answer))
    assert (await put(context, FID, data, {"Content-Type": "a/b"})).status == 201
    assert got.keys() == {REPLICA.url, OTHER.url}
    for headers, pieces in got.values():
        assert headers.get("Content-Length") == str(sum(map(len, pieces)))
        assert max(map(len, pieces)) < len(data)
        head, _, rest = b"".join(pieces).partition(b"\r\n\r\n")
        assert head.startswith(b"--")
        assert rest.startswith(data + b"\r\n--")


async def test_two_native_servers_end_up_with_the_same_needle(store, lookup, tmp_path, clock, opened):
    other = opened(tmp_path / "other", clock_ns=clock, volumes=())
    other.allocate_volume(4, replication="001")
    routes = {"POST": "http.write", "DELETE": "http.delete"}
    volume_servers = FakeVolumeServers(serving(make_context(store=other), routes))
    context = make_context(store=store, lookup=lookup, volume_servers=volume_servers)
    headers = {"Content-Type": "text/plain", "Seaweed-X": "\xc3\xa4", "Content-MD5": ""}
    assert (await put(context, FID + "?ttl=3h", b"words " * 500, headers)).status == 201
    here = store.get_volume(4).read(2, cookie=0x12345678).needle
    there = other.get_volume(4).read(2, cookie=0x12345678).needle
    here.append_at_ns = there.append_at_ns = 0
    assert here == there
    answer = await fetch("http.delete", context, method="DELETE", target=FID)
    assert answer.status == 202
    assert (await fetch("http.read", make_context(store=other), target=FID)).status == 404
    assert volume_servers.requests[-1][2] == FID + "?type=replicate"


@pytest.mark.parametrize("target", ["/3,0212345678", FID + "?type=replicate"])
async def test_one_copy_and_replica_writes_stay_here(store, lookup, target):
    volume_servers = FakeVolumeServers(always(201))
    context = make_context(store=store, lookup=lookup, volume_servers=volume_servers)
    assert (await put(context, target, HELLO)).status == 201
    assert volume_servers.requests == []


async def test_an_unchanged_write_is_sent_on_all_the_same(store, lookup):
    volume_servers = FakeVolumeServers(always(204, b""))
    context = make_context(store=store, lookup=lookup, volume_servers=volume_servers)
    await put(context, FID, HELLO)
    assert (await put(context, FID, HELLO)).status == 204
    assert len(volume_servers.requests) == 2


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, b'{"error":"disk full"}', "disk full"),
        (201, b'{"error":"odd"}', "odd"),
        (404, b"", "it answers 404 to an upload"),
        (500, b"[" * 60_000, "it answers 500 to an upload"),
        (200, b"x" * (MAX_ANSWER_BYTES + 1), f"the answer is longer than {MAX_ANSWER_BYTES} bytes"),
        (201, [b"{", VolumeServerFailed(REPLICA.url, VolumeServerFailureKind.SERVER_ERROR, "broke off")], "broke off"),
    ],
)
async def test_a_failing_replica_fails_the_write(store, lookup, status, body, reason):
    context = make_context(store=store, lookup=lookup, volume_servers=FakeVolumeServers(always(status, body)))
    answer = await put(context, FID, HELLO)
    assert answer.status == 500
    assert json.loads(answer.body) == {"error": f"failed to write to replicas for volume 4: [{REPLICA.url}]: {reason}"}


async def test_the_first_failure_ends_the_wait_for_slow_replicas(autojump_clock):
    """Without a store: the virtual clock does not wait for threads."""

    async def answer(_method, url, *_):
        if url == REPLICA.url:
            raise VolumeServerFailed(url, VolumeServerFailureKind.CONNECTION_REFUSED, "refused")
        await trio.sleep_forever()

    context = make_context(lookup=FakeLookup({4: [REPLICA, OTHER]}), volume_servers=FakeVolumeServers(answer))
    with trio.fail_after(LIMIT_S):
        assert (await put(context, FID, HELLO)).status == 500


async def test_replicas_are_written_at_the_same_time(autojump_clock):
    async def answer(*_):
        await trio.sleep(5)
        return 201, (), b"{}"

    context = make_context(lookup=FakeLookup({4: [REPLICA, OTHER]}), volume_servers=FakeVolumeServers(answer))
    began = trio.current_time()
    assert (await put(context, FID, HELLO)).status == 201
    assert trio.current_time() - began < 6


async def test_too_few_holders_refuse_before_anything_is_written(store):
    lookup = FakeLookup({4: [SELF]})
    context = make_context(store=store, lookup=lookup, volume_servers=FakeVolumeServers(always(201)))
    answer = await put(context, FID, HELLO)
    assert (answer.status, json.loads(answer.body)) == (
        500,
        {"error": "replicating operations [1] is less than volume 4 replication copy count [2]"},
    )
    assert lookup.refreshes == 1
    assert (await fetch("http.read", context, target=FID)).status == 404


async def test_a_stale_cache_does_not_refuse_writes(store):
    lookup = FakeLookup({4: [SELF]}, fresh={4: [SELF, REPLICA]})
    context = make_context(store=store, lookup=lookup, volume_servers=FakeVolumeServers(always(201)))
    assert (await put(context, FID, HELLO)).status == 201


async def test_a_master_that_does_not_answer_fails_the_write(store):
    context = make_context(store=store, lookup=FakeLookup(), volume_servers=FakeVolumeServers(always(201)))
    answer = await put(context, FID, HELLO)
    assert json.loads(answer.body) == {"error": "replicating lookup failed for 4: volume 4 not found"}


async def test_a_write_for_another_server_is_passed_on(store):
    volume_servers = FakeVolumeServers(always(201))
    context = make_context(store=store, lookup=FakeLookup({9: [REPLICA]}), volume_servers=volume_servers)
    answer = await put(context, "/9,0212345678", HELLO)
    assert answer.status == 201
    assert json.loads(answer.body)["eTag"] == "d3152e74"
    assert [url for _, url, *_ in volume_servers.requests] == [REPLICA.url]


async def test_a_large_write_for_another_server_is_summed_in_a_thread(monkeypatch):
    threads = []

    def sum_up(crc, data):
        threads.append(threading.get_ident())
        return crc32c_extend(crc, data)

    monkeypatch.setattr(upload, "crc32c_extend", sum_up)
    monkeypatch.setattr(content_threads, "INLINE_S", 0)
    context = make_context(lookup=FakeLookup({9: [REPLICA]}), volume_servers=FakeVolumeServers(always(201)))
    data = os.urandom((1 << 19) + 1)
    answer = await put(context, "/9,0212345678", data, {"Content-Type": "a/b"})
    assert json.loads(answer.body)["eTag"] == f"{crc32c(data):08x}"
    assert [thread == threading.get_ident() for thread in threads] == [True, False, False]


async def test_a_write_that_nobody_holds_is_not_acknowledged(store):
    context = make_context(store=store, lookup=FakeLookup({9: [SELF]}), volume_servers=FakeVolumeServers(always(201)))
    assert (await put(context, "/9,0212345678", HELLO)).status == 500


@pytest.mark.parametrize("status", [202, 404])
async def test_a_replica_that_has_deleted_already_is_fine(store, lookup, status):
    context = make_context(store=store, lookup=lookup, volume_servers=FakeVolumeServers(always(201)))
    await put(context, FID, HELLO)
    context = make_context(store=store, lookup=lookup, volume_servers=FakeVolumeServers(always(status, b'{"size":0}')))
    assert (await fetch("http.delete", context, method="DELETE", target=FID)).status == 202


async def test_a_replica_that_refuses_to_delete(store, lookup):
    context = make_context(store=store, lookup=lookup, volume_servers=FakeVolumeServers(always(201)))
    await put(context, FID, HELLO)
    context = make_context(store=store, lookup=lookup, volume_servers=FakeVolumeServers(always(500, b'{"error":"no"}')))
    answer = await fetch("http.delete", context, method="DELETE", target=FID)
    assert (answer.status, json.loads(answer.body)) == (500, {"error": f"Deletion Failed: [{REPLICA.url}]: no"})


@pytest.mark.parametrize(
    ("headers", "query", "token"),
    [
        ({"Cookie": "a=b; AT=from-cookie"}, "", "from-cookie"),
        ({"Authorization": "bearer from-header", "Cookie": "AT=c"}, "", "from-header"),
        ({"Authorization": "bearer from-header"}, "?jwt=from-query", "from-query"),
        ({"Authorization": "Basic x"}, "", None),
    ],
)
async def test_the_token_is_passed_on(store, lookup, headers, query, token):
    volume_servers = FakeVolumeServers(always(201))
    context = make_context(store=store, lookup=lookup, volume_servers=volume_servers)
    await put(context, FID + query, HELLO, headers)
    assert volume_servers.requests[0][3].get("Authorization") == (token and f"Bearer {token}")


async def test_a_write_is_finished_after_the_client_is_gone(autojump_clock):
    done = []

    async def answer(*_):
        await trio.sleep(CANCEL_GRACE_S / 2)
        done.append(True)
        return 201, (), b"{}"

    context = make_context(lookup=FakeLookup({4: [REPLICA]}), volume_servers=FakeVolumeServers(answer))
    with trio.move_on_after(1) as scope:
        await put(context, FID, HELLO)
    assert scope.cancelled_caught
    assert done


async def test_unfinished_work_ends_some_time_after_the_cancellation(autojump_clock):
    began = trio.current_time()
    with trio.move_on_after(1):
        await run_to_end(trio.sleep_forever)
    assert trio.current_time() - began == pytest.approx(1 + CANCEL_GRACE_S)


async def test_work_is_not_limited_while_nobody_cancels(autojump_clock):
    async def work():
        await trio.sleep(1000)
        return 5

    assert await run_to_end(work) == 5


async def test_failures_of_work_come_out_unwrapped():
    async def work():
        raise LookupFailed(1, "x")

    with pytest.raises(LookupFailed):
        await run_to_end(work)


# ---- volumes that are elsewhere


def remote_context(mode, volume_servers=None, holders=(REPLICA,), **settings):
    lookup = FakeLookup({9: list(holders)})
    return make_context(
        settings=replace(SETTINGS, read_mode=mode, **settings), lookup=lookup, volume_servers=volume_servers
    )


async def test_local_mode_does_not_look_elsewhere():
    answer = await fetch("http.read", remote_context(ReadMode.LOCAL), target="/9,0212345678")
    assert (answer.status, answer.body) == (404, b"")


async def test_proxy_mode_relays_what_a_holder_says():
    fields = [("Server", "other"), ("Content-Type", "a/b"), ("Content-Length", "4"), ("ETag", '"x"')]
    volume_servers = FakeVolumeServers(always(206, [b"ab", b"cd"], fields))
    headers = [("Range", "bytes=0-3"), ("Host", "h"), ("X-My", "1"), ("Connection", "close")]
    answer = await fetch(
        "http.read",
        remote_context(ReadMode.PROXY, volume_servers),
        target="/9/0212345678/n%20m.txt?b=2&a=1",
        headers=headers,
    )
    assert (answer.status, answer.body) == (206, b"abcd")
    assert answer.headers.get("Content-Length") == "4"
    assert answer.headers.get_all("Server") == ["SeaweedFS Volume 30GB 4.44"]
    [(method, url, target, sent, _)] = volume_servers.requests
    assert (method, url, target) == ("GET", REPLICA.url, "/9/0212345678/n%20m.txt?a=1&b=2&proxied=true")
    assert list(sent) == [("Range", "bytes=0-3"), ("X-My", "1"), (HOLDER_HEADER, REQUIRED)]


async def test_a_long_query_is_passed_on_by_the_threads_for_contents(monkeypatch):
    jobs, run = [], content_threads.ContentThreads.run

    async def counted_run(threads, job):
        jobs.append(job)
        return await run(threads, job)

    monkeypatch.setattr(content_threads.ContentThreads, "run", counted_run)
    volume_servers = FakeVolumeServers(always(200, b"a"))
    raw = "&".join(f"{number:04}=%2F" for number in range(1000))
    await fetch("http.read", remote_context(ReadMode.PROXY, volume_servers), target=f"/9,0212345678?{raw}")
    assert volume_servers.requests[0][2] == f"/9,0212345678?{raw}&proxied=true"
    assert len(jobs) == 1


async def test_a_head_is_proxied_as_a_get_whose_body_is_dropped():
    volume_servers = FakeVolumeServers(always(200, b"abcd", [("Content-Length", "4")]))
    answer = await fetch(
        "http.read", remote_context(ReadMode.PROXY, volume_servers), method="HEAD", target="/9,0212345678"
    )
    assert (answer.status, answer.body, answer.headers.get("Content-Length")) == (200, b"", "4")
    assert volume_servers.requests[0][0] == "GET"


async def test_a_proxied_read_is_not_proxied_again():
    volume_servers = FakeVolumeServers(always(200))
    context = remote_context(ReadMode.PROXY, volume_servers)
    assert (await fetch("http.read", context, target="/9,0212345678?proxied=true")).status == 404
    assert volume_servers.requests == []


@pytest.mark.parametrize("holders", [(), (SELF,)])
@pytest.mark.parametrize("mode", [ReadMode.PROXY, ReadMode.REDIRECT])
async def test_no_other_holder_is_404(holders, mode):
    context = remote_context(mode, FakeVolumeServers(always(200)), holders)
    assert (await fetch("http.read", context, target="/9,0212345678")).status == 404
    assert (await fetch("http.read", context, target="/8,0212345678")).status == 404


async def test_a_holder_that_does_not_answer_is_500():
    async def answer(_method, url, *_):
        raise VolumeServerFailed(url, VolumeServerFailureKind.TIMEOUT, "no answer")

    context = remote_context(ReadMode.PROXY, FakeVolumeServers(answer))
    answer = await fetch("http.read", context, target="/9,0212345678")
    assert (answer.status, answer.body) == (500, b"")


async def test_a_holder_that_breaks_off_breaks_the_answer_off():
    body = [b"ab", VolumeServerFailed(REPLICA.url, VolumeServerFailureKind.SERVER_ERROR, "gone")]
    context = remote_context(ReadMode.PROXY, FakeVolumeServers(always(200, body)))
    answer = await fetch("http.read", context, target="/9,0212345678")
    assert (answer.body, answer.breaks_off) == (b"ab", True)


async def test_redirect_mode_keeps_only_the_collection():
    context = remote_context(ReadMode.REDIRECT)
    target = "/9/0212345678/name.txt?collection=c%26d&readDeleted=true"
    answer = await fetch("http.read", context, target=target)
    location = f"http://{REPLICA.url}/9,0212345678?collection=c%26d&proxied=true"
    assert (answer.status, answer.headers.get("Location")) == (301, location)
    shown = location.replace("&", "&amp;")
    assert answer.body == f'<a href="{shown}">Moved Permanently</a>.\n\n'.encode()


async def test_redirects_go_to_https_where_volume_servers_speak_it():
    context = remote_context(ReadMode.REDIRECT, volume_server_scheme="https")
    answer = await fetch("http.read", context, target="/9,0212345678")
    assert answer.headers.get("Location") == f"https://{REPLICA.url}/9,0212345678?proxied=true"


# ---- the view of one store


async def test_status_of_a_store(store, tmp_path, no_shared_threads):
    view = StoreNodeView(
        store, NodeState(details=lambda: None, is_heartbeating=lambda: True, is_stopping=lambda: False)
    )
    context = make_context(store=store, node=view)
    await put(context, "/3,0212345678", HELLO)
    answer = json.loads((await fetch("http.status", context)).body)
    first, second, third = answer["Volumes"]
    assert (first["Id"], first["FileCount"], first["Size"] > 24, first["ReadOnly"]) == (3, 1, True, False)
    assert second["ReplicaPlacement"] == {"node": 1}
    assert third["Ttl"] == {"Count": 3, "Unit": 1}
    [disk] = answer["DiskStatuses"]
    assert disk["dir"] == str(tmp_path)
    assert "disk_type" not in disk
    assert disk["all"] > disk["used"] > 0
    assert "error" not in disk
    store.locations[0].health.problem = "why"
    assert json.loads((await fetch("http.status", context)).body)["DiskStatuses"][0]["error"] == "why"
    store.locations[0].health.problem = ""
    assert "Findings" not in answer
    store.locations[0].findings.add([Finding(FindingKind.IDX_LOST, tmp_path / "3", "2 rows")])
    assert json.loads((await fetch("http.status", context)).body)["Findings"] == [
        {"Path": f"{tmp_path}/3", "Kind": "IDX_LOST", "Text": ".idx was lost and is rebuilt from .dat: 2 rows"}
    ]
    assert (await fetch("http.healthz", context)).status == 200


def test_a_node_is_healthy_by_default():
    assert FakeNode().is_heartbeating
