"""Whole native servers in this process: a store behind a gateway, without the relay before it."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from native_handlers.format.needle import Needle
from native_handlers.grpc.handlers import BYTES_HANDLERS, GRPC_HANDLERS
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb.methods import ServiceClient, volume_server
from supervisor.gateway.grpc import GrpcGateway
from supervisor.gateway.grpc_gate import AdminGate
from supervisor.gateway.grpc_native import native_engines
from supervisor.net.grpc_clients import ClientRegistry, GrpcClient
from supervisor.routing.live import LiveTable
from supervisor.routing.table import table_native
from support.files import PlannedFiles
from support.grpc_nodes import make_node
from support.stores import open_at
from support.waiting import LIMIT_S as DEADLINE_S

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.store import Store
    from supervisor.gateway.grpc_pools import CallLimits

VID = 7
COOKIE = 0x637037D6


class Everyone(ClientRegistry):
    """Treats each connection as one that the relay opened."""

    def find(self, _grpcio_name):
        return GrpcClient("127.0.0.1", 1)


class HeldOpen:
    """Opening the file with this name waits for `release`."""

    def __init__(self) -> None:
        self.name = ""
        self.is_held, self.release = threading.Event(), threading.Event()

    def __call__(self, operation, target) -> None:
        if operation == "open" and target.name == self.name:
            self.is_held.set()
            assert self.release.wait(DEADLINE_S)


@dataclass
class Served:
    """`address` is the name for other servers; `rpc` is a client of the server."""

    directory: Path
    files: PlannedFiles
    held_open: HeldOpen
    store: Store
    node: GrpcNode
    gateway: GrpcGateway
    address: str
    channel: grpc.Channel

    @property
    def rpc(self) -> ServiceClient:
        return volume_server(self.channel)

    @property
    def volume(self):
        return self.store.find_volume(VID)

    def write(self, needle_id: int, data: bytes = b"payload", cookie: int = COOKIE, **more) -> Needle:
        needle = Needle(needle_id=needle_id, cookie=cookie, data=data)
        for name, value in more.items():
            setattr(needle, name, value)
        self.store.get_volume(VID).write(needle)
        return needle

    def delete(self, needle_id: int, **more) -> int:
        return self.store.get_volume(VID).delete(needle_id, COOKIE, **more)

    def holders(self) -> int:
        """The number of holders of the volume's data file, itself included."""
        return self.volume.handle.opened.dat.user_count

    def is_idle(self) -> bool:
        return self.gateway.running_calls == 0 and self.holders() == 1


@contextmanager
def serving(directory: Path, limits: CallLimits | None = None):
    """A server with an empty volume of id VID; always ended."""
    directory.mkdir()
    held_open = HeldOpen()
    files = PlannedFiles(before=held_open)
    store = open_at(directory, files=files)
    store.allocate_volume(VID)
    node = make_node(directory, store, state=StoreStateKeeper(store))
    gateway = GrpcGateway(
        table=LiveTable(table_native([f"grpc.{name}" for name in GRPC_HANDLERS])),
        native=native_engines(node, GRPC_HANDLERS, BYTES_HANDLERS),
        clients=Everyone(),
        gate=AdminGate(lambda host: True),
        limits=limits,
    )
    port = gateway.listen("127.0.0.1:0")
    channel = grpc.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    )
    try:
        yield Served(directory, files, held_open, store, node, gateway, f"127.0.0.1:1.{port}", channel)
    finally:
        channel.close()
        gateway.drain(0)
        held_open.release.set()
        store.close()
