"""Bytes in flight: who waits, who does not, and what is said to whom waited in vain."""

from __future__ import annotations

import pytest
import trio
from test_gateway_guard import security

from native_handlers.http.context import HttpContext, HttpSettings
from native_handlers.http.headers import Headers
from native_handlers.http.message import FileBody, Listener, Request, Response, StreamBody
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.gateway.throttle import FlightLimit, Throttle
from supervisor.routing.live import LiveTable
from supervisor.routing.table import table_native

FID = "/3,01637037d6"
ROUTES = ("http.read", "http.write", "http.delete")


class Body:
    def __init__(self, length_bytes):
        self.length_bytes = length_bytes


def request(method, length=0, target=FID):
    return Request(method, target, Headers(), Body(length), Listener.ADMIN, "10.0.0.1", 1, "ID")


class Front:
    """A gateway whose handler waits until it is let go."""

    def __init__(self, *, upload=0, download=0, body=b"12345"):
        self.let_go = trio.Event()
        self.body = body
        self.running = 0
        self.throttle = Throttle(FlightLimit(upload, 10.0), FlightLimit(download, 10.0))
        settings = HttpSettings(version="V", self_url="", file_size_limit_bytes=1)
        table = LiveTable(table_native(ROUTES))
        context = HttpContext(settings=settings, node=None)
        handlers = dict.fromkeys(ROUTES, self.handle_one)
        self.gateway = HttpGateway(table, handlers, context, None, Guard(security()), self.throttle)
        self.handle = self.gateway.handle

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


async def test_a_chunked_upload_counts_nothing():
    front = Front(upload=1)
    front.let_go.set()
    await front.handle(request("POST", None))
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
    throttle = Throttle(FlightLimit(), FlightLimit())
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
