"""A Go volume server and the native handlers behind one call, each with an equal, fresh volume."""

from __future__ import annotations

import http.client
import itertools
import re
from contextlib import contextmanager

import trio
from go_volume_server import go_volume_server
from harness.implementations import weed_program
from support.http_native import SETTINGS, fetch, make_context
from support.stores import open_at
from support.waiting import LIMIT_S

from native_handlers.http_model.message import Listener
from supervisor.routing.match import match_http

VOLUME_ID = 4
COOKIE = "12345678"
NOT_COMPARED = {"Date", "X-Amz-Request-Id", "Transfer-Encoding", "Connection", "Content-Length"}


class Pair:
    """Both servers behind one call."""

    def __init__(self, admin_port, public_port, context):
        self._ports = {Listener.ADMIN: admin_port, Listener.PUBLIC: public_port}
        self._context = context
        self._ids = itertools.count(1)

    def new_fid(self):
        return f"/{VOLUME_ID},{next(self._ids):x}{COOKIE}"

    def ask(self, method, target, headers=(), body=b"", listener=Listener.ADMIN):
        """Asks both servers, and fails if the answers differ. Returns the status."""
        theirs, ours = self.both(method, target, headers, body, listener)
        assert ours == theirs, (method, target, headers, body[:80])
        return ours[0]

    def both(self, method, target, headers=(), body=b"", listener=Listener.ADMIN):
        """(status, headers, body) of Go and of the native server. The status is 0 when Go breaks the connection."""
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
        try:
            theirs = self._ask_go(method, target, pairs, body, listener)
        except http.client.RemoteDisconnected:
            theirs = 0, {}, b""
        return theirs, trio.run(self._ask_native, method, target, pairs, body, listener)

    def _ask_go(self, method, target, headers, body, listener):
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[listener], timeout=LIMIT_S)
        try:
            connection.putrequest(method, target, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value.encode("latin-1"))
            if body or method in {"PUT", "POST"}:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            response = connection.getresponse()
            return comparable(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    async def _ask_native(self, method, target, headers, body, listener):
        route = match_http(listener, method, target.partition("?")[0])
        asked = {"method": method, "target": target, "headers": headers, "body": body, "listener": listener}
        answer = await fetch(route.name, self._context, **asked)
        return comparable(answer.status, answer.headers, answer.body)


def comparable(status, headers, body):
    kept = {name: re.sub("boundary=.*", "boundary=B", value) for name, value in headers if name not in NOT_COMPARED}
    return status, kept, re.sub(rb"--[0-9a-f]{60}", b"--B", body)


@contextmanager
def open_pair(own, folder):
    """A `Pair`. Its native volume is in `own`, and its Go processes use `folder`."""
    store = open_at(own)
    try:
        store.allocate_volume(VOLUME_ID)
        with go_volume_server(weed_program(), folder, VOLUME_ID) as (admin, public):
            yield Pair(admin, public, make_context(store=store, settings=SETTINGS))
    finally:
        store.close()
