"""Opens the engines that the routing table needs: the native store, the managed backend, or both."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from supervisor.assembly.engines import Engines
from supervisor.assembly.store import open_node_store
from supervisor.config.config import Mode, NativeBackend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from supervisor.assembly.node import Node

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_engines(node: Node) -> AsyncIterator[Engines]:
    """The engines that the table needs, serving; one that forwards nothing needs no backend.

    Errors as `open_backend` and `open_node_store`.
    """
    table = node.table.current()
    # The modules of a managed backend are loaded only where there is one, so a native server starts faster.
    if table.shares_volumes:
        from supervisor.assembly.both_engines import open_both  # noqa: PLC0415

        async with open_both(node) as engines:
            yield engines
    elif table.forwards_anything:
        from supervisor.assembly.backend import open_backend  # noqa: PLC0415

        async with open_backend(node) as backend:
            yield Engines(None, backend)
    else:
        unused = node.config.backend
        if node.config.mode is Mode.MIXED and unused is not None:
            name = unused.value if isinstance(unused, NativeBackend) else unused
            log.info("%s forwards nothing: the backend %s is not started", table.source, name)
        async with open_node_store(node) as store:
            yield Engines(store, None)
