"""A gateway before a fake backend, both in this process."""

from __future__ import annotations

import grpc
import pytest
from support.grpc_gateway import Client, EveryoneIsKnown, FakeBackend

from supervisor.gateway.grpc import GrpcGateway
from supervisor.gateway.grpc_forward import BackendEngine
from supervisor.gateway.grpc_gate import AdminGate
from supervisor.gateway.grpc_pools import CallLimits
from supervisor.net.grpc_clients import GrpcClient
from supervisor.routing.live import LiveTable
from supervisor.routing.table import table_forwarding_all, table_native


@pytest.fixture
def backend():
    fake = FakeBackend()
    yield fake
    fake.server.stop(None).wait()


@pytest.fixture
def open_gateway():
    """Starts gateways; yields a Client of each."""
    closing = []

    def start(
        *,
        backend=None,
        native=None,
        table=None,
        allows=lambda host: True,
        clients=None,
        hooks=None,
        limits=None,
        mark=None,
        check=lambda engine: engine,
    ) -> Client:
        engine = backend_channel = None
        if backend is not None:
            backend_channel = grpc.insecure_channel(
                f"127.0.0.1:{backend.port}",
                options=[
                    ("grpc.max_receive_message_length", -1),
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.enable_retries", 0),
                ],
            )
            closing.append(backend_channel.close)
            engine = check(BackendEngine(lambda: backend_channel, hooks or {}))
        if table is None:
            names = [f"grpc.{name}" for name in native or {}]
            table = table_forwarding_all() if backend is not None else table_native(names)
        counted = []
        gateway = GrpcGateway(
            table=LiveTable(table),
            native=native or {},
            clients=EveryoneIsKnown(GrpcClient("10.1.2.3", 777)) if clients is None else clients,
            gate=AdminGate(allows),
            backend=engine,
            limits=limits or CallLimits(),
            mark=mark,
            count=lambda route, engine, code, _seconds: counted.append((route, engine, code)),
        )
        port = gateway.listen("127.0.0.1:0")
        channel = grpc.insecure_channel(
            f"127.0.0.1:{port}",
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),
            ],
        )
        closing[:0] = [channel.close, lambda: gateway.drain(0)]
        return Client(channel, gateway, counted, backend_channel, port)

    yield start
    for close in closing:
        close()
