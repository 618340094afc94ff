"""Both engines working on the volumes of one node, with the authority between them."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from supervisor.assembly.backend import BackendHooks, ManagedBackend, open_backend
from supervisor.assembly.engines import Engines
from supervisor.assembly.node import CHILD_SOURCE, NATIVE_SOURCE
from supervisor.assembly.store import open_node_store
from supervisor.authority.authority import Authority
from supervisor.authority.holders import BackendHolder, NativeHolder
from supervisor.authority.new_volumes import open_new_volumes
from supervisor.authority.removal_suppressor import RemovalSuppressor
from supervisor.routing.decision import Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import grpc

    from supervisor.assembly.node import Node
    from supervisor.authority.holders import VolumeHolder

log = logging.getLogger(__name__)
HAND_OVERS_END_S = 60.0
"""How long running hand-overs may take at the end. After that the engines close their volumes in any case."""


class _BackendReference:
    """Refers to the backend after its start. The authority is made before the backend, and needs the reference."""

    def __init__(self) -> None:
        self.backend: ManagedBackend | None = None

    def channel(self) -> grpc.Channel:
        if self.backend is None:
            raise ValueError("it has not been started yet")
        return self.backend.channel.get()

    @property
    def has_ended_well(self) -> bool:
        """Whether the backend has ended with status 0, so that its data is on disk."""
        ended = self.backend.handle.last_exit if self.backend is not None else None
        return ended is not None and ended.status == 0

    def is_ready(self) -> bool:
        return self.backend is not None and self.backend.handle.is_ready


@asynccontextmanager
async def open_both(node: Node) -> AsyncIterator[Engines]:
    """Both engines, serving.

    The store is opened before the backend, because it locks the directories. It has no volume open at first: the
    backend has all of them.
    """
    reference = _BackendReference()
    sources = {Engine.NATIVE: node.model.source(NATIVE_SOURCE), Engine.BACKEND: node.model.source(CHILD_SOURCE)}
    suppressor = RemovalSuppressor(node.model, sources)
    async with open_node_store(node) as store, trio.open_nursery() as nursery:
        assert store is not None, "both engines have volumes"
        await nursery.start(suppressor.serve)
        holders: dict[Engine, VolumeHolder] = {
            Engine.NATIVE: NativeHolder(store),
            Engine.BACKEND: BackendHolder(reference.channel),
        }
        authority = Authority(holders, suppressor, reference.is_ready, suppressor.forget)
        hooks = BackendHooks(
            authority.before_backend_start, authority.before_backend_ready, tuple(store.lock_descriptors())
        )
        is_reported = sources[Engine.BACKEND].has_volume
        reload = partial(_reload, partial(open_new_volumes, store, authority, holders[Engine.BACKEND], is_reported))
        try:
            with node.reloads.including(reload):
                async with open_backend(node, hooks) as backend:
                    reference.backend = backend
                    try:
                        yield Engines(store, backend, authority)
                    finally:
                        with trio.move_on_after(HAND_OVERS_END_S, shield=True):
                            await trio.to_thread.run_sync(authority.close, abandon_on_cancel=True)
        finally:
            if not reference.has_ended_well:
                store.keep_session_marks()
        nursery.cancel_scope.cancel()


async def _reload(open_new: Callable[[], list[int]]) -> None:
    """Opens new volumes at SIGHUP. The backend gets no SIGHUP, because it would open the native volumes too."""
    opened = await trio.to_thread.run_sync(open_new, abandon_on_cancel=True)
    log.info("new volumes: %s", ", ".join(map(str, opened)) or "none")
    log.warning("the backend keeps the signing keys that it was started with: restart where they have changed")
