"""The cost of many connections for other clients: a reader's longest stall, a new health check, memory. Three kinds of
connections: idle ones (kept alive after an answer), half-open ones (half a head, never the rest) and readers that take
nothing of their answer. They come from many loopback addresses, like many clients.
"""

import http.client
import resource
import socket
import statistics
import time
from contextlib import ExitStack

from harness.http1 import request_bytes
from harness.processes import memory_bytes
from reader_beside import reader_beside
from tables import ms, print_head, print_row

OWN_DESCRIPTORS = 200
"""The descriptors of this process in addition to the connections that it opens."""
ADDRESSES = 100
OBJECT_BYTES = 200 * 1024
"""Of the answers that nobody takes: more than the kernel holds of one, and no gigabytes for ten thousand of them."""
RECEIVE_BUFFER = 4096
CHECKS = 50
OPEN_LIMIT_S = 60
HALF_A_HEAD = b"GET /status HTTP/1.1\r\nHost: sweep\r\nX-Never-"


def hold_idle(sock, _target):
    sock.sendall(request_bytes("GET", "/healthz"))
    sock.recv(4096)


def hold_half_open(sock, _target):
    sock.sendall(HALF_A_HEAD)


def hold_unread(sock, target):
    sock.sendall(request_bytes("GET", target))


KINDS = {"idle": hold_idle, "half-open": hold_half_open, "unread answers": hold_unread}


def print_connections(servers, counts):
    """Prints a row for each server, kind and number of connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("\nBeside many connections: one reader, and health checks on connections of their own\n")
    print_head(
        "server", "connections", "kind", "opened in", "still open", "read, median", "longest", "check, median",
        "longest", "read at the close, longest", "KiB each", "not opened",
    )  # fmt: skip
    for server in servers:
        targets = {size: f"/{server.store(bytes(size))}" for size in (1024, OBJECT_BYTES)}
        for kind, hold in KINDS.items():
            for count in counts:
                if count > hard - OWN_DESCRIPTORS:
                    print_row(server.name, f"{count:,}", kind, f"more than this machine allows: {hard:,}", *[""] * 8)
                    continue
                _measure_and_print(server, kind, hold, count, targets)


def _measure_and_print(server, kind, hold, count, targets):
    before = memory_bytes(server.process.pid, "VmRSS")
    with ExitStack() as stack:
        with reader_beside(server.admin, targets[1024]) as stalls:
            started = time.perf_counter()
            sockets, refused = _open(stack, server.admin, count, hold, targets[OBJECT_BYTES])
            opened_s = time.perf_counter() - started
            checks = [_health_check_s(server.admin) for _ in range(CHECKS)]
        held = memory_bytes(server.process.pid, "VmRSS") - before
        still_open = sum(_is_open(sock) for sock in sockets)
        with reader_beside(server.admin, targets[1024]) as closing:
            stack.close()
            _health_check_s(server.admin)
    print_row(
        server.name,
        f"{count:,}",
        kind,
        f"{opened_s:.1f} s",
        f"{still_open:,}",
        ms(stalls.median_s, 1),
        ms(stalls.longest_s) + (f" ({stalls.failed} failed)" if stalls.failed else ""),
        ms(statistics.median(checks), 1),
        ms(max(checks)),
        ms(closing.longest_s),
        f"{held / max(still_open, 1) / 1024:.1f}",
        f"{refused:,}",
    )


def _open(stack, address, count, hold, target):
    sockets, refused, until = [], 0, time.perf_counter() + OPEN_LIMIT_S
    for number in range(count):
        if time.perf_counter() > until:
            return sockets, refused + count - number
        sock = stack.enter_context(socket.socket())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.settimeout(OPEN_LIMIT_S)
        try:
            sock.bind((f"127.0.2.{number % ADDRESSES + 1}", 0))
            sock.connect(address)
            hold(sock, target)
        except OSError:
            refused += 1
            continue
        sockets.append(sock)
    return sockets, refused


def _health_check_s(address):
    """How long a health check takes on a connection of its own; one that fails counts as the longest there is."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection(*address, timeout=OPEN_LIMIT_S)
    try:
        connection.request("GET", "/healthz")
        is_well = connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        is_well = False
    finally:
        connection.close()
    return time.perf_counter() - started if is_well else float("inf")


def _is_open(sock):
    sock.setblocking(False)
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return True
    except OSError:
        return False
