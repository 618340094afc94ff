"""HTTP requests and authority: which engine answers, which requests are forwarded, and how long a volume is held."""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import pytest
import trio
from support.security import security
from support.waiting import LIMIT_S

from native_handlers.http.context import HttpContext
from native_handlers.http.settings import HttpSettings
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.message import Listener, Request, RequestBody, Response, StreamBody
from supervisor.authority import authority as authority_module
from supervisor.authority.authority import Authority
from supervisor.authority.errors import AccessRefused, After, HolderFailed
from supervisor.authority.form import PLAIN
from supervisor.authority.ledger import BackendEffect
from supervisor.authority.outside import outside
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.gateway.http_authority import HttpAuthority
from supervisor.gateway.throttle import InflightLimit, Throttle
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

    def form_of(self, volume_id):
        return PLAIN if volume_id in self.volumes else None

    def close_volume(self, volume_id, _form):
        self.volumes.remove(volume_id)

    def open_volume(self, volume_id, _form):
        if self.is_failing:
            raise HolderFailed(volume_id, "opening", "played", After.FAILED)
        self.volumes.add(volume_id)


class Empty(RequestBody):
    length_bytes = 0


class Scene:
    def __init__(self):
        self.native, self.child, self.bound = Holder(), Holder({3, 4}), set()
        holders = {Engine.NATIVE: self.native, Engine.BACKEND: self.child}
        self.authority = Authority(holders, lambda _: nullcontext(lambda: None), lambda: True)
        self.http = HttpAuthority(self.authority, self.bound.__contains__)
        self.body, self.status = b"native", 200
        self.during = lambda: None
        self.throttle = Throttle(InflightLimit(), InflightLimit())
        settings = HttpSettings(version="30GB 4.44", self_url="127.0.0.1:8080", file_size_limit_bytes=1)
        self.native_handlers = {"http.read": self.answer, "http.write": self.answer}
        self.gateway = HttpGateway(
            LiveTable(table_native(["http.read", "http.write"])),
            self.native_handlers,
            HttpContext(settings=settings, node=None),
            self,
            Guard(security()),
            self.throttle,
            authority=self.http,
        )

    async def answer(self, _context, _request):
        assert self.native.volumes == {3}
        await trio.to_thread.run_sync(self.during)
        return Response(self.status, body=self.body)

    async def forward(self, _request):
        assert 3 in self.child.volumes
        return Response(200, body=b"backend")

    @staticmethod
    def request(method):
        return Request(method, FID, Headers(()), Empty(), Listener.ADMIN, "10.0.0.1", 1, "THE-ID")

    async def get(self, method="GET"):
        with trio.fail_after(LIMIT_S):
            return await self.gateway.handle(self.request(method))

    async def pin(self, pin=True):  # noqa: FBT002  the test says pin(False)
        ticket = await self.authority.enter(3, Engine.BACKEND, AccessKind.VOLUME_WRITE)
        self.authority.leave(ticket, BackendEffect(pin=pin))


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


class ChunkedBody(RequestBody):
    length_bytes = None

    def __init__(self):
        self.pieces = [b"", b"12345"]

    async def receive_some(self):
        piece = self.pieces.pop()
        if not piece:
            self.trailers = Headers([("Checksum", "abc")])
        return piece


async def test_a_chunked_upload_that_the_backend_gets_after_all_has_its_trailers(scene):
    """The upload is counted as one of a native route before the backend is known to keep its volume."""
    flight, seen = scene.throttle.uploads, []

    async def forward(request):
        while await request.body.receive_some():
            seen.append(flight.bytes)
        seen.append(request.body.trailers.get("Checksum"))
        return Response(200, body=b"backend")

    scene.forward = forward
    await scene.pin()
    upload = replace(scene.request("PUT"), body=ChunkedBody())
    with trio.fail_after(LIMIT_S):
        assert (await scene.gateway.handle(upload)).body == b"backend"
    assert (seen, flight.bytes) == ([5, "abc"], 0)


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


async def test_a_slow_upload_holds_no_start_of_the_backend_back(scene, monkeypatch):
    """It gets 503, and the client may send it again."""
    monkeypatch.setattr(authority_module, "CHANGES_END_WITHIN_S", 0.01)
    has_begun = trio.Event()

    async def slow(_context, _request):
        has_begun.set()
        await trio.sleep_forever()

    scene.native_handlers["http.write"] = slow
    responses = []

    async def put():
        responses.append(await scene.gateway.handle(scene.request("PUT")))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put)
        await has_begun.wait()
        await scene.authority.before_backend_start()
    (response,) = responses
    assert (response.status, response.headers.get("Retry-After")) == (503, "1")
    assert b"the backend is to start" in bytes(response.body)
    await scene.authority.before_backend_ready()
    scene.native_handlers["http.write"] = scene.answer
    assert (await scene.get("PUT")).body == b"native"


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


def at_backend(scene, **options):
    """A ticket of the backend, and whether the volume exists."""
    ticket = scene.authority.enter_blocking(3, Engine.BACKEND, AccessKind.VOLUME_WRITE, 5.0, **options)
    assert scene.child.volumes == {3, 4}
    return ticket


async def test_a_request_that_waits_for_another_server_lets_its_volume_go_meanwhile(scene):
    def during():
        with outside():
            scene.authority.leave(at_backend(scene))
        assert scene.native.volumes == {3}
        with pytest.raises(AccessRefused):
            scene.authority.enter_blocking(3, Engine.BACKEND, AccessKind.VOLUME_WRITE, 0.05)

    scene.during = during
    assert (await scene.get()).body == b"native"
    assert scene.authority.owner_of(3) is Engine.NATIVE
    scene.authority.leave(await trio.to_thread.run_sync(at_backend, scene))


@pytest.mark.parametrize(("status", "body"), [(200, b"native"), (404, b"backend"), (500, b"backend")])
async def test_a_request_that_lost_its_volume_meanwhile_fails_only_where_the_backend_says_so(scene, status, body):
    tickets = []

    def during():
        with outside():
            tickets.append(at_backend(scene, is_long=True))

    scene.during, scene.status = during, status
    assert (await scene.get()).body == body
    scene.authority.leave(tickets[0])
    scene.during = lambda: None
    assert (await scene.get()).body == b"native"
