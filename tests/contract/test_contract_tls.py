"""HTTPS on the admin port and mutual TLS on gRPC, towards clients and towards the master."""

import ssl

import grpc
import pytest
from harness.certificates import Authority, ClientTls
from harness.http1 import Connection, fetch
from harness.master import Master
from harness.waiting import wait_until

from native_handlers.pb import volume_server_pb2 as pb

WITH_WEED = pytest.mark.only(lambda implementation: implementation.needs_weed)
"""The embedded master speaks no TLS."""


class Secured:
    """A master and its volume servers that speak TLS only."""

    def __init__(self, directory):
        self.authority = Authority(directory)
        self.volume_pair = self.authority.issue("volume1.test")
        self.tls = ClientTls(self.authority.ca, self.authority.issue("client.test"))

    def toml(self, allowed=""):
        master = self.authority.issue("master.test")
        return (
            f'[grpc]\nca = "{self.authority.ca}"\n'
            f'[grpc.master]\ncert = "{master.cert}"\nkey = "{master.key}"\n'
            f'[grpc.volume]\ncert = "{self.volume_pair.cert}"\nkey = "{self.volume_pair.key}"\n'
            f'allowed_commonNames = "{allowed}"\n'
            f'[https.volume]\ncert = "{self.volume_pair.cert}"\nkey = "{self.volume_pair.key}"\n'
        )


@pytest.fixture
def secured(tmp_path, weed, fresh_server):
    """Starts a secured server: secured(allowed_common_names) -> VolumeServer."""
    made = Secured(tmp_path / "ca")
    masters = []

    def start(allowed=""):
        masters.append(Master(tmp_path / "secured-master", weed, made.toml()))
        server = fresh_server(master=masters[0], security=made.toml(allowed), tls=made.tls)
        server.secured = made
        return server

    yield start
    for master in masters:
        master.process.end()


@WITH_WEED
def test_data_and_calls_go_over_tls(secured):
    server = secured()
    fid = server.store(b"wrapped")
    assert server.read(fid).body == b"wrapped"
    assert server.rpc.Ping(pb.PingRequest(), timeout=10).start_time_ns
    assert fetch(server.public, "GET", f"/{fid}").body == b"wrapped"


@WITH_WEED
def test_plain_text_is_not_served_where_tls_is_meant(secured):
    server = secured()
    with Connection(server.admin) as connection:
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        said = connection.read_to_end()
    assert b" 200 " not in said
    with grpc.insecure_channel(f"127.0.0.1:{server.layout.grpc_port}") as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/volume_server_pb.VolumeServer/Ping")(b"", timeout=5)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@WITH_WEED
def test_a_call_without_a_client_certificate_is_refused(secured):
    server = secured()
    credentials = grpc.ssl_channel_credentials(server.secured.authority.ca.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{server.layout.grpc_port}", credentials) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/volume_server_pb.VolumeServer/Ping")(b"", timeout=5)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


@WITH_WEED
def test_only_allowed_common_names_may_call(secured):
    server = secured("client.test,master.test")
    assert server.rpc.Ping(pb.PingRequest(), timeout=10).start_time_ns
    stranger = ClientTls(server.secured.authority.ca, server.secured.authority.issue("stranger.test"))
    with grpc.secure_channel(f"127.0.0.1:{server.layout.grpc_port}", stranger.grpc_credentials) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/volume_server_pb.VolumeServer/Ping")(b"", timeout=5)
        assert raised.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED}


@pytest.mark.only(lambda implementation: implementation.is_front and implementation.needs_weed)
def test_a_renewed_certificate_is_served_to_new_connections(secured):
    server = secured()

    def served():
        with Connection(server.admin, tls=server.tls.context) as connection:
            return connection.socket.getpeercert(binary_form=True)

    before = served()
    renewed = server.secured.authority.issue("volume1.test", "renewed")
    server.secured.volume_pair.key.write_bytes(renewed.key.read_bytes())
    server.secured.volume_pair.cert.write_bytes(renewed.cert.read_bytes())
    expected = ssl.PEM_cert_to_DER_cert(renewed.cert.read_text())
    assert before != expected
    wait_until(lambda: served() == expected, "the new certificate", limit_s=30)
