"""HTTPS on the admin port and mutual TLS on gRPC, towards clients and towards the master."""

import ssl

import grpc
import pytest
from harness.certificates import Authority, ClientTls
from harness.http1 import Connection, fetch
from harness.implementations import find_weed
from harness.master import Master
from harness.server import VolumeServer
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import volume_server_pb2 as pb

WITH_WEED = pytest.mark.only(lambda implementation: implementation.needs_weed or implementation.name == "native")
"""The embedded master has no TLS, so even the native server alone needs upstream's master here."""


class Secured:
    """A master and its volume servers with TLS only."""

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


@pytest.fixture(scope="module")
def server(implementation, weed, tmp_path_factory):
    """A secured server that the tests of this module share. Three common names may call it, its own among them."""
    if weed is None:
        pytest.skip(find_weed()[1])
    base = tmp_path_factory.mktemp(f"tls-{implementation.name}")
    secured = Secured(base / "ca")
    master = Master(base / "master", weed, secured.toml())
    made = VolumeServer(
        *(implementation, base / "server", master, weed),
        security=secured.toml("client.test,master.test,volume1.test"),
        tls=secured.tls,
    )
    made.secured = secured
    yield made
    made.end()
    master.process.end()


@WITH_WEED
def test_data_and_calls_go_over_tls(server):
    fid = server.store(b"wrapped")
    assert server.read(fid).body == b"wrapped"
    assert server.rpc.Ping(pb.PingRequest(), timeout=LIMIT_S).start_time_ns
    assert fetch(server.public, "GET", f"/{fid}").body == b"wrapped"


@WITH_WEED
def test_plain_text_is_not_served_where_tls_is_meant(server):
    with Connection(server.admin) as connection:
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        said = connection.read_to_end()
    assert b" 200 " not in said
    with grpc.insecure_channel(f"127.0.0.1:{server.layout.grpc_port}") as channel:
        assert refusal(channel) is grpc.StatusCode.UNAVAILABLE


@WITH_WEED
def test_a_call_without_a_client_certificate_is_refused(server):
    credentials = grpc.ssl_channel_credentials(server.secured.authority.ca.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{server.layout.grpc_port}", credentials) as channel:
        assert refusal(channel) is grpc.StatusCode.UNAVAILABLE


@WITH_WEED
def test_a_name_that_is_not_allowed_may_not_call(server):
    stranger = ClientTls(server.secured.authority.ca, server.secured.authority.issue("stranger.test"))
    with grpc.secure_channel(f"127.0.0.1:{server.layout.grpc_port}", stranger.grpc_credentials) as channel:
        assert refusal(channel) in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED}


@WITH_WEED
def test_volume_servers_call_each_other_over_tls(server):
    """The server follows its own volume, under the common name of its certificate. Go's server has everything already;
    the native one learns over TLS that the source is itself.
    """
    volume_id = server.new_volume()
    fid = server.store(b"mine", fid=server.new_fid(volume_id))
    source = f"{server.url}.{server.layout.grpc_port}"
    request = pb.VolumeTailReceiverRequest(volume_id=volume_id, idle_timeout_seconds=1, source_volume_server=source)
    if server.implementation.is_front:
        with pytest.raises(grpc.RpcError) as raised:
            server.rpc.VolumeTailReceiver(request, timeout=LIMIT_S)
        assert raised.value.details() == f"volume server {server.url} cannot tail a volume from itself"
    else:
        server.rpc.VolumeTailReceiver(request, timeout=LIMIT_S)
    assert server.read(fid).body == b"mine"
    status = server.rpc.VolumeStatus(pb.VolumeStatusRequest(volume_id=volume_id), timeout=LIMIT_S)
    assert status.file_count == 1


def refusal(channel):
    """The code with which a Ping on the channel ends."""
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/volume_server_pb.VolumeServer/Ping")(b"", timeout=LIMIT_S)
    return raised.value.code()


@pytest.mark.only(lambda implementation: implementation.is_front and implementation.backend != "native")
def test_a_renewed_certificate_is_served_to_new_connections(server):
    def served():
        with Connection(server.admin, tls=server.tls.context) as connection:
            return connection.socket.getpeercert(binary_form=True)

    before = served()
    renewed = server.secured.authority.issue("volume1.test", "renewed")
    server.secured.volume_pair.key.write_bytes(renewed.key.read_bytes())
    server.secured.volume_pair.cert.write_bytes(renewed.cert.read_bytes())
    expected = ssl.PEM_cert_to_DER_cert(renewed.cert.read_text())
    assert before != expected
    wait_until(lambda: served() == expected, "the new certificate")
