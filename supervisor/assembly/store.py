"""The native store of a node whose volumes this process opens, connected to the master's settings."""

from __future__ import annotations

import logging
import os
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.arrays import load_arrays
from native_handlers.runtime.trio_events import set_soon
from native_handlers.storage.model.errors import StorageError
from supervisor.assembly.collector import set_apart, set_apart_volumes, without_collection
from supervisor.assembly.node import NATIVE_SOURCE
from supervisor.backend.child_flags import LOCK_OWNER_VARIABLE, is_named_in
from supervisor.cluster.master_client import MasterClient
from supervisor.cluster.store_source import serve_store_source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from native_handlers.storage.disk.health import DiskHealth
    from native_handlers.storage.remote.tier_files import TierFiles
    from native_handlers.storage.remote.tiers import Tiers
    from native_handlers.storage.store import Store, StoreConfig
    from supervisor.assembly.node import Node
    from supervisor.cluster.master_view import MasterSettings
    from supervisor.config.config import Config

log = logging.getLogger(__name__)
CLOSE_S = 60.0
"""How long syncing and closing all volumes may take before the process ends without it."""


class StoreUnusable(Exception):
    """A directory cannot be served. The text says which, why, and what to do. Nothing is left open or locked."""


@asynccontextmanager
async def open_node_store(node: Node) -> AsyncIterator[Store | None]:
    """The store, open and reporting to the node model; None where the backend has the volumes.

    Where both engines have volumes, the store has none open at first. As in upstream, a master is asked for its
    configuration before the disks are loaded.
    """
    if not node.table.current().is_data_native:
        yield None
        return
    # The modules are loaded while the master is asked.
    async with trio.open_nursery() as starting:
        starting.start_soon(trio.to_thread.run_sync, load_storage_core)
        await wait_for_master(node)
    from native_handlers.storage.remote.tier_files import TierFiles  # noqa: PLC0415  (with the storage core)

    tiers = open_tiers(node)
    files = TierFiles(tiers)
    is_shared = node.table.current().shares_volumes
    config = replace(
        store_config(node.config),
        opens_volumes=not is_shared,
        lock_owner_pid=lock_owner(os.environ, os.getppid()),
        open_limit=node.descriptors.open_limit,
    )
    try:
        store = await trio.to_thread.run_sync(open_without_collection, config, files)
    except (StorageError, OSError) as error:
        raise StoreUnusable(str(error)) from error
    # Abandoned when the server ends, because its disk may hang.
    load_new = partial(trio.to_thread.run_sync, load_without_collection, store, abandon_on_cancel=True)
    reloading = nullcontext() if is_shared else node.reloads.including(load_new)
    try:
        with reloading:
            async with trio.open_nursery() as nursery:
                for location in store.locations:
                    nursery.start_soon(watch_disk, location.health)
                await nursery.start(partial(serve_store_source, store, node.model.source(NATIVE_SOURCE), node.masters))
                try:
                    yield store
                finally:
                    nursery.cancel_scope.cancel()
    finally:
        await close_store(store)


def load_storage_core() -> None:
    """Loads the modules of the storage core, so that later imports of them cost nothing.

    A node without volumes of its own does without them.
    """
    with without_collection():
        from native_handlers.storage import store  # noqa: F401, PLC0415
        from native_handlers.storage.remote import s3_tier, tier_files  # noqa: F401, PLC0415


async def load_late_modules(store: Store) -> None:
    """Loads what requests and larger volumes need, and a start does not: numpy. Call it when the node serves.

    Waits until the store has a volume: a server without one saves the memory, 11 MB.

    Cancellation: safe while it waits. Else it takes effect when the modules are loaded, for the process must not end
    while they are.
    """
    await _wait_for_volume(store)

    def load() -> None:
        with without_collection():
            load_arrays()
            set_apart()

    await trio.to_thread.run_sync(load)


async def _wait_for_volume(store: Store) -> None:
    token, has_come = trio.lowlevel.current_trio_token(), trio.Event()
    removers = [
        store.add_listener(lambda _volume_id: set_soon(token, has_come)),
        store.ec.add_listener(lambda: set_soon(token, has_come)),
    ]
    try:
        if not store.open_count:
            await has_come.wait()
    finally:
        for remove in removers:
            remove()


def open_without_collection(config: StoreConfig, files: TierFiles | None = None) -> Store:
    """As `open_store`, without collections meanwhile. The objects of many volumes are set apart.

    `files` also opens the files in remote tiers.
    """
    from native_handlers.storage.store import open_store  # noqa: PLC0415  (with the storage core)

    with without_collection():
        store = open_store(config) if files is None else open_store(config, files=files, tiers=files)
        set_apart_volumes(store.open_count)
    return store


def load_without_collection(store: Store) -> None:
    """As `Store.load_new_volumes`, without collections meanwhile."""
    before = store.open_count
    with without_collection():
        store.load_new_volumes()
        set_apart_volumes(store.open_count - before)


def open_tiers(node: Node) -> Tiers:
    """The tiers that the master has announced, kept up to date with later announcements."""
    from native_handlers.storage.remote.s3_tier import S3Tier  # noqa: PLC0415
    from native_handlers.storage.remote.tiers import Tiers, TierSettings  # noqa: PLC0415

    tiers = Tiers({"s3": S3Tier})

    def load(settings: MasterSettings) -> None:
        tiers.load(
            TierSettings(backend.type, backend.id, tuple(sorted(backend.properties.items())))
            for backend in settings.storage_backends
        )

    node.masters.add_settings_listener(load)
    return tiers


async def close_store(store: Store) -> None:
    """Syncs and closes all volumes, also when cancelled. After `CLOSE_S` the thread is abandoned: a disk may hang."""
    with trio.move_on_after(CLOSE_S, shield=True) as closing:
        await trio.to_thread.run_sync(store.close, abandon_on_cancel=True)
    if closing.cancelled_caught:
        log.error("the store was not closed within %g s", CLOSE_S)


def lock_owner(environ: Mapping[str, str], parent_pid: int) -> int | None:
    """The process that holds the directories' locks for this one: the supervisor whose backend this process is."""
    return parent_pid if is_named_in(environ, LOCK_OWNER_VARIABLE, parent_pid) else None


async def wait_for_master(node: Node) -> None:
    """Returns after a master has given its configuration."""
    client = MasterClient(node.masters, node.dial)
    try:
        await client.wait_for_configuration()
    finally:
        client.close()


def store_config(config: Config) -> StoreConfig:
    """The store's part of the configuration."""
    from native_handlers.storage.directory.location import LocationConfig  # noqa: PLC0415  (with the storage core)
    from native_handlers.storage.disk.health import ProbeConfig  # noqa: PLC0415  (with it)
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


# ---- Looks at each disk from time to time. Every disk has a task of its own, so a disk that hangs delays no other.

LOOK_INTERVAL_S = 60.0
"""The time between two looks at the size of a file system. Source: weed/storage/disk_location.go (NewDiskLocation)."""
_GLANCE_S = 5.0
"""The time between two checks whether the next look has become urgent."""
MIN_PROBE_INTERVAL_S = 1.0
"""The shortest interval: a configured interval of 0 would write without a pause."""


async def watch_disk(
    health: DiskHealth,
    *,
    look_interval_s: float = LOOK_INTERVAL_S,
    min_probe_interval_s: float = MIN_PROBE_INTERVAL_S,
) -> None:
    """Watches one disk until cancelled.

    Cancellation: safe. A running look or probe is abandoned, because the disk may hang.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_repeat, health.look, look_interval_s, health.next_look_within_s)
        if health.config.is_enabled:
            nursery.start_soon(_repeat, health.probe, max(health.config.interval_s, min_probe_interval_s))


async def _repeat(
    work: Callable[[], None], interval_s: float, sooner_s: Callable[[], float | None] = lambda: None
) -> None:
    # A thread of its own: when a disk hangs, threads that wait for it may take all shared ones.
    limiter = trio.CapacityLimiter(1)
    while True:
        await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
        await _pause(interval_s, sooner_s)


async def _pause(interval_s: float, sooner_s: Callable[[], float | None]) -> None:
    """Waits for `interval_s`; for less where `sooner_s` gives a shorter time, now or during the wait."""
    started_at = trio.current_time()
    # Polled: the thread that finds the disk full waits for the disk, and cannot wake this task.
    while (left_s := started_at + min(interval_s, sooner_s() or interval_s) - trio.current_time()) > 0:  # noqa: ASYNC110
        await trio.sleep(min(left_s, _GLANCE_S))
