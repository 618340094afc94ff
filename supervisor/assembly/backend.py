"""The managed backend with its surroundings: the relay as its master, its derived configuration, its channel."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import trio

from native_handlers.records import dataclass
from supervisor.assembly.node import CHILD_SOURCE
from supervisor.backend.channel import BackendChannel
from supervisor.backend.child import BackendSpec, serve_backend
from supervisor.backend.child_config import ChildConfigDirectory, derive_files, relay_tls
from supervisor.backend.child_flags import FRONT_VARIABLE, LOCK_OWNER_VARIABLE, child_command, child_environment
from supervisor.cluster.caller_check import ChildCheck
from supervisor.cluster.relay import MasterRelay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from supervisor.assembly.node import Node
    from supervisor.backend.handle import BackendHandle
    from supervisor.backend.ports import BackendPorts
    from supervisor.config.config import SecurityConfig


@dataclass(frozen=True, slots=True)
class ManagedBackend:
    """A running child. `relay` is its master. `channel` leads to its gRPC port, through restarts."""

    handle: BackendHandle
    relay: MasterRelay
    channel: BackendChannel


@dataclass(frozen=True, slots=True)
class BackendHooks:
    """For a backend that shares the volumes with this process: see the fields of the same name of `BackendSpec`."""

    before_start: Callable[[], Awaitable[None]]
    before_ready: Callable[[], Awaitable[None]]
    descriptors: tuple[int, ...]


@asynccontextmanager
async def open_backend(node: Node, hooks: BackendHooks | None = None) -> AsyncIterator[ManagedBackend]:
    """The child, ready to serve. With `hooks` it gets no SIGHUP at a reload.

    At the end of the block the child is stopped and waited for. No process, port or directory is left.

    Raises:
        BackendStartFailed, BackendGaveUp: in an exception group; also later, from inside the block.
    """
    is_child = ChildCheck()
    relay = MasterRelay(
        node.model, node.identity, node.masters, node.dial, source_name=CHILD_SOURCE, is_allowed_caller=is_child
    )
    relay.start(relay_credentials(node.security.current()))
    try:
        with ChildConfigDirectory(derive_files(node.security.current())) as directory:

            def rewrite_files(security: SecurityConfig) -> None:
                directory.write(derive_files(security))

            node.security.add_listener(rewrite_files)
            async with trio.open_nursery() as nursery:
                handle = await nursery.start(serve_backend, _spec(node, relay, is_child, directory, hooks))
                channel = BackendChannel(handle)

                async def reload_child() -> None:
                    handle.signal_reload()

                try:
                    with node.reloads.including(reload_child) if hooks is None else nullcontext():
                        yield ManagedBackend(handle, relay, channel)
                finally:
                    channel.close()
                    handle.request_stop()
    finally:
        await trio.to_thread.run_sync(relay.stop)


def relay_credentials(security: SecurityConfig) -> grpc.ServerCredentials | None:
    """The relay's credentials: TLS where the child dials its masters with TLS; None for plaintext."""
    files = relay_tls(security)
    if files is None or files.cert is None or files.key is None or files.ca is None:
        return None
    pair = (files.key.read_bytes(), files.cert.read_bytes())
    return grpc.ssl_server_credentials([pair], files.ca.read_bytes(), require_client_auth=True)


def _spec(
    node: Node, relay: MasterRelay, is_child: ChildCheck, directory: ChildConfigDirectory, hooks: BackendHooks | None
) -> BackendSpec:
    backend = node.config.backend
    assert backend is not None

    def command(ports: BackendPorts) -> Sequence[str]:
        return child_command(node.config, ports, relay.address, directory.path)

    spec = BackendSpec(
        name=str(node.backend_version) if node.backend_version else "native",
        command=command,
        environment={**child_environment(os.environ, backend), FRONT_VARIABLE: str(os.getpid())},
        note_process=is_child.set_process,
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
