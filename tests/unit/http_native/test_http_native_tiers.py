"""Reads of volumes in a remote tier over HTTP."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from support.grpc_nodes import make_context as make_call
from support.grpc_nodes import make_node
from support.http_native import SETTINGS, fetch, make_context
from support.played_s3 import played_s3
from support.stores import open_at
from support.waiting import LIMIT_S, until

from native_handlers.grpc.tiers import volume_tier_move_dat_to_remote
from native_handlers.http.disk_threads import DiskThreads
from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.storage.remote.s3_tier import S3Tier
from native_handlers.storage.remote.tier_files import TierFiles
from native_handlers.storage.remote.tiers import Tiers, TierSettings
from native_handlers.storage.system.buffer_pool import BufferPool

TIERED, LOCAL = "/1,0212345678", "/2,0212345678"
DATA = bytes(range(256)) * 1000


@pytest.fixture
def service():
    with played_s3({}) as played:
        yield played


@pytest.fixture
def store(tmp_path, service):
    tiers = Tiers({"s3": S3Tier})
    tiers.load([TierSettings("s3", "cold", service.properties())])
    files = TierFiles(tiers)
    opened = open_at(tmp_path, files=files, tiers=files)
    for vid in (1, 2):
        opened.allocate_volume(vid)
    yield opened
    opened.close()


@pytest.fixture
def context(store):
    return make_context(store=store, disk_threads=DiskThreads(2))


async def fill(context, store, tmp_path, data=DATA):
    """Two volumes on one disk with a file in each; the first one is in the tier."""
    for target in (TIERED, LOCAL):
        assert (await fetch("http.write", context, method="PUT", target=target, body=data)).status == 201
    request = pb.VolumeTierMoveDatToRemoteRequest(volume_id=1, destination_backend_name="s3.cold")
    move = volume_tier_move_dat_to_remote(make_node(tmp_path, store), make_call(), request)
    await trio.to_thread.run_sync(lambda: list(move))
    assert store.find_volume(1).is_tiered


async def get(context, target, **more):
    return await fetch("http.read", context, target=target, **more)


@pytest.mark.slow
async def test_a_tier_that_hangs_holds_up_no_volume_on_disk(context, store, service, tmp_path):
    """Slow: waits for a tier."""
    await fill(context, store, tmp_path)
    statuses = []
    goes_on = trio.Event()
    stuck = []

    def hangs(request, *arguments):
        stuck.append(request)
        trio.from_thread.run(goes_on.wait, trio_token=token)
        service.send_range(request, *arguments)

    async def read_hung():
        statuses.append((await get(context, TIERED)).status)

    token = trio.lowlevel.current_trio_token()
    service.answer_get = hangs
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read_hung)
            try:
                await until(lambda: len(stuck) == 2, "both threads of the tier wait for it")
                assert (await get(context, LOCAL)).body == DATA
                written = await fetch("http.write", context, method="PUT", target="/2,0312345678", body=b"other")
                assert written.status == 201
                assert statuses == []
            finally:
                goes_on.set()
    assert statuses == [200] * 5


@pytest.mark.parametrize(
    ("wanted", "content_range", "part"),
    [
        ("bytes=5-99", "bytes 5-99/256000", DATA[5:100]),
        ("bytes=255990-", "bytes 255990-255999/256000", DATA[-10:]),
        ("bytes=-7", "bytes 255993-255999/256000", DATA[-7:]),
    ],
    ids=["between", "to the end", "the last"],
)
@pytest.mark.slow
async def test_a_range_of_a_file_in_a_tier(context, store, tmp_path, wanted, content_range, part):
    """Slow: moves the data to a tier."""
    await fill(context, store, tmp_path)
    answer = await get(context, TIERED, headers=[("Range", wanted)])
    assert (answer.status, answer.headers.get("Content-Range"), answer.body) == (206, content_range, part)
    answer = await get(context, TIERED, headers=[("Range", "bytes=0-1,10-11")])
    assert answer.status == 206
    assert DATA[10:12] in answer.body


LARGE = bytes(range(256)) * 20_000
"""Five million bytes: more than a record that is read whole."""


@pytest.fixture(params=[True, False], ids=["memory for it", "no memory for it"])
def large_context(store, request):
    settings = replace(SETTINGS, file_size_limit_bytes=8 << 20)
    buffers = BufferPool() if request.param else BufferPool(0)
    return make_context(store=store, disk_threads=DiskThreads(2), settings=settings, payload_buffers=buffers)


def asked_bytes(service):
    """The lengths of the ranges that the tier was asked for."""
    ranges = [text.removeprefix("bytes=").split("-") for method, _, text in service.requests if method == "GET"]
    return [int(last) - int(first) + 1 for first, last in ranges]


@pytest.mark.slow
async def test_a_large_file_is_fetched_once_in_few_pieces(large_context, store, service, tmp_path):
    """Slow: moves the data to an S3 server."""
    await fill(large_context, store, tmp_path, LARGE)
    service.requests.clear()
    answer = await get(large_context, TIERED)
    assert (answer.status, answer.body, answer.breaks_off) == (200, LARGE, False)
    asked = asked_bytes(service)
    assert len(asked) == 5, "the two ends of the record, and three pieces"
    assert sum(asked) < len(LARGE) + 1000
    assert max(asked) <= 2 << 20


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, len(LARGE) - 1])
async def test_a_damaged_large_file_is_never_sent_whole(large_context, store, service, tmp_path, place):
    """Slow: moves the data to an S3 server."""
    await fill(large_context, store, tmp_path, LARGE)
    (key,) = service.objects
    data = bytearray(service.objects[key])
    data[data.index(LARGE) + place] ^= 1
    service.objects[key] = bytes(data)
    answer = await get(large_context, TIERED)
    assert answer.status == 500 or answer.breaks_off
    assert len(answer.body) < len(LARGE)


@pytest.mark.slow
async def test_a_large_file_whose_tier_refuses_is_no_success(large_context, store, service, tmp_path):
    """Slow: moves the data to an S3 server."""
    await fill(large_context, store, tmp_path, LARGE)

    def refuses(request, key, data, first, last):
        if last - first > 1000:
            request.say(403, b"")
        else:
            service.send_range(request, key, data, first, last)

    service.answer_get = refuses
    assert (await get(large_context, TIERED)).status == 500
