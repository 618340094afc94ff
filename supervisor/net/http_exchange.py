"""One request and its answer over a pool: retried only where nothing of it can have been executed.

The rules, in docs/policy/closing.md: a request is sent again, once, on a fresh connection, when a kept connection
turns out to be dead before the kernel took a byte of the request, or when it is a GET or HEAD and the connection
ended without a byte of an answer. Nothing else is ever sent twice.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Protocol

import trio

from native_handlers.http.message import BodyError
from supervisor.net.errors import BackendUnavailable, PeerError
from supervisor.net.http_link import ClientLink, LinkBroken, LinkSilent, NotYet, receive_final_head
from supervisor.wire.http1_events import NO_HEADERS, RequestHead, ResponseHead

if TYPE_CHECKING:
    from native_handlers.http.headers import Headers
    from supervisor.net.http_client import Address, HttpPool

WATCH_AFTER_S = 0.25
"""An answer that takes longer has the client watched meanwhile; before, that is not worth a task."""

_REPEATABLE = frozenset({"GET", "HEAD"})

_WHOLE_BYTES = 64 * 1024
"""Bodies up to here that are there already are answered as bytes, and their connection is free at once."""

log = logging.getLogger(__name__)


class Origin(Protocol):
    """Whoever the exchange is made for: where interim answers go, and whose end ends it."""

    async def on_interim(self, head: ResponseHead) -> None: ...

    async def wait_end(self) -> None:
        """Returns when the origin sends nothing more but still wants the answer; PeerError when it is gone."""
        ...


class BodySource(Protocol):
    """A request body that is sent as it comes. `trailers` are valid after the end."""

    @property
    def trailers(self) -> Headers: ...

    async def receive_some(self) -> bytes: ...


class AnswerBody:
    """The body of an answer, piece by piece; an async iterator. The connection goes back when it ends or is closed."""

    __slots__ = ("_address", "_link", "_pool", "trailers")

    def __init__(self, pool: HttpPool, address: Address, link: ClientLink) -> None:
        self._pool = pool
        self._address = address
        self._link: ClientLink | None = link
        self.trailers = NO_HEADERS

    def __aiter__(self) -> AnswerBody:
        return self

    async def __anext__(self) -> bytes:
        if self._link is None:
            raise StopAsyncIteration
        try:
            data = await self._link.receive_data()
        except LinkBroken as error:
            raise BackendUnavailable(str(self._address), f"the answer broke off: {error}") from error
        if data:
            return data
        self.trailers = self._link.trailers
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Gives the connection back; one with an unread rest is closed, which tells the server to stop."""
        link, self._link = self._link, None
        if link is not None:
            await self._pool.release(self._address, link)


class Answer:
    """A final head with its body, which is bytes when all of it came with the head."""

    __slots__ = ("body", "head")

    def __init__(self, head: ResponseHead, body: bytes | AnswerBody) -> None:
        self.head = head
        self.body = body


class Exchange:
    """Makes exchanges with one server.

    Args:
        origin: None for requests of our own.
        answer_timeout_s: for those, how long after the request the answer's head must be complete, and how long each
            piece of a body that is sent as it comes may take. Where there is an origin, it is the one to lose patience.
    """

    __slots__ = ("_address", "_answer_timeout_s", "_origin", "_pool")

    def __init__(
        self, pool: HttpPool, address: Address, origin: Origin | None = None, *, answer_timeout_s: float = inf
    ) -> None:
        self._pool = pool
        self._address = address
        self._origin = origin
        self._answer_timeout_s = answer_timeout_s

    async def send_whole(self, head: RequestHead, body: bytes) -> Answer:
        """The answer to a request whose body is at hand.

        Raises:
            LinkBroken: no answer; CannotConnect when nothing was executed for certain, LinkSilent when the server
                may yet execute it.
            PeerError: the origin is gone; the connection was closed.
        """
        try:
            return await self._whole_once(head, body, is_fresh=False)
        except _StaleLink:
            return await self._whole_once(head, body, is_fresh=True)

    async def send_stream(self, head: RequestHead, source: BodySource) -> Answer:
        """The answer to a request whose body is sent while it comes in; an early answer ends the sending.

        Raises:
            BodyError: the source broke off; the server saw the connection close.
            LinkBroken, PeerError: as for `send_whole`.
        """
        try:
            return await self._stream_once(head, source, is_fresh=False)
        except _StaleLink:
            return await self._stream_once(head, source, is_fresh=True)

    async def _whole_once(self, head: RequestHead, body: bytes, *, is_fresh: bool) -> Answer:
        link = await self._pool.acquire(self._address, is_fresh=is_fresh)
        try:
            await link.send_request(head, body)
            return await self._answer(link, await self._patient_head(link))
        except LinkBroken as error:
            await self._give_up(link)
            is_repeatable = not body and head.method in _REPEATABLE and not link.received_bytes
            if link.is_reused and not isinstance(error, LinkSilent) and (is_repeatable or not link.sent_bytes):
                raise _StaleLink from error
            raise
        except BaseException:
            await self._give_up(link)
            raise

    async def _stream_once(self, head: RequestHead, source: BodySource, *, is_fresh: bool) -> Answer:
        link = await self._pool.acquire(self._address, is_fresh=is_fresh)
        try:
            await link.send_request(head, None)
        except BaseException as error:
            await self._give_up(link)
            if isinstance(error, LinkBroken) and link.is_reused and not link.sent_bytes:
                raise _StaleLink from error
            raise
        try:
            return await self._answer(link, await self._uploaded(link, head, source))
        except BaseException:
            await self._give_up(link)
            raise

    async def _uploaded(self, link: ClientLink, head: RequestHead, source: BodySource) -> ResponseHead:
        return await _Upload(link, head, source, self._origin, self._answer_timeout_s).run()

    async def _answer(self, link: ClientLink, head: ResponseHead) -> Answer:
        length = head.body_length_bytes
        if length is not None and length <= _WHOLE_BYTES:
            body = link.take_whole_body(length)
            if body is not None:
                await self._pool.release(self._address, link)
                return Answer(head, body)
        return Answer(head, AnswerBody(self._pool, self._address, link))

    async def _give_up(self, link: ClientLink) -> None:
        link.is_spent = True
        await self._pool.release(self._address, link)

    async def _patient_head(self, link: ClientLink) -> ResponseHead:
        patience_s = self._answer_timeout_s if self._origin is None else WATCH_AFTER_S
        link.expect_head_by(trio.current_time() + patience_s)
        try:
            return await receive_final_head(link, _ignore_interim if self._origin is None else self._origin.on_interim)
        except NotYet as error:
            if self._origin is None:
                raise _no_answer_within(patience_s) from error
            link.expect_head_by()
            return await _head_while_watching(link, self._origin)
        finally:
            link.expect_head_by()


class _StaleLink(Exception):
    """A kept connection was dead before anything of the request can have been executed."""


async def _ignore_interim(head: ResponseHead) -> None:
    """An interim answer to a request of our own says nothing that we act on."""


def _no_answer_within(timeout_s: float) -> LinkSilent:
    return LinkSilent(f"no answer within {timeout_s:g} s")


async def _head_while_watching(link: ClientLink, origin: Origin) -> ResponseHead:
    """The final head, unless the origin goes away first. The origin's half-close is passed on to the server."""
    failure: LinkBroken | PeerError | None = None
    head: ResponseHead | None = None

    async def watch() -> None:
        nonlocal failure
        try:
            await origin.wait_end()
            await link.send_eof()
        except PeerError as error:
            failure = error
            nursery.cancel_scope.cancel()
        except LinkBroken as error:
            log.debug("the server is gone, which the reading side will notice too: %s", error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        try:
            head = await receive_final_head(link, origin.on_interim)
        except (LinkBroken, PeerError) as error:
            failure = error
        nursery.cancel_scope.cancel()
    if head is None:
        raise failure or LinkBroken("no answer")
    return head


class _Upload:
    """Sends a body as it comes in, and takes the answer, which may come before the body is over."""

    def __init__(
        self, link: ClientLink, head: RequestHead, source: BodySource, origin: Origin | None, answer_timeout_s: float
    ) -> None:
        self._link = link
        self._source = source
        self._origin = origin
        self._answer_timeout_s = answer_timeout_s
        self._patience = trio.CancelScope()
        self._failure: Exception | None = None
        self._may_send = trio.Event()
        if not head.expects_continue:
            self._may_send.set()

    async def run(self) -> ResponseHead:
        head: ResponseHead | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, nursery.cancel_scope)
            try:
                with self._patience:
                    head = await receive_final_head(self._link, self._on_interim)
            except (LinkBroken, PeerError) as error:
                self._failure = error
            nursery.cancel_scope.cancel()
        if self._patience.cancelled_caught:
            raise _no_answer_within(self._answer_timeout_s)
        if head is None:
            raise self._failure or LinkBroken("no answer")
        return head

    def _be_patient(self) -> None:
        """For a piece of the body to be taken, at its end for the answer. Our own time for the next piece is free."""
        if self._origin is None:
            self._patience.deadline = trio.current_time() + self._answer_timeout_s

    async def _on_interim(self, head: ResponseHead) -> None:
        if head.status == 100:
            self._may_send.set()
        elif self._origin is not None:
            await self._origin.on_interim(head)

    async def _pump(self, whole: trio.CancelScope) -> None:
        try:
            await self._may_send.wait()
            while data := await self._source.receive_some():
                self._be_patient()
                await self._link.send_data(data)
                self._patience.deadline = inf
            self._be_patient()
            await self._link.send_end(self._source.trailers)
            if self._origin is not None:
                await self._origin.wait_end()
                await self._link.send_eof()
        except LinkBroken as error:
            # The server takes no more. Its answer, if it gave one, is still to be read; else that fails too.
            log.debug("the server takes no more of the body: %s", error)
        except (BodyError, PeerError) as error:
            self._failure = error
            whole.cancel()
