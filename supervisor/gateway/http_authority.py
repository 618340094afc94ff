"""Authority for HTTP requests: the volume is had for as long as the answer needs it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from native_handlers.http.context import LookupFailed
from native_handlers.http.message import StreamBody
from supervisor.authority.errors import AccessRefused, ServedElsewhere
from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from native_handlers.http.message import Response
    from supervisor.authority.authority import Authority
    from supervisor.authority.ledger import Ticket
    from supervisor.routing.decision import Decision

NESTED_WAIT_LIMIT_S = 10.0
"""The same for a part of a request, which holds the request's own volume meanwhile."""
WAIT_LIMIT_S = 30.0
"""How long a request waits for what the other engine has under way on its volume."""


class HttpAuthority:
    """Asks `authority` for the volumes of requests.

    Args:
        is_bound: whether the backend alone can serve a volume: an erasure-coded or a tiered one.
    """

    def __init__(self, authority: Authority, is_bound: Callable[[int], bool]) -> None:
        self._authority = authority
        self._is_bound = is_bound

    def where_it_can_be_done(self, decision: Decision, volume_id: int) -> Decision:
        """`decision`, or the backend for a volume that it alone can serve."""
        if decision.engine is Engine.NATIVE and not decision.is_absent and self._is_bound(volume_id):
            return replace(decision, engine=Engine.BACKEND, why=f"volume {volume_id} is the backend's alone")
        return decision

    async def answer(self, decision: Decision, volume_id: int, answer: Callable[[], Awaitable[Response]]) -> Response:
        """What `answer` gives, made with access.

        A body that is a stream may still read from the volume, so access lasts until it was sent. Files of a body are
        open by then, and stay readable whoever has the volume.

        Raises:
            AccessRefused: the engine did not get the volume.
            ServedElsewhere: the backend is to answer; nothing was done.
        """
        ticket = await self._enter(decision, volume_id)
        is_kept = False
        try:
            response = await answer()
            if isinstance(response.body, StreamBody):
                self._leave_at_close(response, ticket)
                is_kept = True
            return response
        finally:
            if not is_kept:
                self._authority.leave(ticket)

    @asynccontextmanager
    async def changing(self, volume_id: int) -> AsyncIterator[bool]:
        """For a native request that changes a volume besides its own: see `HttpContext.changing`.

        Raises:
            LookupFailed: the volume is not to be had.
        """
        ticket = await self._enter_nested(volume_id)
        try:
            yield ticket is not None
        finally:
            if ticket is not None:
                self._authority.leave(ticket)

    async def _enter_nested(self, volume_id: int) -> Ticket | None:
        """None where the backend is to do it."""
        if self._is_bound(volume_id):
            return None
        try:
            with trio.fail_after(NESTED_WAIT_LIMIT_S):
                return await self._authority.enter(volume_id, Engine.NATIVE, AccessKind.VOLUME_WRITE, is_nested=True)
        except ServedElsewhere:
            return None
        except (AccessRefused, trio.TooSlowError) as refusal:
            raise LookupFailed(volume_id, str(refusal) or f"volume {volume_id} is in use") from refusal

    async def _enter(self, decision: Decision, volume_id: int) -> Ticket:
        with trio.move_on_after(WAIT_LIMIT_S):
            return await self._authority.enter(volume_id, decision.engine, decision.route.access.kind)
        raise AccessRefused(volume_id, f"it is in use by the other engine, for {WAIT_LIMIT_S:g} s by now")

    def _leave_at_close(self, response: Response, ticket: Ticket) -> None:
        close = response.close

        def close_and_leave() -> None:
            try:
                if close is not None:
                    close()
            finally:
                self._authority.leave(ticket)

        response.close = close_and_leave
