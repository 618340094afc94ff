"""Clients of other volume servers, where none can be reached."""

from __future__ import annotations

from functools import partial

import grpc
import pytest

from native_handlers.grpc.context import RpcFailure
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
