"""Load on one URL: requests a second at a fixed number of connections, by wrk or by a small client in Python."""

import re
import selectors
import socket
import subprocess
import time
from dataclasses import dataclass

from bench.found import WRK

WRK_SLACK_S = 20


@dataclass(frozen=True)
class Load:
    """The result of one run. `failed` counts answers other than 200 and broken connections."""

    requests_per_s: float
    failed: int


def generator_name():
    return "wrk" if WRK else "the built-in client (one thread: it may be the limit itself; install wrk)"


def run_load(host, port, target, *, connections, duration_s, arguments=()):
    """Keeps `connections` connections busy with GETs of `target`, or what `arguments` of wrk make of them."""
    if WRK:
        return _run_wrk(f"http://{host}:{port}{target}", connections, duration_s, arguments)
    if arguments:
        raise SystemExit("only wrk sends anything but plain GETs; install wrk")
    return _run_builtin((host, port), target, connections, duration_s)


def _run_wrk(url, connections, duration_s, arguments):
    command = [WRK, "-t1", f"-c{connections}", f"-d{duration_s}s", *arguments, url]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=duration_s + WRK_SLACK_S)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", ended.stdout)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", ended.stdout)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", ended.stdout)
    failed = int(bad[1]) if bad else 0
    return Load(float(rate[1]), failed + (sum(map(int, broken.groups())) if broken else 0))


def _run_builtin(address, target, connections, duration_s):
    request = f"GET {target} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        opened = socket.create_connection(address)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.sendall(request)
        selector.register(opened, selectors.EVENT_READ, bytearray())
    began_s, done, failed = time.monotonic(), 0, 0
    while (now_s := time.monotonic()) < began_s + duration_s and selector.get_map():
        for key, _ in selector.select(timeout=1.0):
            data = key.fileobj.recv(65536)
            key.data.extend(data)
            if not data:
                selector.unregister(key.fileobj)
                failed += 1
            elif (status := _complete_status(key.data)) is not None:
                key.data.clear()
                key.fileobj.sendall(request)
                done, failed = done + 1, failed + (status != 200)
    for key in list(selector.get_map().values()):
        key.fileobj.close()
    return Load(done / (now_s - began_s), failed)


def _complete_status(received):
    """The status when a whole answer (with a Content-Length) was received, else None."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    length = re.search(rb"(?i)content-length: (\d+)", received[:end])
    whole = len(received) >= end + 4 + int(length[1])
    return int(received[9:12]) if whole else None
