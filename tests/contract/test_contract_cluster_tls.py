"""A cluster without plaintext: mutual TLS on gRPC, HTTPS on the data ports, tokens for each write. The certificates for
gRPC name no address, as is usual with SeaweedFS: the chain is checked and, if asked for, the common name. The
certificates for HTTPS name the address.
"""

import time

import grpc
import jwt
import pytest
from harness.certificates import Authority, ClientTls
from harness.cluster import BY_NAME, Cluster
from harness.implementations import LOOPBACK, find_weed
from harness.master import Master
from harness.server import VolumeServer
from support.waiting import LIMIT_S, wait_until

from native_handlers.pb import volume_server_pb2 as pb

pytestmark = pytest.mark.skipif(find_weed()[0] is None, reason=find_weed()[1])
ROLES = ("master", "volume", "filer", "client")
GRPC_NAME = "cluster.test"
KEY = "k" * 32


def toml(authority, *, allowed=""):
    """The configuration of masters, servers and tools. `allowed` names the common names that may call volume
    servers.
    """
    web = authority.issue("web.test")
    text = (
        f'[jwt.signing]\nkey = "{KEY}"\n[grpc]\nca = "{authority.ca}"\n'
        f'[https.client]\nenabled = true\ncert = "{web.cert}"\nkey = "{web.key}"\nca = "{authority.ca}"\n'
        f'[https.volume]\ncert = "{web.cert}"\nkey = "{web.key}"\n'
    )
    for role in ROLES:
        pair = authority.issue(f"{role}.test", names=[GRPC_NAME])
        text += f'[grpc.{role}]\ncert = "{pair.cert}"\nkey = "{pair.key}"\n'
        if role == "volume":
            text += f'allowed_commonNames = "{allowed}"\n'
    return text


@pytest.fixture(scope="module")
def cluster(weed, tmp_path_factory):
    """Two native servers, Go's, and a native front with Go behind it."""
    base = tmp_path_factory.mktemp("secured")
    authority = Authority(base / "ca")
    tls = ClientTls(authority.ca, authority.issue("tests.test", names=[GRPC_NAME]), GRPC_NAME)
    allowed = "master.test,volume.test,filer.test,client.test,tests.test"
    made = Cluster(base, weed, security=toml(authority, allowed=allowed), tls=tls)
    made.authority = authority
    made.ours, made.other, made.go, made.proxy = made.add_all(["native"], ["native"], ["go"], ["proxy-go"])
    yield made
    made.end()


def token(fid):
    signed = jwt.encode({"fid": fid, "exp": int(time.time()) + 60}, KEY, algorithm="HS256")
    return [("Authorization", f"BEARER {signed}")]


@pytest.fixture(params=["other", "go", "proxy"])
def other(request, cluster):
    return getattr(cluster, request.param)


def test_writes_and_deletes_reach_both_copies_in_either_direction(cluster, other):
    volume_id = cluster.allocate(cluster.ours, other, replication="001")
    for writer, copy in ((cluster.ours, other), (other, cluster.ours)):
        fid = writer.new_fid(volume_id)
        assert writer.http("PUT", f"/{fid}", [], b"no token").status == 401
        writer.store(b"wrapped", token(fid), fid=fid)
        assert [server.read(fid).body for server in (writer, copy)] == [b"wrapped", b"wrapped"]
        assert writer.http("DELETE", f"/{fid}").status == 401
        assert writer.http("DELETE", f"/{fid}", token(fid)).status == 202
        assert [server.read(fid).status for server in (writer, copy)] == [404, 404]


def test_the_shell_is_let_in(cluster):
    volume_id = cluster.allocate(cluster.ours)
    said = cluster.shell(f"volume.mark -node {cluster.ours.url} -volumeId {volume_id} -readonly", "cluster.check")
    assert cluster.ours.rpc.VolumeStatus(pb.VolumeStatusRequest(volume_id=volume_id), timeout=LIMIT_S).is_read_only, (
        said
    )
    for server in cluster.servers:
        assert f"volume server {server.url}" in said
    assert "error" not in said.lower(), said


@pytest.mark.parametrize("name", ["ours", "proxy"])
def test_a_name_that_is_not_allowed_is_kept_out(cluster, name):
    server = getattr(cluster, name)
    stranger = ClientTls(cluster.tls.ca, cluster.authority.issue("stranger.test", names=[GRPC_NAME]), GRPC_NAME)
    target = f"{LOOPBACK}:{server.layout.grpc_port}"
    with stranger.open_channel(target, []) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/volume_server_pb.VolumeServer/Ping")(b"", timeout=LIMIT_S)
    assert raised.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED}


def test_volumes_are_copied_between_secured_servers(cluster, other):
    volume_id = cluster.allocate(cluster.ours)
    fid = cluster.ours.new_fid(volume_id)
    cluster.ours.store(b"to be copied", token(fid), fid=fid)
    said = cluster.shell(f"volume.copy -source {cluster.ours.url} -target {other.url} -volumeId {volume_id}")
    wait_until(lambda: len(cluster.holders(volume_id)) == 2, f"both copies; {said}")
    assert other.read(fid).body == b"to be copied"


@pytest.mark.slow
def test_a_server_that_starts_before_its_master_and_outlives_it_finds_it_again(cluster, weed, tmp_path):
    """A certificate that was read while the master is away must not be kept. Slow: two heartbeat pauses pass."""
    master = Master(tmp_path / "master", weed, cluster.security)
    master.process.kill()
    server = VolumeServer(
        BY_NAME["native"], tmp_path / "server", master, weed, security=cluster.security, tls=cluster.tls, waits=False
    )
    try:
        wait_until(lambda: "waiting for a master" in server.process.log_tail(), "it to miss its master")
        master.start()
        server.wait_until_ready()
        volume_id = server.new_volume(replication="000")
        mark = pb.VolumeMarkReadonlyRequest(volume_id=volume_id)
        server.rpc.VolumeMarkReadonly(mark, timeout=LIMIT_S)
        master.process.kill()
        with pytest.raises(grpc.RpcError):
            server.rpc.VolumeMarkReadonly(mark, timeout=LIMIT_S)
        master.start()
        wait_until(server.is_registered, "it to register again")
        server.rpc.VolumeMarkReadonly(mark, timeout=LIMIT_S)
    finally:
        server.end()
        master.process.end()
