import contextlib
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from support.certificate_authority import Authority
from support.waiting import LIMIT_S

from native_handlers.pb import volume_server_pb2 as pb
from native_handlers.pb.methods import volume_server
from supervisor.config.config import TlsFiles
from supervisor.net.channel import client_material, name_in_certificate, open_channel
from supervisor.wire.server_address import ServerAddress

NOBODY = ServerAddress("127.0.0.1", 9, 9)
COMMON_NAME_ONLY = {"subject": ((("countryName", "DE"),), (("commonName", "volume01"),))}


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        (COMMON_NAME_ONLY, "volume01"),
        ({**COMMON_NAME_ONLY, "subjectAltName": (("DNS", "*.example.org"),)}, "any.example.org"),
        ({"subjectAltName": (("IP Address", "10.0.0.7"),)}, "10.0.0.7"),
        ({"subjectAltName": (("URI", "spiffe://x"),)}, None),
        ({}, None),
    ],
)
def test_name_in_certificate(certificate, name):
    assert name_in_certificate(certificate) == name


def files(tmp_path, *names):
    for name in names:
        (tmp_path / name).write_text("x")
    return {name: tmp_path / name for name in names}


def test_client_material_needs_all_three(tmp_path):
    made = files(tmp_path, "ca", "cert", "key")
    assert client_material(TlsFiles(**made)) == (made["ca"], made["cert"], made["key"])
    assert client_material(TlsFiles(cert=made["cert"], key=made["key"])) is None


def test_client_pair_counts_only_whole(tmp_path):
    made = files(tmp_path, "ca", "cert", "key", "client_cert", "client_key")
    assert client_material(TlsFiles(**made))[1:] == (made["client_cert"], made["client_key"])
    del made["client_key"]
    assert client_material(TlsFiles(**made))[1:] == (made["cert"], made["key"])


def test_unreadable_file_turns_tls_off_with_a_warning(tmp_path, caplog):
    made = files(tmp_path, "ca", "cert", "key")
    made["key"].unlink()
    assert client_material(TlsFiles(**made)) is None
    assert "key cannot be read" in caplog.text


@pytest.mark.parametrize("damaged", ["ca", "cert", "key"])
@pytest.mark.parametrize("kept_bytes", [0, 40, 200])
def test_files_that_are_half_there_are_an_error_and_never_reach_grpcio(tmp_path, damaged, kept_bytes):
    """grpcio ends the process when it gets an empty certificate."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("client")
    tls = TlsFiles(ca=authority.ca, cert=cert, key=key)
    whole = getattr(tls, damaged)
    content = whole.read_bytes()
    whole.write_bytes(content[:kept_bytes])
    with pytest.raises((ssl.SSLError, FileNotFoundError)):
        open_channel(NOBODY, tls)
    whole.write_bytes(content)
    with open_channel(NOBODY, tls) as channel, pytest.raises(grpc.RpcError) as caught:
        volume_server(channel).VolumeStatus(pb.VolumeStatusRequest(), timeout=LIMIT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_files_that_change_while_they_are_looked_at_are_not_used(tmp_path, monkeypatch):
    authority = Authority(tmp_path)
    cert, key = authority.issue("client")
    load = ssl.SSLContext.load_cert_chain

    def replaced_meanwhile(context, *paths):
        load(context, *paths)
        cert.write_bytes(b"")

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", replaced_meanwhile)
    with pytest.raises(OSError, match="being replaced"):
        open_channel(NOBODY, TlsFiles(ca=authority.ca, cert=cert, key=key))


class Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details):
        return grpc.stream_stream_rpc_method_handler(lambda requests, _context: requests)


@pytest.mark.slow
def test_no_call_to_a_server_that_goes_away_waits_beyond_its_deadline():
    """With grpcio's own repetition some of a hundred such calls wait for ever. Slow: a server for each call."""
    for number in range(100):
        server = grpc.server(ThreadPoolExecutor(2), handlers=[Echo()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        channel = open_channel(ServerAddress("127.0.0.1", 9, port), TlsFiles())
        echo = channel.unary_stream("/test/Echo")
        assert list(echo(b"1", timeout=LIMIT_S)) == [b"1"]
        stopped = server.stop(0)
        ended = threading.Event()

        def call(echo=echo, ended=ended):
            with contextlib.suppress(grpc.RpcError):
                list(echo(b"2", timeout=1.0))
            ended.set()

        threading.Thread(target=call, daemon=True).start()
        assert ended.wait(LIMIT_S), f"call {number}"
        stopped.wait()
        channel.close()
