"""`NodeView` of a node whose volumes are divided between both engines: what the two say, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from native_handlers.http.node_view import StatefulNodeView

if TYPE_CHECKING:
    from collections.abc import Sequence

    from native_handlers.http.context import DiskStatusRow, FindingRow, NodeView, VolumeStatus
    from native_handlers.http.node_view import NodeState


class SharedNodeView(StatefulNodeView):
    """Asks both engines; the disks are the same ones.

    Its methods raise `BackendUnavailable` where the child gives no answer: half a list would read as lost volumes.
    """

    def __init__(self, natively: NodeView, at_backend: NodeView, state: NodeState) -> None:
        super().__init__(state)
        self._natively = natively
        self._at_backend = at_backend

    async def volumes(self) -> Sequence[VolumeStatus]:
        """By id. The native ones are asked for before and after, so that one that changes hands is seen."""
        before = await self._natively.volumes()
        theirs = await self._at_backend.volumes()
        after = await self._natively.volumes()
        found = {volume["Id"]: volume for volume in (*theirs, *before, *after)}
        return [volume for _, volume in sorted(found.items())]

    async def disk_statuses(self) -> Sequence[DiskStatusRow]:
        return await self._natively.disk_statuses()

    async def findings(self) -> Sequence[FindingRow]:
        return [*await self._natively.findings(), *await self._at_backend.findings()]
