"""The memory figures of VolumeServerStatus. Source: weed/stats/memory.go and memory_supported.go."""

from __future__ import annotations

import threading
from pathlib import Path

from native_handlers.pb.volume_server_pb2 import MemStatus

_KIB = 1024
_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/status")


def own_memory_status() -> MemStatus:
    """The memory of this process and of the machine, in bytes. `goroutines` counts the threads.

    `self` is resident memory, `heap` its private part and `stack` the main thread's stack. Figures that the system does
    not provide stay 0.
    """
    machine, own = _read_kib(_MEMINFO), _read_kib(_STATUS)
    total, free = machine.get("MemTotal", 0), machine.get("MemFree", 0)
    return MemStatus(
        goroutines=threading.active_count(),
        all=total,
        free=free,
        used=total - free,
        self=own.get("VmRSS", 0),
        heap=own.get("RssAnon", 0),
        stack=own.get("VmStk", 0),
    )


def add_process_memory(total: MemStatus, other: MemStatus) -> None:
    """Adds the figures of `other`'s process (not those of the machine) to `total`."""
    total.goroutines += other.goroutines
    total.self += other.self
    total.heap += other.heap
    total.stack += other.stack


def _read_kib(path: Path) -> dict[str, int]:
    """The ``Name:   123 kB`` lines of a proc file, in bytes; empty where there is no such file."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return {}
    rows = (line.split() for line in lines)
    return {row[0].rstrip(":"): int(row[1]) * _KIB for row in rows if len(row) == 3 and row[2] == "kB"}
