"""What involves other servers: replicas, volumes that are not here, manifests whose chunks are anywhere."""

from __future__ import annotations

import gzip
import json
import threading
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import jwt
import pytest
import trio
from http_native_kit import REQUEST_ID, SETTINGS, FakeNode, fetch, make_context

from native_handlers.format.crc import crc32c
from native_handlers.http import write
from native_handlers.http.context import (
    AuthKeys,
    Location,
    LookupFailed,
    PeerFailed,
    PeerFailureKind,
    PeerResponse,
    ReadMode,
)
from native_handlers.http.finish import CANCEL_GRACE_S, run_to_end
from native_handlers.http.headers import Headers
from native_handlers.http.node_view import NodeState, StoreNodeView
from native_handlers.http.peers import MAX_ANSWER_BYTES
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.report import Finding, FindingKind
from native_handlers.storage.store import StoreConfig, open_store

FID = "/4,0212345678"
HELLO = b"hello world, hello world"
SELF = Location(SETTINGS.self_url, SETTINGS.self_url)
PEER = Location("127.0.0.1:8081", "example:8081")
OTHER = Location("127.0.0.1:8082", "example:8082")


@dataclass
class FakeLookup:
    """Holders by volume id; `fresh` replaces them on a refresh."""

    holders: dict = field(default_factory=dict)
    fresh: dict = field(default_factory=dict)
    refreshes: int = 0

    async def locations(self, vid, *, refresh=False):
        self.refreshes += refresh
        if refresh:
            self.holders = {**self.holders, **self.fresh}
        if vid not in self.holders:
            raise LookupFailed(vid, f"volume {vid} not found")
        return list(self.holders[vid])


@dataclass
class FakePeers:
    """Answers by function; keeps what was asked."""

    answer: object
    requests: list = field(default_factory=list)
    closed: int = 0

    async def request(self, method, url_host_port, target, headers, body):
        self.requests.append((method, url_host_port, target, headers, body))
        status, fields, body = await self.answer(method, url_host_port, target, headers, body)
        return PeerResponse(status, Headers(fields), self._chunks(body))

    async def _chunks(self, body):
        try:
            for piece in body if isinstance(body, list) else [body]:
                if isinstance(piece, Exception):
                    raise piece
                yield piece
        finally:
            self.closed += 1


def always(status, body=b"{}", fields=()):
    async def answer(*_):
        return status, fields, body

    return answer


def serving(context, route_of):
    """A peer that is another native server, by its handlers."""

    async def answer(method, _url, target, headers, body):
        answer = await fetch(route_of[method], context, method=method, target=target, headers=headers, body=body)
        return answer.status, answer.headers, answer.body

    return answer


async def put(context, target, body, headers=()):
    return await fetch("http.write", context, method="PUT", target=target, headers=headers, body=body)


@pytest.fixture
def lookup():
    return FakeLookup({4: [SELF, PEER], 3: [SELF]})


# ---- replicated writes


async def test_a_write_reaches_the_replica_as_it_was_stored(store, lookup):
    peers = FakePeers(always(201, b'{"size":1}'))
    context = make_context(store=store, lookup=lookup, peers=peers)
    headers = {
        "Content-Type": "text/plain",
        "Content-Disposition": 'name="a b.txt"',
        "Seaweed-Foo": "bar",
        "Authorization": "Bearer token",
    }
    data = b"words " * 500
    answer = await put(context, FID + "?ts=1700000000&ttl=5d&fsync=true&pretty=1", data, headers)
    assert answer.status == 201
    [(method, url, target, sent, body)] = peers.requests
    assert (method, url) == ("POST", PEER.url)
    assert target == FID + "?fsync=true&ts=1700000000&ttl=5d&type=replicate"
    assert sent.get("Seaweed-Foo") == "bar"
    assert sent.get("Authorization") == "Bearer token"
    assert sent.get("X-Amz-Request-Id") == REQUEST_ID
    needle = store.read_needle(4, 2, cookie=0x12345678).needle
    head, _, rest = body.partition(b"\r\n\r\n")
    assert b'form-data; filename="a b.txt"; name=file' in head
    assert b"Content-Encoding: gzip" in head
    assert b"Content-Type: text/plain" in head
    assert rest.startswith(bytes(needle.data) + b"\r\n--")
    assert peers.closed == 1


async def test_a_large_write_is_sent_in_pieces_of_a_known_length(store):
    """A copy of all of it would be made on the event loop."""
    got = {}

    async def answer(_method, url, _target, headers, body):
        got[url] = (headers, [piece async for piece in body])
        return 201, (), b"{}"

    data = bytes(range(256)) * 2048
    lookup = FakeLookup({4: [SELF, PEER, OTHER]})
    context = make_context(store=store, lookup=lookup, peers=FakePeers(answer))
    assert (await put(context, FID, data, {"Content-Type": "a/b"})).status == 201
    assert got.keys() == {PEER.url, OTHER.url}
    for headers, pieces in got.values():
        assert headers.get("Content-Length") == str(sum(map(len, pieces)))
        assert max(map(len, pieces)) < len(data)
        head, _, rest = b"".join(pieces).partition(b"\r\n\r\n")
        assert head.startswith(b"--")
        assert rest.startswith(data + b"\r\n--")


async def test_two_native_servers_end_up_with_the_same_needle(store, lookup, tmp_path, clock):
    other_path = tmp_path / "other"
    other_path.mkdir()
    other = open_store(
        StoreConfig(locations=(LocationConfig(path=other_path, idx_path=other_path, max_volumes=8),)), clock_ns=clock
    )
    try:
        other.allocate_volume(4, replication="001")
        routes = {"POST": "http.write", "DELETE": "http.delete"}
        peers = FakePeers(serving(make_context(store=other), routes))
        context = make_context(store=store, lookup=lookup, peers=peers)
        headers = {"Content-Type": "text/plain", "Seaweed-X": "\xc3\xa4", "Content-MD5": ""}
        assert (await put(context, FID + "?ttl=3h", b"words " * 500, headers)).status == 201
        here = store.read_needle(4, 2, cookie=0x12345678).needle
        there = other.read_needle(4, 2, cookie=0x12345678).needle
        here.append_at_ns = there.append_at_ns = 0
        assert here == there
        answer = await fetch("http.delete", context, method="DELETE", target=FID)
        assert answer.status == 202
        assert (await fetch("http.read", make_context(store=other), target=FID)).status == 404
        assert peers.requests[-1][2] == FID + "?type=replicate"
    finally:
        other.close()


@pytest.mark.parametrize("target", ["/3,0212345678", FID + "?type=replicate"])
async def test_one_copy_and_replica_writes_stay_here(store, lookup, target):
    peers = FakePeers(always(201))
    context = make_context(store=store, lookup=lookup, peers=peers)
    assert (await put(context, target, HELLO)).status == 201
    assert peers.requests == []


async def test_an_unchanged_write_is_sent_on_all_the_same(store, lookup):
    peers = FakePeers(always(204, b""))
    context = make_context(store=store, lookup=lookup, peers=peers)
    await put(context, FID, HELLO)
    assert (await put(context, FID, HELLO)).status == 204
    assert len(peers.requests) == 2


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (500, b'{"error":"disk full"}', "disk full"),
        (201, b'{"error":"odd"}', "odd"),
        (404, b"", "it answers 404 to an upload"),
        (500, b"[" * 60_000, "it answers 500 to an upload"),
        (200, b"x" * (MAX_ANSWER_BYTES + 1), f"the answer is longer than {MAX_ANSWER_BYTES} bytes"),
        (201, [b"{", PeerFailed(PEER.url, PeerFailureKind.SERVER_ERROR, "broke off")], "broke off"),
    ],
)
async def test_a_failing_replica_fails_the_write(store, lookup, status, body, reason):
    context = make_context(store=store, lookup=lookup, peers=FakePeers(always(status, body)))
    answer = await put(context, FID, HELLO)
    assert answer.status == 500
    assert json.loads(answer.body) == {"error": f"failed to write to replicas for volume 4: [{PEER.url}]: {reason}"}


async def test_the_first_failure_ends_the_wait_for_slow_replicas(autojump_clock):
    """Without a store: the virtual clock does not wait for threads."""

    async def answer(_method, url, *_):
        if url == PEER.url:
            raise PeerFailed(url, PeerFailureKind.CONNECTION_REFUSED, "refused")
        await trio.sleep_forever()

    context = make_context(lookup=FakeLookup({4: [PEER, OTHER]}), peers=FakePeers(answer))
    with trio.fail_after(1):
        assert (await put(context, FID, HELLO)).status == 500


async def test_replicas_are_written_at_the_same_time(autojump_clock):
    async def answer(*_):
        await trio.sleep(5)
        return 201, (), b"{}"

    context = make_context(lookup=FakeLookup({4: [PEER, OTHER]}), peers=FakePeers(answer))
    began = trio.current_time()
    assert (await put(context, FID, HELLO)).status == 201
    assert trio.current_time() - began < 6


async def test_too_few_holders_refuse_before_anything_is_written(store):
    lookup = FakeLookup({4: [SELF]})
    context = make_context(store=store, lookup=lookup, peers=FakePeers(always(201)))
    answer = await put(context, FID, HELLO)
    assert (answer.status, json.loads(answer.body)) == (
        500,
        {"error": "replicating operations [1] is less than volume 4 replication copy count [2]"},
    )
    assert lookup.refreshes == 1
    assert (await fetch("http.read", context, target=FID)).status == 404


async def test_a_stale_cache_does_not_refuse_writes(store):
    lookup = FakeLookup({4: [SELF]}, fresh={4: [SELF, PEER]})
    context = make_context(store=store, lookup=lookup, peers=FakePeers(always(201)))
    assert (await put(context, FID, HELLO)).status == 201


async def test_a_master_that_does_not_answer_fails_the_write(store):
    context = make_context(store=store, lookup=FakeLookup(), peers=FakePeers(always(201)))
    answer = await put(context, FID, HELLO)
    assert json.loads(answer.body) == {"error": "replicating lookup failed for 4: volume 4 not found"}


async def test_a_write_for_another_server_is_passed_on(store):
    peers = FakePeers(always(201))
    context = make_context(store=store, lookup=FakeLookup({9: [PEER]}), peers=peers)
    answer = await put(context, "/9,0212345678", HELLO)
    assert answer.status == 201
    assert json.loads(answer.body)["eTag"] == "d3152e74"
    assert [url for _, url, *_ in peers.requests] == [PEER.url]


async def test_a_large_write_for_another_server_is_summed_in_a_thread(monkeypatch):
    threads = []

    def sum_up(data):
        threads.append(threading.get_ident())
        return crc32c(data)

    monkeypatch.setattr(write, "crc32c", sum_up)
    context = make_context(lookup=FakeLookup({9: [PEER]}), peers=FakePeers(always(201)))
    for size in (1 << 18, (1 << 18) + 1):
        data = b"\0" * size
        answer = await put(context, "/9,0212345678", data, {"Content-Type": "a/b"})
        assert json.loads(answer.body)["eTag"] == f"{crc32c(data):08x}"
    assert [thread == threading.get_ident() for thread in threads] == [True, False]


async def test_a_write_that_nobody_holds_is_not_acknowledged(store):
    context = make_context(store=store, lookup=FakeLookup({9: [SELF]}), peers=FakePeers(always(201)))
    assert (await put(context, "/9,0212345678", HELLO)).status == 500


@pytest.mark.parametrize("status", [202, 404])
async def test_a_replica_that_has_deleted_already_is_fine(store, lookup, status):
    context = make_context(store=store, lookup=lookup, peers=FakePeers(always(201)))
    await put(context, FID, HELLO)
    context = make_context(store=store, lookup=lookup, peers=FakePeers(always(status, b'{"size":0}')))
    assert (await fetch("http.delete", context, method="DELETE", target=FID)).status == 202


async def test_a_replica_that_refuses_to_delete(store, lookup):
    context = make_context(store=store, lookup=lookup, peers=FakePeers(always(201)))
    await put(context, FID, HELLO)
    context = make_context(store=store, lookup=lookup, peers=FakePeers(always(500, b'{"error":"no"}')))
    answer = await fetch("http.delete", context, method="DELETE", target=FID)
    assert (answer.status, json.loads(answer.body)) == (500, {"error": f"Deletion Failed: [{PEER.url}]: no"})


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
    peers = FakePeers(always(201))
    context = make_context(store=store, lookup=lookup, peers=peers)
    await put(context, FID + query, HELLO, headers)
    assert peers.requests[0][3].get("Authorization") == (token and f"Bearer {token}")


async def test_a_write_is_finished_after_the_client_is_gone(autojump_clock):
    done = []

    async def answer(*_):
        await trio.sleep(CANCEL_GRACE_S / 2)
        done.append(True)
        return 201, (), b"{}"

    context = make_context(lookup=FakeLookup({4: [PEER]}), peers=FakePeers(answer))
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


def remote_context(mode, peers=None, holders=(PEER,), **settings):
    lookup = FakeLookup({9: list(holders)})
    return make_context(settings=replace(SETTINGS, read_mode=mode, **settings), lookup=lookup, peers=peers)


async def test_local_mode_does_not_look_elsewhere():
    answer = await fetch("http.read", remote_context(ReadMode.LOCAL), target="/9,0212345678")
    assert (answer.status, answer.body) == (404, b"")


async def test_proxy_mode_relays_what_a_holder_says():
    fields = [("Server", "other"), ("Content-Type", "a/b"), ("Content-Length", "4"), ("ETag", '"x"')]
    peers = FakePeers(always(206, [b"ab", b"cd"], fields))
    headers = [("Range", "bytes=0-3"), ("Host", "h"), ("X-My", "1"), ("Connection", "close")]
    answer = await fetch(
        "http.read", remote_context(ReadMode.PROXY, peers), target="/9/0212345678/n%20m.txt?b=2&a=1", headers=headers
    )
    assert (answer.status, answer.body) == (206, b"abcd")
    assert answer.headers.get("Content-Length") == "4"
    assert answer.headers.get_all("Server") == ["SeaweedFS Volume 30GB 4.44"]
    [(method, url, target, sent, _)] = peers.requests
    assert (method, url, target) == ("GET", PEER.url, "/9/0212345678/n%20m.txt?a=1&b=2&proxied=true")
    assert list(sent) == [("Range", "bytes=0-3"), ("X-My", "1")]


async def test_a_head_is_proxied_as_a_get_whose_body_is_dropped():
    peers = FakePeers(always(200, b"abcd", [("Content-Length", "4")]))
    answer = await fetch("http.read", remote_context(ReadMode.PROXY, peers), method="HEAD", target="/9,0212345678")
    assert (answer.status, answer.body, answer.headers.get("Content-Length")) == (200, b"", "4")
    assert peers.requests[0][0] == "GET"


async def test_a_proxied_read_is_not_proxied_again():
    peers = FakePeers(always(200))
    context = remote_context(ReadMode.PROXY, peers)
    assert (await fetch("http.read", context, target="/9,0212345678?proxied=true")).status == 404
    assert peers.requests == []


@pytest.mark.parametrize("holders", [(), (SELF,)])
@pytest.mark.parametrize("mode", [ReadMode.PROXY, ReadMode.REDIRECT])
async def test_no_other_holder_is_404(holders, mode):
    context = remote_context(mode, FakePeers(always(200)), holders)
    assert (await fetch("http.read", context, target="/9,0212345678")).status == 404
    assert (await fetch("http.read", context, target="/8,0212345678")).status == 404


async def test_a_holder_that_does_not_answer_is_500():
    async def answer(_method, url, *_):
        raise PeerFailed(url, PeerFailureKind.TIMEOUT, "no answer")

    context = remote_context(ReadMode.PROXY, FakePeers(answer))
    answer = await fetch("http.read", context, target="/9,0212345678")
    assert (answer.status, answer.body) == (500, b"")


async def test_a_holder_that_breaks_off_breaks_the_answer_off():
    body = [b"ab", PeerFailed(PEER.url, PeerFailureKind.SERVER_ERROR, "gone")]
    context = remote_context(ReadMode.PROXY, FakePeers(always(200, body)))
    answer = await fetch("http.read", context, target="/9,0212345678")
    assert (answer.body, answer.breaks_off) == (b"ab", True)


async def test_redirect_mode_keeps_only_the_collection():
    context = remote_context(ReadMode.REDIRECT)
    target = "/9/0212345678/name.txt?collection=c%26d&readDeleted=true"
    answer = await fetch("http.read", context, target=target)
    location = f"http://{PEER.url}/9,0212345678?collection=c%26d&proxied=true"
    assert (answer.status, answer.headers.get("Location")) == (301, location)
    shown = location.replace("&", "&amp;")
    assert answer.body == f'<a href="{shown}">Moved Permanently</a>.\n\n'.encode()


async def test_redirects_go_to_https_where_peers_speak_it():
    context = remote_context(ReadMode.REDIRECT, peer_scheme="https")
    answer = await fetch("http.read", context, target="/9,0212345678")
    assert answer.headers.get("Location") == f"https://{PEER.url}/9,0212345678?proxied=true"


# ---- manifests


def manifest_of(*chunks, **fields):
    entries = [{"fid": fid, "offset": offset, "size": size} for fid, offset, size in chunks]
    return json.dumps({"name": "big.txt", "mime": "text/x-big", "size": 0, "chunks": entries, **fields}).encode()


@pytest.fixture
async def chunked(store):
    """A file of 11 bytes: 5 in the local volume, 6 in volume 9 on a peer; its manifest is /3,0112345678."""
    remote = b"world!"

    async def answer(_method, _url, target, headers, _body):
        if target != "/9,0a12345678":
            return 404, (), b""
        wanted = headers.get("Range")
        if wanted is None:
            return 200, (), [remote[:2], remote[2:]]
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        return 206, (), remote[first : last + 1]

    peers = FakePeers(answer)
    lookup = FakeLookup({9: [OTHER], 3: [SELF]})
    keys = AuthKeys(read_key=b"r" * 32, read_expires_after_s=60, write_key=b"w" * 32)
    context = make_context(store=store, lookup=lookup, peers=peers, auth=lambda: keys)
    await put(context, "/3,0212345678", b"hello", {"Content-Type": "a/b"})
    manifest = manifest_of(("9,0a12345678", 5, 6), ("3,0212345678", 0, 5), size=11)
    assert (await put(context, "/3,0112345678?cm=true&ts=1700000000", manifest)).status == 201
    return context


async def read(context, headers=(), query="", method="GET"):
    return await fetch("http.read", context, method=method, target="/3,0112345678" + query, headers=headers)


async def test_a_manifest_is_read_as_the_file_it_describes(chunked):
    answer = await read(chunked)
    assert (answer.status, answer.body, answer.breaks_off) == (200, b"helloworld!", False)
    assert answer.headers.get("X-File-Store") == "chunked"
    assert answer.headers.get("Content-Length") == "11"
    assert answer.headers.get("Content-Type") == "text/x-big"
    assert answer.headers.get("Content-Disposition") == "inline; filename=big.txt"
    assert answer.headers.get("Last-Modified") == "Tue, 14 Nov 2023 22:13:20 GMT"


async def test_chunks_are_read_with_a_token_of_this_server(chunked):
    await read(chunked)
    token = chunked.peers.requests[-1][3].get("Authorization").removeprefix("Bearer ")
    assert jwt.decode(token, b"r" * 32, algorithms=["HS256"])["fid"] == "9,0a12345678"


@pytest.mark.parametrize(
    ("wanted", "body"), [("bytes=3-6", b"lowo"), ("bytes=0-4", b"hello"), ("bytes=7-7", b"r"), ("bytes=-1", b"!")]
)
async def test_ranges_of_a_manifest(chunked, wanted, body):
    answer = await read(chunked, {"Range": wanted})
    assert (answer.status, answer.body) == (206, body)


async def test_several_ranges_of_a_manifest(chunked):
    answer = await read(chunked, {"Range": "bytes=0-0,4-5"})
    assert b"\r\n\r\nh\r\n" in answer.body
    assert b"\r\n\r\now\r\n" in answer.body
    assert len(answer.body) == int(answer.headers.get("Content-Length"))


async def test_head_of_a_manifest_reads_no_chunk(chunked):
    answer = await read(chunked, method="HEAD")
    assert (answer.headers.get("Content-Length"), chunked.peers.requests) == ("11", [])


async def test_the_manifest_itself_can_be_read(chunked):
    answer = await read(chunked, query="?cm=false")
    assert json.loads(answer.body)["size"] == 11
    assert "X-File-Store" not in answer.headers


async def test_a_first_chunk_that_cannot_be_read_is_500(chunked, store):
    store.delete_needle(3, 2, 0x12345678)
    answer = await read(chunked)
    assert (answer.status, answer.body) == (500, b"chunk 3,0212345678: already deleted\n")
    assert answer.headers.get("Content-Type") == "text/plain; charset=utf-8"


async def test_a_later_chunk_that_cannot_be_read_breaks_the_answer_off(chunked):
    chunked.lookup.holders.pop(9)
    answer = await read(chunked)
    assert (answer.status, answer.body, answer.breaks_off) == (200, b"hello", True)


@pytest.mark.parametrize("size", [4, 7])
async def test_a_chunk_of_another_size_breaks_the_answer_off(chunked, size):
    manifest = manifest_of(("3,0212345678", 0, 5), ("9,0a12345678", 5, size))
    await put(chunked, "/3,0112345678?cm=true", manifest)
    answer = await read(chunked)
    assert answer.breaks_off


async def test_the_next_holder_is_asked_when_one_fails(chunked):
    good = chunked.peers.answer

    async def answer(method, url, *rest):
        if url == OTHER.url:
            raise PeerFailed(url, PeerFailureKind.CONNECTION_REFUSED, "refused")
        return await good(method, url, *rest)

    chunked.peers.answer = answer
    chunked.lookup.holders[9] = [OTHER, PEER]
    assert (await read(chunked)).body == b"helloworld!"


async def test_compressed_chunks_are_read_clear(chunked):
    await put(chunked, "/3,0312345678", b"words " * 100, {"Content-Type": "text/plain"})
    await put(chunked, "/3,0112345678?cm=true", manifest_of(("3,0312345678", 0, 600)))
    assert (await read(chunked, {"Accept-Encoding": "gzip"})).body == b"words " * 100


@pytest.mark.parametrize(
    "data",
    [b"no gzip at all", b"\x28\xb5\x2f\xfd zstd", gzip.compress(b"words " * 100, mtime=0)[:-9], b"\x1f\x8b, no more"],
    ids=["plain", "zstd", "torn", "damaged"],
)
async def test_chunks_that_cannot_be_decompressed_are_read_as_they_are(chunked, data):
    """As where they are read by themselves, here or from another server."""
    assert (await put(chunked, "/3,0312345678", data, {"Content-Encoding": "gzip"})).status == 201
    assert (await fetch("http.read", chunked, target="/3,0312345678")).body == data
    await put(chunked, "/3,0112345678?cm=true", manifest_of(("3,0312345678", 0, len(data))))
    answer = await read(chunked)
    assert (answer.status, answer.body, answer.breaks_off) == (200, data, False)
    assert (await read(chunked, {"Range": "bytes=3-5"})).body == data[3:6]


async def test_a_chunk_that_becomes_too_large_is_500(chunked):
    bomb = gzip.compress(bytes(2 * SETTINGS.file_size_limit_bytes))
    assert (await put(chunked, "/3,0312345678", bomb, {"Content-Encoding": "gzip"})).status == 201
    await put(chunked, "/3,0112345678?cm=true", manifest_of(("3,0312345678", 0, len(bomb))))
    answer = await read(chunked)
    assert (answer.status, b"bytes come out of" in answer.body) == (500, True)


async def test_large_local_chunks_are_streamed(chunked, store):
    data = bytes(range(256)) * (12 << 10)
    context = replace(chunked, settings=replace(SETTINGS, file_size_limit_bytes=8 << 20))
    await put(context, "/3,0312345678", data, {"Content-Type": "a/b"})
    await put(context, "/3,0112345678?cm=true", manifest_of(("3,0312345678", 0, len(data))))
    assert (await read(context)).body == data
    assert (await read(context, {"Range": "bytes=5-2000004"})).body == data[5:2000005]


@pytest.mark.parametrize(
    "chunks",
    [
        [("3,0212345678", 1, 5)],
        [("3,0212345678", 0, 5), ("9,0a12345678", 4, 6)],
        [("3,0212345678", 0, 5), ("9,0a12345678", 6, 6)],
    ],
)
async def test_gaps_and_overlaps_are_500(chunked, chunks):
    await put(chunked, "/3,0112345678?cm=true", manifest_of(*chunks))
    assert (await read(chunked)).status == 500


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"[]",
        b'{"chunks":{}}',
        b'{"chunks":[1]}',
        b'{"chunks":[{"fid":"x","size":1}]}',
        b'{"chunks":[{"fid":"3,0212345678","size":-1}]}',
        b'{"chunks":[{"fid":"3,0212345678","size":1.5}]}',
        b'{"name":5}',
        b"[" * 100_000,
    ],
)
async def test_what_is_no_manifest_is_sent_as_it_is(chunked, content):
    await put(chunked, "/3,0112345678?cm=true", content)
    assert (await read(chunked)).body == content


async def test_an_empty_manifest_is_an_empty_file(chunked):
    await put(chunked, "/3,0112345678?cm=true", b'{"chunks":null}')
    answer = await read(chunked)
    assert (answer.status, answer.body, answer.headers.get("Content-Length")) == (200, b"", "0")


async def test_deleting_a_manifest_deletes_its_chunks_first(chunked, store):
    chunked.peers.answer = always(202, b'{"size":6}')
    answer = await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678")
    assert (answer.status, json.loads(answer.body)) == (202, {"size": 11})
    [(method, url, target, headers, _)] = chunked.peers.requests
    assert (method, url, target) == ("DELETE", OTHER.url, "/9,0a12345678?type=replicate")
    token = headers.get("Authorization").removeprefix("Bearer ")
    assert jwt.decode(token, b"w" * 32, algorithms=["HS256"])["fid"] == "9,0a12345678"
    assert (await fetch("http.read", chunked, target="/3,0212345678")).status == 404
    assert (await read(chunked)).status == 404


async def test_a_chunk_that_stays_keeps_the_manifest(chunked):
    chunked.peers.answer = always(500, b"{}")
    answer = await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678")
    assert answer.status == 500
    assert json.loads(answer.body)["error"].startswith("Delete chunks error: chunk delete 9,0a12345678: ")
    assert (await read(chunked, query="?cm=false")).status == 200
    # Chunks that are gone by now are no obstacle to the next attempt.
    chunked.peers.answer = always(404, b"{}")
    assert (await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678")).status == 202


async def test_a_chunk_whose_volume_another_process_of_the_node_has_is_deleted_there(chunked, store):
    """See `HttpContext.changing`: a request to our own address gets there."""
    chunked.peers.answer = always(202, b'{"size":6}')
    elsewhere = replace(chunked, changing=lambda volume_id: nullcontext(volume_id != 3))
    assert (await fetch("http.delete", elsewhere, method="DELETE", target="/3,0112345678")).status == 202
    asked = {(url, target) for _, url, target, *_ in chunked.peers.requests}
    assert asked == {(OTHER.url, "/9,0a12345678?type=replicate"), (SELF.url, "/3,0212345678?type=replicate")}
    assert store.read_needle(3, 2, cookie=0x12345678).needle.data == b"hello"


async def test_a_made_up_manifest_deletes_nothing_whose_cookie_it_does_not_know(chunked, store):
    await put(chunked, "/3,0112345678?cm=true", manifest_of(("3,0287654321", 0, 5)))
    answer = await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678")
    assert answer.status == 500
    assert (await fetch("http.read", chunked, target="/3,0212345678")).status == 200


async def test_a_broken_manifest_is_not_deleted(chunked):
    await put(chunked, "/3,0112345678?cm=true", b"no json")
    answer = await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678")
    assert answer.status == 500
    assert json.loads(answer.body)["error"].startswith("Load chunks manifest error: ")


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
    store.locations[0].watch.problem = "why"
    assert json.loads((await fetch("http.status", context)).body)["DiskStatuses"][0]["error"] == "why"
    store.locations[0].watch.problem = ""
    assert "Findings" not in answer
    store.locations[0].findings.add([Finding(FindingKind.IDX_LOST, tmp_path / "3", "2 rows")])
    assert json.loads((await fetch("http.status", context)).body)["Findings"] == [
        {"Path": f"{tmp_path}/3", "Kind": "IDX_LOST", "Text": ".idx was lost and is rebuilt from .dat: 2 rows"}
    ]
    assert (await fetch("http.healthz", context)).status == 200


def test_a_node_is_healthy_by_default():
    assert FakeNode().is_heartbeating
