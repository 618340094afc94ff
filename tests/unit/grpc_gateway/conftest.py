"""A gateway before a fake backend, both in this process."""

from __future__ import annotations

import grpc
import pytest
from grpc_gateway_fakes import Client, EveryoneIsKnown, FakeBackend

from supervisor.gateway.grpc import GrpcGateway
from supervisor.gateway.grpc_forward import BackendEngine
from supervisor.gateway.grpc_gate import AdminGate
from supervisor.gateway.grpc_limits import CallLimits
from supervisor.net.grpc_peers import Peer
from supervisor.routing.live import LiveTable
from supervisor.routing.table import table_forwarding_all, table_native


@pytest.fixture
def backend():
    fake = FakeBackend()
    yield fake
    fake.server.stop(None).wait()


@pytest.fixture
def open_gateway():
    """Starts gateways as the test wants them; gives a Client of each."""
    closing = []

    def start(
        *, backend=None, native=None, table=None, allows=lambda host: True, peers=None, hooks=None, limits=None
    ) -> Client:
        engine = backend_channel = None
        if backend is not None:
            backend_channel = grpc.insecure_channel(
                f"127.0.0.1:{backend.port}",
                options=[("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
            )
            closing.append(backend_channel.close)
            engine = BackendEngine(lambda: backend_channel, hooks or {})
        if table is None:
            names = [f"grpc.{name}" for name in native or {}]
            table = table_forwarding_all() if backend is not None else table_native(names)
        counted = []
        gateway = GrpcGateway(
            table=LiveTable(table),
            native=native or {},
            peers=EveryoneIsKnown(Peer("10.1.2.3", 777)) if peers is None else peers,
            gate=AdminGate(allows),
            backend=engine,
            limits=limits or CallLimits(),
            count=lambda route, engine, code, _seconds: counted.append((route, engine, code)),
        )
        port = gateway.start()
        channel = grpc.insecure_channel(
            f"127.0.0.1:{port}",
            options=[("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)],
        )
        closing[:0] = [channel.close, lambda: gateway.drain(0)]
        return Client(channel, gateway, counted, backend_channel)

    yield start
    for close in closing:
        close()
