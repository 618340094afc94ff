"""Bounds the memory of needles that calls fetch from elsewhere: from remote storage, or from another volume server.

A small request makes this server fetch up to 2 GiB, and hundreds of such calls may run. So each call has a share of the
bounded memory before it fetches, and waits for it in the order of coming.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RpcFailure
from native_handlers.storage.erasure_coding.bounds import Bound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEMORY_BYTES = 512 << 20
"""The memory of all such needles together. One that needs more is fetched beside no other one."""
UNCOUNTED_BYTES = 256 << 10
"""A needle that needs no more waits for nothing: the number of calls bounds how many there are."""
WAIT_S = 120.0
"""How long a call waits for its share. A slow host may hold the memory for hours."""
LOOK_S = 0.5
"""How long a call that has ended goes on waiting."""
_ALL = (None,)


class FetchedMemory:
    """The memory of one server. Safe from any thread."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES, wait_s: float = WAIT_S) -> None:
        self._bound = Bound(memory_bytes)
        self._wait_s = wait_s

    @property
    def waiting_count(self) -> int:
        """How many calls wait for a share."""
        return self._bound.waiting_count

    @contextmanager
    def holding(self, held_bytes: int, check: Callable[[], None]) -> Iterator[None]:
        """See `NeedleMemory`. What needs up to UNCOUNTED_BYTES has no share and does not wait."""
        if held_bytes <= UNCOUNTED_BYTES:
            yield
            return
        has_woken = threading.Event()
        share = self._bound.begin(_ALL, held_bytes, has_woken.set)
        try:
            over_s = time.monotonic() + self._wait_s
            while not share.is_held and not has_woken.wait(min(LOOK_S, max(0.0, over_s - time.monotonic()))):
                check()
                if time.monotonic() >= over_s:
                    text = f"there was no memory for {held_bytes} fetched bytes for {self._wait_s:g} s; try again later"
                    raise RpcFailure(text, grpc.StatusCode.RESOURCE_EXHAUSTED)
            yield
        finally:
            self._bound.end(share)
