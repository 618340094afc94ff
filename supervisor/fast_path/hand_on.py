"""How a worker hands requests on to its parent: the fast path of simple requests, and the ordinary way.

Nothing is checked here. The parent checks and counts the request as if its client had connected to the parent.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from supervisor.net.errors import BackendUnavailable
from supervisor.net.http_forward import bad_gateway
from supervisor.wire.handed_on import CLIENT_FIELD, HandedOnClient, encode_client, with_client_line
from supervisor.wire.simple_heads import match_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from native_handlers.http_model.message import Request, Response
    from supervisor.net.http_client_connection import ClientHttpConnection
    from supervisor.net.http_connection import Client
    from supervisor.net.http_exchange import BegunExchange
    from supervisor.net.http_forward import Forwarder
    from supervisor.net.polled_exchange import SentRequest


def client_field(request: Request) -> tuple[str, str]:
    """The field that names the client of `request`; the `first_field` of a forwarder to the parent."""
    client = HandedOnClient(request.listener, request.is_tls, request.client_port, request.client_host)
    return CLIENT_FIELD, encode_client(client)


class HandOn:
    """Hands requests of all listeners on.

    Args:
        forwarder: forwards to the parent; it adds `client_field`.
        is_tried_here: returns whether this process first tries to answer a request with this method for this volume.

    Attributes:
        count: how many requests were handed on so far.
    """

    def __init__(self, forwarder: Forwarder, is_tried_here: Callable[[str, int], bool]) -> None:
        self._forwarder = forwarder
        self._is_tried_here = is_tried_here
        self.count = 0

    async def handle(self, request: Request) -> Response:
        """The parent's answer.

        Raises:
            BodyError, ConnectionFailed: the client broke off while its request was read.
        """
        self.count += 1
        try:
            return await self._forwarder.forward(request)
        except BackendUnavailable as error:
            return bad_gateway(str(error))

    def begin(self, client: Client, data: bytes) -> HandedOnRequest | None:
        """The request to send on, if `data` is exactly one simple request and a connection is free; else None.

        Never waits, and sends nothing. The caller sends the request, and then calls one of the methods of the result.
        """
        matched = match_request(data)
        if matched is None:
            return None
        method, volume_id, raw = matched
        if self._is_tried_here(method, volume_id):
            return None
        raw = with_client_line(raw, HandedOnClient(client.listener, client.is_tls, client.port, client.host))
        begun = self._forwarder.begin(client.listener, raw)
        if begun is None:
            return None
        self.count += 1
        return HandedOnRequest(self, begun, is_head=method == "HEAD")

    async def resume(self, request: Request, begun: BegunExchange) -> Response:
        """The answer to a request that was sent on already, by the ordinary way."""
        try:
            return await self._forwarder.resume(request, begun)
        except BackendUnavailable as error:
            return bad_gateway(str(error))


class HandedOnRequest:
    """One request, as `polled_exchange.Forwarding` describes it."""

    __slots__ = ("_begun", "_resume", "is_head", "sent")

    def __init__(self, owner: HandOn, begun: BegunExchange, *, is_head: bool) -> None:
        self._resume = partial(owner.resume, begun=begun)
        self._begun = begun
        self.sent: SentRequest = begun.sent
        self.is_head = is_head

    @property
    def server_connection(self) -> ClientHttpConnection:
        """The connection over which the request goes."""
        return self._begun.running_connection

    def passes(self, _status: int) -> bool:
        """Every answer of the parent goes to the client."""
        return True

    def passed(self) -> None:
        """The answer is complete, and the connection can serve another request."""
        self._begun.put_back()

    async def answer(self, request: Request) -> Response:
        """The answer by the ordinary way. The exchange is given up in any case."""
        try:
            return await self._resume(request)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Closes the connection to the parent, so the parent notices."""
        self._begun.close()
