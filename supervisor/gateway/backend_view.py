"""`NodeView` of a node whose volumes the backend has open: what the child's own /status says, asked each time."""

from __future__ import annotations

import json
from math import inf
from typing import TYPE_CHECKING, cast

import trio

from native_handlers.http.context import PeerFailed
from native_handlers.http.headers import Headers
from native_handlers.http.node_view import StatefulNodeView
from supervisor.net.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from native_handlers.http.context import DiskStatusRow, FindingRow, PeerHttp, VolumeStatus
    from native_handlers.http.node_view import NodeState

STATUS_TIMEOUT_S = 10.0
SAME_PAGE_S = 1.0
MAX_STATUS_BYTES = 256 * 1024 * 1024
"""A volume takes some 300 bytes; upstream has been run with 600,000 of them on one server."""


class BackendNodeView(StatefulNodeView):
    """Asks the child.

    Its methods raise `BackendUnavailable` where the child gives no answer: an empty list would read as lost volumes.

    Args:
        address: the child's admin host:port now.
    """

    def __init__(self, http: PeerHttp, state: NodeState, *, address: Callable[[], str]) -> None:
        super().__init__(state)
        self._http = http
        self._address = address
        self._last: Mapping[str, object] = {}
        self._asked_at_s = -inf

    async def volumes(self) -> Sequence[VolumeStatus]:
        return cast("Sequence[VolumeStatus]", (await self._status()).get("Volumes") or [])

    async def disk_statuses(self) -> Sequence[DiskStatusRow]:
        """Those that came with the volumes asked for in the last second, if any: one page, one question."""
        return cast("Sequence[DiskStatusRow]", (await self._same_status()).get("DiskStatuses") or [])

    async def findings(self) -> Sequence[FindingRow]:
        """Those of a child that is a server of ours; upstream's has none. Asked for as `disk_statuses`."""
        return cast("Sequence[FindingRow]", (await self._same_status()).get("Findings") or [])

    async def _same_status(self) -> Mapping[str, object]:
        is_fresh = trio.current_time() - self._asked_at_s < SAME_PAGE_S
        return self._last if is_fresh else await self._status()

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
