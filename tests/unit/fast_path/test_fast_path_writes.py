"""Small writes and deletes that the fast path makes, what switches it off, and disks that fail or hang under it.

A property test compares both ways.
"""

from __future__ import annotations

import errno
import logging
import threading
from contextlib import closing
from dataclasses import replace

import pytest
import trio
from support.disks import Disks
from support.http_serving import connected, serving_on
from support.security import security
from support.waiting import LIMIT_S, until

from native_handlers.format.needle import Needle
from native_handlers.http.context import HttpContext
from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.message import Listener
from native_handlers.storage.system.files import OsFiles
from native_handlers.storage.volume.write import SmallChange
from supervisor.fast_path.fast_path import FastPath
from supervisor.fast_path.sync_batch import SyncBatches
from supervisor.fast_path.write_batch import DiskBatches
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.gateway.throttle import InflightLimit, Throttle
from supervisor.net.http_connection import Client
from supervisor.routing.decision import Engine
from supervisor.routing.live import LiveTable
from supervisor.routing.native import NATIVE_HTTP
from supervisor.routing.table import table_forwarding_all, table_native

PUT = b"PUT /1,%02x637037d6 HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 5\r\n\r\nhello"
DELETE = b"DELETE /1,%02x637037d6 HTTP/1.1\r\nHost: x\r\n\r\n"
GET = b"GET /1,%02x637037d6 HTTP/1.1\r\nHost: x\r\n\r\n"
CLIENT = Client("10.0.0.1", 1, Listener.ADMIN)
NATIVE = table_native(NATIVE_HTTP)
SETTINGS = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=1 << 20)


class CountedFiles(Disks):
    """Counts the writes and syncs of each file."""

    def __init__(self):
        super().__init__()
        self.written: list[str] = []
        self.synced: list[str] = []

    def write(self, fd, parts, offset_bytes):
        self.written.append(str(fd))
        super().write(fd, parts, offset_bytes)

    def sync(self, fd):
        self.synced.append(str(fd))
        super().sync(fd)


@pytest.fixture
def files():
    return CountedFiles()


@pytest.fixture
def store(tmp_path, files, opened):
    """Volumes 1 and 2, each on a disk of its own."""
    store = opened(tmp_path / "a", tmp_path / "b", files=files, volumes=(1, 2))
    assert [store.find_volume(volume_id).disk_id for volume_id in (1, 2)] == [0, 1]
    files.written.clear()
    files.synced.clear()
    return store


@pytest.fixture
def disk(files, store, tmp_path):
    """The disk of volume 1."""
    return files.add(tmp_path / "a")


def make(store, *, table=NATIVE, guard=None, throttle=None, batches=None):
    """The fast path and the gateway, which counts its answers. Without `batches` the loop waits as long as it takes."""
    context = HttpContext(settings=SETTINGS, node=None, store=store)
    gateway = HttpGateway(LiveTable(table), NATIVE_HTTP, context, None, guard or Guard(security()), throttle)
    return FastPath(context, gateway, batches or DiskBatches(LIMIT_S)), gateway


@pytest.fixture
def fast_path(store):
    made, _ = make(store)
    with closing(made):
        yield made


def answers(fast_path, *raws):
    """The answers to requests of one turn; None for those that are left to the ordinary way."""
    pending = [fast_path.answer(CLIENT, raw) for raw in raws]
    for one in pending:
        assert one is None or one.try_finish()
    return [None if one is None else one.outcome() for one in pending]


def is_taken(fast_path, raw, client=CLIENT):
    return fast_path.answer(client, raw) is not None


def test_the_changes_of_one_turn_are_one_write_of_each_file(store, fast_path, files):
    assert all(answers(fast_path, PUT % 1, PUT % 2))
    files.written.clear()
    given = answers(fast_path, *(PUT % number for number in range(3, 11)), DELETE % 1, PUT % 2)
    assert [answer[9:12] for answer in given] == [b"201"] * 8 + [b"202", b"204"]
    assert len(files.written) == len(set(files.written)) == 2
    volume = store.get_volume(1)
    assert [bytes(volume.read(number).needle.data) for number in range(2, 11)] == [b"hello"] * 9
    assert store.get_volume(1).size_bytes == (volume.paths.data_dir / "1.dat").stat().st_size


def test_an_answer_is_counted_for_its_route(store):
    fast_path, gateway = make(store)
    with closing(fast_path):
        assert all(answers(fast_path, PUT % 1))
        assert all(answers(fast_path, DELETE % 1))
    assert gateway.counts == {("http.write", Engine.NATIVE): 1, ("http.delete", Engine.NATIVE): 1}


def test_a_needle_that_is_changed_twice_in_a_turn_is_left_the_second_time(fast_path):
    first, second = answers(fast_path, PUT % 1, (PUT % 1).replace(b"hello", b"other"))
    assert first
    assert second is None


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(PUT.replace(b"/1,", b"/9,") % 1, id="no-volume"),
        pytest.param((PUT % 1)[:-1], id="incomplete"),
        pytest.param(PUT % 1 + b"x", id="more-behind"),
        pytest.param((PUT % 1).replace(b" HTTP", b"?pretty=y HTTP"), id="pretty"),
        pytest.param((PUT % 1).replace(b" HTTP", b"?" + b"a=%41&" * 100 + b" HTTP"), id="long-query"),
        pytest.param((PUT % 1).replace(b"Host", b"Origin: y\r\nHost"), id="origin"),
        pytest.param((PUT % 1).replace(b"Host", b"Seaweed-foo\r\nHost"), id="no-colon"),
        pytest.param((PUT % 1).replace(b"Host", b"Expect: 100-continue\r\nHost"), id="continue"),
        pytest.param((PUT % 1).replace(b"Host", b"Transfer-Encoding: chunked\r\nHost"), id="chunked"),
        pytest.param((PUT % 1).replace(b"Host", b"Connection: close\r\nHost"), id="close"),
        pytest.param((PUT % 1).replace(b"Content-Length: 5", b"Content-Length: 40000") + bytes(39995), id="long"),
        pytest.param(DELETE % 1, id="delete-of-nothing"),
        pytest.param((DELETE % 1).replace(b"Host", b"X-Volume-Holder: required\r\nHost"), id="holder"),
    ],
)
def test_the_rest_is_left_to_the_ordinary_way(fast_path, files, raw):
    assert not is_taken(fast_path, raw)
    assert not files.written


def test_the_public_listener_takes_no_writes(fast_path):
    assert not is_taken(fast_path, PUT % 1, replace(CLIENT, listener=Listener.PUBLIC))
    assert is_taken(fast_path, PUT % 1)


@pytest.mark.parametrize(
    "switch",
    [
        pytest.param({"guard": Guard(security(write=b"secret"))}, id="write-key"),
        pytest.param({"guard": Guard(security(white_list=["10.9.9.9"]))}, id="white-list"),
        pytest.param({"table": table_forwarding_all()}, id="forwarded"),
    ],
)
def test_what_is_to_be_checked_is_left_to_the_ordinary_way(store, switch):
    fast_path, _ = make(store, **switch)
    assert not is_taken(fast_path, PUT % 1)


def test_each_change_that_was_made_leaves_a_line_in_the_access_log(fast_path, caplog):
    caplog.set_level(logging.DEBUG, "supervisor.access")
    assert is_taken(fast_path, PUT % 2)
    assert not caplog.records
    answers(fast_path, PUT % 1, (PUT % 1).replace(b"hello", b"other"))
    answers(fast_path, (PUT % 1).replace(b" HTTP", b"?ts=7 HTTP"), DELETE % 1)
    lines = [record.getMessage().rpartition(" ")[0] for record in caplog.records]
    assert lines == [
        "10.0.0.1:1 PUT /1,01637037d6 201 http.write native",
        "10.0.0.1:1 PUT /1,01637037d6?ts=7 204 http.write native",
        "10.0.0.1:1 DELETE /1,01637037d6 202 http.delete native",
    ]


def synced(raw):
    return raw.replace(b" HTTP", b"?fsync=true HTTP")


async def outcomes(fast_path, *raws):
    """As `answers`, for changes that may be synced, which a task waits for."""
    pending = [fast_path.answer(CLIENT, raw) for raw in raws]
    for one in pending:
        if not one.try_finish():
            await one.wait()
    return [one.outcome() for one in pending]


async def test_the_synced_writes_of_one_turn_share_their_syncs(store, fast_path, files):
    given = await outcomes(fast_path, *(synced(PUT % number) for number in range(1, 9)))
    assert [answer[9:12] for answer in given] == [b"201"] * 8
    assert len(files.synced) == len(set(files.synced)) == 2
    assert [bytes(store.get_volume(1).read(number).needle.data) for number in range(1, 9)] == [b"hello"] * 8


async def test_synced_writes_that_come_during_a_sync_make_the_next_batch(fast_path, files, disk):
    disk.hang()
    first = fast_path.answer(CLIENT, synced(PUT % 1))
    assert not first.try_finish()
    await until(lambda: disk.stuck, "the first write stands at the disk")
    later = [fast_path.answer(CLIENT, synced(PUT % number)) for number in range(2, 6)]
    assert not any(one.try_finish() for one in later)
    disk.go_on()
    for one in (first, *later):
        await one.wait()
        assert one.outcome()[9:12] == b"201"
    assert len(files.synced) == 4


async def test_a_synced_write_waits_for_its_disk_alone(store, disk, files):
    fast_path, gateway = make(store)
    with closing(fast_path):
        async with (
            serving_on(gateway.handle, fast_path=fast_path.answer) as (port, _),
            connected(port) as waiting,
            connected(port) as other,
            trio.open_nursery() as nursery,
        ):
            disk.hang()

            async def wait():
                assert (await waiting.ask(synced(PUT % 1))).status == 201

            nursery.start_soon(wait)
            await until(lambda: disk.stuck, "the synced write stands at the disk")
            assert (await other.ask(synced(PUT.replace(b"/1,", b"/2,") % 1))).status == 201
            assert (await other.ask(GET.replace(b"/1,", b"/2,") % 1)).status == 200
            assert len(files.synced) == 2
            disk.go_on()
    assert len(files.synced) == 4


async def test_a_disk_has_at_most_so_many_volumes_with_synced_writes_at_once(store, disk):
    first, other_disk = (store.get_volume(volume_id) for volume_id in (1, 2))
    [second] = [one for one in map(store.allocate_volume, (3, 4)) if one.disk_id == first.disk_id]
    batches = SyncBatches(per_disk=1)
    disk.hang()
    left = []
    one = batches.add(first, SmallChange(Needle(needle_id=1, cookie=1, data=b"x")), lambda: left.append(1))
    assert not one.try_finish()
    assert [batches.is_free(volume) for volume in (first, second, other_disk)] == [True, False, True]
    disk.go_on()
    await one.wait()
    assert batches.is_free(second)
    assert left == [1]


async def test_a_write_whose_sync_fails_is_left_and_has_left_no_trace(store, fast_path, disk):
    volume = store.get_volume(1)
    paths = [volume.handle.get().dat.path, volume.handle.get().idx.path]
    before = [path.read_bytes() for path in paths]
    disk.sync_error = errno.EIO
    assert await outcomes(fast_path, synced(PUT % 1), synced(PUT % 2)) == [None, None]
    assert [path.read_bytes() for path in paths] == before
    disk.sync_error = None
    assert all(await outcomes(fast_path, synced(PUT % 1), synced(PUT % 2)))


async def test_one_synced_write_that_cannot_be_made_harms_no_other(fast_path):
    other_cookie = synced(PUT % 1).replace(b"d6?", b"d7?")
    first, second, third = await outcomes(fast_path, synced(PUT % 1), other_cookie, synced(PUT % 2))
    assert first
    assert second is None
    assert third


async def test_a_delete_is_not_synced(fast_path, files):
    assert all(answers(fast_path, PUT % 1, synced(DELETE % 1))[:1])
    assert all(answers(fast_path, synced(DELETE % 1)))
    assert not files.synced


def test_uploads_count_as_in_flight_until_they_are_made(store):
    throttle = Throttle(InflightLimit(7), InflightLimit())
    fast_path, _ = make(store, throttle=throttle)
    with closing(fast_path):
        first, second = fast_path.answer(CLIENT, PUT % 1), fast_path.answer(CLIENT, PUT % 2)
        assert throttle.uploads.bytes == 10
        assert not is_taken(fast_path, PUT % 3)
        replica = fast_path.answer(CLIENT, (PUT % 4).replace(b" HTTP", b"?type=replicate HTTP"))
        assert throttle.uploads.bytes == 15
        assert all(one.try_finish() and one.outcome() for one in (first, second, replica))
        assert throttle.uploads.bytes == 0
        throttle.uploads.add(8)
        assert all(answers(fast_path, DELETE % 1))
        assert throttle.uploads.bytes == 8


async def test_an_upload_does_not_overtake_those_that_wait(store, autojump_clock):
    elsewhere, throttle = 8, Throttle(InflightLimit(7), InflightLimit())
    throttle.join_uploads(lambda: elsewhere, lambda _: None)
    fast_path, _ = make(store, throttle=throttle)
    with closing(fast_path), throttle.uploads.turn(8) as turn:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(throttle.uploads.wait_for_room, turn)
            await trio.testing.wait_all_tasks_blocked()
            elsewhere = 0
            assert not is_taken(fast_path, PUT % 1), "the one that waits takes all the room"
            assert turn.is_given
        throttle.uploads.end(turn)
        assert all(answers(fast_path, PUT % 1))


def test_a_sealed_volume_and_another_cookie_are_left_to_the_ordinary_way(store, fast_path, files):
    assert all(answers(fast_path, PUT % 1))
    files.written.clear()
    assert answers(fast_path, (PUT % 1).replace(b"d6 ", b"d7 ").replace(b"hello", b"other")) == [None]
    store.get_volume(1).marks.mark_read_only(can_delete=False, persist=False)
    assert answers(fast_path, PUT % 2, DELETE % 1) == [None, None]
    assert not files.written


def test_a_volume_whose_lock_is_taken_is_not_waited_for(store, fast_path, files):
    with store.get_volume(1).handle.begin_write():
        assert answers(fast_path, PUT % 1) == [None]
    assert not files.written
    assert all(answers(fast_path, PUT % 1))


@pytest.mark.parametrize("extension", [".dat", ".idx"])
def test_changes_that_fail_together_leave_no_trace(store, fast_path, files, monkeypatch, extension):
    assert all(answers(fast_path, PUT % 1))
    volume = store.get_volume(1)
    state = volume.handle.get()
    broken_fd = state.dat.fd if extension == ".dat" else state.idx.fd
    before = [path.read_bytes() for path in (state.dat.path, state.idx.path)]
    write = OsFiles.write

    def write_some(self, fd, parts, offset_bytes):
        if fd != broken_fd:
            return write(self, fd, parts, offset_bytes)
        write(self, fd, [b"torn"], offset_bytes)
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(OsFiles, "write", write_some)
        assert answers(fast_path, PUT % 2, PUT % 3, DELETE % 1) == [None] * 3
    assert [path.read_bytes() for path in (state.dat.path, state.idx.path)] == before
    assert not volume.is_read_only
    assert bytes(volume.read(1).needle.data) == b"hello"
    assert all(answers(fast_path, PUT % 2))


@pytest.mark.parametrize("before", [[], [b"odd"]], ids=["newcomer", "connection-with-a-task"])
async def test_a_disk_that_hangs_keeps_no_other_request_waiting(store, disk, before):
    batches = DiskBatches(0.001)
    fast_path, gateway = make(store, batches=batches)
    answered = []

    async def ask(port, raw):
        async with connected(port) as client:
            await note(client, raw)

    async def note(client, raw):
        answered.append((raw, (await client.ask(raw)).status))

    def stuck():
        return {thread.name for thread in threading.enumerate() if thread.ident in disk.stuck}

    with closing(fast_path):
        async with serving_on(gateway.handle, fast_path=fast_path.answer) as (port, _), connected(port) as first:
            await ask(port, PUT % 1)
            for _ in before:
                assert (await first.ask((GET % 1).replace(b" HTTP", b"?odd=y HTTP"))).status == 200
            volumes = [store.get_volume(volume_id) for volume_id in (1, 2)]
            await until(lambda: all(map(batches.is_free, volumes)), "the threads are free")
            disk.hang()
            async with trio.open_nursery() as nursery:
                # The first one hangs in the thread for small writes, the last one on the ordinary way.
                nursery.start_soon(note, first, PUT % 2)
                await until(lambda: stuck() == {"small writes 0"}, "the small write stands at the disk")
                nursery.start_soon(ask, port, PUT.replace(b"/1,", b"/2,") % 3)
                nursery.start_soon(ask, port, GET % 1)
                await until(lambda: len(answered) == 3, "the other disk and memory are served")
                nursery.start_soon(ask, port, PUT % 4)
                await ask(port, GET % 1)
                assert len(answered) == 4
                disk.go_on()
    assert [status for raw, status in answered if raw.startswith(b"PUT")] == [201] * 4
    assert [status for raw, status in answered if raw.startswith(b"GET")] == [200] * 2
    assert [bytes(store.get_volume(1).read(number).needle.data) for number in (1, 2, 4)] == [b"hello"] * 3


async def test_a_client_that_goes_while_its_write_hangs_has_written(store, disk):
    batches = DiskBatches(0.001)
    fast_path, gateway = make(store, batches=batches)
    with closing(fast_path):
        async with serving_on(gateway.handle, fast_path=fast_path.answer) as (port, _):
            disk.hang()
            async with connected(port) as client:
                await client.send(PUT % 1)
                await until(lambda: disk.stuck, "the small write stands at the disk")
            disk.go_on()
            volume = store.get_volume(1)
            await until(lambda: volume.has_needles, "the write is done")
    assert bytes(volume.read(1).needle.data) == b"hello"
