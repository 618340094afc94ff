"""`weed-volume-py quickstart` and `weed-volume-py master`: the embedded master, alone or with a native server.

The embedded master is for trying things out and for tests; production uses `weed master`.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import trio

from native_handlers.format.replica_placement import ReplicaPlacement
from supervisor.app import reload, run_until_stopped, serve_until_stopped
from supervisor.assembly.descriptors import current_limit, raise_limit
from supervisor.assembly.front import hold_ports
from supervisor.assembly.lifecycle import serve_signals
from supervisor.assembly.node import make_node
from supervisor.config.config import TlsFiles
from supervisor.embedded_master import EmbeddedMasterConfig, serve_embedded_master
from supervisor.embedded_master.config import NO_KEY
from supervisor.logs.setup import set_up_logging
from supervisor.net.channel import open_channel
from supervisor.wire.server_address import join_host_port

if TYPE_CHECKING:
    from supervisor.assembly.lifecycle import StopRequest
    from supervisor.config.config import MasterOptions, QuickstartConfig, SecurityConfig

MASTER_DIRECTORY = "master"
"""Below the first data directory: where quickstart's embedded master keeps its sequence of file ids."""

_MOST_CONNECTIONS = 1024
"""The most connections to an embedded master that runs alone."""

log = logging.getLogger(__name__)


def run_quickstart(quickstart: QuickstartConfig) -> int:
    """Runs master and server until a stop signal. Returns the exit status."""
    set_up_logging(quickstart.config.log)
    raise_limit()
    return run_until_stopped(partial(_serve_quickstart, quickstart))


def run_master(options: MasterOptions) -> int:
    """Runs the embedded master alone. Returns the exit status."""
    set_up_logging(options.log)
    raise_limit()
    return run_until_stopped(partial(_serve_master, options))


async def _serve_quickstart(quickstart: QuickstartConfig, stop: StopRequest) -> None:
    config = quickstart.config
    with hold_ports(config):  # a taken port is reported before the master starts
        node = await trio.to_thread.run_sync(make_node, config, stop)
    async with trio.open_nursery() as outer:
        await outer.start(serve_signals, stop, partial(reload, node))
        directory = config.directories[0].path / MASTER_DIRECTORY
        of_reserve = node.descriptors.reserve // 4  # gRPC gets the same again: together half of the reserve
        await outer.start(
            serve_embedded_master, master_config(quickstart.master, directory, config.security, of_reserve)
        )
        # Before the master knows of the server, the lines of the welcome would not work.
        welcome = partial(node.heartbeat.view.when_connected, partial(print_welcome, quickstart))
        await serve_until_stopped(node, on_serving=welcome)
        outer.cancel_scope.cancel()


async def _serve_master(options: MasterOptions, stop: StopRequest) -> None:
    async with trio.open_nursery() as outer:
        await outer.start(serve_signals, stop, _nothing_to_reload)
        most = min(current_limit() // 4, _MOST_CONNECTIONS)
        with nullcontext(options.directory) if options.directory else TemporaryDirectory() as directory:
            async with trio.open_nursery() as inner:
                await inner.start(serve_embedded_master, master_config(options, Path(directory), None, most))
                await stop.wait()
                inner.cancel_scope.cancel()
        outer.cancel_scope.cancel()


async def _nothing_to_reload() -> None:
    log.info("the embedded master has no configuration to reload")


def master_config(
    options: MasterOptions, directory: Path, security: SecurityConfig | None, max_connections: int
) -> EmbeddedMasterConfig:
    """The embedded master's configuration. With signing keys the master signs tokens for assigns and look-ups."""
    return EmbeddedMasterConfig(
        directory=directory,
        ip=options.ip,
        bind_ip=options.bind_ip,
        port=options.port,
        grpc_port=options.port_grpc,
        volume_size_limit_bytes=options.volume_size_limit_mb << 20,
        default_replication=ReplicaPlacement.parse(options.default_replication or "000"),
        write_key=security.write_key if security else NO_KEY,
        read_key=security.read_key if security else NO_KEY,
        dial=partial(open_channel, tls=security.grpc if security else TlsFiles()),
        max_connections=max_connections,
    )


def print_welcome(quickstart: QuickstartConfig) -> None:
    """Prints all addresses, and three lines to try."""
    config, master = quickstart.config, quickstart.master
    volume_url = f"http://{join_host_port(config.ip, config.port)}"
    master_url = f"http://{join_host_port(master.ip, master.port)}"
    directories = ", ".join(str(directory.path) for directory in config.directories)
    print(
        f"""
weed-volume-py is running, data in {directories}

  volume server  {volume_url}  (status page {volume_url}/ui/index.html)
  master         {master_url}  (embedded, for trying things out; production uses `weed master`)

Assign a file id, upload to it, read it back:

  fid=$(curl -s '{master_url}/dir/assign' | sed 's/.*"fid":"\\([^"]*\\)".*/\\1/'); echo "$fid"
  curl -F 'file=Hello from weed-volume-py;filename=hello.txt;type=text/plain' "{volume_url}/$fid"
  curl "{volume_url}/$fid"

Ctrl-C stops it.
""",
        flush=True,
    )
