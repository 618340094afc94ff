"""The composition root: builds one server from a `Config`, runs it, and takes it down in order.

The contexts nest from outside in: signals, engines, sockets, tasks, front. They stop in the opposite order. See
docs/architecture.md. All objects are made here or in `supervisor.assembly`. Nothing here decides about a request.
"""

from __future__ import annotations

import logging
import sys
from functools import partial
from typing import TYPE_CHECKING

import trio

from native_handlers.runtime.version import OWN_VERSION
from supervisor.assembly.collector import objects_set_apart
from supervisor.assembly.descriptors import raise_limit
from supervisor.assembly.front import hold_ports, open_front, open_sockets
from supervisor.assembly.lifecycle import StopRequest, serve_signals
from supervisor.assembly.node import make_node
from supervisor.assembly.open_engines import open_engines
from supervisor.assembly.store import StoreUnusable, load_late_modules
from supervisor.assembly.tasks import open_tasks
from supervisor.backend.errors import BackendError
from supervisor.backend.version import BackendOffsetWidthMismatch
from supervisor.cluster.errors import DuplicateDirectories, EmbeddedMasterError
from supervisor.config.errors import UsageError
from supervisor.logs.setup import set_up_logging, start_line
from supervisor.net.errors import BadCertificate, CannotListen
from supervisor.routing.errors import TableError
from supervisor.workers.errors import WorkersGaveUp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from supervisor.assembly.node import Node
    from supervisor.config.config import Config
    from supervisor.routing.table import Table
    from supervisor.workers.spawn import EarlyWorkers

log = logging.getLogger(__name__)

INTERPRETER_TURN_S = 0.0005
"""How long a computing thread keeps the interpreter after another thread asks for it.

The event loop asks after each system call. So a request waits for several such turns while a thread makes a status page
or a heartbeat of many volumes. With Python's default of 5 ms that is 20 ms and more.
"""

EXPECTED_ERRORS = (
    BackendError,
    BadCertificate,
    CannotListen,
    DuplicateDirectories,
    EmbeddedMasterError,
    BackendOffsetWidthMismatch,
    StoreUnusable,
    TableError,
    UsageError,
    WorkersGaveUp,
)
"""Errors that end a server with one line in the log and no traceback: the operator can act on the line."""


def run(config: Config, early_workers: EarlyWorkers | None = None) -> int:
    """Runs one server until it is told to stop. Returns the exit status: 0 after a drain, 1 after an expected error.

    The server takes `early_workers`; the caller ends those that are left.
    """
    set_up_logging(config.log)
    raise_limit()
    for warning in config.warnings:
        log.warning("%s", warning)
    return run_until_stopped(partial(serve_node, config, early_workers=early_workers))


def run_until_stopped(serve: Callable[[StopRequest], Awaitable[None]]) -> int:
    """Runs `serve(stop)` in trio, and catches every exception. Returns the exit status."""
    sys.setswitchinterval(INTERPRETER_TURN_S)
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


async def serve_node(config: Config, stop: StopRequest, *, early_workers: EarlyWorkers | None = None) -> None:
    """Runs one server from start to end, signals included."""
    node = await trio.to_thread.run_sync(make_node, config, stop, early_workers)
    async with trio.open_nursery() as signals:
        await signals.start(serve_signals, stop, partial(reload, node))
        await serve_until_stopped(node)
        signals.cancel_scope.cancel()


async def serve_until_stopped(node: Node, on_serving: Callable[[], object] = lambda: None) -> None:
    """Starts everything, serves until `node.stop`, drains. A stop before it serves ends the start."""
    with hold_ports(node.config):
        for warning in node.table.current().warnings:
            log.warning("routing table: %s", warning)
        is_serving = trio.Event()
        async with trio.open_nursery() as watcher:
            watcher.start_soon(_abandon_start, node, is_serving, watcher.cancel_scope)
            async with (
                open_engines(node) as engines,
                open_sockets(node) as sockets,
                open_tasks(node, engines.store, engines.backend) as tasks,
                open_front(node, sockets, engines, tasks),
            ):
                token = trio.lowlevel.current_trio_token()
                with objects_set_apart(partial(token.run_sync_soon, idempotent=True)):
                    is_serving.set()
                    if engines.store is not None:
                        watcher.start_soon(load_late_modules, engines.store)
                    log.info(
                        "%s", start_line(node.config, version=OWN_VERSION, routing=routing_text(node.table.current()))
                    )
                    log.info("%s", node.descriptors.describe(engines.open_volumes))
                    on_serving()
                    await node.stop.wait()
                    await say_goodbye(node)
            watcher.cancel_scope.cancel()


async def _abandon_start(node: Node, is_serving: trio.Event, scope: trio.CancelScope) -> None:
    await node.stop.wait()
    if not is_serving.is_set():
        log.info("%s: stopped before it was serving", node.stop.reason)
        scope.cancel()


async def say_goodbye(node: Node) -> None:
    """Leaves the cluster, then serves for preStopSeconds, so that clients can learn of the leave.

    A node that had left before does not wait. Source: weed/command/volume.go (grace.OnInterrupt).
    """
    log.info("%s: stopping", node.stop.reason)
    if node.leave():
        log.info("the heartbeat has ended; serving on for %d s", node.config.pre_stop_s)
        await node.stop.sleep_unless_forced(node.config.pre_stop_s)


def routing_text(table: Table) -> str:
    """The routing table, for the start line."""
    return f"phase {table.phase} of {table.source}" if table.source else f"phase {table.phase}"


async def reload(node: Node) -> None:
    """Handles SIGHUP: security files, routing table, then the parts of `node.reloads` (new volumes, the child).

    The parts run side by side. If one fails, the log says so and the others go on.
    """
    try:
        await trio.to_thread.run_sync(node.reload_security)
    except UsageError as error:
        log.error("the security configuration was not reloaded, the old one stays: %s", error)
    await trio.to_thread.run_sync(node.table.reload)
    await node.reloads.run()
