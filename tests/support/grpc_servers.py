"""Whole native servers in this process: a store behind a gateway, without the relay before it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from grpc_native_fakes import make_node

from native_handlers.format.needle import Needle
from native_handlers.grpc.handlers import GRPC_HANDLERS
from native_handlers.grpc.state_keeper import StoreStateKeeper
from native_handlers.pb.methods import ServiceClient, volume_server
from native_handlers.storage.disk_location import LocationConfig
from native_handlers.storage.files import OsFiles
from native_handlers.storage.store import StoreConfig, open_store
from supervisor.gateway.grpc import GrpcGateway
from supervisor.gateway.grpc_gate import AdminGate
from supervisor.gateway.grpc_native import native_engines
from supervisor.net.grpc_peers import Peer, PeerRegistry
from supervisor.routing.live import LiveTable
from supervisor.routing.table import table_native

if TYPE_CHECKING:
    from pathlib import Path

    from native_handlers.grpc.node import GrpcNode
    from native_handlers.storage.store import Store
    from supervisor.gateway.grpc_limits import CallLimits

DEADLINE_S = 20.0
VID = 7
COOKIE = 0x637037D6


class Everyone(PeerRegistry):
    """Takes each connection for one that the relay opened."""

    def find(self, _grpc_peer):
        return Peer("127.0.0.1", 1)


class WatchedFiles(OsFiles):
    """Counts the bytes read; opening the file named `held_name` waits for `release`."""

    def __init__(self) -> None:
        self.read_bytes = 0
        self.held_name = ""
        self.is_held, self.release = threading.Event(), threading.Event()

    def open(self, path, flags, mode=0o644):
        if path.name == self.held_name:
            self.is_held.set()
            assert self.release.wait(DEADLINE_S)
        return super().open(path, flags, mode)

    def read(self, fd, length_bytes, offset_bytes):
        self.read_bytes += length_bytes
        return super().read(fd, length_bytes, offset_bytes)


@dataclass
class Served:
    """`address` is how peers name it; `rpc` a client of it."""

    directory: Path
    files: WatchedFiles
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
        self.store.write_needle(VID, needle)
        return needle

    def delete(self, needle_id: int, **more) -> int:
        return self.store.delete_needle(VID, needle_id, COOKIE, **more)

    def holders(self) -> int:
        """How many hold the volume's data file open, itself included."""
        return self.volume._open_files.opened.dat._users

    def is_idle(self) -> bool:
        return self.gateway.running_calls == 0 and self.holders() == 1


@contextmanager
def serving(directory: Path, limits: CallLimits | None = None):
    """A server with an empty volume of id VID; ended in every case."""
    directory.mkdir()
    files = WatchedFiles()
    store = open_store(StoreConfig((LocationConfig(directory, directory, 8),)), files=files)
    store.allocate_volume(VID)
    node = make_node(directory, store, state=StoreStateKeeper(store))
    gateway = GrpcGateway(
        table=LiveTable(table_native([f"grpc.{name}" for name in GRPC_HANDLERS])),
        native=native_engines(node, GRPC_HANDLERS),
        peers=Everyone(),
        gate=AdminGate(lambda host: True),
        limits=limits,
    )
    port = gateway.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
    try:
        yield Served(directory, files, store, node, gateway, f"127.0.0.1:1.{port}", channel)
    finally:
        channel.close()
        gateway.drain(0)
        files.release.set()
        store.close()


def wait_until(condition, what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not so in time: {what}"
        threading.Event().wait(0.005)
