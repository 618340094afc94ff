"""`NodeView` of a node whose volumes the backend has open: what the child's own /status says, asked each time."""

from __future__ import annotations

import json
from math import inf
from typing import TYPE_CHECKING, cast

import trio

from native_handlers.http.context import PeerFailed
from native_handlers.http.headers import Headers
from supervisor.net.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from native_handlers.http.context import DiskStatusRow, NodeDetails, PeerHttp, VolumeStatus

STATUS_TIMEOUT_S = 10.0
SAME_PAGE_S = 1.0
MAX_STATUS_BYTES = 256 * 1024 * 1024
"""A volume takes some 300 bytes; upstream has been run with 600,000 of them on one server."""


class BackendNodeView:
    """Asks the child.

    Its methods raise `BackendUnavailable` where the child gives no answer: an empty list would read as lost volumes.

    Args:
        address: the child's admin host:port now.
    """

    def __init__(
        self,
        http: PeerHttp,
        *,
        address: Callable[[], str],
        details: Callable[[], NodeDetails],
        is_heartbeating: Callable[[], bool],
        is_stopping: Callable[[], bool],
    ) -> None:
        self._http = http
        self._address = address
        self._details = details
        self._is_heartbeating = is_heartbeating
        self._is_stopping = is_stopping
        self._last: Mapping[str, object] = {}
        self._asked_at_s = -inf

    async def volumes(self) -> Sequence[VolumeStatus]:
        return cast("Sequence[VolumeStatus]", (await self._status()).get("Volumes") or [])

    async def disk_statuses(self) -> Sequence[DiskStatusRow]:
        """Those that came with the volumes asked for in the last second, if any: one page, one question."""
        is_fresh = trio.current_time() - self._asked_at_s < SAME_PAGE_S
        status = self._last if is_fresh else await self._status()
        return cast("Sequence[DiskStatusRow]", status.get("DiskStatuses") or [])

    async def details(self) -> NodeDetails:
        return self._details()

    @property
    def is_stopping(self) -> bool:
        return self._is_stopping()

    @property
    def is_heartbeating(self) -> bool:
        return self._is_heartbeating()

    async def _status(self) -> Mapping[str, object]:
        address = self._address()
        with trio.move_on_after(STATUS_TIMEOUT_S):
            self._last = await self._read_status(address)
            self._asked_at_s = trio.current_time()
            return self._last
        raise BackendUnavailable(address, f"no /status within {STATUS_TIMEOUT_S:g} s")

    async def _read_status(self, address: str) -> Mapping[str, object]:
        pieces = bytearray()
        try:
            answer = await self._http.request("GET", address, "/status", Headers(), b"")
            async for chunk in answer.chunks:
                pieces += chunk
                if len(pieces) > MAX_STATUS_BYTES:
                    await answer.chunks.aclose()
                    raise BackendUnavailable(address, f"its /status is longer than {MAX_STATUS_BYTES} bytes")
            status = json.loads(pieces)
        except (PeerFailed, ValueError) as error:
            raise BackendUnavailable(address, f"its /status cannot be read: {error}") from error
        if answer.status != 200 or not isinstance(status, dict):
            raise BackendUnavailable(address, f"its /status was answered {answer.status}")
        return status
