"""The managed backend with what it needs around it: the relay as its master, its derived configuration, its channel."""

from __future__ import annotations

import logging
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import grpc
import trio

from supervisor.assembly.node import CHILD_SOURCE
from supervisor.backend.channel import BackendChannel
from supervisor.backend.child import BackendSpec, serve_backend
from supervisor.backend.child_config import ChildConfigDirectory, derive_files, relay_tls
from supervisor.backend.child_flags import LOCK_OWNER_VARIABLE, child_command, child_environment
from supervisor.cluster.relay import MasterRelay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from supervisor.assembly.node import Node
    from supervisor.backend.handle import BackendHandle
    from supervisor.backend.ports import BackendPorts
    from supervisor.cli.config import SecurityConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ManagedBackend:
    """A running child. `relay` is its master, `channel` leads to its gRPC port through restarts."""

    handle: BackendHandle
    relay: MasterRelay
    channel: BackendChannel


@dataclass(frozen=True, slots=True)
class BackendHooks:
    """For a backend that divides the volumes with this process: see the fields of that name of `BackendSpec`."""

    before_start: Callable[[], Awaitable[None]]
    before_ready: Callable[[], Awaitable[None]]
    descriptors: tuple[int, ...]


@asynccontextmanager
async def open_backend(node: Node, hooks: BackendHooks | None = None) -> AsyncIterator[ManagedBackend]:
    """The child, ready. With `hooks` it is not told to reload.

    On leaving it is stopped and waited for; no process, port or directory stays.

    Raises:
        BackendStartFailed, BackendGaveUp: in an exception group, also later, from inside the block.
    """
    relay = MasterRelay(node.model, node.identity, node.masters, node.dial, source_name=CHILD_SOURCE)
    relay.start(relay_credentials(node.security.current()))
    try:
        with ChildConfigDirectory(derive_files(node.security.current())) as directory:

            def rewrite_files(security: SecurityConfig) -> None:
                directory.write(derive_files(security))

            node.security.add_listener(rewrite_files)
            async with trio.open_nursery() as nursery:
                handle = await nursery.start(serve_backend, _spec(node, relay, directory, hooks))
                channel = BackendChannel(handle)

                async def reload_child() -> None:
                    handle.signal_reload()

                if hooks is None:
                    node.reload_callbacks.append(reload_child)
                try:
                    yield ManagedBackend(handle, relay, channel)
                finally:
                    channel.close()
                    handle.request_stop()
    finally:
        await trio.to_thread.run_sync(relay.stop)


def relay_credentials(security: SecurityConfig) -> grpc.ServerCredentials | None:
    """With what the relay serves the child: TLS where the child dials its masters with TLS, which ours then accept."""
    files = relay_tls(security)
    if files is None or files.cert is None or files.key is None or files.ca is None:
        return None
    pair = (files.key.read_bytes(), files.cert.read_bytes())
    return grpc.ssl_server_credentials([pair], files.ca.read_bytes(), require_client_auth=True)


def _spec(node: Node, relay: MasterRelay, directory: ChildConfigDirectory, hooks: BackendHooks | None) -> BackendSpec:
    backend = node.config.backend
    assert backend is not None

    def command(ports: BackendPorts) -> Sequence[str]:
        return child_command(node.config, ports, relay.address, directory.path)

    spec = BackendSpec(
        name=str(node.backend_version) if node.backend_version else "native",
        command=command,
        environment=child_environment(os.environ, backend),
    )
    if hooks is None:
        return spec
    return replace(
        spec,
        environment={**(spec.environment or {}), LOCK_OWNER_VARIABLE: str(os.getpid())},
        descriptors=hooks.descriptors,
        before_start=hooks.before_start,
        before_ready=hooks.before_ready,
    )
