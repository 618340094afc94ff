"""The serving part of a worker, on real sockets in the test's own process: played backends, a played parent."""

import os
import ssl
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from support.certificate_authority import Authority
from support.files import UNSYNCED_FILES
from support.http_serving import connected
from support.recording_backend import SETTINGS as HTTP_SETTINGS
from support.recording_backend import Recorded
from support.waiting import LIMIT_S, until, until_answer

from native_handlers.format.needle import Needle
from native_handlers.http.context import Location, LookupFailed
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Listener, Response
from native_handlers.storage.shared.attach import share_volume
from supervisor.assembly import native_worker
from supervisor.assembly.forwarding_worker import ForwardingWorker
from supervisor.assembly.http_workers import make_service
from supervisor.assembly.native_worker import NativeWorker
from supervisor.config.config import HttpsClientConfig, LogConfig
from supervisor.gateway import http
from supervisor.gateway.handed_on import HandedOnRequests
from supervisor.net.errors import BadCertificate
from supervisor.net.listeners import open_listener
from supervisor.net.tls import TlsSettings
from supervisor.routing.decision import Engine
from supervisor.routing.match import match_http
from supervisor.workers.board import ConnectionBoard
from supervisor.workers.service import SharedVolume
from supervisor.workers.settings import AccessRules, BackendAddress, InheritedListener, WorkerSettings

GET = b"GET /3,01637037d6 HTTP/1.1\r\nHost: a\r\n\r\n"
DELETE = b"DELETE /3,01637037d6 HTTP/1.1\r\nHost: a\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
ABSENT = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
DELETED = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"size":7}'


class PlayedLookup:
    """The parent's answers about holders."""

    def __init__(self):
        self.holders = []
        self.asked = []

    async def locations(self, vid, *, refresh=False):
        await trio.lowlevel.checkpoint()
        self.asked.append((vid, refresh))
        if not self.holders:
            raise LookupFailed(vid, "nobody knows")
        return [Location(holder, holder) for holder in self.holders]


async def recording(nursery, *answers):
    """A server with these answers, and its port."""
    recorded = Recorded(list(answers))
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, recorded.serve, [listener])
    return recorded, listener.socket.getsockname()[1]


class Worker:
    """A running worker. `backend` and `public_backend` record what it forwards from its two ports."""

    def make(self, settings):
        return ForwardingWorker(settings, settings.backend, self.lookup)

    def __init__(self):
        self.lookup = PlayedLookup()
        self.admin = open_listener("127.0.0.1", 0)
        self.public = open_listener("127.0.0.1", 0, Listener.PUBLIC)
        self.board = ConnectionBoard.create(2)
        self.accepting = self.serving = None

    async def run(self, nursery, tls=None, **changes):
        self.backend, admin_port = await recording(nursery)
        self.public_backend, public_port = await recording(nursery)
        settings = WorkerSettings(
            number=0,
            count=2,
            listeners=(
                InheritedListener(os.dup(self.admin.sock.fileno()), Listener.ADMIN, tls),
                InheritedListener(os.dup(self.public.sock.fileno()), Listener.PUBLIC),
            ),
            board_descriptor=os.dup(self.board.descriptor),
            log=LogConfig(0, False, None),
            http=HTTP_SETTINGS,
            idle_timeout_s=30.0,
            drain_s=30.0,
            seats=100,
            links=16,
            source_host="",
            https_client=HttpsClientConfig(),
            access=AccessRules(()),
            backend=BackendAddress(admin_port, public_port),
            is_stopping=False,
        )
        self.serving = self.make(replace(settings, **changes))
        self.accepting = await nursery.start(self.serving.serve)

    def client(self, context=None):
        return connected(self.admin.port, context)

    def close(self):
        self.admin.close()
        self.public.close()
        self.board.close()


class WorkerOfNative(Worker):
    """A worker of a native server. `seen` are the requests that the parent got; it answers each with 200."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.offered = []  # what the parent's fast path was asked to answer
        self.asked_for = []
        self.shared = {}

    def make(self, settings):
        return NativeWorker(settings, self)

    async def share(self, volume_id):
        """As `ParentVolumes.share`."""
        await trio.lowlevel.checkpoint()
        self.asked_for.append(volume_id)
        return self.shared.get(volume_id)

    async def run(self, nursery, tls=None, **changes):
        requests = HandedOnRequests(self._handle, lambda _client, data: self.offered.append(data))
        self.at_end = ExitStack()
        service = make_service(requests, 10, self.at_end)
        await nursery.start(service.serve)
        await super().run(nursery, tls, **{"backend": None, "parent_descriptor": os.dup(service.descriptor)} | changes)

    async def _handle(self, request):
        self.seen.append(request)
        body = b""
        while piece := await request.body.receive_some():
            body += piece
        return Response(200, Headers([("X-Seen", str(len(self.seen)))]), body or b"none")

    def close(self):
        super().close()
        self.at_end.close()


@asynccontextmanager
async def running(make=Worker, **changes):
    worker = make()
    try:
        async with trio.open_nursery() as nursery:
            await worker.run(nursery, **{"max_volumes": 10} | changes)
            with trio.fail_after(LIMIT_S):
                yield worker
            nursery.cancel_scope.cancel()
    finally:
        worker.close()


async def test_each_port_is_forwarded_to_that_of_the_backend():
    async with running() as worker, worker.client() as client, connected(worker.public.port) as public_client:
        assert (await client.ask(GET)).body == b"warm"
        assert (await public_client.ask(GET)).body == b"warm"
        assert len(worker.backend.requests) == len(worker.public_backend.requests) == 1
        counts = worker.serving.counts()
        assert counts.requests == {("http.read", Engine.BACKEND): 1, ("http.public.read", Engine.BACKEND): 1}
        assert counts.open_count == 2
        assert worker.board.fewest(2, besides=1) == 2


FORGED = GET.replace(b"Host: a\r\n", b"X-Handed-On-For: admin 0 1 192.0.2.1\r\nHost: a\r\n")


async def test_a_worker_of_a_native_server_hands_each_request_on_with_its_client():
    async with running(WorkerOfNative) as worker, worker.client() as client, connected(worker.public.port) as other:
        for one, listener in ((client, Listener.ADMIN), (other, Listener.PUBLIC)):
            for request in (GET, FORGED, HEALTH, GET.replace(b"Host", b"X-A: b\r\nHost")):
                assert (await one.ask(request)).body == b"none"
                assert worker.seen[-1].client_host == "127.0.0.1"
                assert worker.seen[-1].client_port > 1
                assert worker.seen[-1].listener is listener
        put = b"PUT /3,01637037d6 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
        assert (await client.ask(put + bytes(100_000))).body == bytes(100_000)
        assert worker.serving.counts().handed_on == 9
        assert not worker.serving.counts().requests, "the parent has counted them"


async def opened_volume(worker, tmp_path, opened):
    """A volume with one needle that the worker has open, and the reads of it."""
    store = opened(tmp_path, files=UNSYNCED_FILES, volumes=(3,))
    volume = store.find_volume(3)
    volume.write(Needle(needle_id=1, cookie=0x637037D6, data=b"warm", name=b"a.txt"))
    volume.write(Needle(needle_id=2, cookie=0x637037D6, data=bytes(300_000)))
    worker.shared[3] = SharedVolume(f"/proc/self/fd/{share_volume(volume)}", 0, "hdd")
    return volume


async def until_read_here(worker, client):
    async def is_read_here():
        before = len(worker.seen)
        await client.ask(GET)
        return len(worker.seen) == before

    await until_answer(is_read_here, bool, "the worker to read the file itself")


async def test_a_worker_of_a_native_server_reads_what_the_parent_shares(tmp_path, opened):
    async with running(WorkerOfNative) as worker, worker.client() as client:
        volume = await opened_volume(worker, tmp_path, opened)
        await until_read_here(worker, client)
        handed_on = len(worker.seen)
        large = GET.replace(b"01637037d6", b"02637037d6")
        for request, length in (
            (GET, 4),
            (GET.replace(b"GET", b"HEAD"), 0),
            (GET.replace(b"d6 HTTP", b"d6.txt HTTP"), 4),
            (GET.replace(b"d6 HTTP", b"d6?readDeleted=true HTTP"), 4),
            (GET.replace(b"Host", b"Accept-Encoding: gzip\r\nX-Other: a\r\nHost"), 4),
            (large, 300_000),
            (large.replace(b"Host", b"Range: bytes=5-9\r\nHost"), 5),
        ):
            answer = await client.ask(request)
            assert answer.status in {200, 206}
            assert len(answer.body) == length
            assert "x-seen" not in answer.headers
        assert worker.serving.counts().requests["http.read", Engine.NATIVE] == 8
        assert worker.serving.counts().server.request_total["GET", "200"] >= 5
        assert len(worker.seen) == handed_on == worker.serving.counts().handed_on
        for left in (
            GET.replace(b"01637037d6", b"09637037d6"),
            GET.replace(b"01637037d6", b"01637037d7"),
            GET.replace(b"d6 HTTP", b"d6.png?width=9 HTTP"),
            GET.replace(b"/3,", b"/4,"),
            DELETE,
        ):
            assert "x-seen" in (await client.ask(left)).headers
        assert worker.serving.counts().requests["http.read", Engine.NATIVE] == 8, "the parent counts those"
        assert worker.serving.counts().server.request_total["GET", "200"] >= 5
        assert not [key for key in worker.serving.counts().server.request_total if key[1] != "200" and key[1] != "206"]
        volume.delete(1, 0x637037D6)
        assert "x-seen" in (await client.ask(GET)).headers
        await worker.serving.release([3])
        del worker.shared[3]
        assert "x-seen" in (await client.ask(large)).headers


async def test_a_worker_of_a_native_server_looks_for_a_route_once(tmp_path, opened, monkeypatch):
    looked_for = []

    def match(listener, method, raw_path):
        looked_for.append(raw_path)
        return match_http(listener, method, raw_path)

    for module in (native_worker, http):
        monkeypatch.setattr(module, "match_http", match)
    async with running(WorkerOfNative) as worker, worker.client() as client:
        await opened_volume(worker, tmp_path, opened)
        await until_read_here(worker, client)
        looked_for.clear()
        two_ranges = GET.replace(b"Host", b"Range: bytes=0-1,3-3\r\nHost")
        answer = await client.ask(two_ranges)
        assert (answer.status, "x-seen" in answer.headers) == (206, False)
        assert looked_for == ["/3,01637037d6"]


async def test_a_worker_of_a_native_server_checks_tokens_itself(tmp_path, opened):
    async with running(WorkerOfNative) as worker, worker.client() as client:
        await opened_volume(worker, tmp_path, opened)
        await until_read_here(worker, client)
        handed_on = len(worker.seen)
        worker.serving.set_access(AccessRules((), b"", b"key"))
        assert (await client.ask(GET)).status == 401
        worker.serving.set_access(AccessRules(()))
        assert (await client.ask(GET)).body == b"warm"
        assert len(worker.seen) == handed_on


async def test_where_too_many_bytes_are_in_flight_reads_are_left_to_the_parent(tmp_path, opened):
    async with running(WorkerOfNative, max_download_bytes=100) as worker, worker.client() as client:
        await opened_volume(worker, tmp_path, opened)
        await until_read_here(worker, client)
        worker.board.publish_downloads(1, 101)
        assert "x-seen" in (await client.ask(GET)).headers
        worker.board.publish_downloads(1, 0)
        assert "x-seen" not in (await client.ask(GET)).headers
        worker.board.publish_parents_downloads(101)
        assert "x-seen" in (await client.ask(GET)).headers
        worker.board.publish_parents_downloads(100)
        assert "x-seen" not in (await client.ask(GET)).headers
        assert worker.board.downloads_of_workers(2) == 0, "all was sent"


PUT = b"PUT /3,05637037d6 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nsmall"
DELETE_5 = DELETE.replace(b"01637037d6", b"05637037d6")


async def writable_volume(worker, tmp_path, opened, client):
    """A volume that the worker has open, also for changes."""
    volume = await opened_volume(worker, tmp_path, opened)
    worker.shared[3] = worker.shared[3]._replace(may_write=True)
    worker.board.set_room(0, 1 << 20)
    await until_read_here(worker, client)

    await ask_until_done_here(client, PUT)
    return volume


async def ask_until_done_here(client, request):
    """The answer of the worker itself. On a busy machine a disk may look slow, and changes are left for a moment."""
    while "x-seen" in (answer := await client.ask(request)).headers:
        pass
    return answer


async def test_a_worker_of_a_native_server_makes_small_changes_itself(tmp_path, opened):
    async with running(WorkerOfNative) as worker, worker.client() as client:
        volume = await writable_volume(worker, tmp_path, opened, client)
        assert volume.read(5, cookie=0x637037D6).needle.data == b"small"
        for request, status in (
            (PUT, 204),
            (PUT.replace(b"small", b"other"), 201),
            (PUT.replace(b"d6 HTTP", b"d6?fsync=true HTTP").replace(b"small", b"third"), 201),
            (DELETE_5, 202),
        ):
            assert (await ask_until_done_here(client, request)).status == status
        handed_on = len(worker.seen)
        assert worker.board.appended_by_workers(2) > 100
        counts = worker.serving.counts()
        assert (counts.requests["http.write", Engine.NATIVE], counts.requests["http.delete", Engine.NATIVE]) == (4, 1)
        assert counts.server.request_total["PUT", "201"] == 3
        assert len(worker.seen) == handed_on == counts.handed_on
        for left in (
            DELETE_5,
            PUT.replace(b"d6 HTTP", b"d7 HTTP"),  # another cookie
            PUT.replace(b"Content-Length: 5", b"Content-Length: 40000").replace(b"small", bytes(40_000)),
            PUT.replace(b"/3,", b"/4,"),
        ):
            assert "x-seen" in (await client.ask(left)).headers
        assert worker.serving.counts().requests == counts.requests, "the parent counts those"
        worker.shared[3] = worker.shared[3]._replace(may_write=False)
        await worker.serving.release([3])
        await until_read_here(worker, client)
        assert "x-seen" in (await client.ask(PUT)).headers


async def test_what_the_parent_alone_may_write_is_left_to_it(tmp_path, opened):
    async with running(WorkerOfNative, max_upload_bytes=100) as worker, worker.client() as client:
        volume = await writable_volume(worker, tmp_path, opened, client)

        async def is_left():
            size = volume.size_bytes
            left = "x-seen" in (await client.ask(PUT.replace(b"small", b"%5d" % (size % 100_000)))).headers
            assert left == (volume.size_bytes == size)
            return left

        async def is_made_here():
            while await is_left():
                pass
            return True

        assert await is_made_here()
        volume.claim.take("is being copied", holds_writes=True)
        assert await is_left()
        volume.claim.give_up()
        volume.marks.mark_read_only(can_delete=True, persist=False)
        assert await is_left()
        volume.marks.mark_writable()
        assert await is_made_here()
        for number, count in ((0, 1), (1, 1)):
            worker.board.set_room(0, worker.board.appended_by_workers(2))
            assert await is_left(), "the disk may be full"
            worker.board.set_room(0, worker.board.appended_by_workers(2) + count)
            assert await is_made_here()
            worker.board.set_room(0, 1 << 20)
            worker.board.note_appended(number, 1 << 20)
            assert await is_left()
            worker.board.set_room(0, 1 << 30)
        worker.board.set_disk(0, is_out=True)
        assert await is_left()
        worker.board.set_disk(0, is_out=False)
        worker.board.publish_uploads(1, 101)
        assert await is_left()
        await ask_until_done_here(client, PUT.replace(b"d6 HTTP", b"d6?type=replicate HTTP"))
        worker.board.publish_uploads(1, 100)
        assert await is_made_here()
        worker.board.publish_uploads(1, 0)
        worker.board.publish_parents_uploads(101)
        assert await is_left()
        worker.board.publish_parents_uploads(0)
        worker.serving.set_access(AccessRules(("10.0.0.1",)))
        assert await is_left()
        worker.serving.set_access(AccessRules((), b"key", b""))
        assert await is_left()
        worker.serving.set_access(AccessRules(("127.0.0.1",)))
        assert await is_made_here()
        assert worker.board.uploads_of_workers(2) == 0, "all was received"


async def test_the_parents_fast_path_gets_whole_uploads():
    async with running(WorkerOfNative) as worker, worker.client() as client:
        await client.ask(GET)
        upload = b"PUT /3,01637037d6 HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n" + bytes(30_000)
        assert "x-seen" in (await client.ask(upload)).headers
        assert worker.offered[-1] == upload


async def test_a_worker_of_a_native_server_drains():
    async with running(WorkerOfNative) as worker, worker.client() as client:
        await client.send(b"PUT /3,01637037d6 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(1000))
        await until(lambda: worker.seen)
        worker.accepting.cancel()
        await client.send(bytes(99_000))
        assert (await client.answer()).headers.get("connection", "").lower() == "close"
        assert await client.is_closed()


async def test_small_requests_take_the_fast_path_over_kept_connections():
    async with running() as worker, worker.client() as client:
        for _ in range(5):
            await client.ask(GET)
        assert worker.backend.connections == 1
        assert worker.backend.requests[-1] == GET, "passed on as it came"


async def test_access_rules_hold_for_the_next_request_of_an_open_connection():
    async with running(access=AccessRules(("10.0.0.1",))) as worker, worker.client() as client:
        assert (await client.ask(DELETE)).status == 401
        worker.serving.set_access(AccessRules(("127.0.0.1",)))
        assert (await client.ask(DELETE)).status == 200
        worker.serving.set_access(AccessRules(("10.0.0.1",)))
        assert (await client.ask(DELETE)).status == 401
        assert len(worker.backend.requests) == 1
        assert worker.serving.counts().server.request_total == {("DELETE", "401"): 2}


async def test_health_checks_are_the_backends_until_the_server_stops():
    async with running() as worker, worker.client() as client:
        assert (await client.ask(HEALTH)).status == 200
        worker.serving.set_stopping()
        assert (await client.ask(HEALTH)).status == 503
        assert len(worker.backend.requests) == 1


async def test_a_worker_that_starts_during_a_stop_knows_of_it():
    async with running(is_stopping=True) as worker, worker.client() as client:
        assert (await client.ask(HEALTH)).status == 503


async def test_the_backends_new_address_holds_for_the_next_request():
    async with running() as worker, worker.client() as client, trio.open_nursery() as nursery:
        await client.ask(GET)
        moved, port = await recording(nursery)
        worker.serving.set_backend(BackendAddress(port, port))
        assert (await client.ask(GET)).status == 200
        assert len(worker.backend.requests) == len(moved.requests) == 1
        nursery.cancel_scope.cancel()


async def test_a_deletion_of_an_absent_object_goes_to_the_holders_that_the_parent_names():
    async with running() as worker, worker.client() as client, trio.open_nursery() as nursery:
        holder, port = await recording(nursery, DELETED)
        worker.backend.answers = [ABSENT, ABSENT]
        assert (await client.ask(DELETE)).status == 404, "no holder is known"
        worker.lookup.holders = [f"127.0.0.1:{port}"]
        assert (await client.ask(DELETE)).status == 202
        assert worker.lookup.asked[:2] == [(3, True), (3, True)]
        assert holder.requests[0].startswith(b"DELETE /3,01637037d6?type=replicate")
        nursery.cancel_scope.cancel()


async def test_a_drain_finishes_what_runs_and_closes_the_ports():
    async with running() as worker, worker.client() as client:
        await client.send(b"PUT /3,01637037d6 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(1000))
        await until(lambda: worker.backend.connections == 1)
        worker.accepting.cancel()
        await client.send(bytes(99_000))
        assert (await client.answer()).headers.get("connection", "").lower() == "close"
        assert await client.is_closed()


async def test_the_admin_port_has_tls_with_the_inherited_settings(tmp_path):
    authority = Authority(tmp_path)
    cert, key = authority.issue("server")
    context = ssl.create_default_context(cafile=str(authority.ca))
    tls = TlsSettings(cert=cert, key=key, alpn=("http/1.1",))
    async with running(tls=tls) as worker:
        async with worker.client(context) as client:
            assert (await client.ask(GET)).body == b"warm"
        async with connected(worker.public.port) as client:
            assert (await client.ask(GET)).body == b"warm"


async def test_files_that_are_no_certificate_are_named():
    worker = Worker()
    async with trio.open_nursery() as nursery:
        with pytest.raises(BadCertificate, match="/no/cert"):
            await worker.run(nursery, tls=TlsSettings(cert=Path("/no/cert"), key=Path("/no/key")))
        nursery.cancel_scope.cancel()
    worker.close()
