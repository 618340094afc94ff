"""Large bodies: whole, in order, and never gathered in the memory of what only passes them on."""

import hashlib

import pytest
from harness.http1 import Connection
from harness.processes import memory_bytes, reset_peak_memory

MIB = 1 << 20
ALLOWED_GROWTH_BYTES = 32 * MIB
BLOCK = bytes(range(256)) * (MIB // 256)


def upload(connection, fid, size_mib):
    """Sends `size_mib` blocks, each different in its first bytes; returns the digest of it all."""
    connection.send(f"PUT /{fid} HTTP/1.1\r\nHost: a\r\nContent-Length: {size_mib * MIB}\r\n\r\n".encode())
    digest = hashlib.sha256()
    for at in range(size_mib):
        block = at.to_bytes(8, "big") + BLOCK[8:]
        digest.update(block)
        connection.send(block)
    assert connection.read_reply().status == 201
    return digest.hexdigest()


def download(connection, fid):
    """Reads a file piece by piece; returns its length and digest."""
    connection.send(f"GET /{fid} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    status_line, headers = connection.read_head()
    assert status_line.startswith("HTTP/1.1 200")
    length = int(dict(headers)["Content-Length"])
    digest, left = hashlib.sha256(), length
    while left:
        piece = connection.read_exactly(min(left, MIB))
        digest.update(piece)
        left -= len(piece)
    return length, digest.hexdigest()


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


@pytest.mark.only(lambda implementation: implementation.is_supervised)
def test_forwarding_a_large_file_costs_little_memory(fresh_server):
    """slow: 256 MiB up and down through the supervisor, whose peak must not follow."""
    server = fresh_server()
    fid, pid = server.new_fid(), server.process.pid
    with Connection(server.admin, limit_s=60) as connection:
        upload(connection, fid, 1)
        server.read(fid)
        fid = server.new_fid()
        reset_peak_memory(pid)
        before = memory_bytes(pid, "VmRSS")
        digest = upload(connection, fid, 256)
        after_upload = memory_bytes(pid, "VmHWM")
        assert download(connection, fid) == (256 * MIB, digest)
    assert after_upload - before < ALLOWED_GROWTH_BYTES
    assert memory_bytes(pid, "VmHWM") - before < ALLOWED_GROWTH_BYTES
