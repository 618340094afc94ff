"""Bytes in flight, bounded: uploads and downloads that are answered here wait for room, and are refused after a while.

What is forwarded is bounded by the backend, which gets the same flags. Sizes: an upload counts its Content-Length, none
when it is chunked; a download counts the length of its answer from the moment it is known until it was sent.
A read of a replicated volume is handed to another replica before it waits here; the gateway does that.
Source: weed/server/volume_server_handlers.go, checkUploadLimit and checkDownloadLimit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from native_handlers.http.query import parse_query
from native_handlers.http.reply import json_error

if TYPE_CHECKING:
    from native_handlers.http.message import Request, Response


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
        excess = await self.uploads.wait_for_room()
        if excess is None:
            return None
        return json_error(request, 429, f"reject because inflight upload data {excess}, and wait timeout")

    async def refuse_download(self, request: Request) -> Response | None:
        """429 for a read that found no room in time; None lets it begin."""
        if not self.downloads.is_over:
            return None
        excess = await self.downloads.wait_for_room()
        if excess is None:
            return None
        return json_error(
            request, 429, f"request {request.path} because inflight download data {excess}, and wait timeout"
        )

    def count_download(self, response: Response) -> Response:
        """`response`, which counts as in flight until it is closed."""
        body = response.body
        count = len(body) if isinstance(body, bytes) else body.length_bytes or 0
        close_before = response.close
        self.downloads.add(count)

        def close() -> None:
            self.downloads.remove(count)
            if close_before is not None:
                close_before()

        response.close = close
        return response
