"""The native store of a node whose volumes this process has open, tied to the cluster's settings."""

from __future__ import annotations

import logging
import os
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.storage.errors import StorageError
from supervisor.assembly.disks import serve_disk_watch
from supervisor.assembly.node import NATIVE_SOURCE
from supervisor.backend.child_flags import LOCK_OWNER_VARIABLE
from supervisor.cluster.master_client import MasterClient
from supervisor.cluster.store_source import serve_store_source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from native_handlers.storage.store import Store, StoreConfig
    from supervisor.assembly.node import Node
    from supervisor.cli.config import Config

log = logging.getLogger(__name__)
CLOSE_S = 60.0
"""How long syncing and closing all volumes may take before the process ends without."""


class StoreUnusable(Exception):
    """A directory cannot be served; the text says which, why, and what to do. Nothing was left open or locked."""


@asynccontextmanager
async def open_node_store(node: Node) -> AsyncIterator[Store | None]:
    """The store, open and reporting to the node model; None where the volumes are the backend's. Where both engines
    have volumes it has none open at first.

    As upstream, a master is asked for its configuration before the disks are loaded.
    """
    if not node.table.current().is_data_native:
        yield None
        return
    # Only here: the storage core brings numpy, and a node whose volumes are the backend's needs neither.
    from native_handlers.storage.store import open_store  # noqa: PLC0415

    await wait_for_master(node)
    is_shared = node.table.current().shares_volumes
    config = replace(
        store_config(node.config), opens_volumes=not is_shared, lock_owner_pid=lock_owner(os.environ, os.getppid())
    )
    try:
        store = await trio.to_thread.run_sync(open_store, config)
    except (StorageError, OSError) as error:
        raise StoreUnusable(str(error)) from error
    if not is_shared:
        # Left to end by itself when the server ends, for its disk may hang.
        load_new = partial(trio.to_thread.run_sync, store.load_new_volumes, abandon_on_cancel=True)
        node.reload_callbacks.append(load_new)
    try:
        async with trio.open_nursery() as nursery:
            for location in store.locations:
                nursery.start_soon(serve_disk_watch, location.watch)
            await nursery.start(partial(serve_store_source, store, node.model.feed(NATIVE_SOURCE), node.masters))
            try:
                yield store
            finally:
                nursery.cancel_scope.cancel()
    finally:
        await close_store(store)


async def close_store(store: Store) -> None:
    """Syncs and closes all volumes, also when cancelled. After `CLOSE_S` it is left to itself, for a disk may hang."""
    with trio.move_on_after(CLOSE_S, shield=True) as closing:
        await trio.to_thread.run_sync(store.close, abandon_on_cancel=True)
    if closing.cancelled_caught:
        log.error("the store was not closed within %g s", CLOSE_S)


def lock_owner(environ: Mapping[str, str], parent_pid: int) -> int | None:
    """The process that holds the directories' locks for this one: the supervisor of which this is the backend."""
    return parent_pid if environ.get(LOCK_OWNER_VARIABLE) == str(parent_pid) else None


async def wait_for_master(node: Node) -> None:
    """Returns once a master has given its configuration."""
    client = MasterClient(node.masters, node.dial)
    try:
        await client.wait_for_configuration()
    finally:
        client.close()


def store_config(config: Config) -> StoreConfig:
    """The store's part of the configuration."""
    from native_handlers.storage.disk_location import LocationConfig  # noqa: PLC0415  (numpy)
    from native_handlers.storage.disk_probe import ProbeConfig  # noqa: PLC0415  (with it)
    from native_handlers.storage.store import StoreConfig  # noqa: PLC0415

    wanted = config.disk_probe
    probe = ProbeConfig(
        is_enabled=wanted.enabled,
        interval_s=wanted.interval_s,
        slow_s=wanted.slow_s,
        timeout_s=wanted.timeout_s,
        window_s=wanted.window_s,
        min_samples=wanted.min_samples,
        slow_percent=wanted.slow_percent,
        error_percent=wanted.error_percent,
        max_stat_failures=wanted.max_stat_failures,
        recovery_coefficient=wanted.recovery_coefficient,
    )
    return StoreConfig(
        locations=tuple(
            LocationConfig(
                path=directory.path,
                idx_path=config.idx_directory or directory.path,
                max_volumes=directory.max_volumes,
                disk_type=directory.disk_type,
                tags=directory.tags,
                min_free_percent=directory.min_free_space.percent,
                min_free_bytes=directory.min_free_space.size_bytes,
                probe=probe,
            )
            for directory in config.directories
        ),
        offset_width_bytes=config.offset_width_bytes,
        file_size_limit_bytes=config.file_size_limit_bytes,
        ip=config.ip,
        port=config.port,
        grpc_port=config.port_grpc,
        public_url=config.public_url,
        id=config.id,
        data_center=config.data_center,
        rack=config.rack,
    )
