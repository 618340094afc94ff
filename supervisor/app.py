"""The composition root: builds one server from a `Config`, runs it, and takes it down in order.

The contexts nest from outside in (signals, engines, sockets, tasks, front); read backwards it is the order of
stopping. See docs/architecture.md. Everything is made here or in `supervisor.assembly`; nothing here decides about a
request.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.storage.errors import StorageError
from native_handlers.version import own_version
from supervisor.assembly.engines import open_engines
from supervisor.assembly.front import hold_ports, open_front, open_sockets
from supervisor.assembly.node import make_node
from supervisor.assembly.store import StoreUnusable
from supervisor.assembly.tasks import open_tasks
from supervisor.backend.errors import BackendError
from supervisor.backend.version import OffsetWidthMismatch
from supervisor.cli.errors import UsageError
from supervisor.cluster.errors import DuplicateDirectories, EmbeddedMasterError
from supervisor.lifecycle import StopRequest, serve_signals
from supervisor.logs.setup import set_up_logging
from supervisor.logs.start_line import start_line
from supervisor.net.errors import BadCertificate, CannotListen
from supervisor.routing.errors import TableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from supervisor.assembly.node import Node
    from supervisor.cli.config import Config
    from supervisor.routing.table import Table

log = logging.getLogger(__name__)

EXPECTED_ERRORS = (
    BackendError,
    BadCertificate,
    CannotListen,
    DuplicateDirectories,
    EmbeddedMasterError,
    OffsetWidthMismatch,
    StoreUnusable,
    TableError,
    UsageError,
)
"""What ends a server with one line in the log rather than a traceback: the operator can do something about it."""


def run(config: Config) -> int:
    """Runs one server until it is told to stop. Returns the exit status: 0 after a drain, 1 when it could not go on."""
    set_up_logging(config.log)
    for warning in config.warnings:
        log.warning("%s", warning)
    return run_until_stopped(partial(serve_node, config))


def run_until_stopped(serve: Callable[[StopRequest], Awaitable[None]]) -> int:
    """Runs `serve(stop)` in trio under the fault wall of the process."""
    status = 0
    try:
        trio.run(serve, StopRequest())
    except* EXPECTED_ERRORS as group:
        for error in leaves_of(group):
            log.critical("%s", error)
        status = 1
    return status


def leaves_of(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The exceptions in a tree of groups, without the groups."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.extend(leaves_of(error) if isinstance(error, BaseExceptionGroup) else [error])
    return leaves


async def serve_node(config: Config, stop: StopRequest) -> None:
    """One server from start to end, signals included."""
    node = await trio.to_thread.run_sync(make_node, config, stop)
    async with trio.open_nursery() as signals:
        await signals.start(serve_signals, stop, partial(reload, node))
        await serve_until_stopped(node)
        signals.cancel_scope.cancel()


async def serve_until_stopped(node: Node, on_serving: Callable[[], object] = lambda: None) -> None:
    """Starts everything, serves until `node.stop`, drains. A stop that comes before it serves ends the start."""
    with hold_ports(node.config):
        for warning in node.table.current().warnings:
            log.warning("routing table: %s", warning)
        async with trio.open_nursery() as watcher:
            watcher.start_soon(_abandon_start, node, watcher.cancel_scope)
            async with (
                open_engines(node) as engines,
                open_sockets(node) as sockets,
                open_tasks(node, engines.store, engines.backend) as tasks,
                open_front(node, sockets, engines, tasks),
            ):
                node.is_serving = True
                log.info(
                    "%s", start_line(node.config, version=own_version(), routing=routing_text(node.table.current()))
                )
                on_serving()
                await node.stop.wait()
                await say_goodbye(node)
            watcher.cancel_scope.cancel()


async def _abandon_start(node: Node, scope: trio.CancelScope) -> None:
    await node.stop.wait()
    if not node.is_serving:
        log.info("%s: stopped before it was serving", node.stop.reason)
        scope.cancel()


async def say_goodbye(node: Node) -> None:
    """Leaves the cluster, then serves on for preStopSeconds so that clients can learn of it.

    A node that had left before does not wait. Source: weed/command/volume.go, grace.OnInterrupt.
    """
    log.info("%s: stopping", node.stop.reason)
    if node.leave():
        log.info("the heartbeat has ended; serving on for %d s", node.config.pre_stop_s)
        await node.stop.sleep_unless_hurried(node.config.pre_stop_s)


def routing_text(table: Table) -> str:
    """Which table decides, for the start line."""
    return f"phase {table.phase} of {table.source}" if table.source else f"phase {table.phase}"


async def reload(node: Node) -> None:
    """What SIGHUP does: new volumes, security files, routing table; the child does the same with its own. A part in
    which a disk fails is logged, and the others are done.
    """
    try:
        await trio.to_thread.run_sync(node.reload_security)
    except UsageError as error:
        log.error("the security configuration was not reloaded, the old one stays: %s", error)
    await trio.to_thread.run_sync(node.table.reload)
    for callback in node.reload_callbacks:
        try:
            await callback()
        except (OSError, StorageError) as error:
            log.error("a part of the reload failed: %s", error)
