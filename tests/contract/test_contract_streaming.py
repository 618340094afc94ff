"""Large bodies: whole, in order, and never gathered in the memory of a server that forwards them."""

import pytest
from harness.http1 import Connection
from harness.processes import memory_bytes, reset_peak_memory
from harness.transfer import MIB, download, upload

ALLOWED_GROWTH_BYTES = 32 * MIB


def test_a_large_file_comes_back_whole(server):
    fid = server.new_fid()
    with Connection(server.admin) as connection:
        digest = upload(connection, fid, 16)
        assert download(connection, fid) == (16 * MIB, digest)
        reply = connection.request("GET", f"/{fid}", [("Range", f"bytes={8 * MIB}-{8 * MIB + 7}")])
        assert (reply.status, reply.body) == (206, (8).to_bytes(8, "big"))


def test_a_client_that_leaves_in_the_middle_hurts_nobody(server):
    fid = server.new_fid()
    with Connection(server.admin) as connection:
        upload(connection, fid, 8)
    for _ in range(5):
        with Connection(server.admin) as connection:
            connection.send(f"GET /{fid} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            connection.read_exactly(1000)
    assert server.http("GET", "/healthz").status == 200


@pytest.mark.slow
@pytest.mark.only(lambda implementation: implementation.is_supervised)
def test_forwarding_a_large_file_costs_little_memory(server):
    """Slow: 256 MiB up and down through the supervisor, whose peak memory must not grow with the size."""
    pid, fid = server.process.pid, server.new_fid()
    with Connection(server.admin, limit_s=60) as connection:
        upload(connection, server.new_fid(), 1)
        reset_peak_memory(pid)
        before = memory_bytes(pid, "VmRSS")
        digest = upload(connection, fid, 256)
        after_upload = memory_bytes(pid, "VmHWM")
        assert download(connection, fid) == (256 * MIB, digest)
    assert after_upload - before < ALLOWED_GROWTH_BYTES
    assert memory_bytes(pid, "VmHWM") - before < ALLOWED_GROWTH_BYTES
