"""The holders of a volume, and operations on all of them while volumes move.

The known holders may be out of date, and for a moment so may the master's answer. So an operation succeeds only when
every server has done it that the master names at its end. A server that denies the volume is believed when the master
no longer names it.

Source: weed/topology/store_replicate.go GetWritableRemoteReplications. Upstream sends only to the holders of one
look-up.
"""

from __future__ import annotations

import random
from dataclasses import field
from enum import Enum
from typing import TYPE_CHECKING

import trio

from native_handlers.http.context import LookupFailed
from native_handlers.http_model.errors import NoHolderLeft, ReplicationFailed
from native_handlers.http_model.volume_servers import VolumeServerFailed, VolumeServerFailureKind
from native_handlers.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from native_handlers.http.context import HttpContext, Location, VolumeLookup
    from native_handlers.http_model.headers import Headers

    Operation = Callable[[Location], Awaitable["HolderOutcome"]]
    """One operation on one holder. Raises VolumeServerFailed where it is not done."""

HOLDER_HEADER = "X-Volume-Holder"
"""A header between servers of this project. In a request, `required`: a server without the volume says so and forwards
nothing. In its answer, `yes` or `no`; or `shards`, where a holder of shards has deleted, which counts for the whole
volume. Other servers do not know the header; their 404 may mean either."""
REQUIRED, YES, NO, SHARDS = "required", "yes", "no", "shards"

HOLDER_WAIT_S = 3.0
"""How long a holder may deny a volume that the master says it has, or a volume may have too few holders in the middle
of a move, before the operation fails. A master learns of changes within milliseconds, or with a pulse."""
STRAGGLER_S = 0.5
"""How long the other holders are waited for once the operation has failed, or has succeeded whatever they do. Without
the wait, an operation still under way could be executed after the client's next one."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5


class HolderOutcome(Enum):
    """The result of an operation at one holder, as that server's answer tells it."""

    DONE = "this holder has done it"
    DOUBTFUL = "the server may not hold the volume at all"
    DONE_IN_SHARDS = "this holder of shards has done it for the whole volume"


class NotHolder(VolumeServerFailed):
    """A server denies that it has the volume."""

    def __init__(self, server: str, volume_id: int, *, status: int = 0) -> None:
        super().__init__(server, VolumeServerFailureKind.SERVER_ERROR, f"volume {volume_id} not found", status=status)


def is_denial(volume_id: int, headers: Headers, error: str) -> bool:
    """Whether an answer with these headers and this error denies the volume."""
    return headers.get(HOLDER_HEADER) == NO or f"volume {volume_id} not found" in error


def requires_holder(headers: Headers) -> bool:
    """Whether the request is for a holder of its volume only."""
    return headers.get(HOLDER_HEADER) == REQUIRED


def is_same_server(one: str, other: str) -> bool:
    """Whether two addresses (host:port, perhaps with `.grpcPort`) name one HTTP endpoint."""
    return _endpoint(one) == _endpoint(other)


def _endpoint(address: str) -> tuple[str, str]:
    host, _, port = address.strip().rpartition(":")
    return host.removeprefix("[").removesuffix("]").lower(), port.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Holders:
    """The other holders of a volume that an operation has to reach.

    Args:
        copy_count: how many copies the volume must have; None where the volume is not here, so that this is not known.
        skips_self: False where a request to our own address reaches another process of this node that has the volume.
    """

    context: HttpContext
    volume_id: int
    copy_count: int | None
    skips_self: bool = True

    async def others(self, *, is_refresh: bool = False) -> list[Location]:
        """The holders other than this server: the known ones, or with `is_refresh` the master's current ones.

        Where the volume has too few known holders, the master is asked once more: the missing holder may be back.

        Raises:
            ReplicationFailed: the master cannot be asked, or fewer servers hold the volume than its placement demands.
        """
        if self.copy_count == 1:
            return []
        if self.context.lookup is None:
            raise ReplicationFailed(f"replicating lookup failed for {self.volume_id}: there is no master to ask")
        wanted = self.copy_count or 0
        locations = await self._look_up(self.context.lookup, is_refresh=is_refresh)
        if len(locations) < wanted and not is_refresh:
            locations = await self._look_up(self.context.lookup, is_refresh=True)
        if len(locations) < wanted:
            raise ReplicationFailed(
                f"replicating operations [{len(locations)}] is less than "
                f"volume {self.volume_id} replication copy count [{wanted}]"
            )
        own = self.context.settings.self_url
        return [location for location in locations if not (self.skips_self and is_same_server(location.url, own))]

    async def reach(self, locations: Sequence[Location], operation: Operation) -> VolumeServerFailed | None:
        """Runs `operation` on all `locations` at the same time, and on every other server that holds the volume by
        then. Where the volume is erasure-coded, one holder is enough.

        Returns:
            None once every present holder has done it; else the failure of a holder that has not. Other holders may
            have.

        Raises:
            NoHolderLeft: no other server holds the volume any more, and none has done it. Only where `copy_count` is
                None: else this server has done it.
            ReplicationFailed: the master cannot be asked for the holders, or there are too few.
        """
        done: set[str] = set()
        pauses = _GrowingPauses()
        while True:
            round_ = await _reach([location for location in locations if location.url not in done], operation)
            done |= round_.done
            if round_.is_done_in_shards:
                return None
            if round_.is_certain:
                # Usually these are the known holders again. A server that became a holder meanwhile has not done the
                # operation yet.
                locations = await self.others()
                if all(location.url in done for location in locations):
                    return None
                continue
            try:
                locations = await self.others(is_refresh=True)
            except ReplicationFailed:
                if round_.hard_failure is not None or not await pauses.pause():
                    raise
                continue
            done |= round_.doubtful.intersection(location.url for location in locations)
            if self.copy_count is None and not locations and not done:
                raise NoHolderLeft(self.volume_id)
            failure = round_.failure_among(locations)
            if failure is not None and (not isinstance(failure, NotHolder) or not await pauses.pause()):
                return failure

    async def _look_up(self, lookup: VolumeLookup, *, is_refresh: bool) -> list[Location]:
        try:
            return await lookup.locations(self.volume_id, refresh=is_refresh)
        except LookupFailed as failure:
            reason = f"replicating lookup failed for {self.volume_id}: {failure.reason}"
            raise ReplicationFailed(reason) from failure


@dataclass(slots=True)
class _Round:
    """The result of one round: the servers that did the operation, those that may not be holders, and the failures."""

    done: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    failures: list[VolumeServerFailed] = field(default_factory=list)
    is_done_in_shards: bool = False

    @property
    def is_certain(self) -> bool:
        return not self.failures and not self.doubtful

    @property
    def hard_failure(self) -> VolumeServerFailed | None:
        return next((failure for failure in self.failures if not isinstance(failure, NotHolder)), None)

    def failure_among(self, holders: Sequence[Location]) -> VolumeServerFailed | None:
        """The failure of one of `holders`. A failure that waiting does not mend comes before a denial."""
        urls = {location.url for location in holders}
        among = [failure for failure in self.failures if failure.server in urls]
        return min(among, key=lambda failure: isinstance(failure, NotHolder), default=None)


class _GrowingPauses:
    """Pauses that grow, and end after `HOLDER_WAIT_S`."""

    def __init__(self) -> None:
        self._until_s = trio.current_time() + HOLDER_WAIT_S
        self._pause_s = _FIRST_PAUSE_S

    async def pause(self) -> bool:
        """Pauses. Returns False at once when the time is used up."""
        if trio.current_time() >= self._until_s:
            return False
        await trio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
        return True


class Candidates:
    """Yields the holders of a volume one after the other: first the known ones, then those that the master names
    besides. For operations that any one holder can do.
    """

    def __init__(self, lookup: VolumeLookup, volume_id: int, *, skipped: str = "", is_shuffled: bool = False) -> None:
        """`skipped` is the address of a server that is left out, usually our own. `is_shuffled` puts the holders in
        random order instead of the master's.
        """
        self._lookup = lookup
        self._volume_id = volume_id
        self._skipped = skipped
        self._is_shuffled = is_shuffled
        self._left: list[Location] = []
        self._seen: set[str] = set()
        self._rounds = iter((False, True))

    async def next(self) -> Location | None:
        """The next holder; None when the master knows no other either.

        Raises:
            LookupFailed: the master gives no answer, or knows no holder.
        """
        while not self._left:
            is_refresh = next(self._rounds, None)
            if is_refresh is None:
                return None
            self._take(await self._lookup.locations(self._volume_id, refresh=is_refresh))
        return self._left.pop(0)

    async def are_still(self, location: Location) -> bool:
        """Whether the master says now that `location` is a holder.

        Raises:
            LookupFailed: as `next`.
        """
        self._rounds = iter(())
        found = await self._lookup.locations(self._volume_id, refresh=True)
        self._take(found)
        return any(is_same_server(location.url, one.url) for one in found)

    def _take(self, locations: list[Location]) -> None:
        new = [one for one in locations if one.url not in self._seen and not is_same_server(one.url, self._skipped)]
        self._seen.update(one.url for one in new)
        if self._is_shuffled:
            random.shuffle(new)
        self._left += new


async def _reach(locations: Sequence[Location], operation: Operation) -> _Round:
    round_ = _Round()

    async def run_one(location: Location) -> None:
        try:
            outcome = await operation(location)
        except VolumeServerFailed as failure:
            round_.failures.append(failure)
            is_decided = not isinstance(failure, NotHolder)
        else:
            (round_.doubtful if outcome is HolderOutcome.DOUBTFUL else round_.done).add(location.url)
            is_decided = outcome is HolderOutcome.DONE_IN_SHARDS
            round_.is_done_in_shards |= is_decided
        if is_decided:
            scope = nursery.cancel_scope
            scope.deadline = min(scope.deadline, trio.current_time() + STRAGGLER_S)

    async with trio.open_nursery() as nursery:
        for location in locations:
            nursery.start_soon(run_one, location)
    return round_
