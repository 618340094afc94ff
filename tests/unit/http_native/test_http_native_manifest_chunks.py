"""Reads and deletions of manifests whose chunks are on any server."""

from __future__ import annotations

import gzip
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
from support.http_native import (
    SETTINGS,
    FakeLookup,
    FakeVolumeServers,
    always,
    fetch,
    make_context,
    manifest_of,
    put,
)

from native_handlers.http.context import Location
from native_handlers.http_model.volume_servers import VolumeServerFailed, VolumeServerFailureKind

SELF = Location(SETTINGS.self_url, SETTINGS.self_url)
REPLICA = Location("127.0.0.1:8081", "example:8081")
OTHER = Location("127.0.0.1:8082", "example:8082")


@pytest.fixture
async def chunked(store):
    """A file of 11 bytes: 5 in the local volume, 6 in volume 9 on another server. Its manifest is /3,0112345678."""
    remote = b"world!"

    async def answer(_method, _url, target, headers, _body):
        if target != "/9,0a12345678":
            return 404, (), b""
        wanted = headers.get("Range")
        if wanted is None:
            return 200, (), [remote[:2], remote[2:]]
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        return 206, (), remote[first : last + 1]

    volume_servers = FakeVolumeServers(answer)
    lookup = FakeLookup({9: [OTHER], 3: [SELF]})
    context = make_context(store=store, lookup=lookup, volume_servers=volume_servers)
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


async def test_chunks_are_read_with_the_token_of_the_request(chunked):
    await read(chunked, {"Authorization": "Bearer the.clients.own"})
    assert chunked.volume_servers.requests[-1][3].get("Authorization") == "Bearer the.clients.own"
    await read(chunked)
    assert chunked.volume_servers.requests[-1][3].get("Authorization") is None


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
    assert (answer.headers.get("Content-Length"), chunked.volume_servers.requests) == ("11", [])


async def test_the_manifest_itself_can_be_read(chunked):
    answer = await read(chunked, query="?cm=false")
    assert json.loads(answer.body)["size"] == 11
    assert "X-File-Store" not in answer.headers


async def test_a_first_chunk_that_cannot_be_read_is_500(chunked, store):
    store.get_volume(3).delete(2, 0x12345678)
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
    good = chunked.volume_servers.answer

    async def answer(method, url, *rest):
        if url == OTHER.url:
            raise VolumeServerFailed(url, VolumeServerFailureKind.CONNECTION_REFUSED, "refused")
        return await good(method, url, *rest)

    chunked.volume_servers.answer = answer
    chunked.lookup.holders[9] = [OTHER, REPLICA]
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
    """As in a read of the chunk itself, local or from another server."""
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


@pytest.mark.parametrize("second_offset", [4, 6])
async def test_gaps_and_overlaps_are_read_as_upstream_reads_them(chunked, second_offset):
    """The chunks' contents are sent one after the other. Their offsets decide where a range begins."""
    await put(chunked, "/3,0112345678?cm=true", manifest_of(("3,0212345678", 0, 5), ("9,0a12345678", second_offset, 6)))
    whole = (await read(chunked)).body
    assert len(whole) == 11
    assert (await read(chunked, {"Range": "bytes=3-"})).body == whole[3:]
    found = await read(chunked, {"Range": "bytes=7-8"})
    assert found.body == whole[5:][7 - second_offset :][:2]
    if second_offset == 6:
        # Upstream begins an answer and breaks the connection.
        assert (await read(chunked, {"Range": "bytes=5-5"})).status == 500


async def test_a_manifest_without_its_first_bytes_is_500(chunked):
    await put(chunked, "/3,0112345678?cm=true", manifest_of(("3,0212345678", 1, 5)))
    assert (await read(chunked)).status == 500
    assert (await read(chunked, {"Range": "bytes=1-2"})).status == 206


@pytest.mark.parametrize(
    "content",
    [
        b"no json",
        b"[]",
        b'{"chunks":{}}',
        b'{"chunks":[1]}',
        b'{"chunks":[{"fid":"3,0212345678","size":1.5}]}',
        b'{"name":5}',
        b"[" * 100_000,
    ],
)
async def test_what_is_no_manifest_is_sent_as_it_is(chunked, content):
    await put(chunked, "/3,0112345678?cm=true", content)
    assert (await read(chunked)).body == content


@pytest.mark.parametrize(
    "content", [b'{"chunks":[{"fid":"x","size":1}]}', b'{"chunks":[{"fid":"3,0212345678","size":-1}]}']
)
async def test_a_manifest_of_an_impossible_file_is_500(chunked, content):
    await put(chunked, "/3,0112345678?cm=true", content)
    assert (await read(chunked)).status == 500


@pytest.mark.parametrize("content", [b'{"chunks":null}', b"null", b"{}", b'{"chunks":[null,{}]}', b' {"x":[{}]} '])
async def test_an_empty_manifest_is_an_empty_file(chunked, content):
    await put(chunked, "/3,0112345678?cm=true", content)
    answer = await read(chunked)
    assert (answer.status, answer.body, answer.headers.get("Content-Length")) == (200, b"", "0")


async def test_deleting_a_manifest_deletes_its_chunks_first(chunked, store):
    chunked.volume_servers.answer = always(202, b'{"size":6}')
    headers = {"Authorization": "Bearer the.clients.own"}
    answer = await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678", headers=headers)
    assert (answer.status, json.loads(answer.body)) == (202, {"size": 11})
    [(method, url, target, headers, _)] = chunked.volume_servers.requests
    assert (method, url, target) == ("DELETE", OTHER.url, "/9,0a12345678?type=replicate")
    assert headers.get("Authorization") == "Bearer the.clients.own"
    assert (await fetch("http.read", chunked, target="/3,0212345678")).status == 404
    assert (await read(chunked)).status == 404


async def test_a_chunk_that_stays_keeps_the_manifest(chunked):
    chunked.volume_servers.answer = always(500, b"{}")
    answer = await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678")
    assert answer.status == 500
    assert json.loads(answer.body)["error"].startswith("Delete chunks error: chunk delete 9,0a12345678: ")
    assert (await read(chunked, query="?cm=false")).status == 200
    # Chunks that are already deleted do not hinder the next attempt.
    chunked.volume_servers.answer = always(404, b"{}")
    assert (await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678")).status == 202


async def test_a_chunk_whose_volume_another_process_of_the_node_has_is_deleted_there(chunked, store):
    """See `HttpContext.changing`: a request to the server's own address reaches that process."""
    chunked.volume_servers.answer = always(202, b'{"size":6}')
    elsewhere = replace(chunked, changing=lambda volume_id: nullcontext(volume_id != 3))
    assert (await fetch("http.delete", elsewhere, method="DELETE", target="/3,0112345678")).status == 202
    asked = {(url, target) for _, url, target, *_ in chunked.volume_servers.requests}
    assert asked == {(OTHER.url, "/9,0a12345678?type=replicate"), (SELF.url, "/3,0212345678?type=replicate")}
    assert store.get_volume(3).read(2, cookie=0x12345678).needle.data == b"hello"


async def test_a_made_up_manifest_deletes_nothing_whose_cookie_it_does_not_know(chunked, store):
    """The chunk's id exists on no server with that cookie, so the manifest is not kept because of the chunk."""
    chunked.volume_servers.answer = always(400, b'{"error":"File Random Cookie does not match."}')
    await put(chunked, "/3,0112345678?cm=true", manifest_of(("3,0287654321", 0, 5), ("9,0a87654321", 5, 6)))
    answer = await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678")
    assert answer.status == 202
    assert (await fetch("http.read", chunked, target="/3,0212345678")).status == 200


async def test_another_refusal_of_a_holder_keeps_the_manifest(chunked):
    chunked.volume_servers.answer = always(400, b'{"error":"something else"}')
    answer = await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678")
    assert answer.status == 500


@pytest.mark.parametrize("content", [b"no json", b"[]", b'{"size":"5"}', b'{"size":1e2}', b"[" * 20_000, b" "])
async def test_what_is_no_manifest_is_deleted_as_it_is_read_alone(chunked, caplog, content):
    await put(chunked, "/3,0112345678?cm=true", content)
    answer = await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678")
    assert answer.status == 202
    assert (await read(chunked)).status == 404
    assert "3,1 is marked as a manifest and is none" in caplog.text


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (b"null", 0),
        (b'{"size":-5}', -5),
        (b'{"size":9223372036854775807,"chunks":[{"fid":"3,0212345678","offset":-9,"size":-5}]}', 2**63 - 1),
    ],
)
async def test_an_odd_manifest_is_deleted_with_the_chunks_that_it_names(chunked, content, size):
    await put(chunked, "/3,0112345678?cm=true", content)
    answer = await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678")
    assert (answer.status, json.loads(answer.body)) == (202, {"size": size})
    assert (await read(chunked)).status == 404
    assert (await fetch("http.read", chunked, target="/3,0212345678")).status == (404 if b"3,02" in content else 200)


async def test_a_manifest_that_names_no_file_goes_when_it_is_asked_for_itself(chunked, caplog):
    """As in upstream, it is kept otherwise, because its chunks are unknown."""
    content = (
        b'{"size":7,"chunks":[{"fid":"3,0212345678"},{"fid":"x","size":1},null,{},{"fid":"3,zz"},{"fid":"99,01"}]}'
    )
    await put(chunked, "/3,0112345678?cm=true", content)
    answer = await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678")
    assert answer.status == 500
    assert (await read(chunked, query="?cm=false")).status == 200
    answer = await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678?cm=false")
    assert (answer.status, json.loads(answer.body)) == (202, {"size": 7})
    assert (await read(chunked)).status == 404
    assert (await fetch("http.read", chunked, target="/3,0212345678")).status == 404
    assert "which no server has" in caplog.text


# ---- manifests where tokens are asked for


class Scope:
    """A server with keys, and a token for one file."""

    def __init__(self, fid):
        self._fid = fid

    def readable(self, _request):
        return self._fid

    def changeable(self, _request):
        return self._fid


async def test_a_token_for_a_manifest_reads_no_file_that_the_manifest_names(chunked):
    """Go asks for a chunk without a token, and answers 500 as well."""
    guarded = replace(chunked, token_scope=Scope("3,0112345678"))
    answer = await read(guarded)
    assert (answer.status, answer.body) == (500, b"chunk 3,0212345678: the token of the request is not for it\n")
    assert (await read(guarded, method="HEAD")).headers.get("Content-Length") == "11"
    assert chunked.volume_servers.requests == []


async def test_a_token_for_a_manifest_deletes_no_file_that_the_manifest_names(chunked):
    guarded = replace(chunked, token_scope=Scope("3,0112345678"))
    answer = await fetch("http.delete", guarded, method="DELETE", target="/3,0112345678")
    assert (answer.status, json.loads(answer.body)) == (
        401,
        {"error": "Delete chunks error: chunk delete 3,0212345678: wrong jwt"},
    )
    assert chunked.volume_servers.requests == []
    assert (await read(chunked)).status == 200


async def test_a_manifest_alone_is_deleted_with_its_own_token(chunked):
    guarded = replace(chunked, token_scope=Scope("3,0112345678"))
    answer = await fetch("http.delete", guarded, method="DELETE", target="/3,0112345678?cm=false")
    assert answer.status == 202
    assert (await read(chunked, query="?cm=false")).status == 404
    assert (await fetch("http.read", chunked, target="/3,0212345678")).status == 200


async def test_without_keys_a_delete_takes_the_chunks_along_whatever_the_query_says(chunked):
    """As in Go."""
    chunked.volume_servers.answer = always(202, b'{"size":6}')
    await fetch("http.delete", chunked, method="DELETE", target="/3,0112345678?cm=false")
    assert (await fetch("http.read", chunked, target="/3,0212345678")).status == 404


async def test_a_token_covers_the_chunks_that_follow_its_own_file(chunked):
    """An assign for several files gives one token: for the first file and all its deltas."""
    for number, data in ((2, b"hello"), (3, b"world")):
        await put(chunked, f"/3,0112345678_{number - 1}", data, {"Content-Type": "a/b"})
    await put(chunked, "/3,0112345678?cm=true", manifest_of(("3,0112345678_1", 0, 5), ("3,0112345678_2", 5, 5)))
    guarded = replace(chunked, token_scope=Scope("3,0112345678"))
    assert (await read(guarded)).body == b"helloworld"
    assert (await fetch("http.delete", guarded, method="DELETE", target="/3,0112345678")).status == 202
    assert (await fetch("http.read", chunked, target="/3,0112345678_1")).status == 404


async def test_a_replica_is_told_that_a_manifest_goes_alone(store):
    volume_servers = FakeVolumeServers(always(202, b"{}"))
    context = make_context(
        store=store,
        lookup=FakeLookup({4: [SELF, OTHER]}),
        volume_servers=volume_servers,
        token_scope=Scope("4,0112345678"),
    )
    volume_servers.answer = always(201, b"{}")
    await put(context, "/4,0112345678?cm=true", manifest_of(("4,0212345678", 0, 5)))
    volume_servers.answer = always(202, b"{}")
    assert (await fetch("http.delete", context, method="DELETE", target="/4,0112345678?cm=false")).status == 202
    assert volume_servers.requests[-1][2] == "/4,0112345678?type=replicate&cm=false"
