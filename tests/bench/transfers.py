"""What a server moves: whole files of 4 MiB up and down, and small uploads, at a fixed number of connections.

The load comes from threads of a process of its own that let the kernel move the bytes (sendfile from memory, large
receives), so that it costs little beside the servers. A round is a number of requests, not a time: what a round writes
is then bounded, and its volume is dropped after it.
"""

import hashlib
import multiprocessing
import os
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass

from native_handlers.pb import volume_server_pb2

MIB = 1 << 20
COOKIE = "637037d6"
LIMIT_S = 60
RPC_LIMIT_S = 30
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Workload:
    """`requests` in one round; each upload has a needle of its own."""

    name: str
    method: str
    size_bytes: int
    connections: int
    requests: int


def run_round(server, workload):
    """Requests a second of one round against a volume of its own."""
    volume_id = server.new_volume()
    try:
        payload = os.urandom(workload.size_bytes)
        if workload.method == "GET":
            fid = server.store(payload, fid=f"{volume_id},01{COOKIE}")
            read = server.read(fid).body
            if (
                hashlib.md5(read, usedforsecurity=False).digest()
                != hashlib.md5(payload, usedforsecurity=False).digest()
            ):
                raise SystemExit(f"{server.name}: the file came back changed")
        return _in_a_process(server.admin, volume_id, workload, payload)
    finally:
        request = volume_server_pb2.VolumeDeleteRequest(volume_id=volume_id)
        server.rpc.VolumeDelete(request, timeout=RPC_LIMIT_S)


def _in_a_process(address, volume_id, workload, payload):
    receiving, sending = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.Process(
        target=_run_load, args=(sending, address, volume_id, workload, payload), daemon=True
    )
    child.start()
    sending.close()
    try:
        rate, failure = receiving.recv()
    finally:
        child.join(LIMIT_S)
    if failure is not None:
        raise SystemExit(f"{workload.name}: {failure}: the figures would mean nothing")
    return rate


def _run_load(sending, address, volume_id, workload, payload):
    source = os.memfd_create("payload")
    os.write(source, payload)
    failures = []
    counts = [workload.requests // workload.connections] * workload.connections
    threads = []
    for index, count in enumerate(counts):
        first = index * count + 1
        ids = range(first, first + count)
        work = _upload_all if workload.method == "PUT" else _download_all
        arguments = (failures, address, volume_id, ids, workload.size_bytes, source)
        threads.append(threading.Thread(target=_guarded, args=(work, *arguments)))
    began_s = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sending.send((sum(counts) / (time.monotonic() - began_s), failures[0] if failures else None))


def _guarded(work, failures, *arguments):
    try:
        work(*arguments)
    except (OSError, ValueError) as failure:
        failures.append(repr(failure))


def _upload_all(address, volume_id, ids, size_bytes, source):
    with _connected(address) as connection:
        for needle_id in ids:
            head = f"PUT /{volume_id},{needle_id:x}{COOKIE} HTTP/1.1\r\nHost: bench\r\n"
            head += f"Content-Type: application/x-bench\r\nContent-Length: {size_bytes}\r\n\r\n"
            connection.sendall(head.encode(), socket.MSG_MORE)
            sent = 0
            while sent < size_bytes:
                sent += os.sendfile(connection.fileno(), source, sent, size_bytes - sent)
            _take_answer(connection, 201, bytearray(64 * 1024))


def _download_all(address, volume_id, ids, size_bytes, _source):
    request = f"GET /{volume_id},01{COOKIE} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    buffer = bytearray(MIB)
    with _connected(address) as connection:
        for _ in ids:
            connection.sendall(request)
            if (length := _take_answer(connection, 200, buffer)) != size_bytes:
                raise ValueError(f"{length} bytes, not {size_bytes}")


def _take_answer(connection, wanted_status, buffer):
    """Reads one answer to its end and returns the length of its body."""
    head = b""
    while (end := head.find(_HEAD_END)) < 0:
        received = connection.recv(4096)
        if not received:
            raise ValueError("the server closed the connection")
        head += received
    status = int(head[9:12])
    if status != wanted_status:
        raise ValueError(f"status {status}: {head!r}")
    length = int(re.search(rb"(?i)content-length: (\d+)", head[:end])[1])
    left = length - (len(head) - end - len(_HEAD_END))
    while left > 0:
        count = connection.recv_into(buffer, min(left, len(buffer)))
        if not count:
            raise ValueError("the body broke off")
        left -= count
    return length


def _connected(address):
    connection = socket.create_connection(address, timeout=LIMIT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The kernel keeps the time: a time-out of Python's makes the descriptor one that sendfile cannot wait for.
    connection.setblocking(True)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connection.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", LIMIT_S, 0))
    return connection
