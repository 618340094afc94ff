"""A range of an object, fetched in parts, several at a time.

Source: weed/remote_storage/s3/s3_storage_client.go (ReadFileWithConcurrency),
weed/remote_storage/azure/azure_storage_client.go (ReadFileWithConcurrency).
"""

from __future__ import annotations

import mmap
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


def memory_of(size_bytes: int, concurrency: int = 0) -> int:
    """How many bytes `read_in_parts` holds at most: the range, and the parts that wait to be put in their place."""
    if size_bytes <= PART_BYTES:
        return size_bytes
    return size_bytes + min(size_bytes, _threads_for(concurrency) * _AHEAD * PART_BYTES)


def _threads_for(concurrency: int) -> int:
    return min(concurrency or DEFAULT_CONCURRENCY, MAX_CONCURRENCY)


def read_in_parts(
    read_part: Callable[[int, int], bytes], offset_bytes: int, size_bytes: int, concurrency: int = 0
) -> bytes | memoryview:
    """Exactly `size_bytes` from `offset_bytes` on. Each part is put in its place when it arrives, so that the memory is
    that of the range and of a few parts.

    Args:
        read_part: the bytes of an object at an offset, of a length; called by several threads at once.
        concurrency: how many parts at a time; 0 means DEFAULT_CONCURRENCY, and MAX_CONCURRENCY is the most.

    Raises:
        RemoteReadFailed: a part is shorter than it should be, there is no room for the range, or what `read_part`
            raised. No part is begun after the first failure is known.
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
    workers = min(_threads_for(concurrency), len(starts))
    joined, end_bytes = _room_for(size_bytes), 0
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


def _room_for(size_bytes: int) -> memoryview:
    """Memory whose pages are taken when they are written. Zeroing all at once would keep the interpreter, and take them
    before a byte has come.
    """
    try:
        return memoryview(mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except OSError as error:
        raise RemoteReadFailed(f"no room for {size_bytes} bytes: {error}") from error


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
