"""HTTP requests and authority: who answers, who goes elsewhere, and how long a volume is had."""

from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest
import trio
from test_gateway_guard import security

from native_handlers.http.context import HttpContext, HttpSettings
from native_handlers.http.headers import Headers
from native_handlers.http.message import Listener, Request, Response, StreamBody
from supervisor.authority.authority import Authority
from supervisor.authority.errors import After, HolderFailed
from supervisor.authority.ledger import Left, Mark
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.gateway.http_authority import HttpAuthority
from supervisor.routing.decision import Engine
from supervisor.routing.live import LiveTable
from supervisor.routing.registry import AccessKind
from supervisor.routing.table import table_native

FID = "/3,01637037d6"


@dataclass
class Holder:
    """An engine with `volumes` open; `is_failing` makes it open none."""

    volumes: set = field(default_factory=set)
    is_failing: bool = False

    def mark_of(self, volume_id):
        return Mark.WRITABLE if volume_id in self.volumes else None

    def close_volume(self, volume_id):
        self.volumes.remove(volume_id)

    def open_volume(self, volume_id, _mark):
        if self.is_failing:
            raise HolderFailed(volume_id, "opening", "played", After.FAILED)
        self.volumes.add(volume_id)


class Scene:
    def __init__(self):
        self.native, self.child, self.bound = Holder(), Holder({3, 4}), set()
        holders = {Engine.NATIVE: self.native, Engine.BACKEND: self.child}
        self.authority = Authority(holders, lambda _: nullcontext(), lambda: True)
        self.http = HttpAuthority(self.authority, self.bound.__contains__)
        self.body = b"native"
        settings = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=1)
        self.gateway = HttpGateway(
            LiveTable(table_native(["http.read", "http.write"])),
            {"http.read": self.answer, "http.write": self.answer},
            HttpContext(settings=settings, node=None),
            self,
            Guard(security()),
            authority=self.http,
        )

    async def answer(self, _context, _request):
        assert self.native.volumes == {3}
        return Response(200, body=self.body)

    async def forward(self, _request):
        assert 3 in self.child.volumes
        return Response(200, body=b"backend")

    async def get(self, method="GET"):
        request = Request(method, FID, Headers(()), None, Listener.ADMIN, "10.0.0.1", 1, "THE-ID")
        with trio.fail_after(10):
            return await self.gateway.handle(request)

    async def pin(self, pin=True):  # noqa: FBT002  the test says pin(False)
        ticket = await self.authority.enter(3, Engine.BACKEND, AccessKind.VOLUME_WRITE)
        self.authority.leave(ticket, Left(pin=pin))


@pytest.fixture
def scene():
    made = Scene()
    yield made
    made.authority.close()


async def test_a_native_request_gets_its_volume(scene):
    assert (await scene.get()).body == b"native"
    assert scene.gateway.counts == {("http.read", Engine.NATIVE): 1}


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_a_request_for_a_volume_that_the_backend_keeps_is_forwarded_and_counted(scene, method):
    await scene.pin()
    assert (await scene.get(method)).body == b"backend"
    assert scene.gateway.counts[{"GET": "http.read", "PUT": "http.write"}[method], Engine.BACKEND] == 1
    await scene.pin(False)
    assert (await scene.get(method)).body == b"native"


async def test_a_request_for_a_volume_that_is_the_backends_alone_is_forwarded(scene):
    scene.bound.add(3)
    assert (await scene.get()).body == b"backend"


async def test_a_volume_that_cannot_be_opened_is_503_and_says_when_to_come_back(scene):
    scene.native.is_failing = True
    response = await scene.get()
    assert (response.status, response.headers.get("Retry-After")) == (503, "1")
    assert b"played" in bytes(response.body)
    assert scene.child.volumes == {3, 4}


async def test_a_body_that_is_a_stream_keeps_the_volume_until_it_was_sent(scene):
    async def chunks():
        yield b"x"

    scene.body = StreamBody(chunks(), 1)
    response = await scene.get()
    other = scene.authority.enter
    with pytest.raises(trio.TooSlowError), trio.fail_after(0.01):
        await other(3, Engine.BACKEND, AccessKind.VOLUME_READ)
    response.close()
    scene.authority.leave(await other(3, Engine.BACKEND, AccessKind.VOLUME_READ))


async def test_what_is_changed_besides_is_changed_here_or_by_the_backend(scene):
    async with scene.http.changing(3) as is_here:
        assert is_here
        assert scene.native.volumes == {3}
    scene.authority.leave(await scene.authority.enter(3, Engine.BACKEND, AccessKind.VOLUME_READ))
    await scene.pin()
    async with scene.http.changing(3) as is_here:
        assert not is_here
    scene.bound.add(4)
    async with scene.http.changing(4) as is_here:
        assert not is_here
    assert scene.native.volumes == set()
