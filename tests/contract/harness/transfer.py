"""Large files over one connection, never whole in the memory of the test."""

import hashlib

MIB = 1 << 20
BLOCK = bytes(range(256)) * (MIB // 256)


def upload(connection, fid, size_mib):
    """Sends `size_mib` blocks, each different in its first bytes. Returns the digest of the whole content."""
    connection.send(f"PUT /{fid} HTTP/1.1\r\nHost: a\r\nContent-Length: {size_mib * MIB}\r\n\r\n".encode())
    digest = hashlib.sha256()
    for at in range(size_mib):
        block = at.to_bytes(8, "big") + BLOCK[8:]
        digest.update(block)
        connection.send(block)
    assert connection.read_reply().status == 201
    return digest.hexdigest()


def download(connection, fid):
    """Reads a file piece by piece. Returns its length and digest."""
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
