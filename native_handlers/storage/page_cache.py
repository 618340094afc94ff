"""Whether memory holds a range of a file, found out without reading it: mincore(2) of a mapping that nobody touches."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_RESIDENT = b"\x01"


def is_in_page_cache(fd: int, offset_bytes: int, length_bytes: int) -> bool:
    """Whether all of the range is there and in memory now: it may be lost the moment after.

    Some 25 us for a MiB. False where the file ends before the range does, and where the system cannot tell.
    """
    mincore = _mincore()
    if mincore is None or length_bytes <= 0:
        return False
    start = offset_bytes & -mmap.ALLOCATIONGRANULARITY
    mapped_bytes = offset_bytes + length_bytes - start
    pages = ctypes.create_string_buffer(-(-mapped_bytes // mmap.PAGESIZE))
    try:
        # Private and writable only because ctypes wants to be able to write where it looks for an address.
        mapping = mmap.mmap(fd, mapped_bytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=start)
    except (OSError, ValueError):
        return False
    with mapping:
        first = ctypes.c_char.from_buffer(mapping)
        failed = mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(mapped_bytes), pages)
        del first
    return not failed and pages.raw.count(_RESIDENT) == len(pages)


@cache
def _mincore() -> Callable[..., int] | None:
    """The call, None where the C library has none."""
    try:
        found: Callable[..., int] = ctypes.CDLL(None).mincore
    except (AttributeError, OSError):
        return None
    return found
