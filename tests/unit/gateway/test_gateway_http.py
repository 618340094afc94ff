"""The gateway: routed by the table, guarded for both engines, counted, logged; the wrong engine never answers
silently.
"""

from __future__ import annotations

import json
import logging

import pytest
from support.security import security

from native_handlers.http.context import HttpContext
from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Listener, Request, Response
from native_handlers.runtime.content_threads import ContentThreads
from supervisor.gateway import http
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.routing.decision import Engine
from supervisor.routing.live import LiveTable
from supervisor.routing.match import match_object
from supervisor.routing.table import table_forwarding_all, table_native

FID = "/3,01637037d6"
SETTINGS = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=1)


class Forwarded:
    """A forwarder that says which requests it got."""

    def __init__(self) -> None:
        self.seen = []

    async def forward(self, request):
        self.seen.append(request)
        return Response(200, body=b"backend")


async def answer_natively(context, request):
    return Response(200, body=b"native")


def gateway(table, *, handlers=None, forwarder=None, settings=SETTINGS, **keys):
    handlers = {} if handlers is None else handlers
    context = HttpContext(settings=settings, node=None)
    return HttpGateway(LiveTable(table), handlers, context, forwarder, Guard(security(**keys)))


def request(method="GET", target=FID, *fields, listener=Listener.ADMIN, host="10.0.0.1"):
    return Request(method, target, Headers(fields), None, listener, host, 1, "THE-ID")


async def test_a_forwarding_table_forwards_and_counts():
    forwarder = Forwarded()
    front = gateway(table_forwarding_all(), forwarder=forwarder)
    for req in (request(), request(), request("POST"), request("GET", "/status")):
        assert (await front.handle(req)).body == b"backend"
        assert forwarder.seen[-1] is req
    assert front.counts == {
        ("http.read", Engine.BACKEND): 2,
        ("http.write", Engine.BACKEND): 1,
        ("http.status", Engine.BACKEND): 1,
    }


@pytest.mark.parametrize("parsed_at", ["first", "after the backend's 404"])
async def test_a_long_query_is_parsed_by_the_threads_for_contents(monkeypatch, parsed_at):
    """The event loop parses none, whoever asks for it."""
    was_long, jobs, run = [], [], ContentThreads.run

    async def counted_run(threads, job):
        jobs.append(job)
        return await run(threads, job)

    async def look(_context, request):
        was_long.append(request.parsed.has_long_query)
        assert request.parsed.query.get("a9") == "A"

    monkeypatch.setattr(ContentThreads, "run", counted_run)
    long = request("DELETE", f"{FID}?" + "&".join(f"a{number}=%41" for number in range(300)))
    if parsed_at == "first":
        front = gateway(table_native(["http.delete"]), handlers={"http.delete": look})
        with pytest.raises(AttributeError):  # `look` answers nothing
            await front.handle(long)
    else:
        monkeypatch.setattr(http, "delete_at_others", look)
        front = gateway(table_forwarding_all())
        decision = front.policy.decision(match_object(Listener.ADMIN, "DELETE"))

        async def forward():
            return Response(404)

        await front.resume(decision, long, forward, None)
    assert was_long == [False]
    assert len(jobs) == 1


async def test_a_native_table_answers_here():
    forwarder = Forwarded()
    front = gateway(table_native(["http.read"]), handlers={"http.read": answer_natively}, forwarder=forwarder)
    assert (await front.handle(request())).body == b"native"
    assert front.counts == {("http.read", Engine.NATIVE): 1}
    assert forwarder.seen == []


async def test_clients_cannot_make_series_with_their_methods():
    context = HttpContext(settings=SETTINGS, node=None)
    handlers = {"http.read": answer_natively, "http.invalid": answer_natively}
    front = HttpGateway(LiveTable(table_native(handlers)), handlers, context, None, Guard(security()))
    for method in ("GET", "A-METHOD-OF-MY-OWN"):
        (await front.handle(request(method))).close()
    assert set(context.metrics.snapshot().request_total) == {("GET", "200"), ("INVALID", "200")}


async def test_a_route_without_a_handler_is_501_by_name():
    response = await gateway(table_native(["http.read"]), handlers={"http.read": answer_natively}).handle(
        request("POST")
    )
    assert response.status == 501
    assert "http.write" in json.loads(response.body)["error"]


async def test_a_forwarded_route_without_a_backend_is_502_by_name():
    response = await gateway(table_forwarding_all()).handle(request())
    assert response.status == 502
    assert "http.read" in json.loads(response.body)["error"]


@pytest.mark.parametrize("table", [table_forwarding_all(), table_native(["http.write"])])
async def test_the_white_list_holds_for_both_engines(table):
    forwarder = Forwarded()
    front = gateway(table, handlers={"http.write": answer_natively}, forwarder=forwarder, white_list=["10.0.0.9"])
    response = await front.handle(request("POST", FID, ("Origin", "x")))
    assert (response.status, response.body) == (401, b"")
    assert response.headers.get("Server") == "SeaweedFS Volume 30GB 4.44"
    assert response.headers.get("X-Amz-Request-Id") == "THE-ID"
    assert response.headers.get("Access-Control-Allow-Origin") == "*"
    assert forwarder.seen == []
    assert (await front.handle(request("POST", host="10.0.0.9"))).status == 200


@pytest.mark.parametrize("table", [table_forwarding_all(), table_native(["http.write", "http.read"])])
@pytest.mark.parametrize(
    ("target", "status", "location"), [("//3,01637037d6", 307, FID), ("/3,%zz", 400, None), (FID, 401, None)]
)
async def test_what_no_handler_would_get_is_told_so_before_it_is_refused(table, target, status, location):
    """Nothing else happens to the request: no handler runs, nothing is forwarded."""
    handlers = {"http.write": answer_natively, "http.read": answer_natively}
    forwarder = Forwarded()
    front = gateway(table, handlers=handlers, forwarder=forwarder, white_list=["10.0.0.9"], write=b"w", read=b"r")
    for method in ("POST", "DELETE", "GET"):
        if table.phase == 0 and method == "GET":
            continue  # reads have no white list, and their token is the backend's to check
        response = await front.handle(request(method, target))
        assert (response.status, response.headers.get("Location")) == (status, location)
    assert forwarder.seen == []


async def test_tokens_are_asked_for_here_only_where_the_answer_is_made_here():
    native = gateway(table_native(["http.read"]), handlers={"http.read": answer_natively}, read=b"key")
    response = await native.handle(request())
    assert (response.status, response.body) == (401, b'{"error":"wrong jwt"}')
    head = await native.handle(request("HEAD"))
    assert (head.status, head.body, head.headers.get("Content-Length")) == (401, b"", "21")
    forwarding = gateway(table_forwarding_all(), forwarder=Forwarded(), read=b"key")
    assert (await forwarding.handle(request())).status == 200


async def test_the_listener_decides_the_route():
    front = gateway(table_forwarding_all(), forwarder=Forwarded())
    await front.handle(request("POST", FID, listener=Listener.PUBLIC))
    assert list(front.counts) == [("http.public.other", Engine.BACKEND)]


async def test_the_status_page_is_an_object_where_it_is_switched_off():
    settings = HttpSettings(version="", self_url="", file_size_limit_bytes=1, has_ui=False)
    front = gateway(table_forwarding_all(), forwarder=Forwarded(), settings=settings)
    await front.handle(request("GET", "/ui/index.html"))
    assert list(front.counts) == [("http.read", Engine.BACKEND)]


async def test_the_access_log_names_client_request_answer_route_and_engine(caplog):
    front = gateway(table_forwarding_all(), forwarder=Forwarded())
    with caplog.at_level(logging.INFO, "supervisor.access"):
        await front.handle(request())
    assert not [record for record in caplog.records if record.name == "supervisor.access"]
    with caplog.at_level(logging.DEBUG, "supervisor.access"):
        await front.handle(request("GET", FID + "?a=b"))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "supervisor.access"]
    assert line.startswith("10.0.0.1:1 GET /3,01637037d6?a=b 200 http.read backend ")


@pytest.mark.parametrize("elsewhere", [None, Response(202, body=b"elsewhere")])
@pytest.mark.parametrize(("method", "status"), [("DELETE", 404), ("DELETE", 202), ("GET", 404)])
async def test_a_forwarded_delete_that_finds_nothing_is_looked_into(monkeypatch, elsewhere, method, status):
    """The backend may have no copy yet, or be the only one that an earlier delete has reached."""
    asked, closed = [], []

    class Absent:
        async def forward(self, _request):
            return Response(status, body=b"backend", close=lambda: closed.append(True))

    async def at_others(_context, request):
        asked.append(request.method)
        return elsewhere

    monkeypatch.setattr(http, "delete_at_others", at_others)
    answer = await gateway(table_forwarding_all(), forwarder=Absent()).handle(request(method))
    is_looked_into = (method, status) == ("DELETE", 404)
    assert asked == (["DELETE"] if is_looked_into else [])
    is_replaced = is_looked_into and elsewhere is not None
    assert (answer.status, answer.body) == ((202, b"elsewhere") if is_replaced else (status, b"backend"))
    assert closed == [True] * is_replaced
