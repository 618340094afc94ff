"""Memory that large payloads are read into before they are sent: lent from a bounded amount, kept for the next one.

What goes out is the very bytes whose checksum was compared, and they are read once. But memory that is touched for the
first time costs as much as the copy, and a slow client holds it for long: hence the same memory again and again, and so
much of it at most.
"""

from __future__ import annotations

import mmap

LARGEST_BYTES = 8 << 20
"""Of one payload: what a filer stores as one chunk at most, by default and through S3."""
TOTAL_BYTES = 64 << 20
"""Of all payloads at the same time."""
KEPT_BYTES = 32 << 20
"""The most that is kept while nobody uses it."""
_SLACK_BYTES = 64 * 1024
"""So that the record around a payload of 4 MiB needs no more than the payload does."""
_SMALLEST_BYTES = 1 << 20


class PayloadBuffer:
    """Memory on loan. `view` has the length that was asked for, with anything in it."""

    __slots__ = ("_memory", "_pool", "view")

    def __init__(self, pool: PayloadBuffers, memory: mmap.mmap, length_bytes: int) -> None:
        self._pool = pool
        self._memory: mmap.mmap | None = memory
        self.view = memoryview(memory)[:length_bytes]

    def release(self) -> None:
        """Gives the memory back; `view` must not be used afterwards. May be called again."""
        memory, self._memory = self._memory, None
        if memory is not None:
            self._pool.take_back(memory)


class PayloadBuffers:
    """The memory of one process. For one thread."""

    def __init__(self, total_bytes: int = TOTAL_BYTES, kept_bytes: int = KEPT_BYTES) -> None:
        self._total_bytes = total_bytes
        self._kept_bytes = kept_bytes
        self._idle: dict[int, list[mmap.mmap]] = {}
        self.lent_bytes = 0
        self.idle_bytes = 0

    def lend(self, length_bytes: int) -> PayloadBuffer | None:
        """Memory for `length_bytes`; None where that is too much for one, or too much is out already."""
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
        return PayloadBuffer(self, memory, length_bytes)

    def take_back(self, memory: mmap.mmap) -> None:
        """For `PayloadBuffer.release`."""
        size = len(memory)
        self.lent_bytes -= size
        if self.idle_bytes + size <= self._kept_bytes:
            self._idle.setdefault(size, []).append(memory)
            self.idle_bytes += size

    def _shrink_idle(self, limit_bytes: int) -> None:
        """Lets idle memory go, the largest first. It is unmapped with its last view."""
        for size in sorted(self._idle, reverse=True):
            same = self._idle[size]
            while same and self.idle_bytes > limit_bytes:
                same.pop()
                self.idle_bytes -= size
