"""Clients that leave, or stay, while their request waits for room among the bytes in flight, or for its content."""

from __future__ import annotations

import pytest
import trio
from support.http_serving import serving
from support.waiting import LIMIT_S

from native_handlers.http import client_watch
from native_handlers.http.client_watch import CLIENT_GONE, ClientGone, unless_gone
from native_handlers.http_model.message import Response
from supervisor.gateway.throttle import InflightLimit, Throttle


class Crowded:
    """A server that is full until `throttle` is set otherwise. It keeps its answers."""

    def __init__(self):
        self.throttle = Throttle(InflightLimit(1, 60.0), InflightLimit(1, 60.0))
        self.throttle.uploads.add(2)
        self.throttle.downloads.add(2)
        self.answers = []

    async def handle(self, request):
        is_upload = request.method == "POST"
        inflight = self.throttle.uploads if is_upload else self.throttle.downloads
        refuse = self.throttle.refuse_upload if is_upload else self.throttle.refuse_download
        refusal = None
        if inflight.must_wait():
            with inflight.turn(request.body.length_bytes if is_upload else None) as turn:
                refusal = await refuse(request, turn)
        self.answers.append(refusal or Response(200, body=b"done"))
        return self.answers[-1]


def head(method, length=0):
    return f"{method} /3,01637037d6 HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


@pytest.mark.parametrize(("method", "body"), [("GET", b""), ("POST", b'{"error":"context canceled"}')])
@pytest.mark.parametrize("leave", ["aclose", "send_eof"])
async def test_a_client_that_does_not_wait_is_499(method, body, leave):
    server = Crowded()
    async with serving(server.handle) as (client, _):
        await client.send(head(method))
        await trio.testing.wait_all_tasks_blocked()
        assert not server.answers
        await getattr(client.stream, leave)()
        with trio.fail_after(LIMIT_S):
            while not server.answers:
                await trio.testing.wait_all_tasks_blocked()
    assert [(answer.status, answer.body) for answer in server.answers] == [(499, body)]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_client_that_waits_gets_its_turn(method):
    server = Crowded()
    async with serving(server.handle) as (client, _):
        await client.send(head(method) * 2)
        await trio.testing.wait_all_tasks_blocked()
        assert not server.answers
        server.throttle.downloads.remove(2)
        server.throttle.uploads.remove(2)
        for _ in range(2):
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b"done")


async def test_a_client_with_a_body_to_send_is_not_read_from():
    server = Crowded()
    async with serving(server.handle) as (client, _):
        await client.send(head("POST", 10) + b"12345")
        await client.stream.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert not server.answers
        server.throttle.uploads.remove(2)
        await trio.testing.wait_all_tasks_blocked()
        assert server.answers[0].status == 200


@pytest.mark.parametrize("leave", ["aclose", "send_eof"])
async def test_work_for_a_client_that_is_gone_ends(leave, monkeypatch):
    monkeypatch.setattr(client_watch, "WATCH_AFTER_S", 0)
    answers = []

    async def handle(request):
        try:
            await unless_gone(request.body, trio.sleep_forever)
        except ClientGone:
            answers.append(Response(CLIENT_GONE))
        return answers[-1]

    async with serving(handle) as (client, _):
        await client.send(head("GET"))
        await trio.testing.wait_all_tasks_blocked()
        assert not answers
        await getattr(client.stream, leave)()
        with trio.fail_after(LIMIT_S):
            while not answers:
                await trio.testing.wait_all_tasks_blocked()


async def test_a_client_that_stays_gets_what_takes_long(monkeypatch):
    monkeypatch.setattr(client_watch, "WATCH_AFTER_S", 0)
    release = trio.Event()

    async def handle(request):
        await unless_gone(request.body, release.wait)
        return Response(200, body=b"done")

    async with serving(handle) as (client, _):
        await client.send(head("GET") * 2)
        await trio.testing.wait_all_tasks_blocked()
        release.set()
        for _ in range(2):
            assert (await client.answer()).body == b"done"
