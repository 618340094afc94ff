"""A payload that is not what was stored never goes out as a whole 200, large payloads included."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from http_native_kit import SETTINGS, fetch, make_context, make_request

from native_handlers.http.handlers import HTTP_HANDLERS
from native_handlers.http.message import FileBody
from native_handlers.storage.check import check_directory
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.files import OsFiles
from native_handlers.storage.payload_buffers import TOTAL_BYTES, PayloadBuffers
from native_handlers.storage.store import StoreConfig, open_store

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
    """Flips a bit of the large object, `distance` bytes into it."""
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
    buffers = PayloadBuffers(total_bytes)
    context = make_context(
        store=store, settings=replace(SETTINGS, file_size_limit_bytes=8 << 20), payload_buffers=buffers
    )
    await ask(context, "PUT", FID, (), BIG)
    request = make_request(method="GET", target=FID)
    response = await HTTP_HANDLERS["http.read"](context, request)
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
    before = len(os.listdir("/proc/self/fd"))
    await ask(big, "GET", FID)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_large_object_that_the_disk_does_not_give_is_500(tmp_path):
    class FailingFiles(OsFiles):
        fails = False

        def read_into(self, fd, buffer, offset_bytes):
            if self.fails:
                raise OSError(5, "Input/output error")
            return super().read_into(fd, buffer, offset_bytes)

    files = FailingFiles()
    location = LocationConfig(path=tmp_path, idx_path=tmp_path, max_volumes=8)
    store = open_store(StoreConfig(locations=(location,)), files=files)
    try:
        store.allocate_volume(3)
        settings = replace(SETTINGS, file_size_limit_bytes=8 << 20)
        await ask(make_context(store=store, settings=settings), "PUT", FID, (), BIG)
        files.fails = True
        for total_bytes in (TOTAL_BYTES, 0):
            buffers = PayloadBuffers(total_bytes)
            answer = await ask(make_context(store=store, settings=settings, payload_buffers=buffers), "GET", FID)
            assert (answer.status, answer.body) == (500, b"")
            assert buffers.lent_bytes == 0
    finally:
        store.close()
