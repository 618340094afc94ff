"""A child whose answers to /status the test sets."""

from __future__ import annotations

import json

import trio

from native_handlers.http.context import NodeDetails
from native_handlers.http.node_view import NodeState
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.volume_servers import VolumeServerResponse
from supervisor.gateway.backend_view import BackendNodeView

STATUS = {"DiskStatuses": [{"dir": "/data", "all": 9}], "Version": "30GB 4.44 ", "Volumes": [{"Id": 3}]}


class Chunks:
    def __init__(self, *pieces):
        self.pieces = list(pieces)
        self.is_closed = False

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self.pieces:
            raise StopAsyncIteration
        return self.pieces.pop(0)

    async def aclose(self):
        self.is_closed = True


class Child:
    """A VolumeServerHttp that answers each request with the next of `answers`; an exception is raised."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def request(self, method, url_host_port, target, headers, body):
        self.asked.append((method, url_host_port, target))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            await trio.sleep_forever()
        status, chunks = answer
        return VolumeServerResponse(status, Headers(), chunks)


def whole(status=STATUS):
    text = json.dumps(status).encode()
    return 200, Chunks(text[:7], text[7:])


WELL = NodeState(details=lambda: NodeDetails(started_at_s=1.0), is_heartbeating=lambda: True, is_stopping=lambda: False)


def view_of(child):
    return BackendNodeView(child, WELL, address=lambda: "127.0.0.1:1")
