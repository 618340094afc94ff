"""A server's start and its memory at rest: from exec to the first healthy answer, and what all its processes hold."""

import re
import socket
import threading
import time
from pathlib import Path

from harness.processes import children_of
from harness.server import VolumeServer

LAUNCHER = "launcher.py"
PAUSE_S = 0.001
LIMIT_S = 60
QUIET_S = 1.5
"""After registration: what was begun at the start is over, and the collector of Go has seen it."""
MB = 10**6
_MAPPING = re.compile(r"^([0-9a-f]+-[0-9a-f]+ .*)\n((?:[A-Z]\w+:.*\n)+)", re.MULTILINE)
_SIZE = re.compile(r"^(Rss|Anonymous): +(\d+) kB$", re.MULTILINE)
_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"


def measure_start(implementation, directory, master, weed):
    """(seconds, MB): see the module. The server is one of its own, without a volume, and ends with the call."""
    server = VolumeServer(implementation, directory, master, weed, waits=False)
    try:
        began_s = _wait_for_exec(server.process.pid)
        taken_s = _wait_for_healthy(server) - began_s
        server.wait_until_ready()
        threading.Event().wait(QUIET_S)
        return taken_s, memory_of_all(server.process.pid) / MB
    finally:
        server.end()


def memory_of_all(pid):
    """Bytes that a process and all that it started hold. What they map of one file counts once.

    The kernel's proportional set size would not do: a master of the same program takes its part of the shared pages.
    """
    anonymous, mapped = 0, {}
    for one in _with_descendants(pid):
        for key, resident_bytes, anonymous_bytes in parse_smaps(Path(f"/proc/{one}/smaps").read_text()):
            anonymous += anonymous_bytes
            mapped[key] = max(mapped.get(key, 0), resident_bytes - anonymous_bytes)
    return anonymous + sum(mapped.values())


def parse_smaps(text):
    """(file and offset, resident bytes, anonymous bytes) of each mapping."""
    for head, fields in _MAPPING.findall(text):
        _, _, offset, device, inode = head.split()[:5]
        sizes = {name: int(count) * 1024 for name, count in _SIZE.findall(fields)}
        yield (device, inode, offset), sizes["Rss"], sizes["Anonymous"]


def _with_descendants(pid):
    return [pid, *(one for child in children_of(pid) for one in _with_descendants(child))]


def _wait_for_exec(pid):
    """When the launcher gave way to the program."""
    limit_s = time.monotonic() + LIMIT_S
    while LAUNCHER in Path(f"/proc/{pid}/cmdline").read_text():
        if time.monotonic() > limit_s:
            raise SystemExit("the launcher starts no program")
    return time.monotonic()


def _wait_for_healthy(server):
    """When the first answer of 200 was there."""
    limit_s = time.monotonic() + LIMIT_S
    while time.monotonic() < limit_s:
        if _is_healthy(server.admin):
            return time.monotonic()
        if server.process.exit_code is not None:
            break
        threading.Event().wait(PAUSE_S)
    raise SystemExit(f"{server.name} is not healthy; its log:\n{server.process.log_tail()}")


def _is_healthy(address):
    try:
        with socket.create_connection(address, timeout=LIMIT_S) as connection:
            connection.sendall(_REQUEST)
            return connection.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
