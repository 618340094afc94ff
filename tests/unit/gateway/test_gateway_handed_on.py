"""Requests that workers hand on are answered as those of their clients."""

import pytest
import trio

from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Listener, PendingAnswer, Request, RequestBody, Response
from native_handlers.runtime.content_threads import CLIENT
from supervisor.gateway.handed_on import HandedOnRequests
from supervisor.net.http_connection import Client
from supervisor.wire.handed_on import CLIENT_FIELD, HandedOnClient, encode_client, with_client_line

TRUE = HandedOnClient(Listener.PUBLIC, True, 4711, "10.0.0.1")
WORKER = Client("", 0, Listener.ADMIN)
FIELDS = (("Host", "a"), ("X-Other", "b"))
DATA = b"DELETE /3,01637037d6 HTTP/1.1\r\nHost: a\r\n\r\n"


class Body(RequestBody):
    length_bytes = 0


def request(*fields):
    return Request("GET", "/3,01637037d6", Headers(fields), Body(), Listener.ADMIN, "", 0, "ID")


class Played:
    """Keeps what it is given, and answers with `fast` on the fast path."""

    def __init__(self, fast=None):
        self.requests = []
        self.fast = fast
        self.clients = []

    async def handle(self, one):
        await trio.lowlevel.checkpoint()
        self.requests.append((one, CLIENT.get()))
        return Response(200)

    def fast_path(self, client, data):
        self.clients.append((client, data))
        return self.fast


def served(fast=None):
    played = Played(fast)
    return played, HandedOnRequests(played.handle, played.fast_path)


async def test_the_handler_sees_the_client_and_the_clients_fields():
    played, requests = served()
    forged = CLIENT_FIELD, encode_client(TRUE._replace(host="192.0.2.1"))
    assert (await requests.handle(request((CLIENT_FIELD, encode_client(TRUE)), *FIELDS, forged))).status == 200
    [(seen, client)] = played.requests
    assert (seen.listener, seen.is_tls, seen.client_port, seen.client_host) == TRUE
    assert seen.headers.pairs == (*FIELDS, forged)
    assert client == "10.0.0.1", "threads are shared out by client"


@pytest.mark.parametrize(
    "fields",
    [
        (),
        FIELDS,
        (("X-Else", encode_client(TRUE)), *FIELDS),
        (*FIELDS, (CLIENT_FIELD, encode_client(TRUE))),
        ((CLIENT_FIELD, "nobody"), *FIELDS),
    ],
)
async def test_a_request_whose_first_field_names_no_client_is_refused(fields):
    played, requests = served()
    assert (await requests.handle(request(*fields))).status == 400
    assert not played.requests


def test_the_fast_path_sees_what_the_client_has_sent():
    played, requests = served(b"answer")
    assert requests.answer(WORKER, with_client_line(DATA, TRUE)) == b"answer"
    assert played.clients == [(Client("10.0.0.1", 4711, Listener.PUBLIC, True), DATA)]
    assert requests.answer(WORKER, DATA) is None
    assert len(played.clients) == 1


class Late(PendingAnswer):
    """An answer that is there after a wait: `result`."""

    def __init__(self, result):
        self.data = DATA
        self.result = result
        self.is_there = False

    def try_finish(self):
        return self.is_there

    async def wait(self):
        await trio.lowlevel.checkpoint()
        self.is_there = True

    def outcome(self):
        return self.result


@pytest.mark.parametrize("result", [b"done", None])
async def test_an_answer_to_come_leaves_the_request_with_its_client_to_the_ordinary_way(result):
    _, requests = served(Late(result))
    handed_on = with_client_line(DATA, TRUE)
    answer = requests.answer(WORKER, handed_on)
    assert not answer.try_finish()
    await answer.wait()
    assert answer.try_finish()
    assert (answer.data, answer.outcome()) == (handed_on, result)
