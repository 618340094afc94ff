"""The `NodeView` of a node whose volumes the backend has open. It asks for the child's own /status each time."""

from __future__ import annotations

from functools import partial
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING, cast

import trio

from native_handlers.http.node_view import StatefulNodeView
from native_handlers.http_model.go_json import encode_item
from native_handlers.http_model.headers import Headers
from native_handlers.http_model.volume_servers import VolumeServerFailed
from supervisor.gateway.status_text import read_status
from supervisor.net.errors import BackendUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from native_handlers.http.context import DiskStatusRow, FindingRow, NodeView, VolumeStatus
    from native_handlers.http.node_view import NodeState
    from native_handlers.http_model.volume_servers import VolumeServerHttp
    from supervisor.gateway.status_text import ChildStatus

STATUS_TIMEOUT_S = 10.0
SAME_PAGE_S = 1.0
PARSED_HERE_BYTES = 64 * 1024
"""A status up to this size is parsed on the loop, in less than a millisecond. A longer one is parsed in a thread."""
MAX_STATUS_BYTES = 256 * 1024 * 1024
"""The longest status that is read. A volume takes about 300 bytes; upstream has run with 600,000 volumes on a
server."""


class BackendNodeView(StatefulNodeView):
    """The view of the child.

    The methods raise `BackendUnavailable` where the child does not answer: an empty list would look like lost volumes.

    Args:
        address: returns the child's admin host:port now.
    """

    def __init__(self, http: VolumeServerHttp, state: NodeState, *, address: Callable[[], str]) -> None:
        super().__init__(state)
        self._http = http
        self._address = address
        self._last: Mapping[str, object] = {}
        self._asked_at_s = -inf

    async def volumes(self) -> Sequence[VolumeStatus]:
        return [volume for volume, _ in (await self._status()).volumes]

    async def volume_rows(self, *, is_pretty: bool) -> Sequence[tuple[int, str]]:
        """The rows as the child wrote them: its JSON already has upstream's form."""
        status = await self._status()
        return await self.aside(partial(_rows, status.volumes, is_pretty=is_pretty))

    async def disk_statuses(self) -> Sequence[DiskStatusRow]:
        """The disks, from the last answer if that is less than a second old. So one page asks the child once."""
        return cast("Sequence[DiskStatusRow]", (await self._same_status()).get("DiskStatuses") or [])

    async def findings(self) -> Sequence[FindingRow]:
        """The findings of a child that is this program; upstream has none. Asked for as in `disk_statuses`."""
        return cast("Sequence[FindingRow]", (await self._same_status()).get("Findings") or [])

    async def _same_status(self) -> Mapping[str, object]:
        is_fresh = trio.current_time() - self._asked_at_s < SAME_PAGE_S
        return self._last if is_fresh else (await self._status()).rest

    async def _status(self) -> ChildStatus:
        address = self._address()
        with trio.move_on_after(STATUS_TIMEOUT_S):
            status = await self._read_status(address)
            self._last = status.rest
            self._asked_at_s = trio.current_time()
            return status
        raise BackendUnavailable(address, f"no /status within {STATUS_TIMEOUT_S:g} s")

    async def _read_status(self, address: str) -> ChildStatus:
        pieces = bytearray()
        try:
            answer = await self._http.request("GET", address, "/status", Headers(), b"")
            async for chunk in answer.chunks:
                pieces += chunk
                if len(pieces) > MAX_STATUS_BYTES:
                    await answer.chunks.aclose()
                    raise BackendUnavailable(address, f"its /status is longer than {MAX_STATUS_BYTES} bytes")
            if answer.status != 200:
                raise BackendUnavailable(address, f"its /status was answered {answer.status}")
            if len(pieces) <= PARSED_HERE_BYTES:
                return read_status(pieces)
            return await self.aside(partial(read_status, pieces))
        except (VolumeServerFailed, ValueError) as error:
            raise BackendUnavailable(address, f"its /status cannot be read: {error}") from error


def _rows(volumes: Sequence[tuple[VolumeStatus, str]], *, is_pretty: bool) -> list[tuple[int, str]]:
    rows = [(volume["Id"], encode_item(volume, is_pretty=True) if is_pretty else text) for volume, text in volumes]
    return sorted(rows, key=itemgetter(0))


# ---- The `NodeView` of a node whose volumes are divided between both engines: the answers of both, joined.


class SharedNodeView(StatefulNodeView):
    """The joined view of both engines. Both work on the same disks.

    The methods raise `BackendUnavailable` where the child does not answer: half a list would look like lost volumes.
    """

    def __init__(self, natively: NodeView, at_backend: NodeView, state: NodeState) -> None:
        super().__init__(state)
        self._natively = natively
        self._at_backend = at_backend

    async def volumes(self) -> Sequence[VolumeStatus]:
        """The volumes by id.

        The native list is read before and after, so a volume that changes hands is in the result.
        """
        before = await self._natively.volumes()
        theirs = await self._at_backend.volumes()
        after = await self._natively.volumes()
        return await self.aside(partial(_by_id, [*theirs, *before, *after]))

    async def volume_rows(self, *, is_pretty: bool) -> Sequence[tuple[int, str]]:
        """The rows, joined as in `volumes`."""
        before = await self._natively.volume_rows(is_pretty=is_pretty)
        theirs = await self._at_backend.volume_rows(is_pretty=is_pretty)
        after = await self._natively.volume_rows(is_pretty=is_pretty)
        return await self.aside(lambda: sorted({**dict(theirs), **dict(before), **dict(after)}.items()))

    async def disk_statuses(self) -> Sequence[DiskStatusRow]:
        return await self._natively.disk_statuses()

    async def findings(self) -> Sequence[FindingRow]:
        return [*await self._natively.findings(), *await self._at_backend.findings()]


def _by_id(volumes: Sequence[VolumeStatus]) -> list[VolumeStatus]:
    """The last entry of each id, sorted by id."""
    found = {volume["Id"]: volume for volume in volumes}
    return [found[volume_id] for volume_id in sorted(found)]
