"""The shards of an erasure-coded volume on other servers: their holders, and ranges of them.

Source: weed/storage/store_ec.go (cachedLookupEcShardLocations, readRemoteEcShardInterval).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from native_handlers.storage.model.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from native_handlers.storage.erasure_coding.layout import Ratio

FRESH_WITH_FEW_S = 11.0
"""How long an answer with fewer shards than data shards is used."""
FRESH_WITH_SOME_S = 7 * 60.0
FRESH_WITH_ALL_S = 37 * 60.0
MAX_VOLUMES = 10_000


class ShardUnreachable(StorageError):
    """Another server did not carry out a request, or the master did not name the holders."""


@dataclass(frozen=True, slots=True)
class ShardRange:
    """A range of a shard, for a needle.

    Args:
        encode_ts_ns: the encoding that the shard must have; 0 for any.
    """

    volume_id: int
    shard_id: int
    offset_bytes: int
    length_bytes: int
    needle_id: int
    encode_ts_ns: int


class PendingRange(Protocol):
    """A range that was requested from another server."""

    def result(self) -> bytes | None:
        """The whole range; None where that server has the needle deleted.

        Raises:
            ShardUnreachable: the range did not arrive, or not completely.
        """
        ...

    def cancel(self) -> None:
        """Ends the request: no caller waits for it any more."""
        ...


class RemoteShards(Protocol):
    """Other servers. Thread-safe; calls block. Addresses are those of `holders`."""

    def holders(self, volume_id: int) -> Mapping[int, list[str]]:
        """The holders of each shard, as the master says now.

        Raises:
            ShardUnreachable: there is no answer.
        """
        ...

    def is_self(self, address: str) -> bool:
        """Whether the address is this server's."""
        ...

    def begin_read(self, address: str, wanted: ShardRange) -> PendingRange:
        """Requests a range; the answer arrives in the background. Raises ShardUnreachable."""
        ...

    def delete(self, address: str, volume_id: int, collection: str, needle_id: int, version: int) -> None:
        """Deletes a needle on that server. Raises ShardUnreachable."""
        ...


class ShardLocations:
    """The cached holders of the shards of each volume. Thread-safe."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        # Protects the fields below. Not held during a request.
        self._lock = threading.Lock()
        self._known: dict[int, tuple[dict[int, list[str]], float]] = {}
        self._asking: dict[int, threading.Lock] = {}

    def now_s(self) -> float:
        """The present time on the clock of `get`."""
        return self._clock_s()

    def get(
        self, remote: RemoteShards, volume_id: int, ratio: Ratio, *, since_s: float | None = None
    ) -> dict[int, list[str]]:
        """The holders by shard id. The master is asked where they are not known, or the answer is too old.

        Args:
            since_s: older answers are not used, because no holder in them returned the shard.

        Raises:
            ShardUnreachable: the master cannot be asked, and nothing is known.
        """
        known = self._fresh(volume_id, ratio, since_s)
        if known is not None:
            return known
        with self._lock:
            asking = self._asking.setdefault(volume_id, threading.Lock())
        with asking:
            known = self._fresh(volume_id, ratio, since_s)
            if known is not None:
                return known
            asked_at_s = self._clock_s()
            try:
                found = {shard: list(holders) for shard, holders in remote.holders(volume_id).items()}
            except ShardUnreachable:
                with self._lock:
                    if volume_id not in self._known:
                        raise
                    return dict(self._known[volume_id][0])
            with self._lock:
                self._known.pop(volume_id, None)
                self._known[volume_id] = found, asked_at_s
                if len(self._known) > MAX_VOLUMES:
                    oldest = next(iter(self._known))
                    del self._known[oldest]
                    self._asking.pop(oldest, None)
            return dict(found)

    def forget(self, volume_id: int, shard_id: int) -> None:
        """Drops the holders of a shard: none of them returned it."""
        with self._lock:
            if volume_id in self._known:
                self._known[volume_id][0].pop(shard_id, None)

    def _fresh(self, volume_id: int, ratio: Ratio, since_s: float | None) -> dict[int, list[str]] | None:
        with self._lock:
            held = self._known.get(volume_id)
            if held is None:
                return None
            shards, asked_at_s = held
            if since_s is not None and asked_at_s < since_s:
                return None
            limit_s = FRESH_WITH_FEW_S
            if len(shards) >= ratio.data:
                limit_s = FRESH_WITH_ALL_S if len(shards) >= ratio.total else FRESH_WITH_SOME_S
            return dict(shards) if self._clock_s() - asked_at_s < limit_s else None
