"""The engines of one node: the native store, the managed backend, or both with the authority between them."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from supervisor.assembly.backend import BackendHooks, ManagedBackend, open_backend
from supervisor.assembly.node import CHILD_SOURCE, NATIVE_SOURCE
from supervisor.assembly.store import open_node_store
from supervisor.authority.authority import Authority
from supervisor.authority.holders import BackendHolder, NativeHolder
from supervisor.authority.new_volumes import open_new_volumes
from supervisor.authority.report_hold import ReportHold
from supervisor.routing.decision import Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import grpc

    from native_handlers.storage.store import Store
    from supervisor.assembly.node import Node
    from supervisor.authority.holders import VolumeHolder

log = logging.getLogger(__name__)
HAND_OVERS_END_S = 60.0
"""How long hand-overs under way may take at the end; the engines close their volumes after that in any case."""


@dataclass(frozen=True, slots=True)
class Engines:
    """What there is of both. `authority` is there exactly when both have volumes."""

    store: Store | None
    backend: ManagedBackend | None
    authority: Authority | None = None


@asynccontextmanager
async def open_engines(node: Node) -> AsyncIterator[Engines]:
    """The engines that the table needs, serving. Errors as `open_backend` and `open_node_store`."""
    table = node.table.current()
    if table.shares_volumes:
        async with _open_both(node) as engines:
            yield engines
    elif table.forwards_anything:
        async with open_backend(node) as backend:
            yield Engines(None, backend)
    else:
        async with open_node_store(node) as store:
            yield Engines(store, None)


class _Link:
    """The backend, once it is there: the authority is made before it."""

    def __init__(self) -> None:
        self.backend: ManagedBackend | None = None

    def channel(self) -> grpc.Channel:
        if self.backend is None:
            raise ValueError("it has not been started yet")
        return self.backend.channel.get()

    @property
    def has_ended_well(self) -> bool:
        """Whether the backend is gone and has put on disk what it had."""
        ended = self.backend.handle.last_exit if self.backend is not None else None
        return ended is not None and ended.status == 0

    def is_ready(self) -> bool:
        return self.backend is not None and self.backend.handle.is_ready


@asynccontextmanager
async def _open_both(node: Node) -> AsyncIterator[Engines]:
    """The store comes first, for it locks the directories, and without volumes: all of them are the backend's."""
    link = _Link()
    feeds = {Engine.NATIVE: node.model.feed(NATIVE_SOURCE), Engine.BACKEND: node.model.feed(CHILD_SOURCE)}
    hold = ReportHold(node.model, feeds)
    async with open_node_store(node) as store, trio.open_nursery() as nursery:
        assert store is not None, "both engines have volumes"
        await nursery.start(hold.serve)
        holders: dict[Engine, VolumeHolder] = {
            Engine.NATIVE: NativeHolder(store),
            Engine.BACKEND: BackendHolder(link.channel, feeds[Engine.BACKEND].has_ec_shards),
        }
        authority = Authority(holders, hold, link.is_ready)
        hooks = BackendHooks(
            authority.before_backend_start, authority.before_backend_ready, tuple(store.lock_descriptors())
        )
        reload = partial(_reload, partial(open_new_volumes, store, authority, holders[Engine.BACKEND]))
        node.reload_callbacks.append(reload)
        try:
            async with open_backend(node, hooks) as backend:
                link.backend = backend
                try:
                    yield Engines(store, backend, authority)
                finally:
                    with trio.move_on_after(HAND_OVERS_END_S, shield=True):
                        await trio.to_thread.run_sync(authority.close, abandon_on_cancel=True)
        finally:
            if not link.has_ended_well:
                store.keep_session_marks()
        nursery.cancel_scope.cancel()


async def _reload(open_new: Callable[[], list[int]]) -> None:
    """What SIGHUP does while both engines have volumes: told of it, the backend would open the native ones too."""
    opened = await trio.to_thread.run_sync(open_new, abandon_on_cancel=True)
    log.info("new volumes: %s", ", ".join(map(str, opened)) or "none")
    log.warning("the backend keeps the signing keys that it was started with: restart where they have changed")
