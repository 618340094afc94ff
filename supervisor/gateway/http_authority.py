"""Authority for HTTP requests: an engine has the volume as long as the answer needs it."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import trio

from native_handlers.http.context import LookupFailed
from native_handlers.http_model.message import StreamBody
from supervisor.authority.errors import AccessRefused, ServedElsewhere
from supervisor.authority.outside import holding
from supervisor.routing.decision import Engine
from supervisor.routing.registry import AccessKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from native_handlers.http_model.message import Response
    from supervisor.authority.authority import Authority
    from supervisor.authority.ledger import Ticket
    from supervisor.routing.decision import Decision

NESTED_WAIT_LIMIT_S = 10.0
"""As `WAIT_LIMIT_S`, for a part of a request. The request holds its own volume during this wait."""
TAKE_BACK_LIMIT_S = 30.0
"""How long a request waits to take its volume back, after it has waited for another server."""
WAIT_LIMIT_S = 30.0
"""How long a request waits while the other engine works on its volume."""


class HttpAuthority:
    """Gets the volumes of requests from `authority`.

    Args:
        is_bound: whether the backend alone can serve a volume.
    """

    def __init__(self, authority: Authority, is_bound: Callable[[int], bool]) -> None:
        self._authority = authority
        self._is_bound = is_bound

    def where_it_can_be_done(self, decision: Decision, volume_id: int) -> Decision:
        """`decision`, or the backend for a volume that only the backend can serve."""
        if decision.engine is Engine.NATIVE and not decision.is_absent and self._is_bound(volume_id):
            return replace(decision, engine=Engine.BACKEND, why=f"volume {volume_id} is the backend's alone")
        return decision

    def try_enter(self, decision: Decision, volume_id: int) -> Ticket | None:
        """Access for a request, where it can be had at once. The caller gives it to `leave` or to `answer`."""
        return self._authority.try_enter(volume_id, decision.engine, decision.route.access.kind)

    def leave(self, ticket: Ticket) -> None:
        """Ends an access of `try_enter`."""
        self._authority.leave(ticket)

    async def answer(
        self,
        decision: Decision,
        volume_id: int,
        answer: Callable[[], Awaitable[Response]],
        ticket: Ticket | None = None,
    ) -> Response:
        """The response of `answer`, which runs with access to the volume: that of `ticket`, or else a new one.

        A streamed body may still read from the volume, so access lasts until the body was sent. The files of a file
        body are open by then, and stay readable whichever engine has the volume.

        A native write may be cancelled where the backend is to start. The needle may be written by then.

        Raises:
            AccessRefused: the engine did not get the volume, or the write was cancelled.
            ServedElsewhere: the backend is to answer. Nothing was done, or only what the backend does again.
        """
        if decision.engine is not Engine.NATIVE or decision.route.access.kind is AccessKind.VOLUME_READ:
            return await self._answer(decision, volume_id, answer, ticket)
        with trio.CancelScope() as scope:
            cancel = partial(_cancel_soon, trio.lowlevel.current_trio_token(), scope)
            return await self._answer(decision, volume_id, answer, ticket, cancel)
        raise AccessRefused(volume_id, "the backend is to start, which ends what is written natively")

    async def _answer(
        self,
        decision: Decision,
        volume_id: int,
        answer: Callable[[], Awaitable[Response]],
        ticket: Ticket | None,
        cancel: Callable[[], None] | None = None,
    ) -> Response:
        access = _HttpAccess(self._authority, ticket or await self._enter(decision, volume_id, cancel))
        is_kept = False
        try:
            if decision.engine is Engine.NATIVE:
                with holding(access.pausing):
                    response = await answer()
            else:
                response = await answer()
            if access.loss is not None and response.status >= HTTPStatus.BAD_REQUEST:
                # The request has lost its volume. The engine that has the volume decides whether the request fails.
                if response.close is not None:
                    response.close()
                raise access.loss
            if isinstance(response.body, StreamBody):
                _leave_at_close(response, access)
                is_kept = True
            return response
        finally:
            if not is_kept:
                access.leave()

    def enter_at_once(self, volume_id: int, kind: AccessKind) -> Callable[[], None] | None:
        """Access of the native engine that it has without waiting, as a function that ends it; else None."""
        if self._is_bound(volume_id):
            return None
        ticket = self._authority.try_enter(volume_id, Engine.NATIVE, kind)
        return None if ticket is None else partial(self._authority.leave, ticket)

    @asynccontextmanager
    async def changing(self, volume_id: int) -> AsyncIterator[bool]:
        """Gives a native request access to a volume besides its own; see `HttpContext.changing`.

        Raises:
            LookupFailed: access cannot be had.
        """
        ticket = await self._enter_nested(volume_id)
        if ticket is None:
            yield False
            return
        access = _HttpAccess(self._authority, ticket)
        try:
            with holding(access.pausing):
                yield True
        finally:
            access.leave()

    async def _enter_nested(self, volume_id: int) -> Ticket | None:
        """The access; None where the backend must make the change."""
        if self._is_bound(volume_id):
            return None
        try:
            with trio.fail_after(NESTED_WAIT_LIMIT_S):
                return await self._authority.enter(volume_id, Engine.NATIVE, AccessKind.VOLUME_WRITE, is_nested=True)
        except ServedElsewhere:
            return None
        except (AccessRefused, trio.TooSlowError) as refusal:
            raise LookupFailed(volume_id, str(refusal) or f"volume {volume_id} is in use") from refusal

    async def _enter(self, decision: Decision, volume_id: int, cancel: Callable[[], None] | None) -> Ticket:
        kind = decision.route.access.kind
        with trio.move_on_after(WAIT_LIMIT_S):
            return await self._authority.enter(volume_id, decision.engine, kind, cancel=cancel)
        raise AccessRefused(volume_id, f"it is in use by the other engine, for {WAIT_LIMIT_S:g} s by now")


class _HttpAccess:
    """The access of a request to its volume. `loss` is the error of taking the volume back after a pause, or None."""

    def __init__(self, authority: Authority, ticket: Ticket) -> None:
        self._authority = authority
        self._ticket: Ticket | None = ticket
        self._pauses = 0
        self._is_over = False
        # Protects the fields above: several threads may read for one request.
        self._lock = threading.Lock()
        self._asked = ticket
        self.loss: AccessRefused | ServedElsewhere | None = None

    def leave(self) -> None:
        """Gives the volume up for good. A second call does nothing."""
        with self._lock:
            self._is_over = True
            ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._authority.leave(ticket)

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """Inside the block the volume may change hands. Then the request has it again, or `loss` is set. Blocks."""
        with self._lock:
            self._pauses += 1
            ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._authority.leave(ticket)
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                is_wanted = not (self._pauses or self._is_over or self.loss)
            if is_wanted:
                self._take_back()

    def _take_back(self) -> None:
        asked = self._asked
        try:
            ticket = self._authority.enter_blocking(
                asked.volume_id, asked.engine, asked.kind, TAKE_BACK_LIMIT_S, cancel=asked.cancel
            )
        except (AccessRefused, ServedElsewhere) as loss:
            self.loss = loss
            return
        with self._lock:
            is_kept = self._ticket is None and not self._is_over
            if is_kept:
                self._ticket = ticket
        if not is_kept:
            self._authority.leave(ticket)


def _cancel_soon(token: trio.lowlevel.TrioToken, scope: trio.CancelScope) -> None:
    """Cancels `scope` from any thread."""
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(scope.cancel)


def _leave_at_close(response: Response, access: _HttpAccess) -> None:
    close = response.close

    def close_and_leave() -> None:
        try:
            if close is not None:
                close()
        finally:
            access.leave()

    response.close = close_and_leave
