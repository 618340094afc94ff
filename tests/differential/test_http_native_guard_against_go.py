"""Refusals and their order: requests that a guard refuses or that no handler gets, to Go and to the gateway. Another
fault of a request may be found before or after the refusal, and clients see the order. Slow: two pairs of Go processes
are started. Skipped without `weed`.
"""

from __future__ import annotations

import http.client

import jwt
import pytest
import trio
from go_volume_server import go_volume_server
from harness.implementations import weed_program
from support.http_native import SETTINGS, make_context, make_request
from support.stores import open_at
from support.waiting import LIMIT_S

from native_handlers.http_model.message import Listener
from supervisor.config.config import HttpsClientConfig, JwtKey, SecurityConfig, TlsFiles
from supervisor.gateway.guard import Guard
from supervisor.gateway.http import HttpGateway
from supervisor.routing.live import LiveTable
from supervisor.routing.native import NATIVE_HTTP
from supervisor.routing.table import table_native

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(weed_program() is None, reason="no weed program: WEED_BINARY or PATH"),
]

VOLUME_ID = 4
WRITE_KEY, READ_KEY = "w" * 32, "r" * 32
KEYS = f'[jwt.signing]\nkey = "{WRITE_KEY}"\n[jwt.signing.read]\nkey = "{READ_KEY}"\n'
NOWHERE = "10.99.99.99"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
TARGETS = (
    "/4,0112345678",
    "/4/0112345678",
    "/4/0112345678/name.txt",
    "//4,0112345678",
    "/./4,0112345678",
    "/a/../4,0112345678",
    "/4,%zz",
    "/4,zz",
    "/4,01",
    "/4,",
    "/4",
    "/",
    "/x,0112345678",
    "/x,zz",
    "/99999999999999999999999,0112345678",
    "/stats/x",
    "/stats/counter",
    "/stats/x/y",
    "/9,0112345678",
    "/status",
    "/healthz",
)


class Fronts:
    """Go's server and the gateway, each with the same guard."""

    def __init__(self, ports, gateway):
        self._ports = ports
        self._gateway = gateway

    def ask(self, method, target, listener, token=""):
        """(status, Location, body) of Go and of the native server."""
        headers = [("Authorization", f"Bearer {token}")] if token else []
        theirs = self._ask_go(method, target, listener, headers)
        return theirs, trio.run(self._ask_native, method, target, listener, headers)

    def _ask_go(self, method, target, listener, headers):
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[listener], timeout=LIMIT_S)
        try:
            connection.putrequest(method, target)
            for name, value in headers:
                connection.putheader(name, value)
            if method in {"POST", "PUT"}:
                connection.putheader("Content-Length", "0")
            connection.endheaders()
            response = connection.getresponse()
            return response.status, response.getheader("Location"), response.read()
        finally:
            connection.close()

    async def _ask_native(self, method, target, listener, headers):
        request = make_request(method=method, target=target, headers=headers, listener=listener)
        response = await self._gateway.handle(request)
        body = b"" if method == "HEAD" else bytes(response.body)
        return response.status, response.headers.get("Location"), body


@pytest.fixture(scope="module", params=["keys", "keys and white list"])
def fronts(request, tmp_path_factory):
    own = tmp_path_factory.mktemp("native")
    white_list = (NOWHERE,) if "white" in request.param else ()
    security = SecurityConfig(
        write_key=JwtKey(WRITE_KEY.encode(), 10),
        read_key=JwtKey(READ_KEY.encode(), 60),
        ui_access=False,
        white_list=white_list,
        grpc=TlsFiles(),
        https=TlsFiles(),
        https_client=HttpsClientConfig(),
    )
    flags = [f"-whiteList={','.join(white_list)}"] if white_list else []
    store = open_at(own)
    try:
        if not white_list:
            store.allocate_volume(VOLUME_ID)
        gateway = HttpGateway(
            LiveTable(table_native(NATIVE_HTTP)),
            NATIVE_HTTP,
            make_context(store=store, settings=SETTINGS),
            None,
            Guard(security),
        )
        folder = tmp_path_factory.mktemp("go")
        with go_volume_server(weed_program(), folder, None if white_list else VOLUME_ID, *flags, security=KEYS) as (
            admin,
            public,
        ):
            yield Fronts({Listener.ADMIN: admin, Listener.PUBLIC: public}, gateway)
    finally:
        store.close()


def shown(fronts, token_of):
    """The differences between the two, by request."""
    differing = {}
    for listener in Listener:
        for method in METHODS:
            for target in TARGETS:
                if token_of(method, target) and (method, target) == NOWHERE_STORED:
                    continue
                theirs, ours = fronts.ask(method, target, listener, token_of(method, target))
                if theirs[:2] != ours[:2] or (theirs[0] != 307 and theirs[2] != ours[2] and target not in VARYING):
                    differing[listener.name, method, target] = (theirs, ours)
    return differing


VARYING = {"/status"}
NOWHERE_STORED = ("PUT", "/9,0112345678")
"""Go answers 201 to an upload that no server stores: docs/policy/http-answers.md."""


def test_without_a_token(fronts):
    assert shown(fronts, lambda _method, _target: "") == {}


def test_with_a_token_for_what_the_path_says(fronts):
    def token_of(method, target):
        fid = target[1:].replace("/name.txt", "").replace("/", ",")
        return jwt.encode({"fid": fid}, READ_KEY if method in {"GET", "HEAD"} else WRITE_KEY, "HS256")

    assert shown(fronts, token_of) == {}
