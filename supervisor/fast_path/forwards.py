"""The fast path of a forwarded request: a simple request goes to the backend as it came.

Here everything is checked that the ordinary way checks before it forwards. `polled_exchange` then makes the exchange,
and passes a simple answer on. All else is left to the task, and `HttpGateway.resume` goes on with it. Both
ways give the backend and the client the same bytes; a property test holds them to it.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from supervisor.routing.decision import Engine
from supervisor.routing.match import match_object
from supervisor.routing.registry import ROUTES, AfterForward
from supervisor.wire.simple_heads import match_request

if TYPE_CHECKING:
    from native_handlers.http_model.message import Request, Response
    from supervisor.authority.ledger import Ticket
    from supervisor.gateway.http import HttpGateway
    from supervisor.gateway.http_authority import HttpAuthority
    from supervisor.net.http_client_connection import ClientHttpConnection
    from supervisor.net.http_connection import Client
    from supervisor.net.http_exchange import BegunExchange
    from supervisor.net.http_forward import Forwarder
    from supervisor.net.polled_exchange import SentRequest
    from supervisor.routing.decision import Decision


_NOT_FOUND = HTTPStatus.NOT_FOUND.value
_COUNTED = {route.name: (route.name, Engine.BACKEND) for route in ROUTES}


class FastPathForwards:
    """Forwards small requests of all listeners.

    Args:
        gateway: the ordinary way. Its counts include the requests of this class.
        authority: as the gateway's.
    """

    def __init__(self, gateway: HttpGateway, forwarder: Forwarder, authority: HttpAuthority | None) -> None:
        self._gateway = gateway
        self._forwarder = forwarder
        self._authority = authority

    def begin(self, client: Client, data: bytes) -> ForwardedRequest | None:
        """The request to send on, if `data` is exactly one request that can be forwarded at once; else None.

        Never waits, and sends nothing. The caller sends the request, and then calls one of the methods of the result.
        """
        matched = match_request(data)
        if matched is None:
            return None
        method, volume_id, raw = matched
        route = match_object(client.listener, method)
        if not route.access.is_volume_in_path:
            return None
        decision = self._gateway.policy.forwarded(route, client.host)
        if decision is None:
            return None
        begun = self._forwarder.begin(client.listener, raw)
        if begun is None:
            return None
        ticket = None
        if self._authority is not None:
            ticket = self._authority.try_enter(decision, volume_id)
            if ticket is None:
                begun.put_back()
                return None
        self._gateway.counts[_COUNTED[route.name]] += 1
        return ForwardedRequest(self, decision, begun, ticket, is_head=method == "HEAD")

    def leave(self, ticket: Ticket) -> None:
        """Ends the access of a request to its volume."""
        assert self._authority is not None, "it gave the ticket"
        self._authority.leave(ticket)

    async def resume(
        self, decision: Decision, request: Request, begun: BegunExchange, ticket: Ticket | None
    ) -> Response:
        """The answer to a request that was sent on already, by the ordinary way."""
        return await self._gateway.resume(decision, request, partial(self._forwarder.resume, request, begun), ticket)


class ForwardedRequest:
    """One request, as `polled_exchange.Forwarding` describes it."""

    __slots__ = ("_begun", "_decision", "_owner", "_ticket", "is_head", "sent")

    def __init__(
        self, owner: FastPathForwards, decision: Decision, begun: BegunExchange, ticket: Ticket | None, *, is_head: bool
    ) -> None:
        self._owner = owner
        self._decision = decision
        self._ticket = ticket
        self._begun = begun
        self.sent: SentRequest = begun.sent
        self.is_head = is_head

    @property
    def server_connection(self) -> ClientHttpConnection:
        """The connection over which the request goes."""
        return self._begun.running_connection

    def passes(self, status: int) -> bool:
        """Whether the backend's answer goes to the client: other holders may know a needle that it does not have."""
        return status != _NOT_FOUND or self._decision.route.after_forward is not AfterForward.ASK_OTHER_HOLDERS

    def passed(self) -> None:
        """The answer is complete, and the connection can serve another request."""
        self._begun.put_back()
        self._leave()

    async def answer(self, request: Request) -> Response:
        """The answer by the ordinary way. The exchange and the volume are given up in any case."""
        try:
            return await self._owner.resume(self._decision, request, self._begun, self._ticket)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Closes the backend's connection, so the backend notices, and gives the volume up."""
        self._begun.close()
        self._leave()

    def _leave(self) -> None:
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._owner.leave(ticket)
