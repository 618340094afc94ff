"""A payload that differs from the stored payload is never sent as a complete 200. Large payloads included."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from support.descriptors import open_descriptors
from support.files import broken
from support.http_native import SETTINGS, fetch, make_context, make_request

from native_handlers.http_model.message import FileBody
from native_handlers.storage.check import check_directory
from native_handlers.storage.system.buffer_pool import TOTAL_BYTES, BufferPool
from supervisor.routing.native import NATIVE_HTTP

FID = "/3,0212345678"
BIG = os.urandom((3 << 20) + 5)


async def ask(context, method, target, headers=(), body=b""):
    route = {"PUT": "http.write", "GET": "http.read", "HEAD": "http.read"}[method]
    return await fetch(route, context, method=method, target=target, headers=headers, body=body)


@pytest.fixture
async def big(store):
    """A large object, which is sent straight from its file."""
    context = make_context(store=store, settings=replace(SETTINGS, file_size_limit_bytes=8 << 20))
    headers = {"Content-Type": "application/x-big"}
    assert (await ask(context, "PUT", FID + "?ts=1700000000", headers, BIG)).status == 201
    return context


def damage(folder, distance):
    """Flips one bit of the large object, `distance` bytes after its start."""
    with (folder / "3.dat").open("r+b") as dat:
        place = dat.read().index(BIG) + distance
        dat.seek(place)
        dat.write(bytes([BIG[distance] ^ 1]))


@pytest.mark.parametrize("distance", [0, 1 << 20, len(BIG) - 1])
async def test_a_damaged_large_object_is_500(big, store, tmp_path, distance):
    assert (await ask(big, "GET", FID)).body == BIG
    damage(tmp_path, distance)
    answer = await ask(big, "GET", FID)
    assert (answer.status, answer.body) == (500, b"")
    assert answer.headers.get("Etag") is None
    store.close()
    assert not check_directory(tmp_path).is_healthy


async def test_damage_is_noticed_however_often_it_was_sound_before(big, tmp_path):
    for _ in range(3):
        assert (await ask(big, "GET", FID)).status == 200
    damage(tmp_path, 7)
    assert (await ask(big, "GET", FID)).status == 500


@pytest.mark.parametrize("total_bytes", [TOTAL_BYTES, 0], ids=["from-memory", "from-its-file"])
async def test_what_a_whole_answer_holds_is_given_back(store, total_bytes):
    buffers = BufferPool(total_bytes)
    context = make_context(
        store=store, settings=replace(SETTINGS, file_size_limit_bytes=8 << 20), payload_buffers=buffers
    )
    await ask(context, "PUT", FID, (), BIG)
    request = make_request(method="GET", target=FID)
    response = await NATIVE_HTTP["http.read"](context, request)
    assert isinstance(response.body, memoryview if total_bytes else FileBody)
    assert bool(buffers.lent_bytes) == bool(total_bytes)
    response.close()
    assert buffers.lent_bytes == 0
    assert (await ask(context, "GET", FID)).body == BIG


async def test_what_sends_no_whole_payload_does_not_look_at_it(big, tmp_path):
    damage(tmp_path, 7)
    etag = (await ask(big, "HEAD", FID)).headers.get("Etag")
    assert (await ask(big, "GET", FID, {"If-None-Match": etag})).status == 304
    assert (await ask(big, "GET", FID, {"If-Modified-Since": "Tue, 14 Nov 2023 22:13:20 GMT"})).status == 304
    ranged = await ask(big, "GET", FID, {"Range": f"bytes=1000-{len(BIG) - 1}"})
    assert (ranged.status, ranged.body) == (206, BIG[1000:])


async def test_a_damaged_large_object_leaves_no_file_open(big, tmp_path):
    damage(tmp_path, 7)
    before = open_descriptors()
    await ask(big, "GET", FID)
    assert not open_descriptors() - before


async def test_a_large_object_that_the_disk_does_not_give_is_500(tmp_path, files, opened):
    store = opened(tmp_path, files=files, volumes=(3,))
    settings = replace(SETTINGS, file_size_limit_bytes=8 << 20)
    await ask(make_context(store=store, settings=settings), "PUT", FID, (), BIG)
    files.plan["read_into"] = broken()
    for total_bytes in (TOTAL_BYTES, 0):
        buffers = BufferPool(total_bytes)
        answer = await ask(make_context(store=store, settings=settings, payload_buffers=buffers), "GET", FID)
        assert (answer.status, answer.body) == (500, b"")
        assert buffers.lent_bytes == 0
