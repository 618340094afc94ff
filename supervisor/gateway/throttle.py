"""Bytes in flight, bounded: uploads and downloads that are answered here wait for room, and are refused after a while.

What is forwarded is bounded by the backend, which gets the same flags. Sizes: an upload counts its Content-Length, or
without one what has arrived of it so far (none, upstream); a download counts the length of its answer from the moment
it is known until it was sent.
A read of a replicated volume is handed to another replica before it waits here; the gateway does that.
Source: weed/server/volume_server_handlers.go, checkUploadLimit and checkDownloadLimit.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from native_handlers.http.query import parse_query
from native_handlers.http.reply import empty_reply, json_error
from supervisor.net.errors import PeerError
from supervisor.net.http_body import ServerBody

if TYPE_CHECKING:
    from collections.abc import Iterator

    from native_handlers.http.message import Request, RequestBody, Response

CLIENT_GONE = 499
"""The status in the log for a client that did not wait to the end; hardly anyone gets to read it."""


@dataclass(frozen=True, slots=True)
class FlightLimit:
    """A bound on bytes in flight; 0 is none. Whoever finds more than that in flight waits for `wait_s` at most."""

    max_bytes: int = 0
    wait_s: float = 60.0


class Flight:
    """Bytes in flight one way. For the tasks of one event loop."""

    def __init__(self, limit: FlightLimit) -> None:
        self._limit = limit
        self._waiting = trio.lowlevel.ParkingLot()
        self.bytes = 0

    @property
    def is_bounded(self) -> bool:
        return self._limit.max_bytes > 0

    @property
    def is_over(self) -> bool:
        """Whether there is no room: more is in flight than allowed, not counting who asks."""
        return 0 < self._limit.max_bytes < self.bytes

    def add(self, count: int) -> None:
        self.bytes += count

    def remove(self, count: int) -> None:
        self.bytes -= count
        if count:
            self._waiting.unpark_all()

    async def wait_for_room(self) -> str | None:
        """None when there is room; else, after the wait, how much too much there is, as text.

        Cancellation: safe.
        """
        with trio.move_on_after(self._limit.wait_s):
            while self.is_over:
                await self._waiting.park()
        return f"{self.bytes} > {self._limit.max_bytes}" if self.is_over else None


class Throttle:
    """Both directions of one server, shared by its listeners."""

    def __init__(self, upload: FlightLimit, download: FlightLimit) -> None:
        self.uploads = Flight(upload)
        self.downloads = Flight(download)

    async def refuse_upload(self, request: Request) -> Response | None:
        """429 for an upload that found no room in time; None lets it begin. Replication never waits."""
        if not self.uploads.is_over or parse_query(request.raw_query).get("type") == "replicate":
            return None
        try:
            excess = await _wait_for_room(self.uploads, request.body)
        except _ClientGoneError:
            return json_error(request, CLIENT_GONE, "context canceled")
        if excess is None:
            return None
        return json_error(request, 429, f"reject because inflight upload data {excess}, and wait timeout")

    async def refuse_download(self, request: Request) -> Response | None:
        """429 for a read that found no room in time; None lets it begin."""
        if not self.downloads.is_over:
            return None
        try:
            excess = await _wait_for_room(self.downloads, request.body)
        except _ClientGoneError:
            return empty_reply(CLIENT_GONE)
        if excess is None:
            return None
        return json_error(
            request, 429, f"request {request.path} because inflight download data {excess}, and wait timeout"
        )

    @contextmanager
    def counting_upload(self, request: Request) -> Iterator[Request]:
        """Counts an upload as in flight within the block, which reads it from the request that is yielded."""
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
        count = response.length_bytes or 0
        close_before = response.close
        self.downloads.add(count)

        def close() -> None:
            self.downloads.remove(count)
            if close_before is not None:
                close_before()

        response.close = close
        return response


class _CountedBody:
    """A body of unknown length, each byte of which is in flight from its arrival on."""

    def __init__(self, body: RequestBody, flight: Flight) -> None:
        self._body = body
        self._flight = flight
        self.counted_bytes = 0

    @property
    def length_bytes(self) -> int | None:
        return self._body.length_bytes

    async def receive_some(self) -> bytes:
        piece = await self._body.receive_some()
        self._count(len(piece))
        return piece

    async def receive_into(self, buffer: memoryview) -> int:
        count = await self._body.receive_into(buffer)
        self._count(count)
        return count

    def _count(self, count: int) -> None:
        self.counted_bytes += count
        self._flight.add(count)


class _ClientGoneError(Exception):
    """The client closed its connection while it waited."""


async def _wait_for_room(flight: Flight, body: RequestBody) -> str | None:
    """As `Flight.wait_for_room`, but a client whose request is complete is watched meanwhile.

    One that still has a body to send is not: its end would come behind that. Upstream's library does the same.

    Raises:
        _ClientGoneError: it closed its sending side, which counts as gone, as upstream.
    """
    if not isinstance(body, ServerBody) or not body.is_over:
        return await flight.wait_for_room()
    is_gone, excess = False, None

    async def watch(body: ServerBody) -> None:
        nonlocal is_gone
        with suppress(PeerError):
            await body.wait_end()
        is_gone = True
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch, body)
        excess = await flight.wait_for_room()
        nursery.cancel_scope.cancel()
    if is_gone:
        raise _ClientGoneError
    return excess
