"""Memory for large payloads between reading and sending: lent from a bounded amount, and kept for the next payload.

The bytes that are sent are the bytes whose checksum was compared, and they are read once. Memory that is touched for
the first time costs as much as the copy, so the same memory is used again. A slow client holds its memory for long, so
the amount is bounded.
"""

from __future__ import annotations

import mmap

LARGEST_BYTES = 8 << 20
"""The greatest payload: the greatest chunk that a filer stores, by default and through S3."""
TOTAL_BYTES = 64 << 20
"""The bound for all payloads at the same time."""
KEPT_BYTES = 32 << 20
"""The bound for memory that no payload uses."""
_SLACK_BYTES = 64 * 1024
"""So the record around a payload of 4 MiB needs no more memory than the payload."""
_SMALLEST_BYTES = 1 << 20
ZEROED_AT_ONCE_BYTES = 1 << 20
"""Zeroing so much keeps the interpreter for a tenth of a millisecond."""


def fresh_memory(length_bytes: int) -> memoryview:
    """Zeroed memory for a payload that is not lent any. The system zeroes a long one page by page when it is written.
    Zeroing all of it at once would keep the interpreter.
    """
    if length_bytes <= ZEROED_AT_ONCE_BYTES:
        return memoryview(bytearray(length_bytes))
    return memoryview(mmap.mmap(-1, length_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class PooledBuffer:
    """Memory on loan. `view` has the requested length; its content is undefined."""

    __slots__ = ("_memory", "_pool", "view")

    def __init__(self, pool: BufferPool, memory: mmap.mmap, length_bytes: int) -> None:
        self._pool = pool
        self._memory: mmap.mmap | None = memory
        self.view = memoryview(memory)[:length_bytes]

    def release(self) -> None:
        """Gives the memory back. `view` must not be used afterwards. May be called again."""
        memory, self._memory = self._memory, None
        if memory is not None:
            self._pool.take_back(memory)


class BufferPool:
    """The memory of one process. For one thread."""

    def __init__(self, total_bytes: int = TOTAL_BYTES, kept_bytes: int = KEPT_BYTES) -> None:
        self._total_bytes = total_bytes
        self._kept_bytes = kept_bytes
        self._idle: dict[int, list[mmap.mmap]] = {}
        self.lent_bytes = 0
        self.idle_bytes = 0

    def acquire(self, length_bytes: int) -> PooledBuffer | None:
        """Lends memory for `length_bytes`. Returns None where the length or the memory on loan exceeds its bound."""
        wanted_bytes = length_bytes - _SLACK_BYTES
        if wanted_bytes > LARGEST_BYTES:
            return None
        size = max(_SMALLEST_BYTES, 1 << (wanted_bytes - 1).bit_length() if wanted_bytes > 1 else 0) + _SLACK_BYTES
        if self.lent_bytes + size > self._total_bytes:
            return None
        same = self._idle.get(size)
        if same:
            memory = same.pop()
            self.idle_bytes -= size
        else:
            self._shrink_idle(self._total_bytes - self.lent_bytes - size)
            memory = mmap.mmap(-1, size)
        self.lent_bytes += size
        return PooledBuffer(self, memory, length_bytes)

    def take_back(self, memory: mmap.mmap) -> None:
        """Called by `PooledBuffer.release`."""
        size = len(memory)
        self.lent_bytes -= size
        if self.idle_bytes + size <= self._kept_bytes:
            self._idle.setdefault(size, []).append(memory)
            self.idle_bytes += size

    def _shrink_idle(self, limit_bytes: int) -> None:
        """Frees idle memory, the largest first. Memory is unmapped with its last view."""
        for size in sorted(self._idle, reverse=True):
            same = self._idle[size]
            while same and self.idle_bytes > limit_bytes:
                same.pop()
                self.idle_bytes -= size
