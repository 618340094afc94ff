"""Large objects are read from disk in threads of their own, and read failures are counted."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import closing
from dataclasses import replace

import pytest
import trio
from support.files import PlannedFiles
from support.http_native import SETTINGS, fetch, make_context, make_request
from support.waiting import LIMIT_S

from native_handlers.http_model.message import FileBody, FileSlice
from native_handlers.storage.model.errors import ReadFailed
from native_handlers.storage.system.buffer_pool import TOTAL_BYTES, BufferPool
from native_handlers.storage.volume.write_state import TOLERATED
from supervisor.net.timeouts import ConnectionTimeouts, TimeoutLimits
from supervisor.net.transport import SocketTransport
from supervisor.routing.native import NATIVE_HTTP

FID = "/3,0212345678"
BIG = os.urandom((3 << 20) + 5)
MIB = 1 << 20


class RecordedReads(PlannedFiles):
    """Files that record the reading threads. When `bad_offset` is set, reads that begin there or later fail."""

    def __init__(self) -> None:
        super().__init__()
        self.bad_offset: int | None = None
        self.reads: list[tuple[int, int, int]] = []
        """(thread, offset, length)."""
        self.straight: list[tuple[int, int]] = []
        """(offset, length) of the parts that were to be sent to a socket from the page cache."""
        self.sent_bytes = 0
        """How much was sent to a socket from the page cache."""

    def step(self, name, *args):
        super().step(name, *args)
        if name == "send_cached":
            length_bytes, offset_bytes = args[2:]
            self.straight.append((offset_bytes, length_bytes))
        elif name in {"read", "read_into"}:
            length_bytes, offset_bytes = args[1] if name == "read" else len(args[1]), args[2]
            self.reads.append((threading.get_ident(), offset_bytes, length_bytes))
        else:
            return
        if self.bad_offset is not None and self.bad_offset <= offset_bytes < self.bad_offset + len(BIG) - 1:
            raise OSError(5, "Input/output error")

    def send_cached(self, socket_fd, fd, length_bytes, offset_bytes):
        count = super().send_cached(socket_fd, fd, length_bytes, offset_bytes)
        self.sent_bytes += count
        return count


@pytest.fixture
def files():
    return RecordedReads()


@pytest.fixture
def store(tmp_path, files, opened):
    return opened(tmp_path, files=files, volumes=(3,))


@pytest.fixture
async def context(store):
    """A server with one large object without a declared type: the server detects the type from the content."""
    made = make_context(store=store, settings=replace(SETTINGS, file_size_limit_bytes=8 << 20))
    assert (await fetch("http.write", made, method="PUT", target=FID, body=BIG)).status == 201
    return made


def place_in_dat(tmp_path):
    return (tmp_path / "3.dat").read_bytes().index(BIG)


async def respond(context, first_byte):
    request = make_request(target=FID, headers={"Range": f"bytes={first_byte}-{len(BIG) - 1}"})
    response = await NATIVE_HTTP["http.read"](context, request)
    assert response.status == 206
    return response


async def sent(body: FileBody) -> bytes:
    """The bytes that a client receives of `body` over a socket."""
    ours, theirs = socket.socketpair()
    received = bytearray()
    with closing(ours), closing(theirs):
        ours.setblocking(False)

        async def receive():
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
            while len(received) < body.length_bytes:
                received.extend(await stream.receive_some())

        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                transport = SocketTransport(ours, ConnectionTimeouts(TimeoutLimits()))
                for part in body.parts:
                    assert isinstance(part, FileSlice)
                    await transport.send_file(part)
    return bytes(received)


@pytest.mark.parametrize("length", [MIB, 2 * MIB + 1])
async def test_pages_that_memory_has_lost_are_not_read_by_the_event_loop(context, store, files, tmp_path, length):
    path = tmp_path / "3.dat"
    with path.open("rb") as dat:
        os.fsync(dat.fileno())
        os.posix_fadvise(dat.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(dat.fileno(), [bytearray(1)], MIB, os.RWF_NOWAIT)
        except BlockingIOError:
            pass
        except OSError:
            pytest.skip("this file system does not say what memory holds")
        else:
            pytest.skip("this file system keeps everything in memory")
    files.reads.clear()
    files.sent_bytes = 0
    first = len(BIG) - length
    response = await respond(context, first)
    try:
        assert await sent(response.body) == BIG[first:]
    finally:
        response.close()
    me = threading.get_ident()
    assert not [read for read in files.reads if read[0] == me]
    # The system reads ahead; what it has read by then is sent from memory.
    read_bytes = sum(count for _, _, count in files.reads)
    assert read_bytes + files.sent_bytes >= length // 2, "the disk was read by somebody unseen"


async def test_forty_and_more_that_wait_for_a_disk_leave_threads_to_everybody_else(context, files):
    responses = [await respond(context, 7) for _ in range(50)]
    files.is_cold = True
    go_on, waiting = threading.Event(), threading.Semaphore(0)

    def hang(operation, _fd):
        if operation in {"read", "read_into"}:
            waiting.release()
            assert go_on.wait(LIMIT_S), "nobody let the disk go on"

    files.before = hang
    bodies = []

    async def read_on(response):
        bodies.append(await response.body.parts[0].read(10, 0))

    try:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                for response in responses:
                    nursery.start_soon(read_on, response)
                for _ in range(40):
                    await trio.to_thread.run_sync(waiting.acquire, abandon_on_cancel=True)
                assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
                go_on.set()
    finally:
        go_on.set()
        for response in responses:
            response.close()
    assert bodies == [BIG[7:17]] * 50


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=5-"}, {"Range": "bytes=5-9"}], ids=["whole", "range", "part"])
@pytest.mark.parametrize("total_bytes", [TOTAL_BYTES, 0], ids=["from-memory", "from-disk"])
async def test_a_disk_that_fails_is_an_empty_500_and_takes_the_volume_out(
    context, store, files, tmp_path, headers, total_bytes, caplog
):
    files.bad_offset = place_in_dat(tmp_path)
    files.is_cold = True
    context = replace(context, payload_buffers=BufferPool(total_bytes))
    for _ in range(TOLERATED):
        assert store.volume_reports()[0].is_announced
        answer = await fetch("http.read", context, target=FID, headers=headers)
        assert (answer.status, answer.body) == (500, b"")
        assert answer.headers.get("Content-Length") in (None, "0")
        assert answer.headers.get("Etag") is None
    assert not store.volume_reports()[0].is_announced
    assert context.payload_buffers.lent_bytes == 0
    assert "Input/output error" in caplog.text


@pytest.mark.parametrize("is_cached", [False, True], ids=["read", "sendfile"])
async def test_a_disk_that_fails_while_an_answer_is_sent_takes_the_volume_out(
    context, store, files, tmp_path, is_cached
):
    files.is_cold = not is_cached
    for _ in range(TOLERATED):
        assert store.volume_reports()[0].is_announced
        files.bad_offset = None
        response = await respond(context, 7)
        files.bad_offset = place_in_dat(tmp_path)
        with pytest.raises(ReadFailed, match="Input/output error"):
            await sent_alone(response.body.parts[0])
        response.close()
    assert bool(files.straight) == is_cached
    assert not store.volume_reports()[0].is_announced


async def sent_alone(part):
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ours.setblocking(False)
        await SocketTransport(ours, ConnectionTimeouts(TimeoutLimits())).send_file(part)


async def test_what_memory_holds_goes_straight_to_the_socket(context, files, tmp_path):
    response = await respond(context, 7)
    files.reads.clear()
    try:
        assert await sent(response.body) == BIG[7:]
    finally:
        response.close()
    place = place_in_dat(tmp_path)
    assert files.straight, "sendfile was not used"
    assert all(place + 7 <= offset < offset + length <= place + len(BIG) for offset, length in files.straight)
    assert files.reads == []
