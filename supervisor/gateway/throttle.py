"""Bounds the bytes in flight: uploads and downloads that are answered here wait for room, and are refused after a
while.

The backend bounds what is forwarded; it gets the same flags. An upload counts its Content-Length, or without one the
bytes that have arrived so far (upstream counts none). A download counts the length of its answer, from the moment when
the length is known until the answer was sent. The gateway sends a read of a replicated volume to another replica before
the read waits here. Source: weed/server/volume_server_handlers.go (checkUploadLimit, checkDownloadLimit).
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

import trio

from native_handlers.http.client_watch import CLIENT_GONE
from native_handlers.http.reply import empty_reply, json_error
from native_handlers.http_model.message import PassedOnBody
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from native_handlers.http_model.message import Request, RequestBody, Response


@dataclass(frozen=True, slots=True)
class InflightLimit:
    """A bound on bytes in flight; 0 means none. A request that finds more in flight waits for at most `wait_s`."""

    max_bytes: int = 0
    wait_s: float = 60.0


LOOK_S = 0.05
"""How often the first request that waits looks at the bytes that other processes have in flight."""
AT_ONCE = 16
"""How many requests of unknown length are let in before their bytes are counted. One that has not counted them at the
next look no longer keeps others waiting: its disk may hang."""


class Turn:
    """The turn of one request that has to wait for room.

    Attributes:
        count: how many bytes the request will have in flight; None where that is not known yet.
        is_given: whether the request was let in.
        called: is set when the request is let in, or has to look for room because it has become the first that waits.
    """

    __slots__ = ("called", "count", "is_given")

    def __init__(self, count: int | None) -> None:
        self.count = count
        self.is_given = False
        self.called = trio.Event()


class InflightBytes:
    """Bytes in flight in one direction, and the requests that wait for room. Only the tasks of one event loop use it.

    Requests are let in in the order in which they began to wait, as soon as there is room: a newcomer gets what they
    leave. The bytes of one are counted before the next one is let in, where their number is known. Only those that are
    let in wake, and the next one.

    Args:
        elsewhere: returns how many bytes other processes of this server have in flight; None where there are none.
        publish: tells other processes how many bytes this one has in flight.
    """

    def __init__(
        self,
        limit: InflightLimit,
        *,
        elsewhere: Callable[[], int] | None = None,
        publish: Callable[[int], None] | None = None,
    ) -> None:
        self.limit = limit
        self.bytes = 0
        self.is_bounded = limit.max_bytes > 0
        self._elsewhere = elsewhere
        self._publish = publish
        self._waiting: OrderedDict[Turn, None] = OrderedDict()
        self._looker: Turn | None = None
        self._counted: set[Turn] = set()
        self._uncounted: set[Turn] = set()

    @property
    def total_bytes(self) -> int:
        """The bytes in flight of the whole server."""
        return self.bytes if self._elsewhere is None else self.bytes + self._elsewhere()

    @property
    def is_over(self) -> bool:
        """Whether more is in flight than allowed, not counting the request that asks."""
        return 0 < self.limit.max_bytes < self.total_bytes

    def must_wait(self) -> bool:
        """Whether a request that comes now has to wait. Lets those in first that wait, as far as there is room."""
        if self._waiting:
            self._let_in()
        return self.is_over

    def add(self, count: int) -> None:
        self.bytes += count
        if self._publish is not None:
            self._publish(self.bytes)

    def remove(self, count: int) -> None:
        self.bytes -= count
        if self._publish is not None:
            self._publish(self.bytes)
        if self._waiting:
            self._let_in()

    @contextmanager
    def turn(self, count: int | None) -> Iterator[Turn]:
        """A turn to wait with. It is over at the end of the block at the latest; see `end`."""
        turn = Turn(count)
        try:
            yield turn
        finally:
            self.end(turn)

    async def wait_for_room(self, turn: Turn) -> str | None:
        """None when the request is let in. After a wait in vain, the excess as text. A turn waits once.

        Cancellation: safe.
        """
        self._waiting[turn] = None
        self._let_in()
        with trio.move_on_after(self.limit.wait_s):
            while not turn.is_given:
                looks = turn is self._looker and (self._elsewhere is not None or self._uncounted)
                with trio.move_on_after(LOOK_S if looks else inf) as wait:
                    await turn.called.wait()
                    turn.called = trio.Event()
                if wait.cancelled_caught:
                    self._uncounted.clear()
                    self._let_in()
        if not turn.is_given:
            if self.is_over:
                return f"{self.total_bytes} > {self.limit.max_bytes}"
            self._give(turn)
            self._let_in()
        return None

    def end(self, turn: Turn) -> None:
        """Ends a turn: the request has counted its bytes, or is gone. Lets others in. Nothing happens the next time."""
        if turn in self._waiting:
            del self._waiting[turn]
        elif turn in self._counted and turn.count is not None:
            self._counted.remove(turn)
            self.remove(turn.count)
        else:
            self._uncounted.discard(turn)
        self._let_in()

    def _let_in(self) -> None:
        """Lets in those that have room, and has the first of the others look for more."""
        while self._waiting and len(self._uncounted) < AT_ONCE and not self.is_over:
            self._give(next(iter(self._waiting)))
        first = next(iter(self._waiting), None)
        if first is not self._looker:
            self._looker = first
            if first is not None:
                first.called.set()

    def _give(self, turn: Turn) -> None:
        """Lets one request in. Its bytes count until the turn ends; then the request counts them itself."""
        del self._waiting[turn]
        if turn.count is None:
            self._uncounted.add(turn)
        else:
            self._counted.add(turn)
            self.add(turn.count)
        turn.is_given = True
        turn.called.set()


class Throttle:
    """Both directions of one server. The listeners share it."""

    def __init__(self, upload: InflightLimit, download: InflightLimit) -> None:
        self.uploads = InflightBytes(upload)
        self.downloads = InflightBytes(download)

    def join_downloads(self, elsewhere: Callable[[], int], publish: Callable[[int], None]) -> None:
        """Bounds the downloads together with those of other processes. Call this before the first request."""
        self.downloads = InflightBytes(self.downloads.limit, elsewhere=elsewhere, publish=publish)

    def join_uploads(self, elsewhere: Callable[[], int], publish: Callable[[int], None]) -> None:
        """As `join_downloads`, for uploads."""
        self.uploads = InflightBytes(self.uploads.limit, elsewhere=elsewhere, publish=publish)

    def makes_wait(self, request: Request) -> bool:
        """Whether an upload must wait for room now. Replication never waits."""
        return self.uploads.must_wait() and request.parsed.query.get("type") != "replicate"

    async def refuse_upload(self, request: Request, turn: Turn) -> Response | None:
        """429 for an upload that found no room in time. None lets the upload begin: it has the turn."""
        try:
            excess = await _wait_for_room(self.uploads, turn, request.body)
        except _ClientGoneError:
            return json_error(request, CLIENT_GONE, "context canceled")
        if excess is None:
            return None
        return json_error(request, 429, f"reject because inflight upload data {excess}, and wait timeout")

    async def refuse_download(self, request: Request, turn: Turn) -> Response | None:
        """As `refuse_upload`, for a read."""
        try:
            excess = await _wait_for_room(self.downloads, turn, request.body)
        except _ClientGoneError:
            return empty_reply(CLIENT_GONE)
        if excess is None:
            return None
        return json_error(
            request, 429, f"request {request.path} because inflight download data {excess}, and wait timeout"
        )

    @contextmanager
    def counting_upload(self, request: Request) -> Iterator[Request]:
        """Counts an upload as in flight within the block. The block must read the body of the request it is given."""
        length = request.body.length_bytes
        if length is None:
            body = _CountedBody(request.body, self.uploads)
            try:
                yield replace(request, body=body)
            finally:
                self.uploads.remove(body.counted_bytes)
            return
        self.uploads.add(length)
        try:
            yield request
        finally:
            self.uploads.remove(length)

    def count_download(self, response: Response) -> Response:
        """`response`, which counts as in flight until it is closed."""
        body = response.body
        count = len(body) if isinstance(body, (bytes, memoryview)) else response.length_bytes or 0
        close_before = response.close
        self.downloads.add(count)

        def close() -> None:
            self.downloads.remove(count)
            if close_before is not None:
                close_before()

        response.close = close
        return response


class _CountedBody(PassedOnBody):
    """A body of unknown length. Each byte counts as in flight from its arrival on."""

    __slots__ = ("_inflight", "counted_bytes")

    def __init__(self, sent: RequestBody, inflight: InflightBytes) -> None:
        super().__init__(sent)
        self._inflight = inflight
        self.counted_bytes = 0

    async def receive_some(self) -> bytes:
        piece = await super().receive_some()
        self._count(len(piece))
        return piece

    async def receive_into(self, buffer: memoryview) -> int:
        count = await super().receive_into(buffer)
        self._count(count)
        return count

    def _count(self, count: int) -> None:
        self.counted_bytes += count
        self._inflight.add(count)


class _ClientGoneError(Exception):
    """The client closed its connection while it waited."""


async def _wait_for_room(inflight: InflightBytes, turn: Turn, body: RequestBody) -> str | None:
    """As `InflightBytes.wait_for_room`, but watches a client whose request is complete meanwhile.

    A client that has still to send a body is not watched: its end would come after the body. Upstream's library does
    the same.

    Raises:
        _ClientGoneError: the client closed its sending side. As in upstream, that counts as gone.
    """
    if not body.is_over:
        return await inflight.wait_for_room(turn)
    is_gone, excess = False, None

    async def watch() -> None:
        nonlocal is_gone
        await body.wait_gone()
        is_gone = True
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        excess = await inflight.wait_for_room(turn)
        nursery.cancel_scope.cancel()
    if is_gone:
        raise _ClientGoneError
    return excess
