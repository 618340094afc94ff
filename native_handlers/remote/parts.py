"""A range of an object, fetched in parts, several at a time.

Source: weed/remote_storage/s3/s3_storage_client.go (ReadFileWithConcurrency),
weed/remote_storage/azure/azure_storage_client.go (ReadFileWithConcurrency).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from native_handlers.remote.model import RemoteReadFailed

if TYPE_CHECKING:
    from collections.abc import Callable

PART_BYTES = 4 << 20
"""The length of the range of one request. Such a request ends within the time limits on a slow line too."""
DEFAULT_CONCURRENCY = 5
MAX_CONCURRENCY = 64


def read_in_parts(
    read_part: Callable[[int, int], bytes], offset_bytes: int, size_bytes: int, concurrency: int = 0
) -> bytes:
    """Exactly `size_bytes` from `offset_bytes` on.

    Args:
        read_part: the bytes of an object at an offset, of a length; called by several threads at once.
        concurrency: how many parts at a time; 0 means DEFAULT_CONCURRENCY, and MAX_CONCURRENCY is the most.

    Raises:
        RemoteReadFailed: a part is shorter than it should be, or what `read_part` raised. Parts that were not begun are
            not fetched.
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
    with ThreadPoolExecutor(workers, thread_name_prefix="remote-read") as threads:
        futures = [threads.submit(whole, start) for start in starts]
        try:
            return b"".join(future.result() for future in futures)
        finally:
            for future in futures:
                future.cancel()
