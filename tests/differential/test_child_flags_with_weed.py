"""The derived command line and configuration, tried on the Go program itself: a real master stands in for the relay.
Needs `weed`. Each test starts two processes on loopback and ends them.
"""

import contextlib
import datetime
import ipaddress
import os
import socket
import subprocess
import urllib.error
import urllib.request

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from support.waiting import LIMIT_S as DEADLINE_S
from support.waiting import wait_until

from native_handlers.pb import volume_server_pb2
from supervisor.backend.child_config import ChildConfigDirectory, derive_files, relay_tls
from supervisor.backend.child_flags import child_command, child_environment
from supervisor.backend.ports import PortReservation
from supervisor.cli.load import load_config
from supervisor.wire.server_address import ServerAddress

pytestmark = pytest.mark.slow
"""Two Go processes per test, about a second each to become ready."""

STATUS_METHOD = "/volume_server_pb.VolumeServer/VolumeServerStatus"


@pytest.fixture
def weed(weed_program):
    return weed_program


def http_status(url):
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


@contextlib.contextmanager
def running(command, log, environ=None):
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environ, cwd=log.parent)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def child(weed, tmp_path, *argv, master_config=None):
    """The child behind a real master; yields (its ports, the master's address, the configuration)."""
    (tmp_path / "data").mkdir()
    (tmp_path / "mdir").mkdir()
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "WEED_BINARY": str(weed)}
    config = load_config(["-mode=proxy", f"-dir={tmp_path}/data", "-ip=192.0.2.7", *argv], environ, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with PortReservation() as own, PortReservation() as its:
        relay = ServerAddress("127.0.0.1", its.ports.http, its.ports.grpc)
        master = [weed, "-logtostderr=true", f"-config_dir={master_config or empty}", "master", "-ip=127.0.0.1"]
        master += [f"-port={relay.port}", f"-port.grpc={relay.grpc_port}", f"-mdir={tmp_path}/mdir", "-peers=none"]
        master += ["-telemetry=false"]
        with (
            running(master, tmp_path / "master.log"),
            ChildConfigDirectory(derive_files(config.security), tmp_path) as directory,
            running(
                child_command(config, own.ports, relay, directory.path),
                tmp_path / "child.log",
                child_environment(environ, weed),
            ),
        ):
            ready = f"http://127.0.0.1:{own.ports.http}/healthz"
            wait_until(lambda: http_status(ready)[0] == 200, "the child's readiness")
            yield own.ports, relay, config


def listens(family, host, port):
    with socket.socket(family) as probe:
        return probe.connect_ex((host, port)) == 0


def volume_server_status(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(
            STATUS_METHOD,
            request_serializer=volume_server_pb2.VolumeServerStatusRequest.SerializeToString,
            response_deserializer=volume_server_pb2.VolumeServerStatusResponse.FromString,
        )
        return call(volume_server_pb2.VolumeServerStatusRequest(), timeout=DEADLINE_S, wait_for_ready=True)


def knows_of(relay, address):
    return lambda: address.encode() in http_status(f"http://{relay.http}/dir/status")[1]


def test_the_name_localhost_listens_on_127_0_0_1_with_every_listener(weed, tmp_path):
    with child(weed, tmp_path, "-port.public=99", "-metricsPort=98", "-dataCenter=dc1") as (ports, relay, _):
        for port in (ports.http, ports.public, ports.metrics, ports.grpc):
            assert listens(socket.AF_INET, "127.0.0.1", port)
        assert volume_server_status(ports.grpc).data_center == "dc1"
        assert http_status(f"http://127.0.0.1:{ports.metrics}/metrics")[0] == 200
        wait_until(knows_of(relay, f"127.0.0.1:{ports.http}"), "the registration at the relay's address")


def test_white_list_off_and_signing_key_on(weed, tmp_path):
    """The guard is in the front; both check the key."""
    (tmp_path / "security.toml").write_text(
        '[jwt.signing]\nkey = "k"\n[guard]\nwhite_list = "192.0.2.99"\n[https.volume]\ncert = "x"\nkey = "y"\n'
    )
    with child(weed, tmp_path, "-whiteList=192.0.2.98") as (ports, _, _):
        url = f"http://127.0.0.1:{ports.http}/3,01637037d6"
        request = urllib.request.Request(url, data=b"x", method="PUT")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=DEADLINE_S)
        assert refused.value.code == 401
        assert b"jwt" in refused.value.read()
        assert volume_server_status(ports.grpc).version


def test_tls_to_masters_and_plaintext_on_loopback(weed, tmp_path):
    """With grpc.volume certificates the child dials its master with TLS, and serves gRPC to the front without TLS."""
    master_config = tmp_path / "master-config"
    master_config.mkdir()
    make_certificates(tmp_path)
    text = f'[grpc]\nca = "{tmp_path}/ca.pem"\n[grpc.volume]\ncert = "{tmp_path}/v.pem"\nkey = "{tmp_path}/v.key"\n'
    (tmp_path / "security.toml").write_text(text)
    (master_config / "security.toml").write_text(text.replace("[grpc.volume]", "[grpc.master]"))
    with child(weed, tmp_path, master_config=master_config) as (ports, relay, config):
        files = relay_tls(config.security)
        assert files is not None
        assert files.cert == tmp_path / "v.pem"
        wait_until(knows_of(relay, f"127.0.0.1:{ports.http}"), "the registration over TLS")
        assert volume_server_status(ports.grpc).version


def make_certificates(directory):
    """A CA, and one certificate for server and client, as operators of a SeaweedFS cluster use it."""
    now = datetime.datetime.now(datetime.UTC)

    def build(name, key, issuer, issuer_key, *extensions):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder().issuer_name(issuer).subject_name(subject).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(issuer_key, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    ca = build("ca", ca_key, ca_name, ca_key, x509.BasicConstraints(ca=True, path_length=None))
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("192.0.2.7"))])
    certificate = build("volume", key, ca_name, ca_key, usages, names)
    (directory / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (directory / "v.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "v.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
