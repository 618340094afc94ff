"""Doing the same thing on every other holder of a volume, all at once.

Source: weed/topology/store_replicate.go GetWritableRemoteReplications and DistributedOperation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from native_handlers.http.context import LookupFailed, PeerFailed, PeerFailureKind
from native_handlers.http.errors import ReplicationFailed
from native_handlers.http.reply import close_chunks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from native_handlers.http.context import HttpContext, Location, PeerResponse, VolumeLookup

MAX_ANSWER_BYTES = 1 << 16
"""Of what a peer says to a write or a delete; both are a line of JSON."""


ANSWER_TIMEOUT_S = 30.0
"""For the whole of such an answer, once its head is there: a peer that drips is as good as one that hangs."""


async def other_holders(context: HttpContext, volume_id: int, copy_count: int | None) -> list[Location]:
    """Where else a write to the volume has to go; `copy_count` is None for a volume that is not here.

    What is cached about a volume with too few holders is asked for again, once: the missing one may be back.

    Raises:
        ReplicationFailed: the master cannot be asked, or fewer servers hold the volume than its placement demands.
    """
    if copy_count == 1:
        return []
    if context.lookup is None:
        raise ReplicationFailed(f"replicating lookup failed for {volume_id}: there is no master to ask")
    locations = await _look_up(context.lookup, volume_id, is_refresh=False)
    if copy_count is not None and len(locations) < copy_count:
        locations = await _look_up(context.lookup, volume_id, is_refresh=True)
    if copy_count is not None and len(locations) < copy_count:
        raise ReplicationFailed(
            f"replicating operations [{len(locations)}] is less than "
            f"volume {volume_id} replication copy count [{copy_count}]"
        )
    return [location for location in locations if location.url != context.settings.self_url]


async def on_each(locations: Sequence[Location], operation: Callable[[Location], Awaitable[None]]) -> PeerFailed | None:
    """Runs `operation` for all locations at the same time; returns the first failure, or None.

    The first failure decides: what is still under way then is given up, for the client has to write again anyway.
    """
    failures: list[PeerFailed] = []

    async def run_one(location: Location) -> None:
        try:
            await operation(location)
        except PeerFailed as failure:
            failures.append(failure)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for location in locations:
            nursery.start_soon(run_one, location)
    return failures[0] if failures else None


async def read_answer(peer: str, response: PeerResponse) -> bytes:
    """The whole body of a peer's answer.

    Raises:
        PeerFailed: it breaks off, takes too long, or is longer than any answer to such a request.
    """
    try:
        with trio.fail_after(ANSWER_TIMEOUT_S):
            return await _read_short(peer, response)
    except trio.TooSlowError as error:
        reason = f"its answer takes longer than {ANSWER_TIMEOUT_S:g} s"
        raise PeerFailed(peer, PeerFailureKind.TIMEOUT, reason) from error
    finally:
        await close_chunks(response.chunks)


async def _read_short(peer: str, response: PeerResponse) -> bytes:
    pieces, size = [], 0
    async for piece in response.chunks:
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            reason = f"the answer is longer than {MAX_ANSWER_BYTES} bytes"
            raise PeerFailed(peer, PeerFailureKind.SERVER_ERROR, reason)
        pieces.append(piece)
    return b"".join(pieces)


async def _look_up(lookup: VolumeLookup, volume_id: int, *, is_refresh: bool) -> list[Location]:
    try:
        return await lookup.locations(volume_id, refresh=is_refresh)
    except LookupFailed as failure:
        raise ReplicationFailed(f"replicating lookup failed for {volume_id}: {failure.reason}") from failure
