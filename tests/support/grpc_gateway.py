"""A gateway before a fake backend: a gRPC server whose behaviour with bytes the test sets for each RPC."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from native_handlers.pb.methods import VOLUME_SERVER_METHODS
from supervisor.net.grpc_clients import ClientRegistry, GrpcClient

if TYPE_CHECKING:
    from supervisor.gateway.grpc import GrpcGateway


class EveryoneIsKnown(ClientRegistry):
    """A registry that gives `client` for every connection."""

    def __init__(self, client: GrpcClient) -> None:
        super().__init__()
        self.client = client

    def find(self, _grpcio_name: str) -> GrpcClient | None:
        return self.client


def error_of(invoke) -> grpc.RpcError:
    """The error with which the call that `invoke` makes ends."""
    with pytest.raises(grpc.RpcError) as caught:
        invoke()
    return caught.value


class FakeBackend(grpc.GenericRpcHandler):
    """A gRPC server of bytes. A behaviour is registered for each RPC's name. `seen` holds (name, metadata, seconds
    left) of each call.
    """

    def __init__(self) -> None:
        self.behaviors: dict[str, object] = {}
        self.seen: list[tuple[str, dict[str, object], float | None]] = []
        self.cancelled = threading.Event()
        options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)]
        self.server = grpc.server(ThreadPoolExecutor(600), handlers=[self], options=options)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def on(self, name: str):
        def register(behavior):
            self.behaviors[name] = behavior
            return behavior

        return register

    def service(self, details):
        name = details.method.rpartition("/")[2]
        method, behavior = VOLUME_SERVER_METHODS[name], self.behaviors.get(name)
        if behavior is None:
            return None

        def run(requests, context):
            self.seen.append((name, dict(context.invocation_metadata()), context.time_remaining()))
            return behavior(requests, context)

        shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        return getattr(grpc, f"{shape}_rpc_method_handler")(run)


@dataclass
class Client:
    """Calls RPCs of the gateway by name, with bytes as messages."""

    channel: grpc.Channel
    gateway: GrpcGateway
    counted: list[tuple[str, str, str]]
    backend_channel: grpc.Channel | None = None
    port: int = 0

    def call(self, name: str):
        method = VOLUME_SERVER_METHODS[name]
        shape = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
        return getattr(self.channel, shape)(method.path)


class Line:
    """A TCP proxy to `port` for one connection. The test connects to the proxy's `port`, and can cut the connection."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._target = port
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        self._listener.close()
        server = socket.create_connection(("127.0.0.1", self._target))
        self._ends = [client, server]
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        self.cut()

    def cut(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
