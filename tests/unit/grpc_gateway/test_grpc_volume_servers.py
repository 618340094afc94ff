"""Clients of other volume servers, where none can be reached."""

from __future__ import annotations

from functools import partial

import grpc
import pytest
from support.certificate_authority import Authority
from support.waiting import LIMIT_S

from native_handlers.grpc.context import RpcFailure
from native_handlers.pb import volume_server_pb2 as pb
from supervisor.config.config import TlsFiles
from supervisor.gateway.grpc_volume_servers import DialledVolumeServers
from supervisor.net.channel import open_channel

NOBODY = "127.0.0.1:9.9"


def failure_of(volume_servers: DialledVolumeServers, address: str) -> RpcFailure:
    with pytest.raises(RpcFailure) as caught, volume_servers.open_volume_server(address):
        raise AssertionError("there is a server")
    return caught.value


@pytest.mark.parametrize("text", [b"", b"-----BEGIN CERTIFICATE-----\nMIIB", b"\xff\x00"])
def test_a_certificate_that_is_half_written_is_a_server_that_cannot_be_had(tmp_path, text):
    """For a moment, while the files are being replaced."""
    tls = TlsFiles(**{name: tmp_path / name for name in ("ca", "cert", "key")})
    for path in (tls.ca, tls.cert, tls.key):
        path.write_bytes(text)
    failure = failure_of(DialledVolumeServers(partial(open_channel, tls=tls)), NOBODY)
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert failure.message.startswith(f"no channel to volume server {NOBODY}: ")


def test_a_file_that_vanishes_between_two_looks(tmp_path):
    def dial(_address):
        return (tmp_path / "gone").read_bytes()

    failure = failure_of(DialledVolumeServers(dial), NOBODY)
    assert failure.code is grpc.StatusCode.UNAVAILABLE
    assert "No such file" in failure.message


def test_a_text_that_is_no_address_is_an_answer():
    failure = failure_of(DialledVolumeServers(partial(open_channel, tls=TlsFiles())), ":")
    assert failure.code is grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize("host", ["a..b", ".x", "x" * 64, "a\u2028"])
@pytest.mark.parametrize("is_tls", [False, True])
def test_a_host_that_no_resolver_takes_cannot_be_reached(tmp_path, host, is_tls):
    """Callers name sources. The look-up of the name in a certificate may raise more than OSError."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("here")
    tls = TlsFiles(cert=cert, key=key, ca=authority.ca) if is_tls else TlsFiles()
    volume_servers = DialledVolumeServers(partial(open_channel, tls=tls))
    assert not volume_servers.leads_here(f"{host}:8080")
    with volume_servers.open_volume_server(f"{host}:8080") as client, pytest.raises(grpc.RpcError) as caught:
        client.ReadVolumeFileStatus(pb.ReadVolumeFileStatusRequest(volume_id=7), timeout=LIMIT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
