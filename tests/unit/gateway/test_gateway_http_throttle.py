"""Bytes in flight: which requests wait, which do not, and the answer to a request that waited in vain."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import trio
from support.security import security

from native_handlers.http.context import HttpContext, Location
from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import BodyError, FileBody, Listener, Request, RequestBody, Response, StreamBody
from native_handlers.http_model.read_mode import ReadMode
from native_handlers.http_model.volume_servers import VolumeServerResponse
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.gateway.throttle import AT_ONCE, LOOK_S, InflightLimit, Throttle
from supervisor.routing.live import LiveTable
from supervisor.routing.table import table_native

FID = "/3,01637037d6"
ROUTES = ("http.read", "http.write", "http.delete")


class Body(RequestBody):
    def __init__(self, length_bytes):
        self.length_bytes = length_bytes


def request(method, length=0, target=FID):
    return Request(method, target, Headers(), Body(length), Listener.ADMIN, "10.0.0.1", 1, "ID")


class Front:
    """A gateway whose handler waits until the test lets it go on."""

    def __init__(self, *, upload=0, download=0, body=b"12345", white_list=(), **context):
        self.let_go = trio.Event()
        self.body = body
        self.running = 0
        self.throttle = Throttle(InflightLimit(upload, 10.0), InflightLimit(download, 10.0))
        settings = HttpSettings(version="V", self_url="", file_size_limit_bytes=1)
        table = LiveTable(table_native(ROUTES))
        context = HttpContext(**{"settings": settings, "node": None, **context})
        self.handler = self.handle_one
        handlers = dict.fromkeys(ROUTES, self.call_handler)
        guard = Guard(security(white_list=white_list))
        self.gateway = HttpGateway(table, handlers, context, None, guard, self.throttle)
        self.handle = self.gateway.handle

    async def call_handler(self, context, req):
        return await self.handler(context, req)

    async def handle_one(self, context, req):
        self.running += 1
        if req.method in {"POST", "PUT"}:
            await self.let_go.wait()
        return Response(200, body=self.body)


async def test_an_upload_waits_while_more_than_allowed_is_in_flight(autojump_clock):
    front = Front(upload=10)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(front.handle, request("POST", 6))
            await trio.testing.wait_all_tasks_blocked()
        assert (front.running, front.throttle.uploads.bytes) == (2, 12)
        front.let_go.set()
    assert (front.running, front.throttle.uploads.bytes) == (3, 0)


async def test_an_upload_that_waited_in_vain_is_429(autojump_clock):
    front = Front(upload=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(front.handle, request("POST", 11))
        await trio.testing.wait_all_tasks_blocked()
        started_at = trio.current_time()
        response = await front.handle(request("PUT", 1))
        assert trio.current_time() - started_at == pytest.approx(10)
        assert response.status == 429
        assert response.body == b'{"error":"reject because inflight upload data 11 \\u003e 10, and wait timeout"}'
        assert response.headers.get("Server") == "SeaweedFS Volume V"
        front.let_go.set()


async def test_downloads_of_other_processes_count_and_a_read_that_waits_looks_at_them(autojump_clock):
    front, elsewhere, published = Front(download=10), 11, []
    front.throttle.join_downloads(lambda: elsewhere, published.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(front.handle, request("GET"))
        await trio.sleep(5)
        assert front.running == 0
        elsewhere = 10
        await trio.sleep(1)
        assert front.running == 1
    assert published == [5], "the answer was not closed"
    assert front.throttle.downloads.total_bytes == 15
    refused = await front.handle(request("GET"))
    assert refused.status == 429
    assert b"inflight download data 15 \\u003e 10" in refused.body


class Wakes(trio.abc.Instrument):
    """Counts how often tasks of a name are scheduled."""

    def __init__(self, name):
        self.name, self.count = name, 0
        trio.lowlevel.add_instrument(self)

    def task_scheduled(self, task):
        self.count += task.name == self.name

    def since(self):
        count, self.count = self.count, 0
        return count


async def start_waiting(nursery, front, requests):
    """Has the requests wait in this order. Returns the list of those that have ended, which grows."""
    ended = []

    async def ask(number, req):
        await front.handle(req)
        ended.append(number)

    for number, req in enumerate(requests):
        nursery.start_soon(ask, number, req, name="waits")
        await trio.testing.wait_all_tasks_blocked()
    return ended


async def test_an_end_wakes_only_those_that_have_room(autojump_clock):
    front = Front(upload=10)
    front.throttle.uploads.add(11)
    async with trio.open_nursery() as nursery:
        await start_waiting(nursery, front, [request("POST", 6) for _ in range(40)])
        wakes = Wakes("waits")
        front.throttle.uploads.remove(1)
        front.throttle.uploads.add(1)
        await trio.testing.wait_all_tasks_blocked()
        assert (front.running, wakes.since()) == (1, 2), "the one that is let in, and the one that is the first now"
        front.throttle.uploads.remove(11)
        await trio.testing.wait_all_tasks_blocked()
        assert (front.running, front.throttle.uploads.bytes, wakes.since()) == (2, 12, 2)
        for _ in range(3):
            front.throttle.uploads.remove(0)
            front.throttle.uploads.add(1)
            front.throttle.uploads.remove(1)
        await trio.testing.wait_all_tasks_blocked()
        assert (front.running, wakes.since()) == (2, 0), "there is still no room"
        nursery.cancel_scope.cancel()


async def test_requests_are_let_in_in_the_order_in_which_they_came(autojump_clock):
    front = Front(upload=10)
    front.throttle.uploads.add(11)
    front.let_go.set()
    async with trio.open_nursery() as nursery:
        ended = await start_waiting(nursery, front, [request("POST", 11) for _ in range(20)])
        front.throttle.uploads.remove(11)
        newcomer = await front.handle(request("POST", 1))
        assert (newcomer.status, ended) == (200, list(range(20))), "who comes while others wait is the last"


async def test_one_request_looks_at_other_processes_for_all_that_wait(autojump_clock):
    front, elsewhere = Front(download=10), 11
    front.throttle.join_downloads(lambda: elsewhere, lambda _: None)
    async with trio.open_nursery() as nursery:
        ended = await start_waiting(nursery, front, [request("GET") for _ in range(40)])
        wakes = Wakes("waits")
        await trio.sleep(1)
        assert wakes.since() <= 21
        elsewhere = 6
        await trio.sleep(1)
        assert sorted(ended) == list(range(AT_ONCE)), "their answers are too much"
        assert wakes.since() <= AT_ONCE + 22
        nursery.cancel_scope.cancel()


async def test_reads_begin_a_few_at_a_time(autojump_clock):
    """The length of a read is not known before it is made. One that takes long keeps others waiting for a moment."""
    front, gate = Front(download=4), trio.Event()
    front.throttle.downloads.add(5)

    async def hang(_context, _req):
        front.running += 1
        await gate.wait()
        return Response(200, body=b"12345")

    front.handler = hang
    async with trio.open_nursery() as nursery:
        ended = await start_waiting(nursery, front, [request("GET") for _ in range(2 * AT_ONCE + 1)])
        front.throttle.downloads.remove(5)
        await trio.testing.wait_all_tasks_blocked()
        assert front.running == AT_ONCE
        await trio.sleep(1.5 * LOOK_S)
        assert front.running == 2 * AT_ONCE
        nursery.start_soon(front.handle, request("GET"))
        await trio.testing.wait_all_tasks_blocked()
        assert front.running == 2 * AT_ONCE + 1, "a newcomer need not wait while there is room"
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert front.running == 2 * AT_ONCE + 1, "their answers are too much"
        assert sorted(ended) == list(range(2 * AT_ONCE))
        nursery.cancel_scope.cancel()


async def test_a_read_that_counts_its_bytes_lets_the_next_one_in(autojump_clock):
    front = Front(download=4, body=b"")
    front.throttle.downloads.add(5)
    async with trio.open_nursery() as nursery:
        ended = await start_waiting(nursery, front, [request("GET") for _ in range(3 * AT_ONCE)])
        front.throttle.downloads.remove(5)
        await trio.testing.wait_all_tasks_blocked()
        assert len(ended) == 3 * AT_ONCE


@pytest.mark.parametrize("is_let_in", [True, False])
async def test_who_is_cancelled_passes_the_turn_on(autojump_clock, is_let_in):
    front, scope = Front(upload=10), trio.CancelScope()
    front.throttle.uploads.add(11)

    async def give_up():
        with scope:
            await front.handle(request("POST", 11))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        await trio.testing.wait_all_tasks_blocked()
        await start_waiting(nursery, front, [request("POST", 11) for _ in range(2)])
        if is_let_in:
            front.throttle.uploads.remove(11)
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        if not is_let_in:
            assert (front.running, front.throttle.uploads.bytes) == (0, 11)
            front.throttle.uploads.remove(11)
            await trio.testing.wait_all_tasks_blocked()
        assert (front.running, front.throttle.uploads.bytes) == (1 + is_let_in, 11)
        front.let_go.set()
    assert front.throttle.uploads.bytes == 0


async def test_who_is_gone_when_its_turn_comes_passes_it_on(autojump_clock):
    class Leaving(Body):
        is_over = True

        async def wait_gone(self):
            await left.wait()

    front, left = Front(upload=10), trio.Event()
    front.throttle.uploads.add(11)
    async with trio.open_nursery() as nursery:
        leaving = replace(request("POST"), body=Leaving(11))
        await start_waiting(nursery, front, [leaving, request("POST", 11)])
        left.set()
        front.throttle.uploads.remove(11)
        await trio.testing.wait_all_tasks_blocked()
        assert (front.running, front.throttle.uploads.bytes) == (1, 11)
        front.let_go.set()
    assert front.throttle.uploads.bytes == 0


@pytest.mark.parametrize(("method", "target"), [("POST", FID + "?type=replicate"), ("DELETE", FID), ("GET", FID)])
async def test_replication_and_other_methods_do_not_wait_for_uploads(autojump_clock, method, target):
    front = Front(upload=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(front.handle, request("POST", 11))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(front.handle, request(method, 1, target))
        await trio.testing.wait_all_tasks_blocked()
        assert front.running == 2
        front.let_go.set()


class ChunkedBody(Body):
    """Arrives in pieces of five bytes, one each time the test allows it."""

    def __init__(self, pieces):
        super().__init__(None)
        self.let, self.coming = trio.open_memory_channel(pieces)

    async def receive_some(self):
        try:
            return await self.coming.receive()
        except trio.EndOfChannel:
            return b""

    async def receive_into(self, buffer):
        piece = await self.receive_some()
        buffer[: len(piece)] = piece
        return len(piece)


async def test_a_chunked_upload_counts_what_has_arrived():
    front = Front(upload=1)
    flight = front.throttle.uploads
    seen = []

    async def read_all(_context, req):
        assert req.body.length_bytes is None
        seen.append(flight.bytes)
        await req.body.receive_some()
        seen.append(flight.bytes)
        await req.body.receive_into(memoryview(bytearray(9)))
        seen.append(flight.bytes)
        assert await req.body.receive_some() == b""
        return Response(200)

    front.handler = read_all
    body = ChunkedBody(2)
    for _ in range(2):
        body.let.send_nowait(b"12345")
    body.let.close()
    await front.handle(Request("POST", FID, Headers(), body, Listener.ADMIN, "10.0.0.1", 1, "ID"))
    assert (seen, flight.bytes) == ([0, 5, 10], 0)


async def test_the_client_of_a_chunked_upload_is_watched_as_that_of_others(autojump_clock):
    class EndedBody(ChunkedBody):
        async def wait_end(self):
            seen.append("end")

        async def wait_gone(self):
            seen.append("gone")

    front, seen = Front(upload=1), []

    async def watch(_context, req):
        with trio.fail_after(1):
            await req.body.wait_end()
            await req.body.wait_gone()
        return Response(200)

    front.handler = watch
    await front.handle(Request("POST", FID, Headers(), EndedBody(0), Listener.ADMIN, "10.0.0.1", 1, "ID"))
    assert seen == ["end", "gone"]


class ClientsBody(ChunkedBody):
    """A chunked body with trailers, of a client that waits for a 100. `interim` has the 1xx heads that it was sent."""

    def __init__(self):
        super().__init__(1)
        self.awaits_continue, self.interim = True, []
        self.let.send_nowait(b"12345")
        self.let.close()

    async def receive_some(self):
        self.awaits_continue = False
        piece = await super().receive_some()
        if not piece:
            self.is_over, self.trailers = True, Headers([("Checksum", "abc")])
        return piece

    async def pass_rest_to(self, sink, /):
        self.is_over = True
        return sink

    async def send_interim(self, status, headers, reason=""):
        self.interim.append((status, headers, reason))
        self.awaits_continue = False


async def counted(upload, use):
    """Has a handler use the body of a chunked upload that is counted."""
    front = Front(upload=1)

    async def handle(_context, req):
        await use(req.body)
        return Response(200)

    front.handler = handle
    await front.handle(Request("POST", FID, Headers(), upload, Listener.ADMIN, "10.0.0.1", 1, "ID"))


async def test_a_chunked_upload_that_is_counted_keeps_its_trailers():
    async def read(body):
        assert (body.awaits_continue, body.is_over) == (True, False)
        assert await body.receive_some() == b"12345"
        assert (body.awaits_continue, body.is_over) == (False, False)
        assert await body.receive_into(memoryview(bytearray(9))) == 0
        assert (body.is_over, body.trailers.pairs) == (True, (("Checksum", "abc"),))

    await counted(ClientsBody(), read)


async def test_the_client_of_a_chunked_upload_gets_interim_answers():
    async def answer(body):
        await body.send_interim(103, Headers([("Link", "a")]), "Early")
        assert not body.awaits_continue

    upload = ClientsBody()
    await counted(upload, answer)
    assert upload.interim == [(103, Headers([("Link", "a")]), "Early")]


async def test_the_rest_of_a_counted_upload_may_pass_by():
    async def move(body):
        assert await body.pass_rest_to(17) == 17
        assert body.is_over

    await counted(ClientsBody(), move)


async def test_a_chunked_upload_that_breaks_off_is_not_in_flight():
    front = Front(upload=1)

    async def break_off(_context, req):
        await req.body.receive_some()
        raise BodyError("gone")

    front.handler = break_off
    body = ChunkedBody(1)
    body.let.send_nowait(b"12345")
    with pytest.raises(BodyError):
        await front.handle(Request("POST", FID, Headers(), body, Listener.ADMIN, "10.0.0.1", 1, "ID"))
    assert front.throttle.uploads.bytes == 0


async def nothing():
    return
    yield b""


@pytest.mark.parametrize("body", [b"12345", FileBody([b"12345"]), StreamBody(nothing(), 5)])
async def test_a_download_is_in_flight_until_its_answer_is_closed(autojump_clock, body):
    front = Front(download=4, body=body)
    first = await front.handle(request("GET"))
    assert front.throttle.downloads.bytes == 5
    refused = await front.handle(request("GET"))
    assert refused.status == 429
    assert b"request /3,01637037d6 because inflight download data 5 \\u003e 4, and wait timeout" in refused.body
    async with trio.open_nursery() as nursery:
        nursery.start_soon(front.handle, request("GET"))
        await trio.testing.wait_all_tasks_blocked()
        assert front.running == 1
        first.close()
    assert front.running == 2


async def test_closing_still_releases_what_the_handler_holds():
    released = []
    throttle = Throttle(InflightLimit(), InflightLimit())
    throttle.count_download(Response(200, body=b"x", close=lambda: released.append(1))).close()
    assert (released, throttle.downloads.bytes) == ([1], 0)


async def test_no_limit_never_waits():
    front = Front()
    for _ in range(3):
        assert (await front.handle(request("GET"))).status == 200
    assert front.throttle.downloads.bytes == 15


async def test_a_cancelled_wait_leaves_nothing_behind(autojump_clock):
    front = Front(download=4)
    first = await front.handle(request("GET"))
    with trio.move_on_after(1) as scope:
        await front.handle(request("GET"))
    assert scope.cancelled_caught
    first.close()
    assert front.throttle.downloads.bytes == 0
    assert (await front.handle(request("GET"))).status == 200


async def test_who_may_not_write_waits_as_well(autojump_clock):
    """Upstream checks the white list after the wait."""
    front = Front(upload=10, white_list=("10.0.0.1",))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(front.handle, request("POST", 11))
        await trio.testing.wait_all_tasks_blocked()
        stranger = replace(request("POST", 1), client_host="10.0.0.2")
        assert (await front.handle(stranger)).status == 429
        front.let_go.set()
    assert (await front.handle(stranger)).status == 401


class Replicated:
    """A store whose volume 3 has `copy_count` copies, and the master's word on who holds it."""

    def __init__(self, copy_count):
        self.replica_placement = SimpleNamespace(copy_count=copy_count)

    def find_volume(self, vid):
        return self if vid == 3 else None


class Holders:
    def __init__(self, *urls):
        self.urls = urls

    async def locations(self, vid, *, refresh=False):
        return [Location(url, url) for url in self.urls]


class Replica:
    """A volume server that answers every read."""

    def __init__(self):
        self.asked = []
        self.closed = 0

    async def request(self, method, url, target, headers, body):
        self.asked.append((method, url, target))
        return VolumeServerResponse(200, Headers([("Content-Length", "4")]), self._chunks())

    async def _chunks(self):
        try:
            yield b"copy"
        finally:
            self.closed += 1


def crowded(*, copies=2, holders=("10.0.0.8:80", "10.0.0.9:80"), mode=ReadMode.PROXY):
    """A front of 10.0.0.8:80 with no room for another download."""
    settings = HttpSettings(version="V", self_url="10.0.0.8:80", file_size_limit_bytes=1, read_mode=mode)
    context = {
        "settings": settings,
        "store": Replicated(copies),
        "lookup": Holders(*holders),
        "volume_servers": Replica(),
    }
    front = Front(download=4, **context)
    front.throttle.downloads.add(5)
    return front, context["volume_servers"]


async def test_a_read_without_room_goes_to_another_replica():
    front, replica = crowded()
    response = await front.handle(request("GET", target=FID + "?a=1"))
    assert (response.status, response.headers.get("Server")) == (200, "SeaweedFS Volume V")
    assert [some async for some in response.body.chunks] == [b"copy"]
    assert replica.asked == [("GET", "10.0.0.9:80", FID + "?a=1&proxied=true")]
    assert (front.running, front.throttle.downloads.bytes) == (0, 5)


async def test_a_head_that_another_replica_answers_leaves_no_body_open():
    front, replica = crowded()
    response = await front.handle(request("HEAD"))
    assert (response.status, response.body, response.headers.get("Content-Length")) == (200, b"", "4")
    assert len(replica.asked) == 1


@pytest.mark.parametrize("mode", [ReadMode.REDIRECT, ReadMode.LOCAL])
async def test_without_proxying_the_client_is_sent_to_the_replica(mode):
    front, replica = crowded(mode=mode)
    response = await front.handle(request("GET"))
    assert response.status == 301
    assert response.headers.get("Location") == f"http://10.0.0.9:80{FID}?proxied=true"
    assert replica.asked == []


@pytest.mark.parametrize(
    ("target", "facts"),
    [(FID + "?proxied=true", {}), (FID, {"copies": 1}), (FID, {"holders": ("10.0.0.8:80",)}), ("/9,01637037d6", {})],
)
async def test_a_read_that_no_other_replica_takes_waits(autojump_clock, target, facts):
    front, replica = crowded(**facts)
    assert (await front.handle(request("GET", target=target))).status == 429
    assert replica.asked == []


async def test_what_names_no_volume_is_no_reason_to_wait():
    front, _ = crowded()
    assert (await front.handle(request("GET", target="/x,01637037d6"))).status == 400
