"""How many calls each client may have at once, and which calls are ended because their client is idle.

A call holds a place from its admission until it is over for both sides: its thread has ended, and its client has taken
the answer or has gone. Upstream has no such bound: a waiting goroutine costs upstream little, but a call here costs a
thread.
"""

from __future__ import annotations

import logging
import threading
import time
from enum import Enum
from typing import TYPE_CHECKING

import grpc

from native_handlers.grpc.context import RpcFailure
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from supervisor.net.grpc_clients import GrpcClient

log = logging.getLogger(__name__)

PROGRESS_BYTES = 64 * 1024
"""A connection that has moved this many bytes, in the direction for which a call waits, has not stalled. Pings and
window updates of an idle connection are far fewer bytes."""


_ALL = object()
_STRANGERS = object()

MUCH_MORE = 8
"""The silent calls of a connection with this many times the calls of another one yield to the other's calls at once."""


class Waiting(Enum):
    """The next step that a call expects of its client."""

    FIRST_MESSAGE = "send its first message"
    NEXT_MESSAGE = "send its next message"
    READING = "read the answer"


@dataclass(frozen=True, slots=True)
class StallLimits:
    """How long a call may wait for a client that moves no bytes, in seconds.

    `yields_*`: after this time the call gives its place to another call that finds none. `ends_*`: after this time the
    call is ended in any case. The first message usually comes together with the call, so a call without one yields
    soon; see also `MUCH_MORE`.
    """

    yields_first_s: float = 0.5
    yields_later_s: float = 10.0
    ends_first_s: float = 30.0
    ends_later_s: float = 300.0
    looks_again_s: float = 0.05
    """How long a connection is not searched for again after a search found no call that yields to it. A search goes
    over all calls, and a flood of a thousand calls would cause a thousand searches.
    """

    def yields(self, waiting: Waiting) -> float:
        return self.yields_first_s if waiting is Waiting.FIRST_MESSAGE else self.yields_later_s

    def ends(self, waiting: Waiting) -> float:
        return self.ends_first_s if waiting is Waiting.FIRST_MESSAGE else self.ends_later_s


@dataclass(frozen=True, slots=True)
class ShareRule:
    """Which part of all places one connection, one host, and all hosts outside the cluster may have.

    Hosts of the cluster have no bound of their own. The places that others cannot have are kept for the cluster's
    calls.
    """

    connection: float = 1 / 2
    host: float = 5 / 8
    strangers: float = 3 / 4


class CallPlace:
    """The place of one call. The call's thread notes when it waits for the client; other threads read this."""

    __slots__ = (
        "_cancel",
        "_holders",
        "_mark_bytes",
        "_shares",
        "_since_s",
        "client",
        "end_text",
        "is_cluster",
        "keys",
        "waiting",
    )

    def __init__(self, shares: CallShares, client: GrpcClient, is_cluster: bool, cancel: Callable[[], object]) -> None:
        self.client = client
        self.is_cluster = is_cluster
        self.keys: tuple[Hashable, ...] = (
            (client.traffic, client.host, _ALL) if is_cluster else (client.traffic, client.host, _STRANGERS, _ALL)
        )
        """The groups in which the call counts: its connection, its host, and so on; the narrowest first."""
        self.waiting: Waiting | None = None
        self.end_text = ""
        """Why the call was ended by `end`; empty for a call that was not."""
        self._shares = shares
        self._cancel = cancel
        self._holders = 2
        self._since_s = 0.0
        self._mark_bytes = 0

    def wait_for(self, waiting: Waiting) -> None:
        """Notes that the call waits for its client from now on, until `go_on`."""
        self._since_s = time.monotonic()
        self._mark_bytes = self._moved_bytes(waiting)
        # The last step: a thread that sees `waiting` reads the two others without a lock.
        self.waiting = waiting

    def go_on(self) -> None:
        self.waiting = None

    def give_up(self) -> None:
        """Call this twice: when the thread of the call has ended, and when the call is over for its client."""
        self._shares.give_up(self)

    def note_given_up(self) -> bool:
        """Notes one `give_up`. Returns whether it was the second one.

        Only `CallShares` calls this, with its lock held.
        """
        self._holders -= 1
        return not self._holders

    def end(self, why: str) -> None:
        """Ends the call, with the reason.

        Only `CallShares` calls this, after it has taken the place back, without lock.
        """
        self.end_text = why
        log.info("gRPC call of %s: %s", self.client, why)
        self._cancel()

    def waited_s(self, now_s: float) -> tuple[Waiting, float] | None:
        """The step that the call waits for, and for how many seconds nothing has moved; None without a wait."""
        waiting = self.waiting
        if waiting is None:
            return None
        moved_bytes = self._moved_bytes(waiting)
        if moved_bytes - self._mark_bytes >= PROGRESS_BYTES:
            self._mark_bytes, self._since_s = moved_bytes, now_s
        return waiting, now_s - self._since_s

    def _moved_bytes(self, waiting: Waiting) -> int:
        traffic = self.client.traffic
        return traffic.sent_bytes if waiting is Waiting.READING else traffic.received_bytes


class CallShares:
    """The places of one kind of call. Thread-safe. No method blocks.

    Args:
        places: how many there are for all clients together.
        kind: `unary` or `streaming`, for texts.
        is_of_cluster: whether a client is known to belong to the cluster; see `ShareRule`.
    """

    def __init__(
        self,
        places: int,
        kind: str,
        is_of_cluster: Callable[[GrpcClient], bool] = lambda _client: False,
        rule: ShareRule = ShareRule(),  # noqa: B008  frozen
        limits: StallLimits = StallLimits(),  # noqa: B008  frozen
    ) -> None:
        self._places = places
        self._kind = kind
        self._is_of_cluster = is_of_cluster
        self._limits = limits
        of_connection, of_host, of_strangers = (
            max(1, int(places * part)) for part in (rule.connection, rule.host, rule.strangers)
        )
        self._bounds = {True: (of_connection, places, places), False: (of_connection, of_host, of_strangers, places)}
        """By `is_cluster`, how many calls may count for each of `CallPlace.keys`."""
        self._lock = threading.Lock()  # protects everything below, and how often each place was given up
        self._held: dict[CallPlace, None] = {}
        self._counts: dict[Hashable, int] = {}
        self._in_vain: dict[tuple[Hashable, Hashable], float] = {}
        """By share and connection: the time until which no call is searched for that yields to the connection."""

    def __len__(self) -> int:
        return len(self._held)

    @property
    def counted_keys(self) -> frozenset[Hashable]:
        """The keys (`CallPlace.keys`) of which calls are counted now: none where no place is taken."""
        return frozenset(self._counts)

    def take(self, client: GrpcClient, cancel: Callable[[], object]) -> CallPlace:
        """A place for a call of `client`. Where its share is used up, the place of a call whose client is idle.

        Args:
            cancel: ends the call. Any thread may call it.

        Raises:
            RpcFailure: RESOURCE_EXHAUSTED, with the name of the share. No place is taken.
        """
        place = CallPlace(self, client, self._is_of_cluster(client), cancel)
        yielding: list[CallPlace] = []
        try:
            with self._lock:
                for key, bound in zip(place.keys, self._bounds[place.is_cluster], strict=True):
                    if self._counts.get(key, 0) < bound:
                        continue
                    victim = self._look_for_yielding(key, place)
                    if victim is None:
                        raise self._refusal(place, key, bound)
                    self._remove(victim)
                    yielding.append(victim)
                self._add(place)
        finally:
            for victim in yielding:
                # Without the lock: ending a call runs its callbacks, and these give the place up.
                victim.end("the call was ended to make room for another call")
        return place

    def give_up(self, place: CallPlace) -> None:
        with self._lock:
            if place.note_given_up() and place in self._held:
                self._remove(place)

    def end_stalled(self) -> None:
        """Ends the calls whose clients have been idle too long. It must be called about once a second."""
        now_s = time.monotonic()
        with self._lock:
            self._in_vain = {who: until_s for who, until_s in self._in_vain.items() if until_s > now_s}
            stalled = []
            for place in self._held:
                waited = place.waited_s(now_s)
                if waited is not None and waited[1] >= self._limits.ends(waited[0]):
                    stalled.append((place, *waited))
            for place, _, _ in stalled:
                self._remove(place)
        for place, waiting, seconds in stalled:
            place.end(f"the call was ended: the client did not {waiting.value} for {seconds:.0f} s")

    def _refusal(self, place: CallPlace, key: Hashable, bound: int) -> RpcFailure:
        whose = ""
        if bound < self._places:
            at = place.keys.index(key)
            whose = (" of this connection", f" from {place.client.host}", " from outside the cluster")[at]
        text = f"{bound} {self._kind} calls{whose} are in progress; try again later"
        return RpcFailure(text, grpc.StatusCode.RESOURCE_EXHAUSTED)

    def _look_for_yielding(self, key: Hashable, wanted: CallPlace) -> CallPlace | None:
        who, now_s = (key, wanted.client.traffic), time.monotonic()
        if now_s < self._in_vain.get(who, 0.0):
            return None
        victim = self._find_yielding(key, wanted)
        if victim is None:
            self._in_vain[who] = now_s + self._limits.looks_again_s
        return victim

    def _find_yielding(self, key: Hashable, wanted: CallPlace) -> CallPlace | None:
        """The call that gives its place to `wanted`, among idle calls that count for `key`; None where there is none.

        Calls of the host and the connection with the most calls come first, and of those the longest waiting call.
        """
        now_s = time.monotonic()
        found: list[tuple[bool, int, int, float, CallPlace]] = []
        for place in self._held:
            if key not in place.keys or not self._may_displace(wanted, place):
                continue
            waited = place.waited_s(now_s)
            if waited is not None and waited[1] >= self._yields_after_s(place, wanted, waited[0]):
                counts = self._counts[place.client.host], self._counts[place.client.traffic]
                found.append((not place.is_cluster, *counts, waited[1], place))
        return max(found, key=lambda one: one[:-1])[-1] if found else None

    def _may_displace(self, wanted: CallPlace, place: CallPlace) -> bool:
        """Whether `wanted` may take the place of `place`.

        A call from outside never takes the place of a call of the cluster. No call takes the place of a connection with
        as few calls as its own: in a flood, the messages of a small client come late as well.
        """
        if place.is_cluster and not wanted.is_cluster:
            return False
        mine, theirs = wanted.client.traffic, place.client.traffic
        return mine is theirs or self._counts[theirs] > self._counts.get(mine, 0)

    def _yields_after_s(self, place: CallPlace, wanted: CallPlace, waiting: Waiting) -> float:
        if waiting is Waiting.FIRST_MESSAGE:
            has, wanted_has = self._counts[place.client.traffic], self._counts.get(wanted.client.traffic, 0)
            if has >= MUCH_MORE * (wanted_has + 1):
                return 0.0
        return self._limits.yields(waiting)

    def _add(self, place: CallPlace) -> None:
        self._held[place] = None
        for key in place.keys:
            self._counts[key] = self._counts.get(key, 0) + 1

    def _remove(self, place: CallPlace) -> None:
        del self._held[place]
        for key in place.keys:
            count = self._counts[key] - 1
            if count:
                self._counts[key] = count
            else:
                del self._counts[key]


class StallWatch:
    """A thread that ends the stalled calls of all `shares`."""

    INTERVAL_S = 1.0

    def __init__(self, *shares: CallShares) -> None:
        self._shares = shares
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="grpc-stall-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread. A second call does nothing."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(self.INTERVAL_S):
            for shares in self._shares:
                shares.end_stalled()
