"""A gRPC client with mutual TLS before the relay, a plain grpcio server behind it."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import grpc
import pytest
import trio
from support.certificate_authority import Authority
from support.waiting import LIMIT_S as T

from supervisor.net.byte_relay import RelaySettings, serve_byte_relay
from supervisor.net.grpc_clients import ClientRegistry
from supervisor.net.private_socket import private_socket
from supervisor.net.tls import TlsContextSource, TlsSettings


class Echo(grpc.GenericRpcHandler):
    """Answers with the request and the common name of the true client."""

    def __init__(self, clients: ClientRegistry) -> None:
        self._clients = clients

    def service(self, details):
        def echo(request, context):
            known = self._clients.find(context.peer())
            return request + (known.common_name or "").encode()

        return grpc.unary_unary_rpc_method_handler(echo)


@asynccontextmanager
async def echo_behind_relay(source: TlsContextSource):
    clients = ClientRegistry()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[Echo(clients)], options=[("grpc.so_reuseport", 0)])

    def listen(path):
        server.add_insecure_port(f"unix:{path}")
        server.start()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    try:
        with private_socket(listen) as path, trio.fail_after(2 * T):
            settings = RelaySettings(path, clients, source.current)
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(serve_byte_relay, listeners, settings, handler_nursery=nursery))
                yield listeners[0].socket.getsockname()[1]
                nursery.cancel_scope.cancel()
    finally:
        server.stop(None).wait()


def ask(port: int, ca: bytes, pair: tuple[bytes, bytes] | None) -> bytes:
    key, chain = pair or (None, None)
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
        return channel.unary_unary("/a.b/c")(b"hello ", timeout=T)


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def pair_of(authority: Authority, name: str) -> tuple[bytes, bytes]:
    certificate, key = authority.issue(name)
    return key.read_bytes(), certificate.read_bytes()


async def test_mutual_tls_and_a_new_certificate_without_a_restart(authority, tmp_path):
    clock = [0.0]
    cert, key = authority.issue("server")
    source = TlsContextSource(TlsSettings(cert=cert, key=key, ca=authority.ca, alpn=("h2",)), lambda: clock[0])
    old_ca = authority.ca.read_bytes()
    old_pair = pair_of(authority, "filer01")
    async with echo_behind_relay(source) as port:
        call = partial(trio.to_thread.run_sync, ask, port)
        assert await call(old_ca, old_pair) == b"hello filer01"
        with pytest.raises(grpc.RpcError):
            await call(old_ca, None)

        (tmp_path / "next").mkdir()
        successor = Authority(tmp_path / "next")
        for new, old in ((successor.ca, authority.ca), *zip(successor.issue("server"), (cert, key), strict=True)):
            shutil.move(new, old)
        clock[0] = time.monotonic()
        new_ca, new_pair = authority.ca.read_bytes(), pair_of(successor, "filer02")
        assert await call(new_ca, new_pair) == b"hello filer02"
        with pytest.raises(grpc.RpcError):
            await call(old_ca, old_pair)
