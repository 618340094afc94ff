"""The metric families about a process that every Prometheus library has: CPU, memory, descriptors.

Open descriptors are counted without listing them, which takes milliseconds with some thousand volumes.
Source: Prometheus, "Writing client libraries", process metrics; Linux, proc(5).
"""

from __future__ import annotations

import os
import resource
from functools import cache
from typing import TYPE_CHECKING

from supervisor.control.text_format import Family

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_UTIME, _STIME, _STARTED_AT, _VIRTUAL, _RESIDENT = 11, 12, 19, 20, 21
"""Fields of /proc/self/stat, counted from the field after the program's name."""


def process_families() -> Iterator[Family]:
    """All families of the process now. Families that the system does not give are left out."""
    try:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        ticks = {name: int(fields[at]) for name, at in (("user", _UTIME), ("system", _STIME), ("start", _STARTED_AT))}
        cpu_s = (ticks["user"] + ticks["system"]) / _TICKS
        yield _one("cpu_seconds_total", "counter", "CPU time of user and system, in seconds.", cpu_s)
        yield _one("virtual_memory_bytes", "gauge", "Virtual memory, in bytes.", int(fields[_VIRTUAL]))
        resident_bytes = int(fields[_RESIDENT]) * _PAGE_BYTES
        yield _one("resident_memory_bytes", "gauge", "Resident memory, in bytes.", resident_bytes)
        started_at_s = _booted_at_s() + ticks["start"] / _TICKS
        yield _one("start_time_seconds", "gauge", "Start of the process, in seconds since 1970.", started_at_s)
        yield _one("open_fds", "gauge", "Open file descriptors.", _open_descriptors())
    except (OSError, IndexError):
        pass
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield _one("max_fds", "gauge", "Most open file descriptors.", most)


def _one(name: str, kind: str, help_text: str, value: float) -> Family:
    family = Family(f"process_{name}", kind, help_text)
    family.add({}, value)
    return family


def _open_descriptors() -> int:
    """How many descriptors are open. Since Linux 6.2 the directory's size is its number of entries; before, it is 0."""
    counted = os.stat("/proc/self/fd").st_size
    return counted or len(os.listdir("/proc/self/fd"))


@cache
def _booted_at_s() -> int:
    """When the machine was booted, read once: the kernel makes this file again for each reader, which is slow."""
    with open("/proc/stat", "rb") as stat:
        return next((int(line.split()[1]) for line in stat if line.startswith(b"btime ")), 0)
