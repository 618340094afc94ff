"""Requests that wait for a hanging disk occupy no thread of another disk."""

from __future__ import annotations

import pytest
import trio
from support.disks import Disks
from support.http_native import fetch, make_context
from support.waiting import LIMIT_S, until

from native_handlers.http.disk_threads import DiskThreads

FIRST, SECOND = "/1,0212345678", "/2,0212345678"


@pytest.fixture
def files():
    return Disks(is_cold=True)


@pytest.fixture
def store(tmp_path, files, opened):
    store = opened(tmp_path / "a", tmp_path / "b", files=files, volumes=(1, 2))
    assert [store.find_volume(vid).disk_id for vid in (1, 2)] == [0, 1]
    return store


@pytest.fixture
def context(store):
    return make_context(store=store, disk_threads=DiskThreads(2))


async def put(context, target, body=b"hello"):
    return await fetch("http.write", context, method="PUT", target=target, body=body)


async def get(context, target):
    return await fetch("http.read", context, target=target)


async def test_the_other_disk_is_served(context, files, store, tmp_path):
    disk = files.add(tmp_path / "a")
    for target in (FIRST, SECOND):
        assert (await put(context, target)).status == 201
    disk.hang()
    statuses = []

    async def read_hung():
        statuses.append((await get(context, FIRST)).status)

    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read_hung)
            await until(lambda: len(disk.stuck) == 2, "both threads of the disk stand at it")
            assert (await get(context, SECOND)).body == b"hello"
            assert (await put(context, SECOND, b"other")).status == 201
            deleted = await fetch("http.delete", context, method="DELETE", target=SECOND)
            assert deleted.status == 202
            assert statuses == []
            # A disk that is known to be out of service refuses at once, although all of its threads wait.
            store.locations[0].health.problem = "hung"
            for answer in (await get(context, FIRST), await put(context, FIRST, b"new")):
                assert answer.status == 503
            store.locations[0].health.problem = ""
            disk.go_on()
    assert statuses == [200] * 5
