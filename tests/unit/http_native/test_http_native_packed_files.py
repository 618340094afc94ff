"""Large compressed objects stay on disk: memory holds only pieces of them, whatever a client reads."""

from __future__ import annotations

import gzip
import os
import random
from dataclasses import replace

import pytest
from support.descriptors import open_descriptors
from support.http_native import SETTINGS, fetch, make_context, make_request

from native_handlers.http_model.message import FileBody, StreamBody
from native_handlers.runtime.content_threads import MAX_PIECE_BYTES
from supervisor.net.http_send import release
from supervisor.routing.native import NATIVE_HTTP

FID = "/3,0212345678"
CLEAR = random.Random(7).randbytes(3 << 20)  # noqa: S311  no secret
PACKED = gzip.compress(CLEAR, 1)
HEADERS = {"Content-Encoding": "gzip", "Content-Type": "application/x-big"}
TAKES_GZIP = {"Accept-Encoding": "gzip"}
LIMIT_BYTES = 8 << 20


@pytest.fixture
def store(tmp_path, files, opened):
    return opened(tmp_path, files=files, volumes=(3,))


@pytest.fixture
def context(store):
    return make_context(store=store, settings=replace(SETTINGS, file_size_limit_bytes=LIMIT_BYTES))


async def ask(context, method="GET", headers=(), body=b"", target=FID):
    route = "http.write" if method == "PUT" else "http.read"
    return await fetch(route, context, method=method, target=target, headers=headers, body=body)


async def put(context, body, target=FID):
    assert (await ask(context, "PUT", HEADERS, body, target)).status == 201


def without_limit(context):
    """A server with a greater size limit: the limit may have been lowered since the upload."""
    return replace(context, settings=replace(context.settings, file_size_limit_bytes=1 << 30))


def damage(folder, distance):
    with (folder / "3.dat").open("r+b") as dat:
        place = dat.read().index(PACKED) + distance
        dat.seek(place)
        dat.write(bytes([PACKED[distance] ^ 1]))


@pytest.mark.parametrize("is_cold", [False, True])
async def test_it_is_read_in_pieces_by_clients_of_both_kinds(context, files, is_cold):
    await put(context, PACKED)
    files.longest_read_bytes, files.is_cold = 0, is_cold
    for headers, kind, data in ((TAKES_GZIP, FileBody, PACKED), ({}, StreamBody, CLEAR)):
        response = await NATIVE_HTTP["http.read"](context, make_request(target=FID, headers=headers))
        assert isinstance(response.body, kind)
        assert response.body.length_bytes == len(data)
        assert response.headers.get("Content-Encoding") == ("gzip" if headers else None)
        if kind is StreamBody:
            assert b"".join([some async for some in response.body.chunks]) == data
        await release(response)
    assert 0 < files.longest_read_bytes <= MAX_PIECE_BYTES
    assert (await ask(context, headers=TAKES_GZIP)).body == PACKED


async def test_heads_and_ranges_count_in_what_is_sent(context):
    await put(context, PACKED)
    for headers, data in (({}, CLEAR), (TAKES_GZIP, PACKED)):
        assert (await ask(context, "HEAD", headers)).headers.get("Content-Length") == str(len(data))
        part = await ask(context, headers={**headers, "Range": "bytes=1000000-1000999"})
        assert (part.status, part.body) == (206, data[1_000_000:1_001_000])
        assert part.headers.get("Content-Range") == f"bytes 1000000-1000999/{len(data)}"
        parts = (await ask(context, headers={**headers, "Range": "bytes=2000000-2000009,7-9,-5"})).body
        assert parts.index(data[2_000_000:2_000_010]) < parts.index(data[7:10]) < parts.index(data[-5:])
        assert (await ask(context, headers={**headers, "Range": "bytes=9999999-"})).status == 416
    etag = (await ask(context, "HEAD")).headers.get("Etag")
    assert (await ask(context, headers={"If-None-Match": etag})).status == 304


@pytest.mark.parametrize("distance", [0, len(PACKED) // 2, len(PACKED) - 1])
async def test_damage_is_a_500_whatever_is_asked_for(context, tmp_path, distance):
    await put(context, PACKED)
    etag = (await ask(context, "HEAD")).headers.get("Etag")
    damage(tmp_path, distance)
    before = open_descriptors()
    for headers in ({}, TAKES_GZIP, {"Range": "bytes=0-1"}, {"If-None-Match": etag}):
        for method in ("GET", "HEAD"):
            answer = await ask(context, method, headers)
            assert (answer.status, answer.body, answer.headers.get("Etag")) == (500, b"", None)
    assert not open_descriptors() - before


@pytest.mark.parametrize("target", [FID, FID + ".png?width=5"])
async def test_what_is_no_sound_gzip_is_sent_as_it_is(context, target):
    await put(context, PACKED[:-9])
    answer = await ask(context, target=target)
    assert (answer.status, answer.body, answer.headers.get("Content-Encoding")) == (200, PACKED[:-9], None)
    part = await ask(context, headers={"Range": "bytes=0-1"})
    assert part.body == PACKED[:2]


@pytest.mark.slow
async def test_more_than_the_limit_is_sent_compressed(context):
    """Slow: more than the limit is compressed and unpacked."""
    much = gzip.compress(CLEAR * 3, 1)
    assert len(CLEAR) * 3 > LIMIT_BYTES
    await put(without_limit(context), much)
    answer = await ask(context)
    assert (answer.status, answer.headers.get("Content-Encoding")) == (200, "gzip")
    assert gzip.decompress(answer.body) == CLEAR * 3


async def test_no_file_stays_open(context):
    await put(context, PACKED)
    before = open_descriptors()
    for headers in ({}, TAKES_GZIP, {"Range": "bytes=0-1"}):
        for method in ("GET", "HEAD"):
            assert (await ask(context, method, headers)).status in {200, 206}
    response = await NATIVE_HTTP["http.read"](context, make_request(target=FID))
    await release(response)
    assert not open_descriptors() - before


async def test_a_file_that_is_cut_short_meanwhile_breaks_the_answer_off(context, tmp_path):
    await put(context, PACKED)
    response = await NATIVE_HTTP["http.read"](context, make_request(target=FID))
    os.truncate(tmp_path / "3.dat", 2 << 20)
    with pytest.raises(Exception, match="compressed content"):
        async for _ in response.body.chunks:
            pass
    await release(response)


async def test_a_compressed_chunk_is_read_in_pieces(context, files):
    await put(context, PACKED)
    manifest = b'{"size":%d,"chunks":[{"fid":"3,0212345678","offset":0,"size":%d}]}' % (len(CLEAR), len(CLEAR))
    answer = await ask(context, "PUT", (), manifest, "/3,0312345678?cm=true")
    assert answer.status == 201
    files.longest_read_bytes = 0
    assert (await ask(context, target="/3,0312345678")).body == CLEAR
    part = await ask(context, headers={"Range": "bytes=2000000-2000999"}, target="/3,0312345678")
    assert part.body == CLEAR[2_000_000:2_001_000]
    assert files.longest_read_bytes <= MAX_PIECE_BYTES


@pytest.mark.parametrize("fields", [{}, HEADERS], ids=["plain", "compressed"])
@pytest.mark.parametrize("query", ["", "?cm=false"])
@pytest.mark.slow
async def test_a_large_manifest_is_not_held_where_it_is_sent_itself(context, tmp_path, fields, query):
    """A needle that is marked as a manifest and is none is sent unchanged, as is a real manifest on request.
    Slow: a manifest of several MB.
    """
    padding = (b'"%s"' % os.urandom(2 << 20).hex().encode()) if query else os.urandom(3 << 20)
    text = b'{"chunks":[],"name":%s}' % padding
    stored = gzip.compress(text, 1) if fields else text
    assert len(stored) > 2 << 20
    assert (
        await ask(context, "PUT", fields or {"Content-Type": "application/x-big"}, stored, FID + "?cm=true")
    ).status == 201
    before = open_descriptors()
    for headers, kind in (({}, StreamBody if fields else None), (TAKES_GZIP, FileBody if fields else None)):
        response = await NATIVE_HTTP["http.read"](context, make_request(target=FID + query, headers=headers))
        assert not isinstance(response.body, bytes)
        assert kind is None or isinstance(response.body, kind)
        await release(response)
        answer = await ask(context, headers=headers, target=FID + query)
        assert (answer.status, answer.body) == (200, stored if fields and headers else text)
    assert not open_descriptors() - before


async def test_an_image_that_is_left_as_it_is_is_not_held(context):
    """An edit that changes nothing, or is impossible, sends the file like any other file."""
    await put(context, PACKED)
    response = await NATIVE_HTTP["http.read"](context, make_request(target=FID + ".png?width=5"))
    assert isinstance(response.body, StreamBody)
    await release(response)
    assert (await ask(context, target=FID + ".png?width=5")).body == CLEAR
