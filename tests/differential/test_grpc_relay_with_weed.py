"""Upstream's server behind the relay and the gateway, and upstream's server as the client before them. Skips without a
`weed` program (WEED_BINARY or PATH).
"""

from __future__ import annotations

import urllib.request
from contextlib import asynccontextmanager
from functools import partial

import grpc
import pytest
import trio
from go_cluster import running_weed
from harness.implementations import weed_program
from support.waiting import LIMIT_S as T

from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import VOLUME_SERVER_METHODS, volume_server
from supervisor.backend.channel import CHANNEL_OPTIONS
from supervisor.gateway.grpc import GrpcGateway
from supervisor.gateway.grpc_forward import BackendEngine
from supervisor.gateway.grpc_gate import AdminGate
from supervisor.net.byte_relay import RelaySettings, serve_byte_relay
from supervisor.net.grpc_clients import ClientRegistry
from supervisor.routing.live import LiveTable
from supervisor.routing.registry import ROUTES_BY_NAME, Gate
from supervisor.routing.table import table_forwarding_all

WEED = weed_program()
pytestmark = [
    pytest.mark.skipif(WEED is None, reason="needs a weed program: set WEED_BINARY or put it into PATH"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def weed(tmp_path_factory):
    with running_weed(WEED, tmp_path_factory.mktemp("weed"), volume_servers=2) as running:
        yield running


@asynccontextmanager
async def relay_before(address: str, **relay):
    """The port of a relay and gateway that forward everything to `address`."""
    backend = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
    clients = ClientRegistry()
    allows = relay.pop("allows", lambda host: True)
    gateway = GrpcGateway(
        table=LiveTable(table_forwarding_all()),
        native={},
        clients=clients,
        gate=AdminGate(allows),
        backend=BackendEngine(lambda: backend, {}),
    )
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    settings = RelaySettings(target=gateway.start(), clients=clients, **relay)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_byte_relay, listeners, settings, handler_nursery=nursery))
            yield listeners[0].socket.getsockname()[1]
            await trio.to_thread.run_sync(gateway.drain, 1)
            nursery.cancel_scope.cancel()
    backend.close()


def upload(http: str, fid: str, data: bytes) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"http://{http}/{fid}", data, headers, method="POST")
    urllib.request.urlopen(request, timeout=T).close()


def allocate(channel, volume_id: int) -> None:
    request = pb.AllocateVolumeRequest(volume_id=volume_id, version=3, replication="000")
    volume_server(channel).AllocateVolume(request, timeout=T)


async def test_every_rpc_gets_the_same_answer_through_us(weed):
    """Empty requests: upstream refuses most, with its own texts. Time-dependent parts are left out."""
    changing = {"Ping", "VolumeServerStatus", "VolumeServerLeave"}

    def compare(port: int) -> None:
        with grpc.insecure_channel(weed.volumes[0].grpc) as direct, grpc.insecure_channel(f"127.0.0.1:{port}") as ours:
            for name, method in VOLUME_SERVER_METHODS.items():
                if name not in changing:
                    assert outcome(ours, method) == outcome(direct, method), name

    async with relay_before(weed.volumes[0].grpc) as port:
        await trio.to_thread.run_sync(compare, port)


def outcome(channel, method):
    call = getattr(volume_server(channel), method.name)
    request = iter([method.request_class()]) if method.client_streaming else method.request_class()
    messages = []
    try:
        if method.server_streaming:
            messages.extend(call(request, timeout=T))
        else:
            messages.append(call(request, timeout=T))
    except grpc.RpcError as error:
        return messages, error.code(), error.details(), sorted(key for key, _ in error.trailing_metadata())
    return messages


async def test_a_go_client_copies_a_volume_through_us(weed):
    """The second server fetches a volume from the first, whose address is the front's: grpc-go's requests and streams
    to the front.
    """
    source, target = weed.volumes
    data = bytes(range(256)) * 20_000

    def prepare() -> None:
        with grpc.insecure_channel(source.grpc) as channel:
            allocate(channel, 31)
        upload(source.http, "31,01637037d6", data)

    def copy(port: int) -> bytes:
        with grpc.insecure_channel(target.grpc) as channel:
            request = pb.VolumeCopyRequest(volume_id=31, source_data_node=f"{source.http}.{port}", replication="000")
            list(volume_server(channel).VolumeCopy(request, timeout=T))
        with urllib.request.urlopen(f"http://{target.http}/31,01637037d6", timeout=T) as answer:
            return answer.read()

    await trio.to_thread.run_sync(prepare)
    async with relay_before(source.grpc) as port:
        assert await trio.to_thread.run_sync(copy, port) == data


async def test_a_file_goes_up_through_us(weed):
    content = b"\x03" + bytes(7) + b"x" * 5_000_000

    def send(port: int) -> int:
        def requests():
            yield pb.ReceiveFileRequest(
                info=pb.ReceiveFileInfo(volume_id=41, ext=".dat", collection="", file_size=len(content))
            )
            for start in range(0, len(content), 1 << 20):
                yield pb.ReceiveFileRequest(file_content=content[start : start + (1 << 20)])

        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            allocate(channel, 41)
            response = volume_server(channel).ReceiveFile(requests(), timeout=T)
        assert response.error == ""
        return response.bytes_written

    async with relay_before(weed.volumes[0].grpc) as port:
        assert await trio.to_thread.run_sync(send, port) == len(content)


async def test_an_endless_stream_ends_when_its_client_goes(weed):
    def tail(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            allocate(channel, 51)
            upload(weed.volumes[0].http, "51,01637037d6", b"tail me")
            stream = volume_server(channel).VolumeTailSender(pb.VolumeTailSenderRequest(volume_id=51), timeout=T)
            assert b"tail me" in next(stream).needle_body
            stream.cancel()

    async with relay_before(weed.volumes[0].grpc) as port:
        await trio.to_thread.run_sync(tail, port)


async def test_the_gate_sees_the_true_client(weed):
    def attempt(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            client = volume_server(channel)
            assert ROUTES_BY_NAME["grpc.AllocateVolume"].gate is Gate.WHITE_LIST
            with pytest.raises(grpc.RpcError) as caught:
                allocate(channel, 61)
            assert caught.value.details() == "not authorized: 127.0.0.1"
            client.Ping(pb.PingRequest(), timeout=T)

    async with relay_before(weed.volumes[0].grpc, allows=lambda host: host == "192.0.2.1") as port:
        await trio.to_thread.run_sync(attempt, port)
