"""Clients that leave, or stay, while their request waits for room among the bytes in flight."""

from __future__ import annotations

import pytest
import trio
from http_harness import serving

from native_handlers.http.message import Response
from supervisor.gateway.throttle import FlightLimit, Throttle


class Crowded:
    """A server that is full until `throttle` is told otherwise; keeps its answers."""

    def __init__(self):
        self.throttle = Throttle(FlightLimit(1, 60.0), FlightLimit(1, 60.0))
        self.throttle.uploads.add(2)
        self.throttle.downloads.add(2)
        self.answers = []

    async def handle(self, request):
        is_upload = request.method == "POST"
        refuse = self.throttle.refuse_upload if is_upload else self.throttle.refuse_download
        self.answers.append(await refuse(request) or Response(200, body=b"done"))
        return self.answers[-1]


def head(method, length=0):
    return f"{method} /3,01637037d6 HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b'{"error":"context canceled"}')])
@pytest.mark.parametrize("leave", ["aclose", "send_eof"])
async def test_a_client_that_does_not_wait_is_499(method, body, leave):
    server = Crowded()
    async with serving(server.handle) as (peer, _):
        await peer.send(head(method))
        await trio.testing.wait_all_tasks_blocked()
        assert not server.answers
        await getattr(peer.stream, leave)()
        with trio.fail_after(5):
            while not server.answers:
                await trio.testing.wait_all_tasks_blocked()
    assert [(answer.status, answer.body) for answer in server.answers] == [(499, body)]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_that_waits_gets_its_turn(method):
    server = Crowded()
    async with serving(server.handle) as (peer, _):
        await peer.send(head(method) * 2)
        await trio.testing.wait_all_tasks_blocked()
        assert not server.answers
        server.throttle.downloads.remove(2)
        server.throttle.uploads.remove(2)
        for _ in range(2):
            answer = await peer.answer()
            assert (answer.status, answer.body) == (200, b"done")


async def test_a_client_with_a_body_to_send_is_not_read_from():
    server = Crowded()
    async with serving(server.handle) as (peer, _):
        await peer.send(head("POST", 10) + b"12345")
        await peer.stream.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert not server.answers
        server.throttle.uploads.remove(2)
        await trio.testing.wait_all_tasks_blocked()
        assert server.answers[0].status == 200
