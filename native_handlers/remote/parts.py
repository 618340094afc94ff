"""A range of an object, fetched in parts, several at a time.

Source: weed/remote_storage/s3/s3_storage_client.go (ReadFileWithConcurrency),
weed/remote_storage/azure/azure_storage_client.go (ReadFileWithConcurrency).
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING

from native_handlers.remote.model import RemoteReadFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PART_BYTES = 4 << 20
"""The length of the range of one request. Such a request ends within the time limits on a slow line too."""
DEFAULT_CONCURRENCY = 5
MAX_CONCURRENCY = 64
_AHEAD = 2
"""How many parts there are for each thread: one in work, and one that waits. More would only take memory."""


def read_in_parts(
    read_part: Callable[[int, int], bytes], offset_bytes: int, size_bytes: int, concurrency: int = 0
) -> bytes | memoryview:
    """Exactly `size_bytes` from `offset_bytes` on. Each part is put in its place when it arrives, so that the memory is
    that of the range and of a few parts.

    Args:
        read_part: the bytes of an object at an offset, of a length; called by several threads at once.
        concurrency: how many parts at a time; 0 means DEFAULT_CONCURRENCY, and MAX_CONCURRENCY is the most.

    Raises:
        RemoteReadFailed: a part is shorter than it should be, or what `read_part` raised. No part is begun after the
            first failure is known.
    """

    def whole(start_bytes: int) -> bytes:
        want = min(PART_BYTES, offset_bytes + size_bytes - start_bytes)
        data = read_part(start_bytes, want)
        if len(data) != want:
            raise RemoteReadFailed(f"short read at offset {start_bytes}: got {len(data)} bytes, want {want}")
        return data

    starts = range(offset_bytes, offset_bytes + size_bytes, PART_BYTES)
    if len(starts) == 1:
        return whole(offset_bytes)
    workers = min(concurrency or DEFAULT_CONCURRENCY, MAX_CONCURRENCY, len(starts))
    joined, end_bytes = memoryview(bytearray(size_bytes)), 0
    with ThreadPoolExecutor(workers, thread_name_prefix="remote-read") as threads:
        pending: deque[Future[bytes]] = deque()
        try:
            for part in _in_order(threads, whole, starts, pending, workers * _AHEAD):
                joined[end_bytes : end_bytes + len(part)] = part
                end_bytes += len(part)
        finally:
            for future in pending:
                future.cancel()
    return joined.toreadonly()


def _in_order(
    threads: ThreadPoolExecutor,
    read: Callable[[int], bytes],
    starts: range,
    pending: deque[Future[bytes]],
    window: int,
) -> Iterator[bytes]:
    """The parts in order. `pending` has the parts that were requested and not yet returned, `window` of them at most.
    The first part that fails ends the iteration, even while an earlier part has not arrived.
    """
    rest = iter(starts)
    while True:
        pending.extend(threads.submit(read, start) for start in islice(rest, window - len(pending)))
        if not pending:
            return
        if pending[0].done():
            yield pending.popleft().result()
            continue
        unfinished = {future for future in pending if not future.done()}
        for future in pending:
            if future not in unfinished:
                future.result()
        wait(unfinished, return_when=FIRST_COMPLETED)
