"""Requests that wait for a disk that hangs keep no thread from those of another disk."""

from __future__ import annotations

import os
import threading

import pytest
import trio
from http_native_kit import fetch, make_context

from native_handlers.http.disk_threads import DiskThreads
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.files import NotCached, OsFiles
from native_handlers.storage.store import StoreConfig, open_store

FIRST, SECOND = "/1,0212345678", "/2,0212345678"


class HangingFiles(OsFiles):
    """Nothing is in memory, and what lies below `hung` is read and written only once `go_on` is set."""

    def __init__(self, hung) -> None:
        self._hung = str(hung)
        self.go_on = threading.Event()
        self.go_on.set()
        self.waiting = threading.Semaphore(0)

    def _touch(self, fd) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").startswith(self._hung) and not self.go_on.is_set():
            self.waiting.release()
            assert self.go_on.wait(60), "nobody let the disk go on"

    def read_cached(self, fd, length_bytes, offset_bytes):
        raise NotCached

    def read(self, fd, length_bytes, offset_bytes):
        self._touch(fd)
        return super().read(fd, length_bytes, offset_bytes)

    def write(self, fd, parts, offset_bytes):
        self._touch(fd)
        super().write(fd, parts, offset_bytes)


@pytest.fixture
def files(tmp_path):
    return HangingFiles(tmp_path / "a")


@pytest.fixture
def store(tmp_path, files):
    locations = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        locations.append(LocationConfig(tmp_path / name, tmp_path / name, 8))
    opened = open_store(StoreConfig(tuple(locations)), files=files)
    opened.allocate_volume(1)
    opened.allocate_volume(2)
    assert [opened.find_volume(vid).disk_id for vid in (1, 2)] == [0, 1]
    yield opened
    files.go_on.set()
    opened.close()


@pytest.fixture
def context(store):
    return make_context(store=store, disk_threads=DiskThreads(2))


async def put(context, target, body=b"hello"):
    return await fetch("http.write", context, method="PUT", target=target, body=body)


async def get(context, target):
    return await fetch("http.read", context, target=target)


async def test_the_other_disk_is_served(context, files, store):
    for target in (FIRST, SECOND):
        assert (await put(context, target)).status == 201
    files.go_on.clear()
    statuses = []

    async def read_hung():
        statuses.append((await get(context, FIRST)).status)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(read_hung)
            for _ in range(2):
                await trio.to_thread.run_sync(files.waiting.acquire)
            assert (await get(context, SECOND)).body == b"hello"
            assert (await put(context, SECOND, b"other")).status == 201
            deleted = await fetch("http.delete", context, method="DELETE", target=SECOND)
            assert deleted.status == 202
            assert statuses == []
            # Known to be out, it refuses at once, although all of its threads wait.
            store.locations[0].watch.problem = "hung"
            for answer in (await get(context, FIRST), await put(context, FIRST, b"new")):
                assert answer.status == 503
            store.locations[0].watch.problem = ""
            files.go_on.set()
    assert statuses == [200] * 5
