"""The shards of an erasure-coded volume on other servers: their holders, and ranges of them.

Source: weed/storage/store_ec.go (cachedLookupEcShardLocations, readRemoteEcShardInterval).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Protocol

from native_handlers.records import dataclass
from native_handlers.storage.model.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from native_handlers.storage.erasure_coding.layout import Ratio

FRESH_WITH_FEW_S = 11.0
"""How long an answer with fewer shards than data shards is used."""
FRESH_WITH_SOME_S = 7 * 60.0
FRESH_WITH_ALL_S = 37 * 60.0
MAX_VOLUMES = 10_000
HOLDER_AVOIDED_S = 30.0
"""How long a holder that failed is asked last: as long as a request to a holder that hangs takes."""
LOOKUP_AVOIDED_S = 5.0
"""How long the master is not asked after a look-up that failed: as long as a look-up takes where the master hangs."""
MAX_FAILURES = 10_000
_MASTER = "master"


class ShardUnreachable(StorageError):
    """Another server did not carry out a request, or the master did not name the holders."""


class ServerUnreachable(ShardUnreachable):
    """A server gave no answer: it cannot be reached, or hangs. Other requests to it will fail too."""


class ServerSilent(ServerUnreachable):
    """A server hangs: the time for its answer is over."""


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
            ShardUnreachable: the range did not arrive, or not completely; ServerUnreachable where there was no answer.
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
            ShardUnreachable: the master does not name them; ServerUnreachable where there was no answer.
        """
        ...

    def is_self(self, address: str) -> bool:
        """Whether the address is this server's."""
        ...

    def begin_read(self, address: str, wanted: ShardRange) -> PendingRange:
        """Requests a range; the answer arrives in the background. Raises as `PendingRange.result`."""
        ...

    def delete(self, address: str, volume_id: int, collection: str, needle_id: int, version: int) -> None:
        """Deletes a needle on that server. Raises ShardUnreachable; ServerUnreachable where there was no answer, and
        ServerSilent where that took the whole time.
        """
        ...


class RecentFailures:
    """Servers and shards that failed a short while ago, and are avoided. Later one caller tries again, and the others
    avoid it until that has succeeded. Thread-safe.

    Args:
        lasts_s: how long something that failed is avoided.
        at_most: with more failures, the oldest ones are forgotten.
    """

    def __init__(
        self, lasts_s: float, clock_s: Callable[[], float] = time.monotonic, at_most: int = MAX_FAILURES
    ) -> None:
        self._lasts_s, self._clock_s, self._at_most = lasts_s, clock_s, at_most
        # Protects the field below.
        self._lock = threading.Lock()
        self._noted: dict[Hashable, tuple[str, float]] = {}
        """The error's text and the time, by what failed; the oldest first."""

    def __len__(self) -> int:
        return len(self._noted)

    def note(self, what: Hashable, error: Exception) -> None:
        """Has `what` avoided from now on: it failed."""
        with self._lock:
            self._put(what, str(error))

    def begin(self, what: Hashable) -> None:
        """Comes before an attempt with `what`. Has others avoid it meanwhile, where it failed before."""
        if self._noted:
            with self._lock:
                noted = self._noted.get(what)
                if noted is not None:
                    self._put(what, noted[0])

    def clear(self, what: Hashable) -> None:
        """Ends that `what` is avoided: it has succeeded."""
        if self._noted:
            with self._lock:
                self._noted.pop(what, None)

    def find(self, what: Hashable, since_s: float | None = None) -> str | None:
        """The text of the last error where `what` is to be avoided, else None. An error before `since_s` does not
        count.
        """
        noted = self._noted.get(what)
        if noted is None or self._clock_s() - noted[1] >= self._lasts_s:
            return None
        return noted[0] if since_s is None or noted[1] >= since_s else None

    def _put(self, what: Hashable, text: str) -> None:
        self._noted.pop(what, None)
        self._noted[what] = text, self._clock_s()
        if len(self._noted) > self._at_most:
            del self._noted[next(iter(self._noted))]


class ShardLocations:
    """The cached holders of the shards of each volume, and those that failed a short while ago. Thread-safe.

    A holder that gave no answer is avoided for all of its shards, one that answered with an error for that shard alone.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._failed = RecentFailures(HOLDER_AVOIDED_S, clock_s)
        self._silent = RecentFailures(HOLDER_AVOIDED_S, clock_s)
        """Those that let a request wait in vain: by address, and by address and volume id for deletions alone. A holder
        whose disk hangs may still answer reads from memory."""
        self._failed_lookups = RecentFailures(LOOKUP_AVOIDED_S, clock_s)
        """By volume id, or `_MASTER` where the master is silent."""
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

        After a look-up that failed, an older answer is used for `LOOKUP_AVOIDED_S`. It is also used while another
        thread asks.

        Args:
            since_s: older answers are not used, because no holder in them returned the shard. Nor are look-ups that
                failed before.

        Raises:
            ShardUnreachable: the master cannot be asked, and nothing is known.
        """
        known = self._fresh(volume_id, ratio, since_s)
        if known is not None:
            return known
        with self._lock:
            older = self._known.get(volume_id)
            asking = self._asking.setdefault(volume_id, threading.Lock())
        may_wait = older is None or since_s is not None
        if not asking.acquire(blocking=may_wait):
            return dict(older[0]) if older is not None else {}
        try:
            known = self._fresh(volume_id, ratio, since_s)
            return known if known is not None else self._ask(remote, volume_id, since_s)
        except ShardUnreachable:
            with self._lock:
                if volume_id not in self._known:
                    raise
                return dict(self._known[volume_id][0])
        finally:
            asking.release()

    def known(self, volume_id: int, ratio: Ratio) -> dict[int, list[str]]:
        """The holders by shard id, as far as they are known. The master is not asked."""
        return self._fresh(volume_id, ratio, None) or {}

    def _ask(self, remote: RemoteShards, volume_id: int, since_s: float | None) -> dict[int, list[str]]:
        """Asks the master. Raises ShardUnreachable, also for a look-up that failed a short while ago."""
        whats = (_MASTER, volume_id)
        for what in whats:
            text = self._failed_lookups.find(what, since_s)
            if text is not None:
                raise ShardUnreachable(text)
        for what in whats:
            self._failed_lookups.begin(what)
        asked_at_s = self._clock_s()
        try:
            found = {shard: list(holders) for shard, holders in remote.holders(volume_id).items()}
        except ShardUnreachable as error:
            self._failed_lookups.note(_MASTER if isinstance(error, ServerUnreachable) else volume_id, error)
            raise
        for what in whats:
            self._failed_lookups.clear(what)
        with self._lock:
            self._known.pop(volume_id, None)
            self._known[volume_id] = found, asked_at_s
            if len(self._known) > MAX_VOLUMES:
                oldest = next(iter(self._known))
                del self._known[oldest]
                self._asking.pop(oldest, None)
        return dict(found)

    def begin(self, address: str, volume_id: int, shard_id: int) -> None:
        """Comes before a request to a holder. `note_failure` or `note_success` says afterwards what became of it."""
        for what in (address, (address, volume_id, shard_id)):
            self._failed.begin(what)
        self._silent.begin(address)

    def note_failure(self, address: str, volume_id: int, shard_id: int, error: ShardUnreachable) -> None:
        """Has the holder avoided for `HOLDER_AVOIDED_S`."""
        if isinstance(error, ServerSilent):
            self._silent.note(address, error)
        else:
            self._silent.clear(address)
        if isinstance(error, ServerUnreachable):
            self._failed.note(address, error)
        else:
            self._failed.clear(address)
            self._failed.note((address, volume_id, shard_id), error)

    def note_success(self, address: str, volume_id: int, shard_id: int) -> None:
        """Ends that the holder is avoided."""
        self._silent.clear(address)
        for what in (address, (address, volume_id, shard_id)):
            self._failed.clear(what)

    def check_answers(self, address: str, volume_id: int) -> None:
        """Raises ServerSilent where a deletion at the holder would probably wait in vain: one did so, or a read, within
        the last `HOLDER_AVOIDED_S`. Else the caller deletes there, and others are refused meanwhile where the holder
        was silent before.
        """
        whats = (address, (address, volume_id))
        for what in whats:
            text = self._silent.find(what)
            if text is not None:
                raise ServerSilent(f"not asked, for it was silent a moment ago: {text}")
        for what in whats:
            self._silent.begin(what)

    def note_deletion(self, address: str, volume_id: int, shard_id: int, error: ShardUnreachable | None) -> None:
        """Says what became of a deletion at a holder; `error` is None where it succeeded."""
        if isinstance(error, ServerSilent):
            self._silent.note((address, volume_id), error)
        else:
            self._silent.clear((address, volume_id))
        if isinstance(error, ServerUnreachable):
            self.note_failure(address, volume_id, shard_id, error)
        else:
            # A holder that refuses a deletion may read the shard nevertheless, and the other way round.
            self._silent.clear(address)

    def has_failed(self, address: str, volume_id: int, shard_id: int, since_s: float | None = None) -> bool:
        """Whether the holder is to be avoided. Where no other one has the shard, it is to be asked nevertheless.

        Args:
            since_s: earlier failures do not count.
        """
        return any(self._failed.find(what, since_s) is not None for what in (address, (address, volume_id, shard_id)))

    def _count_usable(self, volume_id: int, shards: dict[int, list[str]]) -> int:
        """How many shards have a holder that has not failed."""
        return sum(
            not all(self.has_failed(address, volume_id, shard) for address in addresses)
            for shard, addresses in shards.items()
        )

    def _fresh(self, volume_id: int, ratio: Ratio, since_s: float | None) -> dict[int, list[str]] | None:
        with self._lock:
            held = self._known.get(volume_id)
            if held is None:
                return None
            shards, asked_at_s = held
            if since_s is not None and asked_at_s < since_s:
                return None
            usable = self._count_usable(volume_id, shards)
            limit_s = FRESH_WITH_FEW_S
            if usable >= ratio.data:
                limit_s = FRESH_WITH_ALL_S if usable >= ratio.total else FRESH_WITH_SOME_S
            return dict(shards) if self._clock_s() - asked_at_s < limit_s else None
